import { AppError, type Role } from '@sallyport/schema';
import { uuidv7 } from '@sallyport/schema/platform';
import { and, asc, eq, gt, inArray, isNull, sql } from 'drizzle-orm';
import type { GrantService } from '../access/grant.service.ts';
import type { PrincipalLookup, RoleService } from '../access/role.service.ts';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import { batched } from '../database/batched.ts';
import type { Database, Reader, Transaction } from '../database/client.ts';
import { bumpConfigGeneration } from '../database/config-generation.ts';
import { claimIdempotencyKey, idempotencyKeyViolations } from '../database/idempotency.ts';
import { assertRevision, isUuid, mutate } from '../database/mutation.ts';
import { containsWords } from '../database/text-search.ts';
import { descriptionLengthMax, nameLengthMax, Violations } from '../database/violations.ts';
import { apiKeys, groupMembers, type PrincipalRow, principals, principalText } from './identity.tables.ts';

/** Issuer of users that exist only here. */
export const localIssuer = 'local';
export const serviceAccountLifetimeMsMax = 5 * 366 * 86_400_000;
const emailLengthMax = 254;
const emailPattern = /^[^\s@]+@[^\s@]+$/;

type Kind = PrincipalRow['kind'];

interface MutationOptions {
  readonly dryRun?: boolean | null | undefined;
}
interface CreateOptions extends MutationOptions {
  readonly idempotencyKey?: string | null | undefined;
}
interface ChangeOptions extends MutationOptions {
  readonly id: string;
  readonly expectedRevision?: number | null | undefined;
}

export interface CreateUser extends CreateOptions {
  readonly name: string;
  readonly email?: string | null | undefined;
  readonly description?: string | null | undefined;
}
export interface CreateServiceAccount extends CreateOptions {
  readonly name: string;
  readonly description?: string | null | undefined;
  readonly ownerId?: string | null | undefined;
  readonly expiresAt: Date;
}
/** Absent and null fields keep their value, but for `email`, which null clears. */
export interface UpdatePrincipal extends ChangeOptions {
  readonly name?: string | null | undefined;
  readonly description?: string | null | undefined;
  readonly status?: PrincipalRow['status'] | null | undefined;
  readonly email?: string | null | undefined;
  readonly ownerId?: string | null | undefined;
  readonly expiresAt?: Date | null | undefined;
}

export interface PrincipalFilter {
  readonly status?: PrincipalRow['status'] | null | undefined;
  readonly ownerId?: string | null | undefined;
  /** Words in name, e-mail address and description. */
  readonly search?: string | null | undefined;
}

/** What only one transaction of `identity` may know: rows that are not deleted, the changed ones locked. */
async function findPrincipal(reader: Reader, id: string, kind?: Kind): Promise<PrincipalRow | undefined> {
  if (!isUuid(id)) return undefined;
  const [row] = await reader
    .select()
    .from(principals)
    .where(and(eq(principals.id, id), isNull(principals.deletedAt), kind && eq(principals.kind, kind)));
  return row;
}

/** Whether the row may act or be acted for at `nowMs`. */
export function isUsable(row: Pick<PrincipalRow, 'status' | 'expiresAt' | 'deletedAt'>, nowMs: number): boolean {
  return (
    row.status === 'active' && row.deletedAt === null && (row.expiresAt === null || row.expiresAt.getTime() > nowMs)
  );
}

export const principalLookup: PrincipalLookup = {
  principalKind: async (reader, id) => {
    // The share lock keeps the principal from being deleted before the caller's transaction has referred to it.
    const [row] = await reader
      .select({ kind: principals.kind })
      .from(principals)
      .where(and(eq(principals.id, id), isNull(principals.deletedAt)))
      .for('share');
    return row?.kind;
  },
  usablePrincipals: async (reader, ids, nowMs) => {
    const rows = await reader
      .select()
      .from(principals)
      .where(inArray(principals.id, [...ids]));
    return rows.filter((row) => isUsable(row, nowMs)).map((row) => row.id);
  },
};

export class PrincipalService {
  private readonly database: Database;
  private readonly roles: RoleService;
  private readonly grants: GrantService;
  /** A principal by id, deleted ones too, for the neighbours of a list; the caller has authorized. */
  readonly load: (id: string) => Promise<PrincipalRow | undefined>;
  private readonly loadRoles: (id: string) => Promise<readonly Role[] | undefined>;

  constructor(database: Database, roles: RoleService, grants: GrantService) {
    this.database = database;
    this.roles = roles;
    this.grants = grants;
    this.load = batched(async (ids) => {
      const rows = await database.db
        .select()
        .from(principals)
        .where(inArray(principals.id, [...ids]));
      return new Map(rows.map((row) => [row.id, row]));
    });
    this.loadRoles = batched((ids) => roles.rolesOf(database.db, ids));
  }

  /** The roles of a principal at hand; the caller has authorized. */
  async rolesOf(id: string): Promise<readonly Role[]> {
    return (await this.loadRoles(id)) ?? [];
  }

