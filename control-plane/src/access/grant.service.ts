import { AppError } from '@sallyport/schema';
import { uuidv7 } from '@sallyport/schema/platform';
import { and, asc, eq, gt, inArray, isNull, lte, or, type SQL, sql } from 'drizzle-orm';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import { type Batch, batchOf, batchOfOne, type Located, lockBatch, only, type Reference } from '../database/batch.ts';
import { batched } from '../database/batched.ts';
import type { Database, Reader, Transaction } from '../database/client.ts';
import { bumpConfigGeneration } from '../database/config-generation.ts';
import { claimIdempotencyKeys, idempotencyKeyViolations } from '../database/idempotency.ts';
import { isUuid, mutate, type MutationOptions } from '../database/mutation.ts';
import { containsWords } from '../database/text-search.ts';
import { Violations } from '../database/violations.ts';
import { type GrantRow, grants, grantText } from './access.tables.ts';
import {
  checkFields,
  fieldsOf,
  type GrantFieldsInput,
  type GrantTargetInput,
  noFields,
  selectorOf,
} from './grant-form.ts';

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

/** A grant to change; absent fields keep their value. */
export interface GrantChange extends GrantFieldsInput, Reference {
  readonly name?: string | null | undefined;
}
export type UpdateGrant = GrantChange & MutationOptions;
export interface UpdateGrants extends MutationOptions {
  readonly items: readonly GrantChange[];
}

type ChangeById = MutationOptions & Reference;
export interface DeleteGrants extends MutationOptions {
  readonly items: readonly Reference[];
}

export interface GrantFilter {
  readonly ids?: readonly string[] | null | undefined;
  readonly serverId?: string | null | undefined;
  readonly principalId?: string | null | undefined;
  readonly groupId?: string | null | undefined;
  readonly subjectKind?: GrantRow['subjectKind'] | null | undefined;
  readonly source?: GrantRow['source'] | null | undefined;
  /** Those whose window holds the instant. */
  readonly validAt?: Date | null | undefined;
  readonly effect?: GrantRow['effect'] | null | undefined;
  readonly mode?: GrantRow['mode'] | null | undefined;
  readonly search?: string | null | undefined;
}

function filterOf(filter: GrantFilter): SQL | undefined {
  const ids = [filter.serverId, filter.principalId, filter.groupId].filter((id) => typeof id === 'string');
  if (!ids.every(isUuid)) return sql`false`;
  return and(
    filter.ids ? inArray(grants.id, filter.ids.filter(isUuid)) : undefined,
    filter.serverId ? eq(grants.serverId, filter.serverId) : undefined,
    filter.principalId ? eq(grants.subjectPrincipalId, filter.principalId) : undefined,
    filter.groupId ? eq(grants.subjectGroupId, filter.groupId) : undefined,
    filter.subjectKind ? eq(grants.subjectKind, filter.subjectKind) : undefined,
    filter.source ? eq(grants.source, filter.source) : undefined,
    filter.validAt ? holding(filter.validAt) : undefined,
    filter.effect ? eq(grants.effect, filter.effect) : undefined,
    filter.mode ? eq(grants.mode, filter.mode) : undefined,
    containsWords(grantText, filter.search),
  );
}

function holding(instant: Date): SQL | undefined {
  return and(
    or(isNull(grants.notBefore), lte(grants.notBefore, instant)),
    or(isNull(grants.notAfter), gt(grants.notAfter, instant)),
  );
}

