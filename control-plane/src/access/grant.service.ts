import { AppError, globProblem, type SubjectKind } from '@sallyport/schema';
import { uuidv7 } from '@sallyport/schema/platform';
import { and, asc, eq, gt, isNull, type SQL, sql } from 'drizzle-orm';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import type { Database, Reader, Transaction } from '../database/client.ts';
import { bumpConfigGeneration } from '../database/config-generation.ts';
import { claimIdempotencyKey, idempotencyKeyViolations } from '../database/idempotency.ts';
import { assertRevision, isUuid, mutate } from '../database/mutation.ts';
import { descriptionLengthMax, nameLengthMax, Violations } from '../database/violations.ts';
import { type GrantRow, grants } from './access.tables.ts';

/** Most patterns of one kind in one grant. */
export const selectorsPerKindMax = 200;
const selectorKinds = ['tools', 'prompts', 'resources'] as const;

/** What grants need to know of other slices, which `access` does not import. */
export interface GrantLookup {
  readonly principalKind: (reader: Reader, id: string) => Promise<'user' | 'serviceAccount' | undefined>;
  readonly groupExists: (reader: Reader, id: string) => Promise<boolean>;
  readonly serverExists: (reader: Reader, id: string) => Promise<boolean>;
}

export interface GrantFields {
  readonly name: string;
  readonly tools: readonly string[];
  readonly prompts: readonly string[];
  readonly resources: readonly string[];
  readonly notBefore: Date | null;
  readonly notAfter: Date | null;
  readonly reason: string;
}

interface MutationOptions {
  readonly dryRun?: boolean | null | undefined;
}

export interface CreateGrant extends MutationOptions {
  readonly idempotencyKey?: string | null | undefined;
  readonly name: string;
  readonly subject: { readonly kind: SubjectKind; readonly id?: string | null | undefined };
  readonly serverId: string;
  readonly effect: GrantRow['effect'];
  readonly tools?: readonly string[] | null | undefined;
  readonly prompts?: readonly string[] | null | undefined;
  readonly resources?: readonly string[] | null | undefined;
  readonly notBefore?: Date | null | undefined;
  readonly notAfter?: Date | null | undefined;
  readonly source?: GrantRow['source'] | null | undefined;
  readonly reason?: string | null | undefined;
}

/** Absent fields keep their value; null ends a window's bound. */
export interface UpdateGrant extends MutationOptions {
  readonly id: string;
  readonly expectedRevision?: number | null | undefined;
  readonly name?: string | null | undefined;
  readonly tools?: readonly string[] | null | undefined;
  readonly prompts?: readonly string[] | null | undefined;
  readonly resources?: readonly string[] | null | undefined;
  readonly notBefore?: Date | null | undefined;
  readonly notAfter?: Date | null | undefined;
  readonly reason?: string | null | undefined;
}

export interface GrantFilter {
  readonly serverId?: string | null | undefined;
  readonly principalId?: string | null | undefined;
  readonly groupId?: string | null | undefined;
  readonly effect?: GrantRow['effect'] | null | undefined;
}

type ChangeById = MutationOptions & Pick<UpdateGrant, 'id' | 'expectedRevision'>;

function checkFields(found: Violations, fields: GrantFields): void {
  found.text('input.name', fields.name, 1, nameLengthMax);
  found.text('input.reason', fields.reason, 0, descriptionLengthMax);
  for (const kind of selectorKinds) {
    const patterns = fields[kind];
    if (patterns.length > selectorsPerKindMax) {
      found.add(`input.${kind}`, `must have at most ${selectorsPerKindMax} patterns`);
    }
    for (const [index, pattern] of patterns.slice(0, selectorsPerKindMax).entries()) {
      const problem = globProblem(pattern);
      if (problem !== undefined) found.add(`input.${kind}[${index}]`, problem);
      else found.text(`input.${kind}[${index}]`, pattern, 1, Number.POSITIVE_INFINITY);
    }
  }
  if (selectorKinds.every((kind) => fields[kind].length === 0)) {
    found.add('input.tools', 'at least one of tools, prompts and resources must select something');
  }
  if (fields.notBefore !== null && fields.notAfter !== null && fields.notBefore >= fields.notAfter) {
    found.add('input.notAfter', 'must be after notBefore');
  }
}

function filterOf(filter: GrantFilter): SQL | undefined {
  const ids = [filter.serverId, filter.principalId, filter.groupId].filter((id) => typeof id === 'string');
  if (!ids.every(isUuid)) return sql`false`;
  return and(
    filter.serverId ? eq(grants.serverId, filter.serverId) : undefined,
    filter.principalId ? eq(grants.subjectPrincipalId, filter.principalId) : undefined,
    filter.groupId ? eq(grants.subjectGroupId, filter.groupId) : undefined,
    filter.effect ? eq(grants.effect, filter.effect) : undefined,
  );
}

