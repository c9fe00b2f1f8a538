import { AppError } from '@sallyport/schema';
import { uuidv7 } from '@sallyport/schema/platform';
import { and, asc, eq, gt, inArray, isNull, ne, sql } from 'drizzle-orm';
import type { GrantService } from '../access/grant.service.ts';
import type { RoleService } from '../access/role.service.ts';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import { type Batch, batchOf, batchOfOne, lockBatch, only, type Reference } from '../database/batch.ts';
import { batched } from '../database/batched.ts';
import type { Database, Reader, Transaction } from '../database/client.ts';
import { bumpConfigGeneration } from '../database/config-generation.ts';
import { claimIdempotencyKey, idempotencyKeyViolations } from '../database/idempotency.ts';
import { assertRevision, isUuid, mutate, type MutationOptions } from '../database/mutation.ts';
import { containsWords } from '../database/text-search.ts';
import { descriptionLengthMax, nameLengthMax, Violations } from '../database/violations.ts';
import { groupMembers, type GroupRow, groups, groupText, type PrincipalRow, principals } from './identity.tables.ts';
import { membersAmong, named, refuseOwnMemberships } from './own-access.service.ts';

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
export interface GroupFilter {
  readonly name?: string | null | undefined;
  /** Words in name and description. */
  readonly search?: string | null | undefined;
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
export interface ChangeManyMembers extends MutationOptions {
  readonly items: readonly (Reference & {
    readonly add?: readonly string[] | null | undefined;
    readonly remove?: readonly string[] | null | undefined;
  })[];
}

const ofDirectory = 'the group is provisioned by a directory: change it there';
const ofProvider = 'the members are what an identity provider says: change its groupRules, or the groups there';

/** What becomes of the members of one group. */
interface MembershipChange extends Reference {
  readonly add: readonly string[];
  readonly remove: readonly string[];
  /** Where the two lists stand in the input. */
  readonly paths: readonly [string, string];
}

/** What a directory says of a group that it provisions. */
export interface ProvisionedGroup {
  /** Undefined: as it is. */
  readonly name?: string | undefined;
  readonly isDeleted?: boolean | undefined;
  /** Ids of principals; undefined where memberships stay as they are. */
  readonly members?: { readonly added: readonly string[]; readonly removed: readonly string[] } | undefined;
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

/** Names of the groups that a principal belongs to, in their order; at most `max`. */
export async function groupNamesOf(reader: Reader, principalId: string, max: number): Promise<string[]> {
  const rows = await reader
    .select({ name: groups.name })
    .from(groupMembers)
    .innerJoin(groups, and(eq(groups.id, groupMembers.groupId), isNull(groups.deletedAt)))
    .where(eq(groupMembers.principalId, principalId))
    .orderBy(asc(groups.name))
    .limit(max);
  return rows.map(({ name }) => name);
}

export interface GroupServiceDependencies {
  readonly database: Database;
  readonly grants: Pick<GrantService, 'deleteFor'>;
  readonly roles: Pick<RoleService, 'rightsOf' | 'rightsOfGroup' | 'assertCovers' | 'removeFromGroup' | 'owners'>;
  /** How many servers the group owns. */
  readonly serversOwned: (reader: Reader, groupId: string) => Promise<number>;
}

export class GroupService {
  private readonly database: Database;
  private readonly deps: GroupServiceDependencies;
  /** A group by id, deleted ones too, for the neighbours of a list; the caller has authorized. */
  readonly load: (id: string) => Promise<GroupRow | undefined>;

