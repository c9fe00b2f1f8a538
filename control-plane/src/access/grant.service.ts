import { AppError } from '@sallyport/schema';
import { uuidv7 } from '@sallyport/schema/platform';
import { and, asc, eq, gt, ilike, inArray, isNull, or, type SQL, sql } from 'drizzle-orm';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import { batched } from '../database/batched.ts';
import type { Database, Reader, Transaction } from '../database/client.ts';
import { bumpConfigGeneration } from '../database/config-generation.ts';
import { claimIdempotencyKey, idempotencyKeyViolations } from '../database/idempotency.ts';
import { assertRevision, isUuid, mutate, type MutationOptions } from '../database/mutation.ts';
import { Violations } from '../database/violations.ts';
import { type GrantRow, grants } from './access.tables.ts';
import {
  checkFields,
  fieldsOf,
  type GrantFieldsInput,
  type GrantTargetInput,
  noFields,
  selectorOf,
} from './grant-form.ts';

/** Most grants changed by one mutation. */
export const bulkItemsMax = 500;
/** Longest text searched for, in characters. */
const searchLengthMax = 128;

/** What grants need to know of other slices, which `access` does not import. */
export interface GrantLookup {
  readonly principalKind: (reader: Reader, id: string) => Promise<'user' | 'serviceAccount' | undefined>;
  readonly groupExists: (reader: Reader, id: string) => Promise<boolean>;
  readonly serverExists: (reader: Reader, id: string) => Promise<boolean>;
}

interface CreateOptions extends MutationOptions {
  readonly idempotencyKey?: string | null | undefined;
}

export interface NewGrant extends GrantFieldsInput, GrantTargetInput {
  readonly name: string;
  readonly source?: GrantRow['source'] | null | undefined;
}
export type CreateGrant = NewGrant & CreateOptions;
export interface CreateGrants extends CreateOptions {
  readonly items: readonly NewGrant[];
}

/** A grant to change, by its id; absent fields keep their value. */
export interface GrantChange extends GrantFieldsInput {
  readonly id: string;
  readonly expectedRevision?: number | null | undefined;
  readonly name?: string | null | undefined;
}
export type UpdateGrant = GrantChange & MutationOptions;
export interface UpdateGrants extends MutationOptions {
  readonly items: readonly GrantChange[];
}

type ChangeById = MutationOptions & Pick<GrantChange, 'id' | 'expectedRevision'>;
export interface DeleteGrants extends MutationOptions {
  readonly items: readonly Pick<GrantChange, 'id' | 'expectedRevision'>[];
}

export interface GrantFilter {
  readonly serverId?: string | null | undefined;
  readonly principalId?: string | null | undefined;
  readonly groupId?: string | null | undefined;
  readonly effect?: GrantRow['effect'] | null | undefined;
  readonly mode?: GrantRow['mode'] | null | undefined;
  readonly search?: string | null | undefined;
}

function filterOf(filter: GrantFilter): SQL | undefined {
  const ids = [filter.serverId, filter.principalId, filter.groupId].filter((id) => typeof id === 'string');
  if (!ids.every(isUuid)) return sql`false`;
  return and(
    filter.serverId ? eq(grants.serverId, filter.serverId) : undefined,
    filter.principalId ? eq(grants.subjectPrincipalId, filter.principalId) : undefined,
    filter.groupId ? eq(grants.subjectGroupId, filter.groupId) : undefined,
    filter.effect ? eq(grants.effect, filter.effect) : undefined,
    filter.mode ? eq(grants.mode, filter.mode) : undefined,
    filter.search ? containing(filter.search) : undefined,
  );
}

function containing(text: string): SQL | undefined {
  const pattern = `%${text.slice(0, searchLengthMax).replace(/[\\%_]/g, String.raw`\$&`)}%`;
  return or(ilike(grants.name, pattern), ilike(grants.reason, pattern));
}

/** What changed of the configuration, for nodes: a grant on labels is no server's own. */
function serversOf(rows: readonly GrantRow[]): { readonly serverIds: readonly string[] } {
  return { serverIds: [...new Set(rows.flatMap((row) => row.serverId ?? []))] };
}

function assertItems(items: readonly unknown[]): void {
  if (items.length > 0 && items.length <= bulkItemsMax) return;
  const message = `must have 1 to ${bulkItemsMax} items`;
  throw new AppError('INVALID_INPUT', { violations: [{ path: 'input.items', message }] });
}

