import {
  AppError,
  guardedPermissions,
  guardedRoles,
  isPermission,
  type LabelSelector,
  type Permission,
  type Role,
  rolePermissions,
  roles,
  serverPermissions,
} from '@sallyport/schema';
import { uuidv7 } from '@sallyport/schema/platform';
import { and, asc, eq, gt, inArray, isNull, type SQL, sql } from 'drizzle-orm';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import type { Database, Reader, Transaction } from '../database/client.ts';
import { isUuid, mutate } from '../database/mutation.ts';
import { Violations } from '../database/violations.ts';
import { customRoles, type RoleBindingRow, roleBindings } from './access.tables.ts';
import { checkSelector, type LabelInput } from './grant-form.ts';
import type { OwnerService, Person } from './owner.service.ts';
import { isPermitted, type LimitedRights, missingRight, noRights, type Rights } from './rights.ts';

/** What roles need to know of principals and groups; `identity` answers, so that `access` imports no slice. */
export interface PrincipalLookup {
  /** Locks the principal; undefined where there is none, or it was deleted. */
  readonly principalKind: (reader: Reader, id: string) => Promise<'user' | 'serviceAccount' | undefined>;
  /** Locks the group against deletion. */
  readonly groupExists: (reader: Reader, id: string) => Promise<boolean>;
}

/** Whom a role is bound to, which one, and where: one of principal and group, one of role and roleId. */
export interface RoleChange {
  readonly principalId?: string | null | undefined;
  readonly groupId?: string | null | undefined;
  readonly role?: Role | null | undefined;
  readonly roleId?: string | null | undefined;
  readonly serverLabels?: readonly LabelInput[] | null | undefined;
  readonly dryRun?: boolean | null | undefined;
}

export interface BindingFilter {
  readonly principalId?: string | null | undefined;
  readonly groupId?: string | null | undefined;
  readonly roleId?: string | null | undefined;
}

export type Binding = Pick<RoleBindingRow, 'principalId' | 'groupId' | 'role' | 'roleId' | 'serverLabels'>;

interface HeldRole {
  readonly role: Role | null;
  /** Of a custom role. */
  readonly permissions: readonly string[] | null;
  readonly isOfGroup: boolean;
  readonly labels: LabelSelector | null;
}

const nothingBound: Binding = { principalId: null, groupId: null, role: null, roleId: null, serverLabels: null };

/** A role limited to some servers gives what is about servers, and nothing else. */
function limitedTo(selector: LabelSelector, permissions: readonly Permission[]): LimitedRights {
  return { selector, permissions: new Set(permissions.filter((one) => serverPermissions.includes(one))) };
}

function rightsFrom(held: readonly HeldRole[], groupIds: readonly string[]): Rights {
  const everywhere = new Set<Permission>();
  const limited: LimitedRights[] = [];
  for (const { role, permissions, isOfGroup, labels } of held) {
    const custom = (permissions ?? []).filter(isPermission);
    // Whoever fills a group must not make auditors by it.
    const free = isOfGroup ? custom.filter((permission) => !guardedPermissions.has(permission)) : custom;
    const given = role === null ? free : (rolePermissions[role] ?? []);
    if (labels === null) for (const permission of given) everywhere.add(permission);
    else limited.push(limitedTo(labels, given));
  }
  return { permissions: everywhere, limited, groupIds: new Set(groupIds) };
}

/** What is left where to read captured messages does not count. */
function withoutReading(rights: Rights): Rights {
  const permissions = new Set(rights.permissions);
  permissions.delete('payload:read');
  return { ...rights, permissions };
}

export class RoleService {
  private readonly database: Database;
  private readonly principals: PrincipalLookup;
  readonly owners: OwnerService;

  constructor(database: Database, principals: PrincipalLookup, owners: OwnerService) {
    this.database = database;
    this.principals = principals;
    this.owners = owners;
  }

