import { AppError, permissionsOf, type Permission, type Role, roles, type Violation } from '@sallyport/schema';
import { uuidv7 } from '@sallyport/schema/platform';
import { and, asc, eq, gt, inArray, sql } from 'drizzle-orm';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import type { Database, Reader, Transaction } from '../database/client.ts';
import { isUuid, mutate } from '../database/mutation.ts';
import { type RoleBindingRow, roleBindings } from './access.tables.ts';

/** What roles need to know of principals; `identity` answers, so that `access` imports no slice. */
export interface PrincipalLookup {
  /** Locks the principal; undefined where there is none, or it was deleted. */
  readonly principalKind: (reader: Reader, id: string) => Promise<'user' | 'serviceAccount' | undefined>;
  /** Those of the ids whose principal is active, not deleted and not expired at `nowMs`. */
  readonly usablePrincipals: (reader: Reader, ids: readonly string[], nowMs: number) => Promise<readonly string[]>;
}

/** Serializes all that may take away an owner: two owners must not remove each other at once. Taken before row locks. */
const ownersLock = sql`select pg_advisory_xact_lock(hashtext('sallyport.owners'))`;

export interface RoleChange {
  readonly principalId: string;
  readonly role: Role;
  readonly dryRun?: boolean | null | undefined;
}

export class RoleService {
  private readonly database: Database;
  private readonly principals: PrincipalLookup;

  constructor(database: Database, principals: PrincipalLookup) {
    this.database = database;
    this.principals = principals;
  }

  async rolesOf(reader: Reader, principalIds: readonly string[]): Promise<ReadonlyMap<string, readonly Role[]>> {
    const rows =
      principalIds.length === 0
        ? []
        : await reader
            .select({ principalId: roleBindings.principalId, role: roleBindings.role })
            .from(roleBindings)
            .where(inArray(roleBindings.principalId, [...principalIds]));
    const result = new Map<string, Role[]>(principalIds.map((id) => [id, []]));
    for (const row of rows) result.get(row.principalId)?.push(row.role);
    for (const held of result.values()) held.sort((a, b) => roles.indexOf(a) - roles.indexOf(b));
    return result;
  }

  async permissionsOf(reader: Reader, principalId: string): Promise<ReadonlySet<Permission>> {
    return permissionsOf((await this.rolesOf(reader, [principalId])).get(principalId) ?? []);
  }

  /**
   * Refuses to let an actor take over or change a principal that may do more than itself: with a key of the other, or
   * by disabling it, it would gain or take what it does not have.
   */
  async assertMayManage(ctx: Context, reader: Reader, principalId: string): Promise<void> {
    const theirs = await this.permissionsOf(reader, principalId);
    for (const permission of theirs) ctx.authorize(permission);
  }

  async list(ctx: Context, page: { limit: number; after: readonly string[] | undefined }): Promise<RoleBindingRow[]> {
    ctx.authorize('role:read');
    const [after] = page.after ?? [];
    return this.database.db
      .select()
      .from(roleBindings)
      .where(after === undefined ? undefined : gt(roleBindings.id, after))
      .orderBy(asc(roleBindings.id))
      .limit(page.limit + 1);
  }

  /** Gives a role. Assigning one that is held already changes nothing. */
  async assign(ctx: Context, input: RoleChange): Promise<RoleBindingRow> {
    ctx.authorize('role:assign');
    this.refuseSelf(ctx, input.principalId);
    return mutate(this.database, input, async (tx) => {
      await this.assertPrincipal(tx, input.principalId);
      return this.bind(tx, ctx, input.principalId, input.role);
    });
  }

  /** Also used by the bootstrap, which acts before there is anyone who may assign. */
  async bind(tx: Transaction, ctx: Context, principalId: string, role: Role): Promise<RoleBindingRow> {
    const held = and(eq(roleBindings.principalId, principalId), eq(roleBindings.role, role));
    const [existing] = await tx.select().from(roleBindings).where(held);
    if (existing !== undefined) return existing;
    const now = ctx.clock.now();
    const [row] = await tx
      .insert(roleBindings)
      .values({ id: uuidv7(now), principalId, role, createdAt: new Date(now) })
      .returning();
    if (row === undefined) throw new AppError('INTERNAL', { internal: 'role binding was not inserted' });
    await recordMutation(tx, ctx, {
      action: 'role.assign',
      object: { kind: 'principal', id: principalId },
      after: { role },
    });
    return row;
  }

  async remove(ctx: Context, input: RoleChange): Promise<RoleBindingRow> {
    ctx.authorize('role:assign');
    return mutate(this.database, input, async (tx) => {
      // First of all locks, as in every change of a principal.
      await this.lockOwners(tx);
      await this.assertPrincipal(tx, input.principalId);
      if (input.role === 'owner') await this.assertOwnerRemains(tx, ctx, input.principalId);
      const [row] = await tx
        .delete(roleBindings)
        .where(and(eq(roleBindings.principalId, input.principalId), eq(roleBindings.role, input.role)))
        .returning();
      if (row === undefined) throw new AppError('NOT_FOUND', { internal: 'the principal does not hold this role' });
      await recordMutation(tx, ctx, {
        action: 'role.remove',
        object: { kind: 'principal', id: input.principalId },
        before: { role: input.role },
      });
      return row;
    });
  }

  /** Whether some principal that can act is bound to `owner`, leaving one out. */
  async hasOwner(reader: Reader, nowMs: number, exceptId?: string): Promise<boolean> {
    const bound = await reader
      .select({ principalId: roleBindings.principalId })
      .from(roleBindings)
      .where(eq(roleBindings.role, 'owner'));
    const others = bound.map((row) => row.principalId).filter((id) => id !== exceptId);
    return others.length > 0 && (await this.principals.usablePrincipals(reader, others, nowMs)).length > 0;
  }

  /**
   * Call before an owner is removed, disabled or deleted, under `lockOwners`: an organization must keep one that can
   * act.
   */
  async assertOwnerRemains(tx: Transaction, ctx: Context, principalId: string): Promise<void> {
    const held = (await this.rolesOf(tx, [principalId])).get(principalId) ?? [];
    if (!held.includes('owner')) return;
    if (await this.hasOwner(tx, ctx.clock.now(), principalId)) return;
    const violation: Violation = { path: 'input', message: 'would leave the organization without an owner' };
    throw new AppError('INVALID_INPUT', { violations: [violation] });
  }

  async lockOwners(tx: Transaction): Promise<void> {
    await tx.execute(ownersLock);
  }

  private refuseSelf(ctx: Context, principalId: string): void {
    if (principalId !== ctx.actor.principalId) return;
    throw new AppError('FORBIDDEN', {
      internal: `${principalId} tried to raise itself`,
      publicMessage: 'Nobody may give a role to himself; another owner must do it.',
    });
  }

  private async assertPrincipal(tx: Transaction, id: string): Promise<void> {
    if (!isUuid(id) || (await this.principals.principalKind(tx, id)) === undefined) throw new AppError('NOT_FOUND');
  }
}
