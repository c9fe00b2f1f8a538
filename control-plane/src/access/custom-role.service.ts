import {
  AppError,
  guardedPermissions,
  isPermission,
  type Permission,
  permissions,
  reservedPermissions,
  roles,
} from '@sallyport/schema';
import { uuidv7 } from '@sallyport/schema/platform';
import { and, asc, eq, isNull, ne, sql } from 'drizzle-orm';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import type { Database, Reader, Transaction } from '../database/client.ts';
import { claimIdempotencyKey, idempotencyKeyViolations } from '../database/idempotency.ts';
import { assertRevision, isUuid, mutate, type MutationOptions } from '../database/mutation.ts';
import { descriptionLengthMax, nameLengthMax, Violations } from '../database/violations.ts';
import { type CustomRoleRow, customRoles, roleBindings } from './access.tables.ts';
import { noRights } from './rights.ts';
import type { RoleService } from './role.service.ts';

/** Custom roles that may exist at once; all of them are listed in one answer. */
export const customRolesMax = 200;

interface RoleFields {
  readonly name?: string | null | undefined;
  readonly description?: string | null | undefined;
  readonly permissions?: readonly string[] | null | undefined;
}
export interface CreateRole extends RoleFields, MutationOptions {
  readonly idempotencyKey?: string | null | undefined;
  readonly name: string;
  readonly permissions: readonly string[];
}
interface ChangeRole extends MutationOptions {
  readonly id: string;
  readonly expectedRevision?: number | null | undefined;
}
export type UpdateRole = ChangeRole & RoleFields;

/** Serializes the making of roles, so that the limit holds. */
const rolesLock = sql`select pg_advisory_xact_lock(hashtext('sallyport.roles'))`;

/** Roles that an owner makes from the list of permissions. The built-in ones are read-only. */
export class CustomRoleService {
  private readonly database: Database;
  private readonly roles: RoleService;

  constructor(database: Database, roleService: RoleService) {
    this.database = database;
    this.roles = roleService;
  }

  async list(ctx: Context): Promise<CustomRoleRow[]> {
    ctx.authorize('role:read');
    return this.database.db
      .select()
      .from(customRoles)
      .where(isNull(customRoles.deletedAt))
      .orderBy(asc(customRoles.id));
  }

  async get(ctx: Context, id: string): Promise<CustomRoleRow> {
    ctx.authorize('role:read');
    return this.find(this.database.db, id);
  }

  async create(ctx: Context, input: CreateRole): Promise<CustomRoleRow> {
    ctx.authorize('role:assign');
    const now = ctx.clock.now();
    const id = uuidv7(now);
    return mutate(this.database, input, async (tx) => {
      await tx.execute(rolesLock);
      const found = new Violations();
      found.addAll(idempotencyKeyViolations(input.idempotencyKey));
      const given = this.checkFields(found, input) ?? [];
      found.assertNone();
      const create = { actorId: ctx.actor.principalId, operation: 'createRole', key: input.idempotencyKey, input };
      const earlier = await claimIdempotencyKey(tx, create, id, now);
      if (earlier !== undefined) return this.find(tx, earlier);
      await this.checkName(tx, found, input.name, id);
      const [count] = await tx
        .select({ count: sql<number>`count(*)::int` })
        .from(customRoles)
        .where(isNull(customRoles.deletedAt));
      if ((count?.count ?? 0) >= customRolesMax) found.add('input', `there are ${customRolesMax} custom roles already`);
      found.assertNone();
      this.assertMayGive(ctx, given);
      const times = { createdAt: new Date(now), updatedAt: new Date(now) };
      const [row] = await tx
        .insert(customRoles)
        .values({ id, name: input.name, description: input.description ?? '', permissions: given, ...times })
        .returning();
      if (row === undefined) throw new AppError('INTERNAL', { internal: 'role was not inserted' });
      await recordMutation(tx, ctx, { action: 'role.create', object: { kind: 'role', id }, after: row });
      return row;
    });
  }

  /** Whoever holds a role may take from it but not add to it. */
  async update(ctx: Context, input: UpdateRole): Promise<CustomRoleRow> {
    return this.change(ctx, input, 'role.update', async (tx, before) => {
      const found = new Violations();
      const given = this.checkFields(found, input) ?? before.permissions;
      if (typeof input.name === 'string') await this.checkName(tx, found, input.name, before.id);
      found.assertNone();
      const added = given.filter((permission) => !before.permissions.includes(permission));
      this.assertMayGive(ctx, added);
      if (added.length > 0 && (await this.isHeldBy(tx, ctx, before.id))) {
        throw new AppError('FORBIDDEN', {
          internal: `${ctx.actor.principalId} tried to widen a role it holds`,
          publicMessage: 'Nobody may widen a role that he holds himself; another owner must do it.',
        });
      }
      await this.assertMayWiden(tx, ctx, before.id, added);
      return {
        name: input.name ?? before.name,
        description: input.description ?? before.description,
        permissions: given,
      };
    });
  }

  /** A role that is bound to somebody stays until it is taken from him. */
  async delete(ctx: Context, input: ChangeRole): Promise<CustomRoleRow> {
    return this.change(ctx, input, 'role.delete', async (tx, before) => {
      const [bound] = await tx
        .select({ count: sql<number>`count(*)::int` })
        .from(roleBindings)
        .where(eq(roleBindings.roleId, before.id));
      const found = new Violations();
      if (bound !== undefined && bound.count > 0) {
        found.add('input.id', `is bound ${bound.count} time(s): remove it with removeRole first`);
      }
      found.assertNone();
      return { deletedAt: new Date(ctx.clock.now()) };
    });
  }