/** What changed of the configuration, for nodes: a grant on labels is no server's own. */
function serversOf(rows: readonly GrantRow[]): { readonly serverIds: readonly string[] } {
  return { serverIds: [...new Set(rows.flatMap((row) => row.serverId ?? []))] };
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

  /** The rows as `reader` sees them, deleted ones too; without what does not exist. The caller has authorized. */
  async rows(reader: Reader, ids: readonly string[]): Promise<GrantRow[]> {
    return reader
      .select()
      .from(grants)
      .where(inArray(grants.id, ids.filter(isUuid)));
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
    return only(await this.createAll(ctx, input, batchOfOne(input)));
  }

  /** Makes all of them or none; a violation names the item. */
  async createMany(ctx: Context, input: CreateGrants): Promise<GrantRow[]> {
    return this.createAll(ctx, input, batchOf(input.items));
  }

  async update(ctx: Context, input: UpdateGrant): Promise<GrantRow> {
    return only(await this.updateAll(ctx, input, batchOfOne(input)));
  }

  /** Changes all of them or none. */
  async updateMany(ctx: Context, input: UpdateGrants): Promise<GrantRow[]> {
    return this.updateAll(ctx, input, batchOf(input.items));
  }

  /** Closes the validity window now. The grant stays listed, as an ended one; ending it again changes nothing. */
  async end(ctx: Context, input: ChangeById): Promise<GrantRow> {
    const now = new Date(ctx.clock.now());
    return only(
      await this.changeAll(ctx, input, batchOfOne(input), 'grant.end', ({ path, before }, found) => {
        if (before.notAfter !== null && before.notAfter <= now) return undefined;
        if (before.notBefore === null || before.notBefore < now) return { notAfter: now };
        found.add(`${path}.id`, 'the grant has not begun yet: delete it instead');
        return undefined;
      }),
    );
  }

  async delete(ctx: Context, input: ChangeById): Promise<GrantRow> {
    return only(await this.deleteAll(ctx, input, batchOfOne(input)));
  }

  /** Deletes all of them or none. */
  async deleteMany(ctx: Context, input: DeleteGrants): Promise<GrantRow[]> {
    return this.deleteAll(ctx, input, batchOf(input.items));
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

  private async createAll(ctx: Context, options: CreateOptions, batch: Batch<NewGrant>): Promise<GrantRow[]> {
    ctx.authorize('grant:write');
    const now = ctx.clock.now();
    return mutate(this.database, options, async (tx) => {
      const found = new Violations();
      found.addAll(idempotencyKeyViolations(options.idempotencyKey));
      const values: (typeof grants.$inferInsert)[] = [];
      for (const [index, item] of batch.items.entries()) {
        values.push(await this.prepare(tx, found, batch.pathOf(index), item, uuidv7(now), now));
      }
      found.assertNone();
      const operation = batch.isList ? 'createGrants' : 'createGrant';
      const claim = { actorId: ctx.actor.principalId, operation, key: options.idempotencyKey };
      const ids = values.map(({ id }) => id);
      const earlier = await claimIdempotencyKeys(tx, claim, batch, ids, now);
      if (earlier !== undefined) return Promise.all(earlier.map((id) => this.find(tx, id)));
      return this.insert(tx, ctx, values);
    });
  }

  private async insert(tx: Transaction, ctx: Context, values: (typeof grants.$inferInsert)[]): Promise<GrantRow[]> {
    const rows = await tx.insert(grants).values(values).returning();
    for (const row of rows) {
      await recordMutation(tx, ctx, { action: 'grant.create', object: { kind: 'grant', id: row.id }, after: row });
    }
    await bumpConfigGeneration(tx, serversOf(rows));
    return rows;
  }

  private async updateAll(ctx: Context, options: MutationOptions, batch: Batch<GrantChange>): Promise<GrantRow[]> {
    return this.changeAll(ctx, options, batch, 'grant.update', ({ item, path, before }, found) => {
      const fields = fieldsOf(item, before);
      checkFields(found, path, fields, before.effect);
      return fields;
    });
  }

  private async deleteAll(ctx: Context, options: MutationOptions, batch: Batch<Reference>): Promise<GrantRow[]> {
    const deletedAt = new Date(ctx.clock.now());
    return this.changeAll(ctx, options, batch, 'grant.delete', () => ({ deletedAt }));
  }

  /** @param values what changes of a grant; undefined where nothing does */
  private async changeAll<Item extends Reference>(
    ctx: Context,
    options: MutationOptions,
    batch: Batch<Item>,
    action: string,
    values: (one: Located<Item, GrantRow>, found: Violations) => Partial<typeof grants.$inferInsert> | undefined,
  ): Promise<GrantRow[]> {
    ctx.authorize('grant:write');
    return mutate(this.database, options, async (tx) => {
      const found = new Violations();
      const located = await lockBatch(batch, found, 'grant', (id) => this.find(tx, id, true));
      const changes = located.map((one) => values(one, found));
      found.assertNone();
      const rows: GrantRow[] = [];
      for (const [index, { before }] of located.entries()) {
        const changed = changes[index];
        rows.push(changed === undefined ? before : await this.write(tx, ctx, action, before, changed));
      }
      if (changes.some((changed) => changed !== undefined)) await bumpConfigGeneration(tx, serversOf(rows));
      return rows;
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