  /** The built-in roles that principals hold by themselves and everywhere. */
  async rolesOf(reader: Reader, principalIds: readonly string[]): Promise<ReadonlyMap<string, readonly Role[]>> {
    const rows =
      principalIds.length === 0
        ? []
        : await reader
            .select({ principalId: roleBindings.principalId, role: roleBindings.role })
            .from(roleBindings)
            .where(and(inArray(roleBindings.principalId, [...principalIds]), isNull(roleBindings.serverLabels)));
    const result = new Map<string, Role[]>(principalIds.map((id) => [id, []]));
    for (const { principalId, role } of rows) if (role !== null) result.get(principalId ?? '')?.push(role);
    for (const held of result.values()) held.sort((a, b) => roles.indexOf(a) - roles.indexOf(b));
    return result;
  }

  /** Everything that the roles of a principal and of its groups give now. */
  async rightsOf(reader: Reader, principalId: string): Promise<Rights> {
    const [row] = await reader.execute<{ groups: string[]; held: HeldRole[] | null }>(sql`
      with own_groups as (
        select m.group_id from group_members m join groups g on g.id = m.group_id and g.deleted_at is null
        where m.principal_id = ${principalId}
      )
      select array(select group_id::text from own_groups) as groups, ${heldRoles(sql`b.principal_id = ${principalId}
        or b.group_id in (select group_id from own_groups)`)} as held`);
    return row === undefined ? noRights : rightsFrom(row.held ?? [], row.groups);
  }

  /** What belonging to a group gives; its servers count as own ones. */
  async rightsOfGroup(reader: Reader, groupId: string): Promise<Rights> {
    const [row] = await reader.execute<{ held: HeldRole[] | null }>(
      sql`select ${heldRoles(sql`b.group_id = ${groupId}`)} as held`,
    );
    return rightsFrom(row?.held ?? [], [groupId]);
  }

  /**
   * Refuses to let an actor change a principal that may do more than itself: by disabling it, it would take what it does
   * not have. That the other reads payloads does not count: neither owner nor directory could disable an auditor.
   */
  async assertMayManage(ctx: Context, reader: Reader, principalId: string): Promise<void> {
    this.assertCovers(ctx, withoutReading(await this.rightsOf(reader, principalId)));
  }

  /** The same for whoever gets something in hand by which he acts as the principal, such as a key: that reads too. */
  async assertMayActAs(ctx: Context, reader: Reader, principalId: string): Promise<void> {
    this.assertCovers(ctx, await this.rightsOf(reader, principalId));
  }

  /**
   * Refuses to let an actor say who is a user of an issuer, where one of them, or an account that one answers for, may
   * do more than the actor: it could become that one.
   */
  async assertMayManageUsersOf(ctx: Context, reader: Reader, issuer: string): Promise<void> {
    const [row] = await reader.execute<{ groups: string[]; held: HeldRole[] | null }>(sql`
      with people as (
        select p.id from principals p left join principals o on o.id = p.owner_id and o.deleted_at is null
        where p.deleted_at is null and (p.issuer = ${issuer} or o.issuer = ${issuer})
      ), their_groups as (
        select distinct m.group_id from group_members m join groups g on g.id = m.group_id and g.deleted_at is null
        where m.principal_id in (select id from people)
      )
      select array(select group_id::text from their_groups) as groups, ${heldRoles(sql`
        b.principal_id in (select id from people) or b.group_id in (select group_id from their_groups)`)} as held`);
    const rights = row === undefined ? noRights : rightsFrom(row.held ?? [], row.groups);
    // Of an owner, who could say that he is another owner too.
    this.assertMayGive(ctx, rights);
  }

  /** Refuses what would hand out, or take, a right that the actor does not have. */
  assertCovers(ctx: Context, rights: Rights): void {
    const missing = missingRight(ctx.actor, rights);
    if (missing === undefined) return;
    throw new AppError('FORBIDDEN', { internal: `${ctx.actor.principalId} lacks ${missing}` });
  }