  private async change(
    ctx: Context,
    input: ChangeRole,
    action: string,
    values: (tx: Transaction, before: CustomRoleRow) => Promise<Partial<typeof customRoles.$inferInsert>>,
  ): Promise<CustomRoleRow> {
    ctx.authorize('role:assign');
    if (roles.some((role) => role === input.id)) {
      const violations = [
        { path: 'input.id', message: 'is a built-in role, which is read-only: make a role of your own' },
      ];
      throw new AppError('INVALID_INPUT', { violations });
    }
    return mutate(this.database, input, async (tx) => {
      // As where roles are given, and before the row's lock.
      await this.roles.owners.lock(tx);
      const before = await this.find(tx, input.id, true);
      assertRevision(before, input.expectedRevision);
      const [row] = await tx
        .update(customRoles)
        .set({
          ...(await values(tx, before)),
          revision: before.revision + 1,
          updatedAt: new Date(ctx.clock.now()),
        })
        .where(eq(customRoles.id, before.id))
        .returning();
      if (row === undefined) throw new AppError('INTERNAL', { internal: 'role vanished under its lock' });
      await recordMutation(tx, ctx, { action, object: { kind: 'role', id: row.id }, before, after: row });
      return row;
    });
  }

  /** @returns the permissions that are given, in the order of the list; undefined where none are */
  private checkFields(found: Violations, input: RoleFields): Permission[] | undefined {
    found.text('input.name', input.name, 1, nameLengthMax);
    found.text('input.description', input.description, 0, descriptionLengthMax);
    const given = input.permissions ?? undefined;
    if (given === undefined) return undefined;
    if (given.length === 0) found.add('input.permissions', 'must name at least one permission');
    for (const [index, permission] of given.slice(0, permissions.length).entries()) {
      const path = `input.permissions[${index}]`;
      if (!isPermission(permission)) found.add(path, 'is no permission; the role owner lists them all');
      else if (reservedPermissions.includes(permission)) found.add(path, 'is for the built-in role owner alone');
      if (given.indexOf(permission) !== index) found.add(path, 'is given twice');
    }
    if (given.length > permissions.length) found.add('input.permissions', 'names more permissions than there are');
    return permissions.filter((permission) => given.includes(permission));
  }

  private async checkName(tx: Transaction, found: Violations, name: string, ownId: string): Promise<void> {
    const folded = name.toLowerCase();
    if (roles.some((role) => role === folded)) return found.add('input.name', 'is the name of a built-in role');
    const [other] = await tx
      .select({ id: customRoles.id })
      .from(customRoles)
      .where(
        and(sql`lower(${customRoles.name}) = lower(${name})`, isNull(customRoles.deletedAt), ne(customRoles.id, ownId)),
      );
    if (other !== undefined) found.add('input.name', 'is the name of another role');
  }

  /** To widen a role is to give it to all who hold it: what two people are asked for there is not done here by one. */
  private async assertMayWiden(tx: Transaction, ctx: Context, roleId: string, added: readonly Permission[]) {
    const guarded = added.filter((permission) => guardedPermissions.has(permission));
    if (guarded.length === 0) return;
    const bound = await tx
      .select({ groupId: roleBindings.groupId })
      .from(roleBindings)
      .where(and(eq(roleBindings.roleId, roleId), isNull(roleBindings.serverLabels)));
    if (bound.some(({ groupId }) => groupId !== null)) {
      const message = `${guarded.join(', ')} is given to principals, and groups hold this role: make another`;
      throw new AppError('INVALID_INPUT', { violations: [{ path: 'input.permissions', message }] });
    }
    if (bound.length === 0 || !(await this.roles.owners.needTwoPeople(tx, ctx.clock.now()))) return;
    throw new AppError('FORBIDDEN', {
      internal: `${ctx.actor.principalId} tried to give ${guarded.join(', ')} alone by widening a role`,
      publicMessage:
        `There is more than one owner, or was lately, so ${guarded.join(', ')} is given by two people: make another role ` +
        'with it, and let proposeRole and confirmRole give that one.',
    });
  }

  private assertMayGive(ctx: Context, given: readonly Permission[]): void {
    this.roles.assertMayGive(ctx, { ...noRights, permissions: new Set(given) });
  }

  private async isHeldBy(tx: Transaction, ctx: Context, roleId: string): Promise<boolean> {
    const groups = `{${[...ctx.actor.groupIds].join(',')}}`;
    const [held] = await tx
      .select({ id: roleBindings.id })
      .from(roleBindings)
      .where(
        and(
          eq(roleBindings.roleId, roleId),
          sql`(${roleBindings.principalId} = ${ctx.actor.principalId} or ${roleBindings.groupId} = any (${groups}::uuid[]))`,
        ),
      )
      .limit(1);
    return held !== undefined;
  }

  private async find(reader: Reader, id: string, lock = false): Promise<CustomRoleRow> {
    if (!isUuid(id)) throw new AppError('NOT_FOUND');
    const query = reader
      .select()
      .from(customRoles)
      .where(and(eq(customRoles.id, id), isNull(customRoles.deletedAt)));
    const [row] = lock ? await query.for('update') : await query;
    if (row === undefined) throw new AppError('NOT_FOUND');
    return row;
  }
}
