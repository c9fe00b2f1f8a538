import { AppError } from '@sallyport/schema';
import { parse } from 'scim2-parse-filter';
import { and, asc, eq, isNull, type SQL, sql } from 'drizzle-orm';
import type { Context } from '../../context.ts';
import type { Database, Reader, Transaction } from '../../database/client.ts';
import { isUuid, mutate } from '../../database/mutation.ts';
import type { GroupService } from '../group.service.ts';
import { groupMembers, type GroupRow, groups, principals } from '../identity.tables.ts';
import { type Attribute, type Attributes, filterCondition, text } from './filter-query.service.ts';
import { type GroupBody, groupSchema, memberIdsOf, membersMax, parseDisplayName } from './group-resource.ts';
import { type ListQuery, type Page, readPage } from './list.ts';
import type { PatchOperation } from './patch.ts';
import { plainObject, textOf } from './scim-json.ts';
import { scimProblem } from './scim-problem.ts';
import { type ScimGroupRow, scimGroups } from './scim.tables.ts';
import type { Directory, Precondition } from './scim-user.service.ts';

export interface ScimGroup {
  readonly group: GroupRow;
  readonly said: ScimGroupRow;
}
export interface MemberOfGroup {
  readonly groupId: string;
  readonly id: string;
  readonly name: string;
}

/** What a change leaves: the name and identity, and whose membership it moves. */
interface Outcome {
  name: string;
  externalId: string | null;
  readonly added: Set<string>;
  readonly removed: Set<string>;
}

/** Members that one answer shows; groups together may have far more. */
const membersPerAnswerMax = 100_000;

/** Groups as a directory pushes them. It sees and changes those alone that it provisions; their members too are its own. */
export class ScimGroupService {
  private readonly database: Database;
  private readonly groups: GroupService;

  constructor(database: Database, groupService: GroupService) {
    this.database = database;
    this.groups = groupService;
  }

  async get(directory: Directory, id: string): Promise<ScimGroup> {
    return this.find(this.database.db, directory, id);
  }

  async list(directory: Directory, query: ListQuery): Promise<Page<ScimGroup>> {
    const condition = and(
      eq(scimGroups.directoryId, directory.id),
      isNull(groups.deletedAt),
      query.filter === undefined ? undefined : filterCondition(query.filter, groupAttributes, groupSchema),
    );
    const { db } = this.database;
    const rows = db
      .select({ group: groups, said: scimGroups })
      .from(scimGroups)
      .innerJoin(groups, eq(groups.id, scimGroups.groupId))
      .where(condition);
    const total = () => db.$count(rows.as('matching'));
    return readPage(query, total, (offset, limit) => rows.orderBy(asc(groups.id)).offset(offset).limit(limit));
  }

  /** The members of groups at hand, by id of the group. */
  async membersOf(ids: readonly string[]): Promise<ReadonlyMap<string, readonly MemberOfGroup[]>> {
    if (ids.length === 0) return new Map();
    const rows = await this.database.db
      .select({ groupId: groupMembers.groupId, id: principals.id, name: principals.name })
      .from(groupMembers)
      .innerJoin(principals, eq(principals.id, groupMembers.principalId))
      .where(sql`${groupMembers.groupId} = any (${`{${ids.join(',')}}`}::uuid[])`)
      .orderBy(asc(principals.id))
      .limit(membersPerAnswerMax + 1);
    if (rows.length > membersPerAnswerMax) {
      throw scimProblem('tooMany', `more than ${membersPerAnswerMax} members: ask with excludedAttributes=members`);
    }
    return Map.groupBy(rows, ({ groupId }) => groupId);
  }

  async create(ctx: Context, directory: Directory, body: GroupBody): Promise<ScimGroup> {
    return mutate(this.database, {}, async (tx) => {
      await this.assertUnused(tx, body.name, undefined);
      const group = await this.groups.insertProvisioned(tx, ctx, { name: body.name, directoryId: directory.id });
      const [said] = await tx
        .insert(scimGroups)
        .values({ groupId: group.id, directoryId: directory.id, externalId: body.externalId })
        .returning();
      if (said === undefined) throw new AppError('INTERNAL', { internal: 'a group of a directory was not inserted' });
      if (body.memberIds === undefined || body.memberIds.size === 0) return { group, said };
      const added = await this.known(tx, directory, body.memberIds);
      const members = { added, removed: [] };
      return { group: await this.groups.changeProvisioned(tx, ctx, group.id, { members }), said };
    });
  }

  /** Members that the body does not name leave; a body without the attribute has none (RFC 7644 §3.5.1). */
  async replace(
    ctx: Context,
    directory: Directory,
    id: string,
    body: GroupBody,
    precondition: Precondition,
  ): Promise<ScimGroup> {
    return this.change(ctx, directory, id, precondition, async (tx, _before, outcome) => {
      outcome.name = body.name;
      outcome.externalId = body.externalId;
      await this.setMembers(tx, id, outcome, body.memberIds ?? new Set());
    });
  }