  /** The same of what is given by a role: owners make auditors, and do not read payloads themselves. */
  assertMayGive(ctx: Context, rights: Rights): void {
    this.assertCovers(ctx, isPermitted(ctx.actor, 'role:assign') ? withoutReading(rights) : rights);
  }

  async list(
    ctx: Context,
    filter: BindingFilter,
    page: { readonly limit: number; readonly after: readonly string[] | undefined },
  ): Promise<RoleBindingRow[]> {
    ctx.authorize('role:read');
    const { principalId, groupId, roleId } = filter;
    const ids = [principalId, groupId].filter((id) => typeof id === 'string');
    if (!ids.every(isUuid)) return [];
    const [after] = page.after ?? [];
    return this.database.db
      .select()
      .from(roleBindings)
      .where(
        and(
          principalId ? eq(roleBindings.principalId, principalId) : undefined,
          groupId ? eq(roleBindings.groupId, groupId) : undefined,
          roleId ? isOfRole(roleId) : undefined,
          after === undefined ? undefined : gt(roleBindings.id, after),
        ),
      )
      .orderBy(asc(roleBindings.id))
      .limit(page.limit + 1);
  }

  /** Gives a role. Assigning one that is held already changes nothing. */
  async assign(ctx: Context, input: RoleChange): Promise<RoleBindingRow> {
    ctx.authorize('role:assign');
    if (typeof input.principalId === 'string') this.refuseSelf(ctx, input.principalId);
    return mutate(this.database, input, async (tx) => {
      await this.owners.lock(tx);
      const binding = await this.checked(tx, input);
      if (binding.groupId !== null && ctx.actor.groupIds.has(binding.groupId)) throw selfRaise(ctx, binding.groupId);
      const rights = await this.rightsGiven(tx, binding);
      this.assertMayGive(ctx, rights);
      const takesTwo = isGuarded(binding, rights);
      if (takesTwo && binding.groupId !== null) {
        const message = `a role with ${[...guardedPermissions].join(' or ')} is given to principals, not to groups`;
        throw new AppError('INVALID_INPUT', { violations: [{ path: 'input.groupId', message }] });
      }
      if (takesTwo && (await this.owners.needTwoPeople(tx, ctx.clock.now()))) {
        throw new AppError('FORBIDDEN', {
          internal: 'a guarded role needs a second person',
          publicMessage:
            'There is more than one owner, or was lately, so this role is given by two people: one calls proposeRole, ' +
            'another confirmRole.',
        });
      }
      return this.bind(tx, ctx, binding);
    });
  }

  /** Also used by the bootstrap, which acts before there is anyone who may assign, and by confirmed proposals. */
  async bind(tx: Transaction, ctx: Context, binding: Partial<Binding>): Promise<RoleBindingRow> {
    const values = { ...nothingBound, ...binding };
    const [existing] = await tx.select().from(roleBindings).where(isBinding(values));
    if (existing !== undefined) return existing;
    const now = ctx.clock.now();
    const [row] = await tx
      .insert(roleBindings)
      .values({ ...values, id: uuidv7(now), createdAt: new Date(now) })
      .returning();
    if (row === undefined) throw new AppError('INTERNAL', { internal: 'role binding was not inserted' });
    await recordMutation(tx, ctx, { action: 'role.assign', object: subjectOf(row), after: auditable(row) });
    return row;
  }

  async remove(ctx: Context, input: RoleChange): Promise<RoleBindingRow> {
    ctx.authorize('role:assign');
    return mutate(this.database, input, async (tx) => {
      // First of all locks, as in every change of a principal.
      await this.owners.lock(tx);
      const binding = await this.checked(tx, input, 'take');
      const ended = await this.endedBy(tx, ctx, binding);
      await this.owners.assertMayEnd(tx, ctx, ended);
      return this.unbind(tx, ctx, binding, ended);
    });
  }

