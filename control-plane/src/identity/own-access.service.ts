import { AppError } from '@sallyport/schema';
import { type SQL, sql } from 'drizzle-orm';
import { isPermitted } from '../access/rights.ts';
import type { RoleService } from '../access/role.service.ts';
import type { Context } from '../context.ts';
import type { Transaction } from '../database/client.ts';
import type { Violations } from '../database/violations.ts';
import type { PrincipalRow } from './identity.tables.ts';

type Roles = Pick<RoleService, 'rightsOf' | 'owners'>;

/**
 * Those who may be acting and cannot make grants; none where the actor can. Whoever knows the key in use and may grant by
 * himself, or by an account of his, goes around nothing by it.
 */
async function peopleWhoCannotGrant(tx: Transaction, ctx: Context, roles: Roles): Promise<readonly string[]> {
  if (isPermitted(ctx.actor, 'grant:write')) return [];
  const [own = ctx.actor.principalId, ...knowing] = await roles.owners.actingPeople(tx, ctx);
  const unable = [own];
  for (const id of knowing) if (!(await mayGrant(tx, roles, id))) unable.push(id);
  return unable;
}

async function mayGrant(tx: Transaction, roles: Roles, personId: string): Promise<boolean> {
  const rows = await tx.execute<{ id: string }>(sql`select id from principals
    where (id = ${personId} or owner_id = ${personId}) and status = 'active' and deleted_at is null`);
  for (const { id } of rows) if (isPermitted(await roles.rightsOf(tx, id), 'grant:write')) return true;
  return false;
}

function arrayOf(ids: readonly string[]): SQL {
  return sql`${`{${ids.join(',')}}`}::uuid[]`;
}

/** Members of the group, of all that are named where some are: for `refuseOwnMemberships`. */
export function membersAmong(groupId: string, ids?: readonly string[]): SQL {
  const named = ids === undefined ? sql`` : sql`and principal_id = any (${arrayOf(ids)})`;
  return sql`select principal_id from group_members where group_id = ${groupId} ${named}`;
}

export function named(ids: readonly string[]): SQL {
  return sql`select unnest(${arrayOf(ids)})`;
}

/**
 * Groups have grants, denying ones too, and conditions go by their names: who cannot make grants does not change what he
 * may use by joining, leaving, renaming or ending one. He is himself, whoever answers for him, the accounts which that one
 * answers for, and everybody whose key for tools he may know, since he had it made.
 * @param whose the ids of principals whose membership changes
 */
export async function refuseOwnMemberships(tx: Transaction, ctx: Context, roles: Roles, whose: SQL): Promise<void> {
  const people = await peopleWhoCannotGrant(tx, ctx, roles);
  if (people.length === 0) return;
  const [concerned] = await tx.execute<{ id: string }>(sql`select p.id from principals p where p.id in (${whose}) and (
    p.id = any (${arrayOf(people)}) or p.owner_id = any (${arrayOf(people)}) or exists (
      select 1 from api_keys k where k.principal_id = p.id and 'mcp' = any (k.scopes) and k.revoked_at is null
        and k.expires_at > ${new Date(ctx.clock.now()).toISOString()}::timestamptz and k.known_to && ${arrayOf(people)}
    )) limit 1`);
  if (concerned === undefined) return;
  throw new AppError('FORBIDDEN', {
    internal: `${ctx.actor.principalId} tried to change memberships of its own, by ${concerned.id}`,
    publicMessage:
      'Nobody may change which groups he, his service accounts, or whoever uses a key that he made belong to, nor rename ' +
      'or delete such a group, without the permission grant:write.',
  });
}

/**
 * An account may have grants, and makes keys for whoever answers for it: it is its owner's, or the granter's, to give away.
 * An owner keeps nothing by which he could act as the account: keys remember him, clients do not.
 */
export async function refuseTaking(
  tx: Transaction,
  ctx: Context,
  roles: Roles,
  found: Violations,
  before: PrincipalRow,
  ownerId: string,
): Promise<void> {
  if (before.ownerId === ownerId.toLowerCase()) return;
  const people = await peopleWhoCannotGrant(tx, ctx, roles);
  if (people.some((id) => id !== before.ownerId)) {
    throw new AppError('FORBIDDEN', {
      internal: `${ctx.actor.principalId} lacks grant:write to give ${before.id} another owner`,
    });
  }
  if (people.length === 0) return;
  const clients = await tx.execute(sql`select 1 from oauth_clients
    where service_account_id = ${before.id} and deleted_at is null limit 1`);
  if (clients.length === 0) return;
  const message = 'cannot change while an OAuth client acts as the account: delete the client first, or ask a granter';
  found.add('input.ownerId', message);
}