  /** Operations on members are applied as sets, so that a group of many is never read or written as a whole. */
  async patch(
    ctx: Context,
    directory: Directory,
    id: string,
    operations: readonly PatchOperation[],
    precondition: Precondition,
  ): Promise<ScimGroup> {
    return this.change(ctx, directory, id, precondition, async (tx, _before, outcome) => {
      for (const operation of operations) await this.apply(tx, id, outcome, operation);
    });
  }

  async delete(ctx: Context, directory: Directory, id: string, precondition: Precondition): Promise<void> {
    await mutate(this.database, {}, async (tx) => {
      const before = await this.find(tx, directory, id, true);
      precondition(before.group.revision);
      await this.groups.changeProvisioned(tx, ctx, id, { isDeleted: true });
      await tx.delete(scimGroups).where(eq(scimGroups.groupId, id));
    });
  }

  private async change(
    ctx: Context,
    directory: Directory,
    id: string,
    precondition: Precondition,
    apply: (tx: Transaction, before: ScimGroup, outcome: Outcome) => Promise<void>,
  ): Promise<ScimGroup> {
    return mutate(this.database, {}, async (tx) => {
      const before = await this.find(tx, directory, id, true);
      precondition(before.group.revision);
      const { name } = before.group;
      const outcome: Outcome = {
        name,
        externalId: before.said.externalId,
        added: new Set(),
        removed: new Set(),
      };
      await apply(tx, before, outcome);
      const members = await this.moved(tx, directory, id, outcome);
      const isRenamed = outcome.name !== name;
      if (!isRenamed && outcome.externalId === before.said.externalId && members === undefined) return before;
      if (isRenamed) await this.assertUnused(tx, outcome.name, id);
      const changed = { members, name: isRenamed ? outcome.name : undefined };
      const group = await this.groups.changeProvisioned(tx, ctx, id, changed);
      const { externalId } = outcome;
      const [said] = await tx.update(scimGroups).set({ externalId }).where(eq(scimGroups.groupId, id)).returning();
      if (said === undefined) throw new AppError('INTERNAL', { internal: 'a group of a directory vanished' });
      return { group, said };
    });
  }

  private async apply(tx: Transaction, id: string, outcome: Outcome, operation: PatchOperation): Promise<void> {
    const { op, path, value } = operation;
    if (path === undefined) {
      for (const [key, member] of Object.entries(plainObject(value, 'the value of an operation without a path'))) {
        await this.apply(tx, id, outcome, { op, path: key, value: member });
      }
      return;
    }
    const lower = path.toLowerCase();
    if (lower === 'members' || lower.startsWith('members[')) {
      await this.applyToMembers(tx, id, outcome, operation, path);
    } else if (lower === 'displayname') {
      if (op === 'remove') throw scimProblem('mutability', 'displayName is required');
      outcome.name = parseDisplayName(value);
    } else if (lower === 'externalid') {
      outcome.externalId = op === 'remove' ? null : (textOf(value, 'externalId', 256) ?? null);
    } else if (lower === 'id' || lower === 'meta') {
      // Okta sends the id along with a rename; saying what is so changes nothing.
      if (value !== id && lower === 'id') throw scimProblem('mutability', 'id is read-only');
    } else if (lower !== 'schemas') {
      throw scimProblem('invalidPath', `a group has no ${path}`);
    }
  }

  private async applyToMembers(
    tx: Transaction,
    id: string,
    outcome: Outcome,
    { op, value }: PatchOperation,
    path: string,
  ): Promise<void> {
    const named = path.includes('[') ? memberNamed(path) : undefined;
    if (named !== undefined) {
      if (op !== 'remove') throw scimProblem('invalidPath', 'one member can be removed by a filter, and nothing else');
      leave(outcome, named);
      return;
    }
    if (op === 'replace') {
      await this.setMembers(tx, id, outcome, memberIdsOf(value));
    } else if (op === 'add') {
      for (const memberId of memberIdsOf(value)) join(outcome, memberId);
    } else if (value === undefined || value === null) {
      await this.setMembers(tx, id, outcome, new Set());
    } else {
      // Entra names whom to remove in the value (RFC 7644 has the filter for that).
      for (const memberId of memberIdsOf(value)) leave(outcome, memberId);
    }
  }

  private async setMembers(tx: Transaction, id: string, outcome: Outcome, wanted: ReadonlySet<string>): Promise<void> {
    const rows = await tx
      .select({ id: groupMembers.principalId })
      .from(groupMembers)
      .where(eq(groupMembers.groupId, id));
    for (const row of rows) if (!wanted.has(row.id)) leave(outcome, row.id);
    // Those an earlier operation of the same request added, too.
    for (const memberId of outcome.added) if (!wanted.has(memberId)) leave(outcome, memberId);
    for (const memberId of wanted) join(outcome, memberId);
  }