  async get(ctx: Context, id: string, kind: Kind): Promise<PrincipalRow> {
    ctx.authorize(kind === 'user' ? 'user:read' : 'serviceAccount:read');
    const row = await findPrincipal(this.database.db, id, kind);
    if (row === undefined) throw new AppError('NOT_FOUND');
    return row;
  }

  async list(
    ctx: Context,
    kind: Kind,
    filter: PrincipalFilter,
    page: { readonly limit: number; readonly after: readonly string[] | undefined },
  ): Promise<PrincipalRow[]> {
    ctx.authorize(kind === 'user' ? 'user:read' : 'serviceAccount:read');
    const [after] = page.after ?? [];
    const { status, ownerId } = filter;
    if (typeof ownerId === 'string' && !isUuid(ownerId)) return [];
    return this.database.db
      .select()
      .from(principals)
      .where(
        and(
          eq(principals.kind, kind),
          isNull(principals.deletedAt),
          status ? eq(principals.status, status) : undefined,
          ownerId ? eq(principals.ownerId, ownerId) : undefined,
          containsWords(principalText, filter.search),
          after === undefined ? undefined : gt(principals.id, after),
        ),
      )
      .orderBy(asc(principals.id))
      .limit(page.limit + 1);
  }

  async createUser(ctx: Context, input: CreateUser): Promise<PrincipalRow> {
    ctx.authorize('user:write');
    return mutate(this.database, input, (tx) => this.insertUser(tx, ctx, input));
  }

  /** Also used by the bootstrap. */
  async insertUser(tx: Transaction, ctx: Context, input: CreateUser): Promise<PrincipalRow> {
    const found = new Violations();
    found.addAll(idempotencyKeyViolations(input.idempotencyKey));
    this.checkFields(found, input);
    found.assertNone();
    return this.insert(tx, ctx, 'createUser', input, (id) => ({
      kind: 'user',
      name: input.name,
      description: input.description ?? '',
      email: input.email ?? null,
      issuer: localIssuer,
      subject: id,
    }));
  }

  async createServiceAccount(ctx: Context, input: CreateServiceAccount): Promise<PrincipalRow> {
    ctx.authorize('serviceAccount:write');
    return mutate(this.database, input, (tx) => this.insertServiceAccount(tx, ctx, input));
  }

  /** Also used by the bootstrap. */
  async insertServiceAccount(tx: Transaction, ctx: Context, input: CreateServiceAccount): Promise<PrincipalRow> {
    const found = new Violations();
    found.addAll(idempotencyKeyViolations(input.idempotencyKey));
    this.checkFields(found, input);
    found.expiry('input.expiresAt', input.expiresAt, ctx.clock.now(), serviceAccountLifetimeMsMax);
    const ownerId = await this.ownerFor(tx, ctx, found, input.ownerId);
    found.assertNone();
    return this.insert(tx, ctx, 'createServiceAccount', input, () => ({
      kind: 'serviceAccount',
      name: input.name,
      description: input.description ?? '',
      ownerId,
      expiresAt: input.expiresAt,
    }));
  }

  async update(ctx: Context, kind: Kind, input: UpdatePrincipal): Promise<PrincipalRow> {
    ctx.authorize(kind === 'user' ? 'user:write' : 'serviceAccount:write');
    return this.change(ctx, kind, input, 'update', async (tx, before) => {
      const found = new Violations();
      this.checkFields(found, input);
      if (kind === 'serviceAccount') {
        found.expiry('input.expiresAt', input.expiresAt, ctx.clock.now(), serviceAccountLifetimeMsMax);
        if (typeof input.ownerId === 'string') await this.ownerFor(tx, ctx, found, input.ownerId);
      }
      found.assertNone();
      const disabling = before.status === 'active' && input.status === 'disabled';
      if (disabling) await this.roles.assertOwnerRemains(tx, ctx, before.id);
      return {
        name: input.name ?? before.name,
        description: input.description ?? before.description,
        status: input.status ?? before.status,
        // Disabling voids sessions and tokens for good, not only until the principal is enabled again.
        epoch: disabling ? before.epoch + 1 : before.epoch,
        ...(kind === 'user' && input.email !== undefined ? { email: input.email } : {}),
        ...(kind === 'serviceAccount'
          ? { ownerId: input.ownerId ?? before.ownerId, expiresAt: input.expiresAt ?? before.expiresAt }
          : {}),
      };
    });
  }

