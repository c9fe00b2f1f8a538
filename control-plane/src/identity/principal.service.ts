import { AppError, type Role } from '@sallyport/schema';
import { uuidv7 } from '@sallyport/schema/platform';
import { and, asc, eq, gt, inArray, isNull, sql } from 'drizzle-orm';
import type { GrantService } from '../access/grant.service.ts';
import type { OwnerLookup, Person } from '../access/owner.service.ts';
import type { PrincipalLookup, RoleService } from '../access/role.service.ts';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import { batched } from '../database/batched.ts';
import type { Database, Reader, Transaction } from '../database/client.ts';
import { bumpConfigGeneration } from '../database/config-generation.ts';
import { claimIdempotencyKey, idempotencyKeyViolations } from '../database/idempotency.ts';
import { assertRevision, isUuid, mutate, type MutationOptions } from '../database/mutation.ts';
import { containsWords } from '../database/text-search.ts';
import { descriptionLengthMax, nameLengthMax, Violations } from '../database/violations.ts';
import { emailLengthMax, emailPattern } from './email.ts';
import {
  accountOwners,
  apiKeys,
  groupMembers,
  type PrincipalRow,
  principals,
  principalText,
} from './identity.tables.ts';
import { refuseTaking } from './own-access.service.ts';
import { scimUsers } from './scim/scim.tables.ts';

/** Issuer of users that exist only here. */
export const localIssuer = 'local';
export const serviceAccountLifetimeMsMax = 5 * 366 * 86_400_000;

