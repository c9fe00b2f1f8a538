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

/** Members looked at in one dry run; a change of more tells the first ones. */
export const membersComparedMax = 50;

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
   * @param concerns whom and which servers the change may touch; asked only once it proved to be valid
   * @param change runs the mutation with the input it is given
   */
  async run<Input extends MutationOptions, Row>(
    ctx: Context,
    input: Input,
    concerns: (tx: Reader) => Promise<readonly Concern[]>,
    change: (input: Input) => Promise<Row>,
  ): Promise<Previewed<Row>> {
    if (input.dryRun !== true) return { row: await change(input), comparison: null };
    let nowMs = ctx.clock.now();
    let touched: readonly Concern[] = [];
    let after: AccessPicture = new Map();
    const inspect = async (tx: Transaction): Promise<void> => {
      touched = await concerns(tx);
      // Not before the change: what it ended has ended by then.
      nowMs = ctx.clock.now();
      after = await pictureAccess(tx, touched, nowMs);
    };
    const row = await change({ ...input, inspect });
    // The dry run is rolled back by now: what is committed is what was.
    const before = await this.database.db.transaction((tx) => pictureAccess(tx, touched, nowMs), {
      isolationLevel: 'repeatable read',
      accessMode: 'read only',
    });
    return { row, comparison: new AccessComparison(before, after) };
  }

  /** A group on every server that some grant opens or closes to its members. */
  async groupConcerns(tx: Reader, groupId: string): Promise<readonly Concern[]> {
    return [{ subject: { kind: 'group', id: groupId }, servers: { ids: await serversNaming(tx, groupId) } }];
  }

  /** Principals on every server that some grant opens or closes to members of the group. */
  async membershipConcerns(tx: Reader, groupId: string, principalIds: readonly string[]): Promise<readonly Concern[]> {
    const ids = principalIds.filter(isUuid).slice(0, membersComparedMax);
    const principals = await tx.execute<{ id: string; kind: 'user' | 'serviceAccount' }>(sql`
      select id::text as id, kind from principals where id = any (${`{${ids.join(',')}}`}::uuid[]) order by id`);
    const on = { ids: await serversNaming(tx, groupId) };
    return principals.map(({ id, kind }): Concern => ({ subject: { kind, id } satisfies GrantSubject, servers: on }));
  }
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
