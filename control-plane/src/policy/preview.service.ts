import type { GrantSubject } from '@sallyport/schema';
import { sql } from 'drizzle-orm';
import type { Context } from '../context.ts';
import type { Database, Reader, Transaction } from '../database/client.ts';
import { isUuid, type MutationOptions } from '../database/mutation.ts';
import {
  AccessComparison,
  type AccessDifference,
  type AccessPicture,
  type Concern,
  describeChange,
  pictureAccess,
} from './access-changes.ts';

/** Members, or subjects of grants, looked at in one dry run; a change of more tells the first ones. */
export const subjectsComparedMax = 50;

export interface Previewed<Row> {
  readonly row: Row;
  /** Null unless it was a dry run. */
  readonly comparison: AccessComparison | null;
}

export type DescribedChange = AccessDifference & { readonly summary: string };

/** The differences with what they come to in one line each. */
export function described(differences: readonly AccessDifference[]): DescribedChange[] {
  return differences.map((one) => ({ ...one, summary: describeChange(one) }));
}

/** Tells of a dry run whose access it would change: what is, against what the transaction would have left behind. */
export class PreviewService {
  private readonly database: Database;

  constructor(database: Database) {
    this.database = database;
  }

  /**
   * @param concerns whom and which servers the change may touch, as `reader` sees it; asked of what the change leaves, once
   * it proved to be valid
   * @param change runs the mutation with the input it is given
   * @param before also ask for the concerns of what is committed, for a change that takes away what names them
   */
  async run<Input extends MutationOptions, Row>(
    ctx: Context,
    input: Input,
    concerns: (reader: Reader) => Promise<readonly Concern[]>,
    change: (input: Input) => Promise<Row>,
    before = false,
  ): Promise<Previewed<Row>> {
    if (input.dryRun !== true) return { row: await change(input), comparison: null };
    let nowMs = ctx.clock.now();
    // Not within the change's transaction: waiting there for another connection could wait for ever.
    const early = before ? await concerns(this.database.db) : [];
    let touched: readonly Concern[] = [];
    let after: AccessPicture = new Map();
    const inspect = async (tx: Transaction): Promise<void> => {
      touched = united([...early, ...(await concerns(tx))]);
      // Not before the change: what it ended has ended by then.
      nowMs = ctx.clock.now();
      after = await pictureAccess(tx, touched, nowMs);
    };
    const row = await change({ ...input, inspect });
    // The dry run is rolled back by now: what is committed is what was.
    const was = await this.database.db.transaction((tx) => pictureAccess(tx, touched, nowMs), {
      isolationLevel: 'repeatable read',
      accessMode: 'read only',
    });
    return { row, comparison: new AccessComparison(was, after) };
  }

  /** A group on every server that some grant opens or closes to its members. */
  async groupConcerns(tx: Reader, groupId: string): Promise<readonly Concern[]> {
    return [{ subject: { kind: 'group', id: groupId }, servers: { ids: await serversNaming(tx, groupId) } }];
  }

  /** Everybody whom some grant on the servers is for. */
  async serverConcerns(reader: Reader, serverIds: readonly string[]): Promise<readonly Concern[]> {
    const wanted = `{${serverIds.filter(isUuid).join(',')}}`;
    const found = await reader.execute<{ kind: GrantSubject['kind']; id: string | null }>(sql`
      select distinct g.subject_kind as kind, coalesce(g.subject_principal_id, g.subject_group_id)::text as id
      from grants g join servers s on g.server_id = s.id or (g.server_labels is not null and s.labels @> g.server_labels)
      where g.deleted_at is null and s.id = any (${wanted}::uuid[]) order by 1, 2 limit ${subjectsComparedMax}`);
    const servers = { ids: serverIds };
    return found.flatMap(({ kind, id }): Concern[] => {
      if (kind === 'everyone') return [{ subject: { kind }, servers }];
      return id === null ? [] : [{ subject: { kind, id }, servers }];
    });
  }

  /** A principal on every server on which some grant is for it. */
  async principalConcerns(
    reader: Reader,
    principal: { readonly kind: 'user' | 'serviceAccount'; readonly id: string },
  ): Promise<readonly Concern[]> {
    const { id } = principal;
    if (!isUuid(id)) return [];
    const found = await reader.execute<{ id: string }>(sql`
      select distinct s.id::text as id from servers s join grants g
        on g.server_id = s.id or (g.server_labels is not null and s.labels @> g.server_labels)
      where g.deleted_at is null and s.deleted_at is null
        and (g.subject_kind = 'everyone' or g.subject_principal_id = ${id} or g.subject_group_id in (
          select m.group_id from group_members m where m.principal_id = ${id})) order by 1`);
    return [{ subject: principal, servers: { ids: found.map((row) => row.id) } }];
  }

  /** Principals on every server that some grant opens or closes to members of the group. */
  async membershipConcerns(tx: Reader, groupId: string, principalIds: readonly string[]): Promise<readonly Concern[]> {
    const ids = principalIds.filter(isUuid).slice(0, subjectsComparedMax);
    const principals = await tx.execute<{ id: string; kind: 'user' | 'serviceAccount' }>(sql`
      select id::text as id, kind from principals where id = any (${`{${ids.join(',')}}`}::uuid[]) order by id`);
    const on = { ids: await serversNaming(tx, groupId) };
    return principals.map(({ id, kind }): Concern => ({ subject: { kind, id } satisfies GrantSubject, servers: on }));
  }
}

/** Each subject once, on all the servers that it is concerned with by id. */
function united(concerns: readonly Concern[]): Concern[] {
  const byLabels = concerns.filter(({ servers }) => !('ids' in servers));
  const byId = Map.groupBy(
    concerns.filter(({ servers }) => 'ids' in servers),
    ({ subject }) => JSON.stringify(subject),
  );
  const merged = [...byId.values()].flatMap((same): Concern[] => {
    const ids = new Set(same.flatMap(({ servers }) => ('ids' in servers ? servers.ids : [])));
    return same.slice(0, 1).map(({ subject }) => ({ subject, servers: { ids: [...ids] } }));
  });
  return [...byLabels, ...merged];
}

/** Servers with a grant for the group, as `tx` sees them or before it deleted the group. */
async function serversNaming(tx: Reader, groupId: string): Promise<string[]> {
  const servers = await tx.execute<{ id: string }>(sql`
    select distinct s.id::text as id from servers s join grants g
      on g.server_id = s.id or (g.server_labels is not null and s.labels @> g.server_labels)
    join groups t on t.id = g.subject_group_id
    where (g.deleted_at is null or t.deleted_at is not null)
      and g.subject_group_id = ${groupId} and s.deleted_at is null`);
  return servers.map(({ id }) => id);
}