export class GrantService {
  private readonly database: Database;
  private readonly lookup: GrantLookup;
  private readonly load: (id: string) => Promise<GrantRow | undefined>;

  constructor(database: Database, lookup: GrantLookup) {
    this.database = database;
    this.lookup = lookup;
    this.load = batched(async (ids) => {
      const rows = await database.db
        .select()
        .from(grants)
        .where(inArray(grants.id, [...ids]));
      return new Map(rows.map((row) => [row.id, row]));
    });
  }

  /** Many at once cost one query. */
  async byId(ctx: Context, id: string): Promise<GrantRow> {
    ctx.authorize('grant:read');
    const row = await this.load(id);
    if (row === undefined) throw new AppError('NOT_FOUND');
    return row;
  }

  async get(ctx: Context, id: string): Promise<GrantRow> {
    ctx.authorize('grant:read');
    return this.find(this.database.db, id);
  }

  async list(
    ctx: Context,
    filter: GrantFilter,
    page: { readonly limit: number; readonly after: readonly string[] | undefined },
  ): Promise<GrantRow[]> {
    ctx.authorize('grant:read');
    const [after] = page.after ?? [];
    return this.database.db
      .select()
      .from(grants)
      .where(and(isNull(grants.deletedAt), filterOf(filter), after === undefined ? undefined : gt(grants.id, after)))
      .orderBy(asc(grants.id))
      .limit(page.limit + 1);
  }

  async create(ctx: Context, input: CreateGrant): Promise<GrantRow> {
    ctx.authorize('grant:write');
    return mutate(this.database, input, async (tx) => {
      const id = uuidv7(ctx.clock.now());
      const found = new Violations();
      found.addAll(idempotencyKeyViolations(input.idempotencyKey));
      const values = await this.prepare(tx, found, 'input', input, id, ctx.clock.now());
      found.assertNone();
      const earlier = await this.claim(tx, ctx, 'createGrant', input, id);
      if (earlier !== undefined) return this.find(tx, earlier);
      const [row] = await this.insert(tx, ctx, [values]);
      if (row === undefined) throw new AppError('INTERNAL', { internal: 'grant was not inserted' });
      return row;
    });
  }

  /** Makes all of them or none; a violation names the item. */
  async createMany(ctx: Context, input: CreateGrants): Promise<GrantRow[]> {
    ctx.authorize('grant:write');
    assertItems(input.items);
    const now = ctx.clock.now();
    return mutate(this.database, input, async (tx) => {
      const found = new Violations();
      found.addAll(idempotencyKeyViolations(input.idempotencyKey));
      const values: (typeof grants.$inferInsert)[] = [];
      for (const [index, item] of input.items.entries()) {
        values.push(await this.prepare(tx, found, `input.items[${index}]`, item, uuidv7(now), now));
      }
      found.assertNone();
      const earlier = await this.claimItems(tx, ctx, input, values);
      if (earlier !== undefined) return Promise.all(earlier.map((id) => this.find(tx, id)));
      return this.insert(tx, ctx, values);
    });
  }

  async update(ctx: Context, input: UpdateGrant): Promise<GrantRow> {
    const [row] = await this.updateItems(ctx, input, [input], () => 'input');
    if (row === undefined) throw new AppError('INTERNAL', { internal: 'grant was not updated' });
    return row;
  }

  /** Changes all of them or none. */
  async updateMany(ctx: Context, input: UpdateGrants): Promise<GrantRow[]> {
    assertItems(input.items);
    return this.updateItems(ctx, input, input.items, (index) => `input.items[${index}]`);
  }

  /** Closes the validity window now. The grant stays listed, as an ended one; ending it again changes nothing. */
  async end(ctx: Context, input: ChangeById): Promise<GrantRow> {
    ctx.authorize('grant:write');
    const now = new Date(ctx.clock.now());
    return this.change(ctx, input, 'grant.end', (before) => {
      if (before.notAfter !== null && before.notAfter <= now) return undefined;
      if (before.notBefore !== null && before.notBefore >= now) {
        const message = 'the grant has not begun yet: delete it instead';
        throw new AppError('INVALID_INPUT', { violations: [{ path: 'input.id', message }] });
      }
      return { notAfter: now };
    });
  }

