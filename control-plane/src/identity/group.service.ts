import { AppError } from '@sallyport/schema';
import { uuidv7 } from '@sallyport/schema/platform';
import { and, asc, eq, gt, inArray, isNull, ne } from 'drizzle-orm';
import type { GrantService } from '../access/grant.service.ts';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import { batched } from '../database/batched.ts';
import type { Database, Reader, Transaction } from '../database/client.ts';
import { bumpConfigGeneration } from '../database/config-generation.ts';
import { claimIdempotencyKey, idempotencyKeyViolations } from '../database/idempotency.ts';
import { assertRevision, isUuid, mutate, type MutationOptions } from '../database/mutation.ts';
import { descriptionLengthMax, nameLengthMax, Violations } from '../database/violations.ts';
import { groupMembers, type GroupRow, groups, type PrincipalRow, principals } from './identity.tables.ts';

/** Most principals one mutation adds to or removes from a group. */
export const membersPerMutationMax = 500;

interface Page {
  readonly limit: number;
  readonly after: readonly string[] | undefined;
}
interface ChangeOptions extends MutationOptions {
  readonly id: string;
  readonly expectedRevision?: number | null | undefined;
}
export interface CreateGroup extends MutationOptions {
  readonly idempotencyKey?: string | null | undefined;
  readonly name: string;
  readonly description?: string | null | undefined;
}
export interface UpdateGroup extends ChangeOptions {
  readonly name?: string | null | undefined;
  readonly description?: string | null | undefined;
}
export interface ChangeMembers extends ChangeOptions {
  readonly principalIds: readonly string[];
}

/** Whether the group exists; keeps it from being deleted before the caller's transaction has referred to it. */
export async function groupExists(reader: Reader, id: string): Promise<boolean> {
  const rows = await reader
    .select({ id: groups.id })
    .from(groups)
    .where(and(eq(groups.id, id), isNull(groups.deletedAt)))
    .for('share');
  return rows.length > 0;
}

export class GroupService {
  private readonly database: Database;
  private readonly grants: GrantService;
  /** A group by id, deleted ones too, for the neighbours of a list; the caller has authorized. */
  readonly load: (id: string) => Promise<GroupRow | undefined>;

  constructor(database: Database, grants: GrantService) {
    this.database = database;
    this.grants = grants;
    this.load = batched(async (ids) => {
      const rows = await database.db
        .select()
        .from(groups)
        .where(inArray(groups.id, [...ids]));
      return new Map(rows.map((row) => [row.id, row]));
    });
  }

  async get(ctx: Context, id: string): Promise<GroupRow> {
    ctx.authorize('group:read');
    return this.find(this.database.db, id);
  }

  async list(ctx: Context, page: Page): Promise<GroupRow[]> {
    ctx.authorize('group:read');
    const [after] = page.after ?? [];
    return this.database.db
      .select()
      .from(groups)
      .where(and(isNull(groups.deletedAt), after === undefined ? undefined : gt(groups.id, after)))
      .orderBy(asc(groups.id))
      .limit(page.limit + 1);
  }

  async members(ctx: Context, groupId: string, page: Page): Promise<PrincipalRow[]> {
    ctx.authorize('group:read');
    const [after] = page.after ?? [];
    const rows = await this.database.db
      .select({ principal: principals })
      .from(groupMembers)
      .innerJoin(principals, eq(principals.id, groupMembers.principalId))
      .where(and(eq(groupMembers.groupId, groupId), after === undefined ? undefined : gt(principals.id, after)))
      .orderBy(asc(principals.id))
      .limit(page.limit + 1);
    return rows.map((row) => row.principal);
  }

  async groupsOf(ctx: Context, principalId: string, page: Page): Promise<GroupRow[]> {
    ctx.authorize('group:read');
    const [after] = page.after ?? [];
    const rows = await this.database.db
      .select({ group: groups })
      .from(groupMembers)
      .innerJoin(groups, eq(groups.id, groupMembers.groupId))
      .where(and(eq(groupMembers.principalId, principalId), after === undefined ? undefined : gt(groups.id, after)))
      .orderBy(asc(groups.id))
      .limit(page.limit + 1);
    return rows.map((row) => row.group);
  }

  async create(ctx: Context, input: CreateGroup): Promise<GroupRow> {
    ctx.authorize('group:write');
    const now = ctx.clock.now();
    return mutate(this.database, input, async (tx) => {
      const id = uuidv7(now);
      const found = new Violations();
      found.addAll(idempotencyKeyViolations(input.idempotencyKey));
      this.checkTexts(found, input);
      found.assertNone();
      const create = { actorId: ctx.actor.principalId, operation: 'createGroup', key: input.idempotencyKey, input };
      const earlier = await claimIdempotencyKey(tx, create, id, now);
      if (earlier !== undefined) return this.find(tx, earlier);
      await this.checkName(tx, found, input.name, id);
      found.assertNone();
      const [row] = await tx
        .insert(groups)
        .values({
          id,
          name: input.name,
          description: input.description ?? '',
          createdAt: new Date(now),
          updatedAt: new Date(now),
        })
        .returning();
      if (row === undefined) throw new AppError('INTERNAL', { internal: 'group was not inserted' });
      await recordMutation(tx, ctx, { action: 'group.create', object: { kind: 'group', id }, after: row });
      await bumpConfigGeneration(tx);
      return row;
    });
  }