export class GrantService {
  private readonly database: Database;
  private readonly lookup: GrantLookup;

  constructor(database: Database, lookup: GrantLookup) {
    this.database = database;
    this.lookup = lookup;
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
    const now = ctx.clock.now();
    const fields: GrantFields = {
      name: input.name,
      tools: input.tools ?? [],
      prompts: input.prompts ?? [],
      resources: input.resources ?? [],
      notBefore: input.notBefore ?? null,
      notAfter: input.notAfter ?? null,
      reason: input.reason ?? '',
    };
    return mutate(this.database, input, async (tx) => {
      const id = uuidv7(now);
      const found = new Violations();
      found.addAll(idempotencyKeyViolations(input.idempotencyKey));
      checkFields(found, fields);
      await this.checkSubject(tx, found, input.subject);
      if (!isUuid(input.serverId) || !(await this.lookup.serverExists(tx, input.serverId))) {
        found.add('input.serverId', 'there is no such server');
      }
      found.assertNone();
      const earlier = await claimIdempotencyKey(
        tx,
        { actorId: ctx.actor.principalId, operation: 'createGrant', key: input.idempotencyKey, input },
        id,
        now,
      );
      if (earlier !== undefined) return this.find(tx, earlier);
      const { kind, id: subjectId } = input.subject;
      const [row] = await tx
        .insert(grants)
        .values({
          id,
          ...fields,
          tools: [...fields.tools],
          prompts: [...fields.prompts],
          resources: [...fields.resources],
          subjectKind: kind,
          subjectPrincipalId: kind === 'user' || kind === 'serviceAccount' ? subjectId : null,
          subjectGroupId: kind === 'group' ? subjectId : null,
          serverId: input.serverId,
          effect: input.effect,
          source: input.source ?? 'static',
          createdAt: new Date(now),
          updatedAt: new Date(now),
        })
        .returning();
      if (row === undefined) throw new AppError('INTERNAL', { internal: 'grant was not inserted' });
      await recordMutation(tx, ctx, { action: 'grant.create', object: { kind: 'grant', id }, after: row });
      await bumpConfigGeneration(tx, { serverIds: [row.serverId] });
      return row;
    });
  }

  async update(ctx: Context, input: UpdateGrant): Promise<GrantRow> {
    ctx.authorize('grant:write');
    return this.change(ctx, input, 'grant.update', (before) => {
      const fields: GrantFields = {
        name: input.name ?? before.name,
        tools: input.tools ?? before.tools,
        prompts: input.prompts ?? before.prompts,
        resources: input.resources ?? before.resources,
        notBefore: input.notBefore === undefined ? before.notBefore : input.notBefore,
        notAfter: input.notAfter === undefined ? before.notAfter : input.notAfter,
        reason: input.reason ?? before.reason,
      };
      const found = new Violations();
      checkFields(found, fields);
      found.assertNone();
      return { ...fields, tools: [...fields.tools], prompts: [...fields.prompts], resources: [...fields.resources] };
    });
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
      const [row] = await tx
        .update(grants)
        .set({ ...changed, revision: before.revision + 1, updatedAt: new Date(ctx.clock.now()) })
        .where(eq(grants.id, before.id))
        .returning();
      if (row === undefined) throw new AppError('INTERNAL', { internal: 'grant vanished under its lock' });
      await recordMutation(tx, ctx, { action, object: { kind: 'grant', id: row.id }, before, after: row });
      await bumpConfigGeneration(tx, { serverIds: [before.serverId, row.serverId] });
      return row;
    });
  }

  private async checkSubject(tx: Transaction, found: Violations, subject: CreateGrant['subject']): Promise<void> {
    const { kind, id } = subject;
    if (kind === 'everyone') {
      if (id !== undefined && id !== null) found.add('input.subject.id', 'must be absent for everyone');
      return;
    }
    if (id === undefined || id === null) {
      found.add('input.subject.id', `must be the id of a ${kind === 'serviceAccount' ? 'service account' : kind}`);
      return;
    }
    const exists =
      isUuid(id) &&
      (kind === 'group' ? await this.lookup.groupExists(tx, id) : (await this.lookup.principalKind(tx, id)) === kind);
    if (!exists)
      found.add('input.subject.id', `there is no such ${kind === 'serviceAccount' ? 'service account' : kind}`);
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