  async delete(ctx: Context, input: ChangeById): Promise<GrantRow> {
    ctx.authorize('grant:write');
    return this.change(ctx, input, 'grant.delete', () => ({ deletedAt: new Date(ctx.clock.now()) }));
  }

  /** Deletes all of them or none. */
  async deleteMany(ctx: Context, input: DeleteGrants): Promise<GrantRow[]> {
    ctx.authorize('grant:write');
    assertItems(input.items);
    const deletedAt = new Date(ctx.clock.now());
    return mutate(this.database, input, async (tx) => {
      const found = new Violations();
      const rows = await this.findAll(tx, found, input.items, (index) => `input.items[${index}]`);
      found.assertNone();
      const deleted: GrantRow[] = [];
      for (const before of rows) deleted.push(await this.write(tx, ctx, 'grant.delete', before, { deletedAt }));
      await bumpConfigGeneration(tx, serversOf(deleted));
      return deleted;
    });
  }

  /**
   * Deletes every grant that names an object which is being deleted in the same transaction. The caller bumps the
   * generation.
   */
  async deleteFor(
    tx: Transaction,
    ctx: Context,
    named: Pick<GrantFilter, 'serverId' | 'principalId' | 'groupId'>,
  ): Promise<void> {
    const now = new Date(ctx.clock.now());
    const rows = await tx
      .update(grants)
      .set({ deletedAt: now, updatedAt: now, revision: sql`${grants.revision} + 1` })
      .where(and(isNull(grants.deletedAt), filterOf(named)))
      .returning();
    for (const row of rows) {
      await recordMutation(tx, ctx, { action: 'grant.delete', object: { kind: 'grant', id: row.id }, after: row });
    }
  }

  /** The row of a grant to be made; what is wrong with it is added to `found`. */
  private async prepare(
    tx: Transaction,
    found: Violations,
    path: string,
    input: NewGrant,
    id: string,
    nowMs: number,
  ): Promise<typeof grants.$inferInsert> {
    const fields = fieldsOf(input, { ...noFields, name: input.name });
    checkFields(found, path, fields, input.effect);
    await this.checkSubject(tx, found, path, input.subject);
    const serverLabels = selectorOf(found, path, input);
    const serverId = serverLabels === null ? (input.serverId ?? null) : null;
    if (serverId !== null && !(isUuid(serverId) && (await this.lookup.serverExists(tx, serverId)))) {
      found.add(`${path}.serverId`, 'there is no such server');
    }
    const { kind, id: subjectId } = input.subject;
    return {
      id,
      ...fields,
      subjectKind: kind,
      subjectPrincipalId: kind === 'user' || kind === 'serviceAccount' ? subjectId : null,
      subjectGroupId: kind === 'group' ? subjectId : null,
      serverId,
      serverLabels,
      effect: input.effect,
      source: input.source ?? 'static',
      createdAt: new Date(nowMs),
      updatedAt: new Date(nowMs),
    };
  }

  private async claim(
    tx: Transaction,
    ctx: Context,
    operation: string,
    input: CreateOptions,
    id: string,
  ): Promise<string | undefined> {
    const create = { actorId: ctx.actor.principalId, operation, key: input.idempotencyKey, input };
    return claimIdempotencyKey(tx, create, id, ctx.clock.now());
  }

  private async insert(tx: Transaction, ctx: Context, values: (typeof grants.$inferInsert)[]): Promise<GrantRow[]> {
    const rows = await tx.insert(grants).values(values).returning();
    for (const row of rows) {
      await recordMutation(tx, ctx, { action: 'grant.create', object: { kind: 'grant', id: row.id }, after: row });
    }
    await bumpConfigGeneration(tx, serversOf(rows));
    return rows;
  }

  /** The ids of what an equal list made before; each item has a key of its own, derived from the list's. */
  private async claimItems(
    tx: Transaction,
    ctx: Context,
    { idempotencyKey: key, items }: CreateGrants,
    values: readonly { readonly id: string }[],
  ): Promise<readonly string[] | undefined> {
    if (key === undefined || key === null) return undefined;
    const earlier: string[] = [];
    for (const [index, { id }] of values.entries()) {
      const item = { idempotencyKey: `${key}#${index}`, item: items[index], count: items.length };
      const made = await this.claim(tx, ctx, 'createGrants', item, id);
      if (made !== undefined) earlier.push(made);
    }
    return earlier.length === items.length ? earlier : undefined;
  }

