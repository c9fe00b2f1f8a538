import { type AccessTarget, AppError, type ListedKind, matchesTarget, type PrincipalRecord } from '@sallyport/schema';
import { type SQL, sql } from 'drizzle-orm';
import type { Context } from '../context.ts';
import type { Database, Reader } from '../database/client.ts';
import { isUuid } from '../database/mutation.ts';
import type { Page } from '../graphql-connection.ts';
import { type ServerView, readPolicy, readPrincipalRecords } from './policy-view.ts';
import { type PotentialAccess, PotentialAccessOf, targetOf } from './potential-access.ts';

/** Servers read at once, and principals looked at once. */
const serversAtOnce = 50;
const principalsAtOnce = 500;

/** Something that a principal may use. */
export interface UsableTarget extends PotentialAccess {
  readonly serverId: string;
  readonly slug: string;
  readonly kind: ListedKind;
  readonly name: string;
}

/** Somebody who may use a target. */
export interface TargetUser extends PotentialAccess {
  readonly principalId: string;
}

/** Both directions of who may use what, in pages. What is expired or disabled may use nothing. */
export class EffectiveAccessService {
  private readonly database: Database;

  constructor(database: Database) {
    this.database = database;
  }

  /**
   * What a principal may use, by server, kind and name.
   * @param page its cursor is slug, kind and name
   */
  async ofPrincipal(
    ctx: Context,
    filter: { readonly principalId: string; readonly serverId?: string | null | undefined },
    page: Page,
  ): Promise<UsableTarget[]> {
    ctx.authorize('grant:read');
    const { principalId, serverId } = filter;
    if (!isUuid(principalId) || !(serverId === undefined || serverId === null || isUuid(serverId))) {
      throw new AppError('NOT_FOUND');
    }
    const nowMs = ctx.clock.now();
    return this.reading(async (tx) => {
      const principal = (await readPrincipalRecords(tx, [principalId])).get(principalId);
      if (principal === undefined) throw new AppError('NOT_FOUND');
      if (!mayAct(principal, nowMs)) return [];
      const found: UsableTarget[] = [];
      let from = page.after?.[0] ?? '';
      for (;;) {
        const servers = await candidateServers(tx, principal, from, serverId ?? undefined);
        const { servers: views } = await readPolicy(
          tx,
          servers.map(({ id }) => id),
        );
        for (const { id, slug } of servers) {
          const view = views.get(id);
          if (view !== undefined) found.push(...usableOn(view, id, slug, principal, nowMs).filter(isAfter(page)));
          if (found.length > page.limit) return found.slice(0, page.limit + 1);
        }
        const last = servers.at(-1);
        if (last === undefined || servers.length < serversAtOnce) return found;
        from = `${last.slug}\u0001`;
      }
    });
  }

  /** Who may use a target, by id. */
  async ofTarget(ctx: Context, serverId: string, target: AccessTarget, page: Page): Promise<TargetUser[]> {
    ctx.authorize('grant:read');
    if (!isUuid(serverId)) throw new AppError('NOT_FOUND');
    const nowMs = ctx.clock.now();
    return this.reading(async (tx) => {
      const policy = await readPolicy(tx, [serverId]);
      if (!policy.lifecycles.has(serverId)) throw new AppError('NOT_FOUND');
      const view = policy.servers.get(serverId);
      if (view === undefined) return [];
      const found: TargetUser[] = [];
      let [after] = page.after ?? [];
      for (;;) {
        const principals = await candidatePrincipals(tx, view, target, after, nowMs);
        for (const principal of principals) {
          const access = new PotentialAccessOf(view, principal, nowMs).to(target);
          if (access !== undefined) found.push({ ...access, principalId: principal.id });
          if (found.length > page.limit) return found;
        }
        after = principals.at(-1)?.id;
        if (principals.length < principalsAtOnce) return found;
      }
    });
  }

  /** Whether a principal may use anything of a server. For other slices: tells nobody, and so needs no permission. */
  async isUserOf(principalId: string, serverId: string, nowMs: number): Promise<boolean> {
    return this.reading(async (tx) => {
      const principal = (await readPrincipalRecords(tx, [principalId])).get(principalId);
      if (principal === undefined || !mayAct(principal, nowMs)) return false;
      const [server] = await candidateServers(tx, principal, '', serverId);
      const view = server && (await readPolicy(tx, [serverId])).servers.get(serverId);
      return view !== undefined && usableOn(view, serverId, '', principal, nowMs).length > 0;
    });
  }

  private async reading<Result>(work: (tx: Reader) => Promise<Result>): Promise<Result> {
    const options = { isolationLevel: 'repeatable read', accessMode: 'read only' } as const;
    return this.database.db.transaction((tx) => work(tx), options);
  }
}