  constructor(deps: GroupServiceDependencies) {
    const { database } = deps;
    this.database = database;
    this.deps = deps;
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

  async list(ctx: Context, filter: GroupFilter, page: Page): Promise<GroupRow[]> {
    ctx.authorize('group:read');
    const [after] = page.after ?? [];
    return this.database.db
      .select()
      .from(groups)
      .where(
        and(
          isNull(groups.deletedAt),
          typeof filter.name === 'string' ? eq(groups.name, filter.name) : undefined,
          containsWords(groupText, filter.search),
          after === undefined ? undefined : gt(groups.id, after),
        ),
      )
      .orderBy(asc(groups.id))
      .limit(page.limit + 1);
  }

  async members(
    ctx: Context,
    groupId: string,
    filter: { readonly ids?: readonly string[] | null | undefined },
    page: Page,
  ): Promise<PrincipalRow[]> {
    ctx.authorize('group:read');
    const [after] = page.after ?? [];
    const rows = await this.database.db
      .select({ principal: principals })
      .from(groupMembers)
      .innerJoin(principals, eq(principals.id, groupMembers.principalId))
      .where(
        and(
          eq(groupMembers.groupId, groupId),
          filter.ids ? inArray(principals.id, filter.ids.filter(isUuid)) : undefined,
          after === undefined ? undefined : gt(principals.id, after),
        ),
      )
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
    return mutate(this.database, input, async (tx) => {
      const now = ctx.clock.now();
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
      return this.insert(tx, ctx, { id, name: input.name, description: input.description ?? '' });
    });
  }

  /** Makes a group that a directory names, within the directory's transaction. A name in use is a unique violation. */
  async insertProvisioned(
    tx: Transaction,
    ctx: Context,
    said: Pick<GroupRow, 'name' | 'directoryId'>,
  ): Promise<GroupRow> {
    return this.insert(tx, ctx, { ...said, id: uuidv7(ctx.clock.now()), description: '' });
  }

  private async insert(
    tx: Transaction,
    ctx: Context,
    values: Pick<GroupRow, 'id' | 'name' | 'description'> & { readonly directoryId?: string | null },
  ): Promise<GroupRow> {
    const now = new Date(ctx.clock.now());
    const [row] = await tx
      .insert(groups)
      .values({ ...values, createdAt: now, updatedAt: now })
      .returning();
    if (row === undefined) throw new AppError('INTERNAL', { internal: 'group was not inserted' });
    await recordMutation(tx, ctx, { action: 'group.create', object: { kind: 'group', id: row.id }, after: row });
    await bumpConfigGeneration(tx);
    return row;
  }

  async update(ctx: Context, input: UpdateGroup): Promise<GroupRow> {
    ctx.authorize('group:write');
    return this.change(ctx, input, 'group.update', async (tx, before) => {
      const found = new Violations();
      this.checkTexts(found, input);
      if (typeof input.name === 'string') await this.checkName(tx, found, input.name, before.id);
      found.assertNone();
      // Conditions of grants know a group by its name.
      if (typeof input.name === 'string' && input.name !== before.name) {
        await refuseOwnMemberships(tx, ctx, this.deps.roles, membersAmong(before.id));
      }
      return { name: input.name ?? before.name, description: input.description ?? before.description };
    });
  }

  /** Soft: audit events refer to it. Memberships and grants to the group go with it. */
  async delete(ctx: Context, input: ChangeOptions): Promise<GroupRow> {
    ctx.authorize('group:write');
    return this.change(ctx, input, 'group.delete', async (tx, before) => {
      await this.assertMayManage(tx, ctx, before.id);
      await refuseOwnMemberships(tx, ctx, this.deps.roles, membersAmong(before.id));
      const owned = await this.deps.serversOwned(tx, before.id);
      if (owned > 0) {
        const message = `still owns ${owned} server(s): give them another owner group first`;
        throw new AppError('INVALID_INPUT', { violations: [{ path: 'input.id', message }] });
      }
      return this.deletion(tx, ctx, before);
    });
  }

  private async deletion(tx: Transaction, ctx: Context, before: GroupRow): Promise<Partial<GroupRow>> {
    await tx.delete(groupMembers).where(eq(groupMembers.groupId, before.id));
    await this.deps.roles.removeFromGroup(tx, ctx, before.id);
    await this.deps.grants.deleteFor(tx, ctx, { groupId: before.id });
    return { deletedAt: new Date(ctx.clock.now()) };
  }

  /** Renames or deletes a group as its directory says, or changes its members, within the directory's transaction. */
  async changeProvisioned(tx: Transaction, ctx: Context, id: string, said: ProvisionedGroup): Promise<GroupRow> {
    const before = await this.find(tx, id, true);
    const isDeleted = said.isDeleted === true;
    if (isDeleted || said.members !== undefined) await this.assertMayManage(tx, ctx, id);
    if (!isDeleted) await this.applyMembers(tx, ctx, id, said.members);
    const changed = isDeleted ? await this.deletion(tx, ctx, before) : said.name ? { name: said.name } : {};
    const row = await this.write(tx, ctx, before, isDeleted ? 'group.delete' : 'group.update', changed, said.members);
    const isMembersOnly = !isDeleted && said.name === undefined && said.members !== undefined;
    const principalIds = Object.values(said.members ?? {}).flat();
    await bumpConfigGeneration(tx, isMembersOnly ? { principalIds } : undefined);
    return row;
  }

  private async applyMembers(tx: Transaction, ctx: Context, id: string, members: ProvisionedGroup['members']) {
    const { added = [], removed = [] } = members ?? {};
    const at = new Date(ctx.clock.now()).toISOString();
    // Lists as one parameter each: a group may have more members than a statement has parameters.
    if (added.length > 0) {
      await tx.execute(sql`insert into group_members (group_id, principal_id, created_at)
        select ${id}, unnest(${`{${added.join(',')}}`}::uuid[]), ${at}::timestamptz on conflict do nothing`);
    }
    if (removed.length > 0) {
      await tx.execute(sql`delete from group_members
        where group_id = ${id} and principal_id = any (${`{${removed.join(',')}}`}::uuid[])`);
    }
  }

  /** Adds principals; those that belong already stay. */
  async addMembers(ctx: Context, input: ChangeMembers): Promise<GroupRow> {
    return this.changeMember(ctx, input, { add: input.principalIds, remove: [] });
  }

  /** Removes principals; those that do not belong are passed over. */
  async removeMembers(ctx: Context, input: ChangeMembers): Promise<GroupRow> {
    return this.changeMember(ctx, input, { add: [], remove: input.principalIds });
  }

  /** Changes the members of all of the groups or of none. */
  async changeMembers(ctx: Context, input: ChangeManyMembers): Promise<GroupRow[]> {
    const batch = batchOf(input.items);
    const count = batch.items.reduce((sum, { add, remove }) => sum + (add?.length ?? 0) + (remove?.length ?? 0), 0);
    if (count > membersPerMutationMax) {
      const message = `must have at most ${membersPerMutationMax} ids over all of them`;
      throw new AppError('INVALID_INPUT', { violations: [{ path: 'input.items', message }] });
    }
    const placed = batch.items.map((item, index): MembershipChange => {
      const path = batch.pathOf(index);
      return { ...item, add: item.add ?? [], remove: item.remove ?? [], paths: [`${path}.add`, `${path}.remove`] };
    });
    return this.changeMemberships(ctx, input, { ...batch, items: placed });
  }

  private async changeMember(
    ctx: Context,
    input: ChangeMembers,
    change: Pick<MembershipChange, 'add' | 'remove'>,
  ): Promise<GroupRow> {
    if (input.principalIds.length > membersPerMutationMax) {
      const message = `must have at most ${membersPerMutationMax} ids`;
      throw new AppError('INVALID_INPUT', { violations: [{ path: 'input.principalIds', message }] });
    }
    const { id, expectedRevision } = input;
    const paths = ['input.principalIds', 'input.principalIds'] as const;
    return only(await this.changeMemberships(ctx, input, batchOfOne({ id, expectedRevision, ...change, paths })));
  }

  private async changeMemberships(
    ctx: Context,
    options: MutationOptions,
    batch: Batch<MembershipChange>,
  ): Promise<GroupRow[]> {
    ctx.authorize('group:write');
    return mutate(this.database, options, async (tx) => {
      const found = new Violations();
      const located = await lockBatch(batch, found, 'group', (id) => this.find(tx, id, true));
      const known = await this.knownPrincipals(tx, batch.items);
      for (const { item, before } of located) {
        const path = item.paths[item.add.length > 0 ? 0 : 1];
        if (before.directoryId !== null) found.add(path, ofDirectory);
        else if (before.identityProviderId !== null) found.add(path, ofProvider);
        else checkMembers(found, item, known);
      }
      found.assertNone();
      for (const { before } of located) await this.assertMayManage(tx, ctx, before.id);
      for (const { item, before } of located) {
        const whose = sql`${named(item.add)} union ${membersAmong(before.id, item.remove)}`;
        await refuseOwnMemberships(tx, ctx, this.deps.roles, whose);
      }
      const rows: GroupRow[] = [];
      for (const { item, before } of located) {
        const added = await this.writeMembers(tx, ctx, before, 'group.addMembers', item.add);
        rows.push(await this.writeMembers(tx, ctx, added, 'group.removeMembers', item.remove));
      }
      const principalIds = new Set(located.flatMap(({ item }) => [...item.add, ...item.remove]));
      await bumpConfigGeneration(tx, { principalIds: [...principalIds] });
      return rows;
    });
  }

  /** Adds or removes members of a locked group; none, and nothing happens. */
  private async writeMembers(
    tx: Transaction,
    ctx: Context,
    before: GroupRow,
    action: 'group.addMembers' | 'group.removeMembers',
    principalIds: readonly string[],
  ): Promise<GroupRow> {
    if (principalIds.length === 0) return before;
    const now = new Date(ctx.clock.now());
    if (action === 'group.addMembers') {
      const values = principalIds.map((principalId) => ({ groupId: before.id, principalId, createdAt: now }));
      await tx.insert(groupMembers).values(values).onConflictDoNothing();
    } else {
      const named = inArray(groupMembers.principalId, [...principalIds]);
      await tx.delete(groupMembers).where(and(eq(groupMembers.groupId, before.id), named));
    }
    return this.write(tx, ctx, before, action, {}, { principalIds });
  }

  /** Of all that is named, what exists, in lower case; it is not deleted before the transaction ends. */
  private async knownPrincipals(tx: Transaction, items: readonly MembershipChange[]): Promise<ReadonlySet<string>> {
    const ids = [...new Set(items.flatMap(({ add, remove }) => [...add, ...remove]).filter(isUuid))].sort();
    if (ids.length === 0) return new Set();
    const rows = await tx
      .select({ id: principals.id })
      .from(principals)
      .where(and(inArray(principals.id, ids), isNull(principals.deletedAt)))
      .orderBy(asc(principals.id))
      .for('share');
    return new Set(rows.map((row) => row.id));
  }

  /** Belonging to a group gives its roles, and its servers as own ones: who changes that must have as much. */
  async assertMayManage(tx: Transaction, ctx: Context, groupId: string): Promise<void> {
    const { roles, serversOwned } = this.deps;
    const rights = await roles.rightsOfGroup(tx, groupId);
    const owns = (await serversOwned(tx, groupId)) > 0;
    const permissions = owns ? new Set(rights.permissions).add('server:writeOwn') : rights.permissions;
    roles.assertCovers(ctx, { ...rights, permissions });
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

  private async change(
    ctx: Context,
    input: ChangeOptions,
    action: string,
    values: (tx: Transaction, before: GroupRow) => Promise<Partial<typeof groups.$inferInsert>>,
  ): Promise<GroupRow> {
    return mutate(this.database, input, async (tx) => {
      const before = await this.find(tx, input.id, true);
      if (before.directoryId !== null) {
        throw new AppError('INVALID_INPUT', { violations: [{ path: 'input.id', message: ofDirectory }] });
      }
      assertRevision(before, input.expectedRevision);
      const changed = await values(tx, before);
      await bumpConfigGeneration(tx);
      return this.write(tx, ctx, before, action, changed);
    });
  }

  private async write(
    tx: Transaction,
    ctx: Context,
    before: GroupRow,
    action: string,
    changed: Partial<typeof groups.$inferInsert>,
    members: Readonly<Record<string, readonly string[]>> = {},
  ): Promise<GroupRow> {
    const [row] = await tx
      .update(groups)
      .set({ ...changed, revision: before.revision + 1, updatedAt: new Date(ctx.clock.now()) })
      .where(eq(groups.id, before.id))
      .returning();
    if (row === undefined) throw new AppError('INTERNAL', { internal: 'group vanished under its lock' });
    await recordMutation(tx, ctx, {
      action,
      object: { kind: 'group', id: row.id },
      before,
      after: { ...row, ...members },
    });
    return row;
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

function checkMembers(found: Violations, { add, remove, paths }: MembershipChange, known: ReadonlySet<string>): void {
  if (add.length + remove.length === 0) found.add(paths[0], 'must not be empty');
  for (const [at, ids] of [add, remove].entries()) {
    for (const [index, id] of ids.entries()) {
      if (!known.has(id.toLowerCase())) found.add(`${paths[at]}[${index}]`, 'there is no such principal');
    }
  }
  const added = new Set(add.map((id) => id.toLowerCase()));
  for (const [index, id] of remove.entries()) {
    if (added.has(id.toLowerCase())) found.add(`${paths[1]}[${index}]`, 'is to be added and removed');
  }
}