type Kind = PrincipalRow['kind'];

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
/** What a directory says of a user whom it provisions. */
export interface Provisioned {
  readonly directoryId: string;
  /** Of the directory's identity provider; `subject` names the user there. */
  readonly issuer: string;
  readonly subject: string;
  readonly name: string;
  readonly email: string | null;
  /** Undefined: as it is. */
  readonly status: PrincipalRow['status'] | undefined;
  /** Recorded with the change, for the audit trail. */
  readonly said: Readonly<Record<string, unknown>>;
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

/** The principal, where it may act at `nowMs`, and who answers for it too. */
export async function usablePrincipal(reader: Reader, id: string, nowMs: number): Promise<PrincipalRow | undefined> {
  const row = await findPrincipal(reader, id);
  if (row === undefined || !isUsable(row, nowMs)) return undefined;
  const owner = row.ownerId === null ? row : await findPrincipal(reader, row.ownerId);
  return owner !== undefined && isUsable(owner, nowMs) ? row : undefined;
}

/** Of these principals, those of whom `usablePrincipal` says that they may not act. */
export async function unusablePrincipals(reader: Reader, ids: readonly string[], nowMs: number): Promise<string[]> {
  const unusable = new Set(ids);
  for (const { principal, owner } of await withOwners(reader, ids)) {
    const mayByOwner = owner === null ? principal.ownerId === null : isUsable(owner, nowMs);
    if (mayByOwner && isUsable(principal, nowMs)) unusable.delete(principal.id);
  }
  return [...unusable];
}

function withOwners(reader: Reader, ids: readonly string[]) {
  return reader
    .select({ principal: principals, owner: accountOwners })
    .from(principals)
    .leftJoin(accountOwners, eq(accountOwners.id, principals.ownerId))
    .where(inArray(principals.id, ids.filter(isUuid)));
}

/** Voids every session and token of the principal on every node, for good: each carries the epoch it was made in. */
export async function raiseEpoch(tx: Transaction, principalId: string): Promise<void> {
  await tx
    .update(principals)
    .set({ epoch: sql`${principals.epoch} + 1` })
    .where(eq(principals.id, principalId));
  await bumpConfigGeneration(tx, { principalIds: [principalId] });
}

/** Whether the row may act or be acted for at `nowMs`; a service account besides needs an owner who may. */
export function isUsable(row: Pick<PrincipalRow, 'status' | 'expiresAt' | 'deletedAt'>, nowMs: number): boolean {
  return (
    row.status === 'active' && row.deletedAt === null && (row.expiresAt === null || row.expiresAt.getTime() > nowMs)
  );
}

/** Whether a change ends a principal, or hands it to somebody else, earlier than it would by itself. */
function endsEarlier(before: PrincipalRow, changed: Partial<typeof principals.$inferInsert>): boolean {
  const { status = before.status, deletedAt, ownerId = before.ownerId, expiresAt = before.expiresAt } = changed;
  const isDisabled = before.status === 'active' && status === 'disabled';
  const isShorter = expiresAt !== null && (before.expiresAt === null || expiresAt < before.expiresAt);
  return isDisabled || isShorter || ownerId !== before.ownerId || (deletedAt ?? null) !== null;
}

/** Whether the row could act at some time after `sinceMs`; of one that is disabled its last change counts. */
function wasUsable(row: PrincipalRow, sinceMs: number): boolean {
  const isLate = (ended: Date | null): boolean => ended === null || ended.getTime() > sinceMs;
  return (row.status === 'active' || isLate(row.updatedAt)) && isLate(row.deletedAt) && isLate(row.expiresAt);
}

export const principalLookup: Omit<PrincipalLookup, 'groupExists'> & Pick<OwnerLookup, 'usablePrincipals'> = {
  principalKind: async (reader, id) => {
    // The share lock keeps the principal from being deleted before the caller's transaction has referred to it.
    const [row] = await reader
      .select({ kind: principals.kind })
      .from(principals)
      .where(and(eq(principals.id, id), isNull(principals.deletedAt)))
      .for('share');
    return row?.kind;
  },
  usablePrincipals: async (reader, ids, sinceMs) =>
    (await withOwners(reader, ids))
      .filter(({ principal, owner }) => wasUsable(principal, sinceMs) && (owner === null || wasUsable(owner, sinceMs)))
      .map(({ principal }) => ({ principalId: principal.id, personId: principal.ownerId ?? principal.id })),
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
      await this.checkProvisioned(tx, found, before, input);
      if (kind === 'serviceAccount') {
        found.expiry('input.expiresAt', input.expiresAt, ctx.clock.now(), serviceAccountLifetimeMsMax);
        if (typeof input.ownerId === 'string') {
          await this.ownerFor(tx, ctx, found, input.ownerId);
          await refuseTaking(tx, ctx, this.roles, found, before, input.ownerId);
        }
      }
      found.assertNone();
      const disabling = before.status === 'active' && input.status === 'disabled';
      const ownerId = input.ownerId?.toLowerCase() ?? before.ownerId; // As the table has it: capitals hand nothing over.
      return {
        name: input.name ?? before.name,
        description: input.description ?? before.description,
        status: input.status ?? before.status,
        // Disabling voids sessions and tokens for good, not only until the principal is enabled again.
        epoch: disabling ? before.epoch + 1 : before.epoch,
        ...(kind === 'user' && input.email !== undefined ? { email: input.email } : {}),
        ...(kind === 'serviceAccount' ? { ownerId, expiresAt: input.expiresAt ?? before.expiresAt } : {}),
      };
    });
  }

  /** Soft: audit events refer to it. Its keys are revoked, its memberships and grants go with it. */
  async delete(ctx: Context, kind: Kind, input: ChangeOptions): Promise<PrincipalRow> {
    ctx.authorize(kind === 'user' ? 'user:write' : 'serviceAccount:write');
    return this.change(ctx, kind, input, 'delete', async (tx, before) => {
      if (before.directoryId !== null) {
        const message = 'is provisioned by a directory: remove it there, or disable it here';
        throw new AppError('INVALID_INPUT', { violations: [{ path: 'input.id', message }] });
      }
      const [owned] = await tx
        .select({ count: sql<number>`count(*)::int` })
        .from(principals)
        .where(and(eq(principals.ownerId, before.id), isNull(principals.deletedAt)));
      if (owned !== undefined && owned.count > 0) {
        const message = `still owns ${owned.count} service account(s): give them another owner first`;
        throw new AppError('INVALID_INPUT', { violations: [{ path: 'input.id', message }] });
      }
      return this.deletion(tx, ctx, before);
    });
  }

  /** Makes a user that a directory names, within the directory's transaction. */
  async insertProvisioned(tx: Transaction, ctx: Context, said: Provisioned): Promise<PrincipalRow> {
    return this.insert(tx, ctx, 'provisionUser', {}, (id) => ({
      kind: 'user',
      name: said.name,
      email: said.email,
      status: said.status ?? 'active',
      issuer: said.issuer,
      subject: said.subject === '' ? id : said.subject,
      directoryId: said.directoryId,
    }));
  }

  /** Changes a user as its directory says, within the directory's transaction. */
  async changeProvisioned(tx: Transaction, ctx: Context, id: string, said: Provisioned): Promise<PrincipalRow> {
    const values = async (before: PrincipalRow): Promise<Partial<typeof principals.$inferInsert>> => {
      const status = said.status ?? before.status;
      const disabling = before.status === 'active' && status === 'disabled';
      const { name, email, issuer, directoryId } = said;
      const subject = said.subject === '' ? before.subject : said.subject;
      return { name, email, issuer, subject, directoryId, status, epoch: before.epoch + (disabling ? 1 : 0) };
    };
    return this.changeIn(tx, ctx, { kind: 'user', id, verb: 'update', said: said.said }, values);
  }

  /** Deletes a user that its directory removed. Service accounts it answered for are left without an owner who can act. */
  async deleteProvisioned(tx: Transaction, ctx: Context, id: string): Promise<PrincipalRow> {
    return this.changeIn(tx, ctx, { kind: 'user', id, verb: 'delete' }, (before) => this.deletion(tx, ctx, before));
  }

  private async deletion(
    tx: Transaction,
    ctx: Context,
    before: PrincipalRow,
  ): Promise<Partial<typeof principals.$inferInsert>> {
    const now = new Date(ctx.clock.now());
    await tx
      .update(apiKeys)
      .set({ revokedAt: now, updatedAt: now, revision: sql`${apiKeys.revision} + 1` })
      .where(and(eq(apiKeys.principalId, before.id), isNull(apiKeys.revokedAt)));
    await tx.delete(groupMembers).where(eq(groupMembers.principalId, before.id));
    await this.grants.deleteFor(tx, ctx, { principalId: before.id });
    return { deletedAt: now, status: 'disabled', epoch: before.epoch + 1 };
  }

  /** What a directory says of its users is not for others to say; to disable one is always possible. */
  private async checkProvisioned(tx: Transaction, found: Violations, before: PrincipalRow, input: UpdatePrincipal) {
    if (before.directoryId === null) return;
    for (const field of ['name', 'email'] as const) {
      if (input[field] !== undefined && input[field] !== before[field]) {
        found.add(`input.${field}`, 'is provisioned by a directory: change it there');
      }
    }
    if (input.status !== 'active') return;
    const [said] = await tx
      .select({ active: scimUsers.active })
      .from(scimUsers)
      .where(eq(scimUsers.principalId, before.id));
    if (said?.active === false) found.add('input.status', 'was deactivated by its directory: activate it there');
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
    return mutate(this.database, input, (tx) =>
      this.changeIn(tx, ctx, { ...input, kind, verb }, (before) => values(tx, before)),
    );
  }

  private async changeIn(
    tx: Transaction,
    ctx: Context,
    change: ChangeOptions & { readonly kind: Kind; readonly verb: 'update' | 'delete'; readonly said?: object },
    values: (before: PrincipalRow) => Promise<Partial<typeof principals.$inferInsert>>,
  ): Promise<PrincipalRow> {
    const { id, kind, verb, said } = change;
    // Before the row's lock, always in this order: whoever removes an owner holds this one first.
    await this.roles.owners.lock(tx);
    if (isUuid(id)) await tx.execute(sql`select 1 from principals where id = ${id} for update`);
    const before = await findPrincipal(tx, id, kind);
    if (before === undefined) throw new AppError('NOT_FOUND');
    await this.roles.assertMayManage(ctx, tx, before.id);
    // Whoever answers for accounts takes them along.
    const accountIds = await this.accountsOf(tx, before.id);
    for (const accountId of accountIds) await this.roles.assertMayManage(ctx, tx, accountId);
    assertRevision(before, change.expectedRevision);
    const hadOwner = await this.roles.owners.exists(tx, ctx.clock.now());
    const changed = await values(before);
    const isEnding = endsEarlier(before, changed);
    const ended = isEnding ? await this.roles.owners.among(tx, ctx.clock.now(), [before.id, ...accountIds]) : [];
    await this.roles.owners.assertMayEnd(tx, ctx, ended);
    const [row] = await tx
      .update(principals)
      .set({ ...changed, revision: before.revision + 1, updatedAt: new Date(ctx.clock.now()) })
      .where(eq(principals.id, before.id))
      .returning();
    if (row === undefined) throw new AppError('INTERNAL', { internal: 'principal vanished under its lock' });
    const mayEnd = verb === 'delete' || row.status === 'disabled' || row.ownerId !== before.ownerId;
    if (mayEnd && hadOwner) await this.roles.owners.assertRemains(tx, ctx);
    if (row.ownerId !== before.ownerId) await this.noteFormerOwner(tx, ctx, before, ended);
    const after = said === undefined ? row : { ...row, said };
    await recordMutation(tx, ctx, { action: `${kind}.${verb}`, object: { kind, id: row.id }, before, after });
    // A deleted subject takes its grants with it, on whatever server they are.
    if (verb === 'delete') await bumpConfigGeneration(tx);
    else await bumpConfigGeneration(tx, { principalIds: [row.id, ...(await this.accountsOf(tx, row.id))] });
    return row;
  }

  /** Who answered for an account may know its keys, and counts as an owner for some time where the account is one. */
  private async noteFormerOwner(tx: Transaction, ctx: Context, before: PrincipalRow, ended: readonly Person[]) {
    if (before.ownerId === null) return;
    await this.roles.owners.noteFormer(tx, ctx.clock.now(), ended);
    await tx
      .update(apiKeys)
      .set({ knownTo: sql`array_append(${apiKeys.knownTo}, ${before.ownerId}::uuid)` })
      .where(and(eq(apiKeys.principalId, before.id), sql`${before.ownerId}::uuid <> all (${apiKeys.knownTo})`));
  }

  /** Service accounts for which the principal answers: what becomes of it may become of them. */
  private async accountsOf(tx: Transaction, ownerId: string): Promise<string[]> {
    const rows = await tx
      .select({ id: principals.id })
      .from(principals)
      .where(and(eq(principals.ownerId, ownerId), isNull(principals.deletedAt)));
    return rows.map(({ id }) => id);
  }
}