function mayAct({ status, expiresAt }: PrincipalRecord, nowMs: number): boolean {
  return status === 'active' && (expiresAt === null || expiresAt > nowMs);
}

/** The targets of a server that a principal may use, in order. */
export function usableOn(
  view: ServerView,
  serverId: string,
  slug: string,
  principal: ConstructorParameters<typeof PotentialAccessOf>[1],
  nowMs: number,
): UsableTarget[] {
  const access = new PotentialAccessOf(view, principal, nowMs);
  return view.document.definitions.flatMap(({ kind, name }) => {
    // Who may use anything of a server hears what it is, and its instructions; who may read a resource sees it as a view.
    if (kind === 'instructions' || kind === 'serverInfo' || kind === 'view') return [];
    const potential = access.to(targetOf({ kind, name }));
    return potential === undefined ? [] : [{ ...potential, serverId, slug, kind, name }];
  });
}

/** Definitions of a document are sorted by kind and name. */
function isAfter({ after }: Page): (one: UsableTarget) => boolean {
  if (after === undefined) return () => true;
  const [slug = '', kind = '', name = ''] = after;
  return (one) => {
    if (one.slug !== slug) return one.slug > slug;
    return `${one.kind}\n${one.name}` > `${kind}\n${name}`;
  };
}

/** Served servers, by slug from `from` on, on which some grant is for the principal. */
async function candidateServers(
  tx: Reader,
  principal: { readonly id: string; readonly groups: readonly string[] },
  from: string,
  serverId: string | undefined,
): Promise<{ readonly id: string; readonly slug: string }[]> {
  const only: SQL = serverId === undefined ? sql`true` : sql`s.id = ${serverId}`;
  return tx.execute<{ id: string; slug: string }>(sql`
    select s.id::text as id, s.slug from servers s
    where s.deleted_at is null and s.lifecycle in ('approved', 'deprecated') and s.slug collate "C" >= ${from} and ${only}
      and exists (
        select 1 from grants g
        where g.deleted_at is null and g.effect <> 'deny'
          and (g.server_id = s.id or (g.server_labels is not null and s.labels @> g.server_labels))
          and (g.subject_kind = 'everyone' or g.subject_principal_id = ${principal.id}
            or g.subject_group_id = any (${`{${principal.groups.join(',')}}`}::uuid[])))
    order by s.slug collate "C" limit ${serversAtOnce}`);
}

type Candidate = { id: string; kind: 'user' | 'serviceAccount'; groups: string[] };

/** Principals after an id whom some grant that opens the target is for. */
async function candidatePrincipals(
  tx: Reader,
  view: ServerView,
  target: AccessTarget,
  after: string | undefined,
  nowMs: number,
): Promise<Candidate[]> {
  const labelled = view.definitions.labelled(target);
  const opening = view.grants.filter((grant) => grant.entry.effect !== 'deny' && matchesTarget(grant, labelled));
  const subjects = opening.map(({ entry }) => entry.subject);
  const everyone = subjects.some(({ kind }) => kind === 'everyone');
  const idsOf = (isGroup: boolean): string =>
    `{${subjects.flatMap((one) => (one.kind !== 'everyone' && (one.kind === 'group') === isGroup ? one.id : [])).join(',')}}`;
  return tx.execute<Candidate>(sql`
    select p.id::text as id, p.kind, array(
        select m.group_id::text from group_members m join groups g on g.id = m.group_id and g.deleted_at is null
        where m.principal_id = p.id) as groups
    from principals p
    where p.deleted_at is null and p.status = 'active'
      and (p.expires_at is null or p.expires_at > ${new Date(nowMs).toISOString()})
      and ${after === undefined ? sql`true` : sql`p.id > ${after}`}
      and (${everyone} or p.id = any (${idsOf(false)}::uuid[]) or exists (
        select 1 from group_members m where m.principal_id = p.id and m.group_id = any (${idsOf(true)}::uuid[])))
    order by p.id limit ${principalsAtOnce}`);
}

export type ServerSet = { readonly ids: readonly string[] } | { readonly labels: Readonly<Record<string, string>> };

/** Ids of those of the servers that are served, by slug. */
export async function servedServers(tx: Reader, servers: ServerSet, limit: number): Promise<string[]> {
  const which: SQL =
    'ids' in servers
      ? sql`id = any (${`{${servers.ids.join(',')}}`}::uuid[])`
      : sql`labels @> ${JSON.stringify(servers.labels)}::text::jsonb`;
  const rows = await tx.execute<{ id: string }>(sql`
    select id::text as id from servers
    where deleted_at is null and lifecycle in ('approved', 'deprecated') and ${which}
    order by slug limit ${limit}`);
  return rows.map(({ id }) => id);
}