  /** The owners who cease to be one with the binding; asked before it is taken away. */
  async endedBy(tx: Transaction, ctx: Context, { role, principalId }: Binding): Promise<readonly Person[]> {
    return role === 'owner' && principalId !== null ? this.owners.among(tx, ctx.clock.now(), [principalId]) : [];
  }

  /**
   * Also used by confirmed proposals. Under the lock of the owners.
   * @param ended what `endedBy` says
   */
  async unbind(tx: Transaction, ctx: Context, binding: Binding, ended: readonly Person[]): Promise<RoleBindingRow> {
    const [row] = await tx.delete(roleBindings).where(isBinding(binding)).returning();
    if (row === undefined) throw new AppError('NOT_FOUND', { internal: 'there is no such binding' });
    if (binding.role === 'owner') {
      await this.owners.assertRemains(tx, ctx);
      await this.owners.noteFormer(tx, ctx.clock.now(), ended);
    }
    await recordMutation(tx, ctx, { action: 'role.remove', object: subjectOf(row), before: auditable(row) });
    return row;
  }

  /** Whether a custom role is another than it was. */
  async hasChangedSince(reader: Reader, roleId: string | null, since: Date): Promise<boolean> {
    if (roleId === null) return false;
    const rows = await reader
      .select({ id: customRoles.id })
      .from(customRoles)
      .where(and(eq(customRoles.id, roleId), gt(customRoles.updatedAt, since)));
    return rows.length > 0;
  }

  async isBound(reader: Reader, binding: Binding): Promise<boolean> {
    const rows = await reader.select({ id: roleBindings.id }).from(roleBindings).where(isBinding(binding));
    return rows.length > 0;
  }

  /** Takes away the roles of a group that is being deleted in the same transaction. */
  async removeFromGroup(tx: Transaction, ctx: Context, groupId: string): Promise<void> {
    const rows = await tx.delete(roleBindings).where(eq(roleBindings.groupId, groupId)).returning();
    for (const row of rows) {
      await recordMutation(tx, ctx, { action: 'role.remove', object: subjectOf(row), before: auditable(row) });
    }
  }

  refuseSelf(ctx: Context, principalId: string): void {
    // PostgreSQL reads an id in capitals as the same one.
    if (principalId.toLowerCase() === ctx.actor.principalId) throw selfRaise(ctx, principalId);
  }

  /**
   * The binding that the input names; everything that is wrong with it is told at once. One that gives nothing any more, as
   * its role was changed, can still be taken away.
   */
  async checked(tx: Transaction, input: RoleChange, verb: 'give' | 'take' = 'give'): Promise<Binding> {
    const found = new Violations();
    const principalId = input.principalId?.toLowerCase() ?? null;
    const groupId = input.groupId?.toLowerCase() ?? null;
    if ((principalId === null) === (groupId === null)) {
      found.add('input.principalId', 'give either principalId or groupId');
    } else if (
      principalId !== null &&
      !(isUuid(principalId) && (await this.principals.principalKind(tx, principalId)))
    ) {
      throw new AppError('NOT_FOUND');
    } else if (groupId !== null && !(isUuid(groupId) && (await this.principals.groupExists(tx, groupId)))) {
      throw new AppError('NOT_FOUND');
    }
    const role = input.role ?? roles.find((builtIn) => builtIn === input.roleId) ?? null;
    const roleId = role === null ? (input.roleId ?? null) : null;
    if ((input.role ?? null) === null && (input.roleId ?? null) === null)
      found.add('input.role', 'give role or roleId');
    if (typeof input.role === 'string' && typeof input.roleId === 'string') {
      found.add('input.roleId', 'must be absent where role is given');
    }
    const permissions = role === null ? await this.customPermissions(tx, roleId) : rolePermissions[role];
    if (permissions === undefined) found.add('input.roleId', 'there is no such role');
    const serverLabels = checkSelector(found, 'input.serverLabels', input.serverLabels ?? null);
    const isEmpty = serverLabels !== null && permissions?.every((one) => !serverPermissions.includes(one)) === true;
    if (isEmpty && verb === 'give') {
      found.add('input.serverLabels', 'would leave nothing of this role, which gives no permission about servers');
    }
    if (role !== null && guardedRoles.includes(role)) {
      if (groupId !== null) found.add('input.groupId', `the role ${role} is given to principals, not to groups`);
      if (serverLabels !== null) found.add('input.serverLabels', `the role ${role} cannot be limited to servers`);
    }
    found.assertNone();
    return { principalId, groupId, role, roleId, serverLabels };
  }