  /** Who joins and leaves for real; undefined where nobody does. */
  private async moved(tx: Transaction, directory: Directory, groupId: string, { added, removed }: Outcome) {
    if (added.size === 0 && removed.size === 0) return undefined;
    const candidates = `{${[...added, ...removed].filter(isUuid).join(',')}}`;
    const rows = await tx.execute<{ principal_id: string }>(sql`select principal_id from group_members
      where group_id = ${groupId} and principal_id = any (${candidates}::uuid[])`);
    const present = new Set(rows.map((row) => row.principal_id));
    const joining = await this.known(tx, directory, new Set([...added].filter((id) => !present.has(id))));
    const leaving = [...removed].filter((id) => present.has(id));
    return joining.length === 0 && leaving.length === 0 ? undefined : { added: joining, removed: leaving };
  }

  /** Those of the ids that are the directory's own users; any other is refused by name. */
  private async known(tx: Transaction, directory: Directory, ids: ReadonlySet<string>): Promise<readonly string[]> {
    const candidates = [...ids].filter(isUuid);
    const rows =
      candidates.length === 0
        ? []
        : await tx.execute<{ principal_id: string }>(sql`select principal_id from scim_users
            where directory_id = ${directory.id} and principal_id = any (${`{${candidates.join(',')}}`}::uuid[])
            for share`);
    const found = new Set(rows.map((row) => row.principal_id));
    const missing = [...ids].find((id) => !found.has(id));
    if (missing !== undefined) {
      throw scimProblem('invalidValue', `there is no user ${missing.slice(0, 64)}; groups cannot be members of groups`);
    }
    return [...found];
  }

  /** A name is unique among all groups, those made here included. */
  private async assertUnused(tx: Transaction, name: string, ownId: string | undefined): Promise<void> {
    const others = await tx
      .select({ id: groups.id, directoryId: groups.directoryId })
      .from(groups)
      .where(and(eq(groups.name, name), isNull(groups.deletedAt)));
    const other = others.find(({ id }) => id !== ownId);
    if (other === undefined) return;
    const where = other.directoryId === null ? 'a group made in Sallyport; rename or delete it there' : 'another group';
    throw scimProblem('uniqueness', `displayName is the name of ${where}`);
  }

  private async find(reader: Reader, directory: Directory, id: string, lock = false): Promise<ScimGroup> {
    if (!isUuid(id)) throw new AppError('NOT_FOUND');
    const query = reader
      .select({ group: groups, said: scimGroups })
      .from(scimGroups)
      .innerJoin(groups, eq(groups.id, scimGroups.groupId))
      .where(and(eq(scimGroups.groupId, id), eq(scimGroups.directoryId, directory.id), isNull(groups.deletedAt)));
    const [row] = lock ? await query.for('update') : await query;
    if (row === undefined) throw new AppError('NOT_FOUND');
    return row;
  }
}

function join(outcome: Outcome, id: string): void {
  outcome.removed.delete(id);
  outcome.added.add(id);
  if (outcome.added.size > membersMax) throw scimProblem('tooMany', `at most ${membersMax} members in one request`);
}

function leave(outcome: Outcome, id: string): void {
  outcome.added.delete(id);
  outcome.removed.add(id);
}

/** The id of `members[value eq "…"]`. */
function memberNamed(path: string): string {
  try {
    const filter = parse(path);
    const inner = filter.op === '[]' ? filter.valFilter : undefined;
    if (inner?.op === 'eq' && inner.attrPath.toLowerCase() === 'value' && typeof inner.compValue === 'string') {
      return inner.compValue.toLowerCase();
    }
  } catch {
    // Told below, like what was read and means something else.
  }
  throw scimProblem('invalidPath', 'members are named by members[value eq "<id>"]');
}

const memberId: Attribute = {
  kind: 'list',
  elements: new Map([['value', text(sql`member.principal_id::text`, true)]]),
  some: (condition: SQL) =>
    sql`exists (select 1 from group_members as member where member.group_id = ${groups.id} and ${condition})`,
};

const groupAttributes: Attributes = new Map<string, Attribute>([
  ['id', text(sql`${groups.id}::text`, true)],
  ['displayname', text(sql`${groups.name}`)],
  ['externalid', text(sql`${scimGroups.externalId}`, true)],
  ['meta.created', { kind: 'instant', value: sql`${groups.createdAt}` }],
  ['meta.lastmodified', { kind: 'instant', value: sql`${groups.updatedAt}` }],
  ['members', memberId],
]);