  private async updateItems(
    ctx: Context,
    options: MutationOptions,
    items: readonly GrantChange[],
    pathOf: (index: number) => string,
  ): Promise<GrantRow[]> {
    ctx.authorize('grant:write');
    return mutate(this.database, options, async (tx) => {
      const found = new Violations();
      const befores = await this.findAll(tx, found, items, pathOf);
      found.assertNone();
      const changes = befores.map((before, index) => {
        const fields = fieldsOf(items[index] ?? {}, before);
        checkFields(found, pathOf(index), fields, before.effect);
        return fields;
      });
      found.assertNone();
      const rows: GrantRow[] = [];
      for (const [index, before] of befores.entries()) {
        rows.push(await this.write(tx, ctx, 'grant.update', before, changes[index] ?? {}));
      }
      await bumpConfigGeneration(tx, serversOf(rows));
      return rows;
    });
  }

  /** The rows of the items, locked in the order of their ids. One item alone that is not there is NOT_FOUND. */
  private async findAll(
    tx: Transaction,
    found: Violations,
    items: readonly Pick<GrantChange, 'id' | 'expectedRevision'>[],
    pathOf: (index: number) => string,
  ): Promise<GrantRow[]> {
    const byId = new Map<string, GrantRow>();
    for (const id of [...new Set(items.map((item) => item.id))].sort()) {
      const row = await this.find(tx, id, true).catch((error: unknown) => {
        if (items.length > 1 && error instanceof AppError && error.code === 'NOT_FOUND') return undefined;
        throw error;
      });
      if (row !== undefined) byId.set(id, row);
    }
    return items.flatMap((item, index) => {
      const row = byId.get(item.id);
      if (row === undefined) {
        found.add(`${pathOf(index)}.id`, 'there is no such grant');
        return [];
      }
      if (items.findIndex((other) => other.id === item.id) !== index) {
        found.add(`${pathOf(index)}.id`, 'is given twice');
      }
      assertRevision(row, item.expectedRevision);
      return row;
    });
  }

  private async change(
    ctx: Context,
    input: ChangeById,
    action: string,
    values: (before: GrantRow) => Partial<typeof grants.$inferInsert> | undefined,
  ): Promise<GrantRow> {
    return mutate(this.database, input, async (tx) => {
      const before = await this.find(tx, input.id, true);
      assertRevision(before, input.expectedRevision);
      const changed = values(before);
      if (changed === undefined) return before;
      const row = await this.write(tx, ctx, action, before, changed);
      await bumpConfigGeneration(tx, serversOf([row]));
      return row;
    });
  }

  private async write(
    tx: Transaction,
    ctx: Context,
    action: string,
    before: GrantRow,
    changed: Partial<typeof grants.$inferInsert>,
  ): Promise<GrantRow> {
    const [row] = await tx
      .update(grants)
      .set({ ...changed, revision: before.revision + 1, updatedAt: new Date(ctx.clock.now()) })
      .where(eq(grants.id, before.id))
      .returning();
    if (row === undefined) throw new AppError('INTERNAL', { internal: 'grant vanished under its lock' });
    await recordMutation(tx, ctx, { action, object: { kind: 'grant', id: row.id }, before, after: row });
    return row;
  }

  private async checkSubject(
    tx: Transaction,
    found: Violations,
    path: string,
    subject: NewGrant['subject'],
  ): Promise<void> {
    const { kind, id } = subject;
    const word = kind === 'serviceAccount' ? 'service account' : kind;
    if (kind === 'everyone') {
      if (id !== undefined && id !== null) found.add(`${path}.subject.id`, 'must be absent for everyone');
      return;
    }
    if (id === undefined || id === null) {
      found.add(`${path}.subject.id`, `must be the id of a ${word}`);
      return;
    }
    const exists =
      isUuid(id) &&
      (kind === 'group' ? await this.lookup.groupExists(tx, id) : (await this.lookup.principalKind(tx, id)) === kind);
    if (!exists) found.add(`${path}.subject.id`, `there is no such ${word}`);
  }

  private async find(reader: Reader, id: string, lock = false): Promise<GrantRow> {
    if (!isUuid(id)) throw new AppError('NOT_FOUND');
    const query = reader
      .select()
      .from(grants)
      .where(and(eq(grants.id, id), isNull(grants.deletedAt)));
    const [row] = lock ? await query.for('update') : await query;
    if (row === undefined) throw new AppError('NOT_FOUND');
    return row;
  }
}