  /** Of a custom role, which is kept from being changed meanwhile; undefined where there is none. */
  private async customPermissions(tx: Transaction, roleId: string | null): Promise<readonly Permission[] | undefined> {
    if (roleId === null || !isUuid(roleId)) return undefined;
    const [row] = await tx
      .select({ permissions: customRoles.permissions })
      .from(customRoles)
      .where(and(eq(customRoles.id, roleId), isNull(customRoles.deletedAt)))
      .for('share');
    return row?.permissions;
  }

  /** What a binding gives to whom it is about. */
  async rightsGiven(tx: Transaction, { role, roleId, serverLabels }: Binding): Promise<Rights> {
    const permissions = role === null ? ((await this.customPermissions(tx, roleId)) ?? null) : null;
    return rightsFrom([{ role, permissions, isOfGroup: false, labels: serverLabels }], []);
  }
}

/**
 * Whether a role is given by two people where more than one owner exists: owner, auditor, and what has theirs.
 * @param rights what the binding gives
 */
export function isGuarded({ role }: Pick<Binding, 'role'>, { permissions }: Rights): boolean {
  if (role !== null) return guardedRoles.includes(role);
  return [...permissions].some((permission) => guardedPermissions.has(permission));
}

/** JSON of the roles bound by `role_bindings b` where the condition holds. */
function heldRoles(condition: SQL): SQL {
  return sql`(select jsonb_agg(jsonb_build_object('role', b.role, 'permissions', r.permissions,
      'isOfGroup', b.group_id is not null, 'labels', b.server_labels))
    from role_bindings b left join roles r on r.id = b.role_id and r.deleted_at is null where ${condition})`;
}

function isOfRole(roleId: string): SQL {
  const builtIn = roles.find((role) => role === roleId);
  if (builtIn !== undefined) return eq(roleBindings.role, builtIn);
  return isUuid(roleId) ? eq(roleBindings.roleId, roleId) : sql`false`;
}

function isBinding({ principalId, groupId, role, roleId, serverLabels }: Binding): SQL {
  const labels = serverLabels === null ? null : JSON.stringify(serverLabels);
  return sql`${roleBindings.principalId} is not distinct from ${principalId}::uuid
    and ${roleBindings.groupId} is not distinct from ${groupId}::uuid
    and ${roleBindings.role} is not distinct from ${role}::text
    and ${roleBindings.roleId} is not distinct from ${roleId}::uuid
    and ${roleBindings.serverLabels} is not distinct from ${labels}::text::jsonb`;
}

function subjectOf(row: RoleBindingRow): { readonly kind: string; readonly id: string } {
  return row.groupId === null ? { kind: 'principal', id: row.principalId ?? '' } : { kind: 'group', id: row.groupId };
}

function auditable({ id, role, roleId, serverLabels }: RoleBindingRow): object {
  return { id, role, roleId, serverLabels };
}

function selfRaise(ctx: Context, id: string): AppError {
  return new AppError('FORBIDDEN', {
    internal: `${ctx.actor.principalId} tried to raise itself by ${id}`,
    publicMessage: 'Nobody may give a role to himself; another owner must do it.',
  });
}