  /** Soft: audit events refer to it. Its keys are revoked, its memberships and grants go with it. */
  async delete(ctx: Context, kind: Kind, input: ChangeOptions): Promise<PrincipalRow> {
    ctx.authorize(kind === 'user' ? 'user:write' : 'serviceAccount:write');
    const now = new Date(ctx.clock.now());
    return this.change(ctx, kind, input, 'delete', async (tx, before) => {
      await this.roles.assertOwnerRemains(tx, ctx, before.id);
      const [owned] = await tx
        .select({ count: sql<number>`count(*)::int` })
        .from(principals)
        .where(and(eq(principals.ownerId, before.id), isNull(principals.deletedAt)));
      if (owned !== undefined && owned.count > 0) {
        const message = `still owns ${owned.count} service account(s): give them another owner first`;
        throw new AppError('INVALID_INPUT', { violations: [{ path: 'input.id', message }] });
      }
      await tx
        .update(apiKeys)
        .set({ revokedAt: now, updatedAt: now, revision: sql`${apiKeys.revision} + 1` })
        .where(and(eq(apiKeys.principalId, before.id), isNull(apiKeys.revokedAt)));
      await tx.delete(groupMembers).where(eq(groupMembers.principalId, before.id));
      await this.grants.deleteFor(tx, ctx, { principalId: before.id });
      return { deletedAt: now, status: 'disabled', epoch: before.epoch + 1 };
    });
  }

  private checkFields(found: Violations, input: Omit<UpdatePrincipal, 'id'>): void {
    found.text('input.name', input.name, 1, nameLengthMax);
    found.text('input.description', input.description, 0, descriptionLengthMax);
    found.text('input.email', input.email, 3, emailLengthMax);
    if (typeof input.email === 'string' && !emailPattern.test(input.email)) {
      found.add('input.email', 'must be an e-mail address');
    }
  }

  /** The user who answers for a service account: the one named, else the actor, else the owner of the acting account. */
  private async ownerFor(
    tx: Transaction,
    ctx: Context,
    found: Violations,
    ownerId: string | null | undefined,
  ): Promise<string | null> {
    const actor = await findPrincipal(tx, ctx.actor.principalId);
    const id = ownerId ?? (actor?.kind === 'user' ? actor.id : actor?.ownerId);
    const owner = typeof id === 'string' ? await findPrincipal(tx, id, 'user') : undefined;
    if (owner === undefined || !isUsable(owner, ctx.clock.now())) {
      found.add('input.ownerId', 'must be the id of an active user');
      return null;
    }
    await principalLookup.principalKind(tx, owner.id);
    return owner.id;
  }

  private async insert(
    tx: Transaction,
    ctx: Context,
    operation: string,
    input: CreateOptions,
    values: (id: string) => Omit<typeof principals.$inferInsert, 'id'>,
  ): Promise<PrincipalRow> {
    const now = ctx.clock.now();
    const id = uuidv7(now);
    const create = { actorId: ctx.actor.principalId, operation, key: input.idempotencyKey, input };
    const earlier = await claimIdempotencyKey(tx, create, id, now);
    if (earlier !== undefined) {
      const row = await findPrincipal(tx, earlier);
      if (row === undefined) throw new AppError('NOT_FOUND', { internal: 'made by this key, deleted since' });
      return row;
    }
    const [row] = await tx
      .insert(principals)
      .values({ ...values(id), id, createdAt: new Date(now), updatedAt: new Date(now) })
      .returning();
    if (row === undefined) throw new AppError('INTERNAL', { internal: 'principal was not inserted' });
    await recordMutation(tx, ctx, { action: `${row.kind}.create`, object: { kind: row.kind, id }, after: row });
    await bumpConfigGeneration(tx, { principalIds: [row.id] });
    return row;
  }

  private async change(
    ctx: Context,
    kind: Kind,
    input: ChangeOptions,
    verb: 'update' | 'delete',
    values: (tx: Transaction, before: PrincipalRow) => Promise<Partial<typeof principals.$inferInsert>>,
  ): Promise<PrincipalRow> {
    return mutate(this.database, input, async (tx) => {
      // Before the row's lock, always in this order: whoever removes an owner holds this one first.
      await this.roles.lockOwners(tx);
      if (isUuid(input.id)) await tx.execute(sql`select 1 from principals where id = ${input.id} for update`);
      const before = await findPrincipal(tx, input.id, kind);
      if (before === undefined) throw new AppError('NOT_FOUND');
      await this.roles.assertMayManage(ctx, tx, before.id);
      assertRevision(before, input.expectedRevision);
      const [row] = await tx
        .update(principals)
        .set({
          ...(await values(tx, before)),
          revision: before.revision + 1,
          updatedAt: new Date(ctx.clock.now()),
        })
        .where(eq(principals.id, before.id))
        .returning();
      if (row === undefined) throw new AppError('INTERNAL', { internal: 'principal vanished under its lock' });
      await recordMutation(tx, ctx, { action: `${kind}.${verb}`, object: { kind, id: row.id }, before, after: row });
      // A deleted subject takes its grants with it, on whatever server they are.
      if (verb === 'delete') await bumpConfigGeneration(tx);
      else await bumpConfigGeneration(tx, { principalIds: [row.id, ...(await this.accountsOf(tx, row.id))] });
      return row;
    });
  }

  /** Service accounts for which the principal answers: what becomes of it may become of them. */
  private async accountsOf(tx: Transaction, ownerId: string): Promise<string[]> {
    const rows = await tx.select({ id: principals.id }).from(principals).where(eq(principals.ownerId, ownerId));
    return rows.map(({ id }) => id);
  }
}