  async update(ctx: Context, input: UpdateGroup): Promise<GroupRow> {
    ctx.authorize('group:write');
    return this.change(ctx, input, 'group.update', async (tx, before) => {
      const found = new Violations();
      this.checkTexts(found, input);
      if (typeof input.name === 'string') await this.checkName(tx, found, input.name, before.id);
      found.assertNone();
      return { name: input.name ?? before.name, description: input.description ?? before.description };
    });
  }

  /** Soft: audit events refer to it. Memberships and grants to the group go with it. */
  async delete(ctx: Context, input: ChangeOptions): Promise<GroupRow> {
    ctx.authorize('group:write');
    return this.change(ctx, input, 'group.delete', async (tx, before) => {
      await tx.delete(groupMembers).where(eq(groupMembers.groupId, before.id));
      await this.grants.deleteFor(tx, ctx, { groupId: before.id });
      return { deletedAt: new Date(ctx.clock.now()) };
    });
  }

  /** Adds principals; those that belong already stay. */
  async addMembers(ctx: Context, input: ChangeMembers): Promise<GroupRow> {
    ctx.authorize('group:write');
    return this.change(ctx, input, 'group.addMembers', async (tx, before) => {
      const ids = await this.checkMembers(tx, input.principalIds);
      await tx
        .insert(groupMembers)
        .values(ids.map((principalId) => ({ groupId: before.id, principalId, createdAt: new Date(ctx.clock.now()) })))
        .onConflictDoNothing();
      return {};
    });
  }

  /** Removes principals; those that do not belong are passed over. */
  async removeMembers(ctx: Context, input: ChangeMembers): Promise<GroupRow> {
    ctx.authorize('group:write');
    return this.change(ctx, input, 'group.removeMembers', async (tx, before) => {
      const ids = await this.checkMembers(tx, input.principalIds);
      await tx
        .delete(groupMembers)
        .where(and(eq(groupMembers.groupId, before.id), inArray(groupMembers.principalId, [...ids])));
      return {};
    });
  }

  private checkTexts(found: Violations, input: Pick<UpdateGroup, 'name' | 'description'>): void {
    found.text('input.name', input.name, 1, nameLengthMax);
    found.text('input.description', input.description, 0, descriptionLengthMax);
  }

  private async checkName(tx: Transaction, found: Violations, name: string, ownId: string): Promise<void> {
    const [other] = await tx
      .select({ id: groups.id })
      .from(groups)
      .where(and(eq(groups.name, name), isNull(groups.deletedAt), ne(groups.id, ownId)));
    if (other !== undefined) found.add('input.name', 'is the name of another group');
  }

  private async checkMembers(tx: Transaction, principalIds: readonly string[]): Promise<readonly string[]> {
    const found = new Violations();
    if (principalIds.length === 0) found.add('input.principalIds', 'must not be empty');
    if (principalIds.length > membersPerMutationMax) {
      found.add('input.principalIds', `must have at most ${membersPerMutationMax} ids`);
    }
    found.assertNone();
    const candidates = principalIds.filter(isUuid);
    const rows =
      candidates.length === 0
        ? []
        : await tx
            .select({ id: principals.id })
            .from(principals)
            .where(and(inArray(principals.id, candidates), isNull(principals.deletedAt)))
            .for('share');
    const known = new Set(rows.map((row) => row.id));
    for (const [index, id] of principalIds.entries()) {
      if (!known.has(id.toLowerCase())) found.add(`input.principalIds[${index}]`, 'there is no such principal');
    }
    found.assertNone();
    return [...known];
  }

  private async change(
    ctx: Context,
    input: ChangeOptions & { readonly principalIds?: readonly string[] },
    action: string,
    values: (tx: Transaction, before: GroupRow) => Promise<Partial<typeof groups.$inferInsert>>,
  ): Promise<GroupRow> {
    return mutate(this.database, input, async (tx) => {
      const before = await this.find(tx, input.id, true);
      assertRevision(before, input.expectedRevision);
      const [row] = await tx
        .update(groups)
        .set({
          ...(await values(tx, before)),
          revision: before.revision + 1,
          updatedAt: new Date(ctx.clock.now()),
        })
        .where(eq(groups.id, before.id))
        .returning();
      if (row === undefined) throw new AppError('INTERNAL', { internal: 'group vanished under its lock' });
      const members = input.principalIds && { principalIds: input.principalIds };
      await recordMutation(tx, ctx, {
        action,
        object: { kind: 'group', id: row.id },
        before,
        after: { ...row, ...members },
      });
      await bumpConfigGeneration(tx, members);
      return row;
    });
  }

  private async find(reader: Reader, id: string, lock = false): Promise<GroupRow> {
    if (!isUuid(id)) throw new AppError('NOT_FOUND');
    const query = reader
      .select()
      .from(groups)
      .where(and(eq(groups.id, id), isNull(groups.deletedAt)));
    const [row] = lock ? await query.for('update') : await query;
    if (row === undefined) throw new AppError('NOT_FOUND');
    return row;
  }
}
