import { AppError, type PolicyRule, type Violation, webhooksPerPolicyMax } from '@sallyport/schema';
import { uuidv7 } from '@sallyport/schema/platform';
import { and, asc, eq, inArray, isNotNull, isNull, type SQL, sql } from 'drizzle-orm';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import type { Database, Reader, Transaction } from '../database/client.ts';
import { bumpConfigGeneration, type ConfigChange } from '../database/config-generation.ts';
import { claimIdempotencyKey, idempotencyKeyViolations } from '../database/idempotency.ts';
import { assertRevision, isUuid, mutate, type MutationOptions } from '../database/mutation.ts';
import { containsWords } from '../database/text-search.ts';
import { Violations } from '../database/violations.ts';
import { policies, type PolicyRow, policyText } from './inspection.tables.ts';
import {
  checkFields,
  fieldsOf,
  newPolicy,
  type PolicyFields,
  type PolicyFieldsInput,
  policyIdsMax,
} from './policy-form.ts';
import { webhookExists } from './webhook.service.ts';

/** Most policies of one organization: a node looks at all of them once for each server. */
const policiesMax = 200;

/** What policies need to know of other slices. */
export interface PolicyLookup {
  readonly serverExists: (reader: Reader, id: string) => Promise<boolean>;
  readonly groupExists: (reader: Reader, id: string) => Promise<boolean>;
  readonly principalKind: (reader: Reader, id: string) => Promise<'user' | 'serviceAccount' | undefined>;
  readonly payloadKeys: {
    /** Why nothing can be captured; undefined where it can. */
    readonly problem: () => Promise<string | undefined>;
    /** Sees to a key that nodes can seal to. */
    readonly ensure: () => Promise<void>;
  };
}

export interface CreatePolicy extends PolicyFieldsInput, MutationOptions {
  readonly name: string;
  readonly rules: NonNullable<PolicyFieldsInput['rules']>;
  readonly idempotencyKey?: string | null | undefined;
}
interface Reference extends MutationOptions {
  readonly id: string;
  readonly expectedRevision?: number | null | undefined;
}
export type UpdatePolicy = PolicyFieldsInput & Reference;
export type DeletePolicy = Reference;

export interface PolicyFilter {
  readonly ids?: readonly string[] | null | undefined;
  readonly mode?: PolicyRow['mode'] | null | undefined;
  /** Those that name this server itself. */
  readonly serverId?: string | null | undefined;
  readonly search?: string | null | undefined;
}

/** Where captures begin or end, every server's document tells, or does not, which members are secret. */
function changeOf(before: PolicyRow | undefined, after: PolicyRow): ConfigChange | undefined {
  return captures(before) === captures(after) ? {} : undefined;
}

function captures(row: PolicyRow | undefined): boolean {
  return row !== undefined && row.capture !== null && row.mode === 'enforce' && row.deletedAt === null;
}

/** How long payloads of policies are kept, in days, as they say now; deleted ones included, but none that keep nothing. */
export async function captureRetentions(reader: Reader): Promise<ReadonlyMap<string, number>> {
  const rows = await reader
    .select({ id: policies.id, capture: policies.capture })
    .from(policies)
    .where(isNotNull(policies.capture));
  return new Map(rows.flatMap(({ id, capture }) => (capture === null ? [] : [[id, capture.retentionDays] as const])));
}

/** Fields after every check: no action is left that only can be said. */
function stored(fields: PolicyFields) {
  return { ...fields, rules: fields.rules.filter((rule): rule is PolicyRule => rule.action !== 'requireApproval') };
}

function filterOf({ ids, mode, serverId, search }: PolicyFilter): SQL | undefined {
  return and(
    ids ? inArray(policies.id, ids.filter(isUuid)) : undefined,
    mode ? eq(policies.mode, mode) : undefined,
    serverId
      ? sql`${policies.match} @> ${JSON.stringify({ serverIds: [serverId.toLowerCase()] })}::text::jsonb`
      : undefined,
    containsWords(policyText, search),
  );
}

/** What is inspected of the traffic, and what is done about what is found. */
export class PolicyService {
  private readonly database: Database;
  private readonly lookup: PolicyLookup;

  constructor(database: Database, lookup: PolicyLookup) {
    this.database = database;
    this.lookup = lookup;
  }

  async get(ctx: Context, id: string): Promise<PolicyRow> {
    ctx.authorize('policy:read');
    return this.find(this.database.db, id);
  }

  /** In the order in which they decide. */
  async list(
    ctx: Context,
    filter: PolicyFilter,
    page: { readonly limit: number; readonly after: readonly string[] | undefined },
  ): Promise<PolicyRow[]> {
    ctx.authorize('policy:read');
    const [position, id] = page.after ?? [];
    const isAfter =
      position === undefined || id === undefined || !/^\d{1,9}$/.test(position)
        ? undefined
        : sql`(${policies.position}, ${policies.id}) > (${Number(position)}, ${id}::uuid)`;
    return this.database.db
      .select()
      .from(policies)
      .where(and(isNull(policies.deletedAt), filterOf(filter), isAfter))
      .orderBy(asc(policies.position), asc(policies.id))
      .limit(page.limit + 1);
  }

  async create(ctx: Context, input: CreatePolicy): Promise<PolicyRow> {
    ctx.authorize('policy:write');
    const now = ctx.clock.now();
    const capturing = await this.capturing(input);
    return mutate(this.database, input, async (tx) => {
      const found = new Violations();
      found.addAll(idempotencyKeyViolations(input.idempotencyKey));
      found.addAll(capturing);
      const fields = fieldsOf(input, { ...newPolicy, name: input.name, rules: [] });
      await this.check(tx, found, input, fields);
      found.assertNone();
      const id = uuidv7(now);
      const claim = { actorId: ctx.actor.principalId, operation: 'createPolicy', key: input.idempotencyKey, input };
      const earlier = await claimIdempotencyKey(tx, claim, id, now);
      if (earlier !== undefined) return this.find(tx, earlier);
      await this.checkCount(tx);
      const at = new Date(now);
      const [row] = await tx
        .insert(policies)
        .values({ id, ...stored(fields), createdAt: at, updatedAt: at })
        .returning();
      if (row === undefined) throw new AppError('INTERNAL', { internal: 'a policy was not stored' });
      await recordMutation(tx, ctx, { action: 'policy.create', object: { kind: 'policy', id }, after: row });
      await bumpConfigGeneration(tx, changeOf(undefined, row));
      return row;
    });
  }

  async update(ctx: Context, input: UpdatePolicy): Promise<PolicyRow> {
    ctx.authorize('policy:write');
    const capturing = await this.capturing(input);
    return this.change(ctx, input, 'policy.update', async (tx, before, found) => {
      found.addAll(capturing);
      const fields = fieldsOf(input, before);
      await this.check(tx, found, input, fields);
      return stored(fields);
    });
  }

  /** Soft: audit events keep naming it. */
  async delete(ctx: Context, input: DeletePolicy): Promise<PolicyRow> {
    return this.change(ctx, input, 'policy.delete', async () => ({ deletedAt: new Date(ctx.clock.now()) }));
  }

  /** Everything wrong with what is said, at once; also for a draft that is only tried. */
  async check(reader: Reader, found: Violations, input: PolicyFieldsInput, fields: PolicyFields): Promise<void> {
    checkFields(found, 'input', fields, input.match?.serverLabels);
    for (const [index, id] of (input.webhookIds ?? []).slice(0, webhooksPerPolicyMax).entries()) {
      if (!(await webhookExists(reader, id))) found.add(`input.webhookIds[${index}]`, 'there is no such webhook');
    }
    // What was right when it was said may be gone by now; that is no fault of another change.
    if (!input.match) return;
    const { serverIds, principalIds, groupIds } = fields.match;
    const checks = [
      ['serverIds', serverIds, this.lookup.serverExists, 'server'],
      ['groupIds', groupIds, this.lookup.groupExists, 'group'],
      [
        'principalIds',
        principalIds,
        async (tx: Reader, id: string) => (await this.lookup.principalKind(tx, id)) !== undefined,
        'user or service account',
      ],
    ] as const;
    for (const [member, ids, exists, noun] of checks) {
      for (const [index, id] of ids.slice(0, policyIdsMax).entries()) {
        if (isUuid(id) && (await exists(reader, id))) continue;
        found.add(`input.match.${member}[${index}]`, `there is no such ${noun}`);
      }
    }
  }

  /**
   * Whether what is to be captured can be sealed, told as a violation; and makes the key for it. Before the transaction:
   * the key-encryption key may be asked for over the network. A key that is made and then not used harms nobody.
   */
  private async capturing({ capture, dryRun }: PolicyFieldsInput & MutationOptions): Promise<Violation[]> {
    if (!capture) return [];
    const problem = await this.lookup.payloadKeys.problem();
    if (problem !== undefined) return [{ path: 'input.capture', message: problem }];
    if (dryRun !== true) await this.lookup.payloadKeys.ensure();
    return [];
  }

  private async change(
    ctx: Context,
    input: Reference,
    action: string,
    values: (tx: Transaction, before: PolicyRow, found: Violations) => Promise<Partial<typeof policies.$inferInsert>>,
  ): Promise<PolicyRow> {
    ctx.authorize('policy:write');
    return mutate(this.database, input, async (tx) => {
      const before = await this.find(tx, input.id, true);
      assertRevision(before, input.expectedRevision);
      const found = new Violations();
      const changed = await values(tx, before, found);
      found.assertNone();
      const [row] = await tx
        .update(policies)
        .set({ ...changed, revision: before.revision + 1, updatedAt: new Date(ctx.clock.now()) })
        .where(eq(policies.id, before.id))
        .returning();
      if (row === undefined) throw new AppError('INTERNAL', { internal: 'a policy vanished under its lock' });
      await recordMutation(tx, ctx, { action, object: { kind: 'policy', id: row.id }, before, after: row });
      await bumpConfigGeneration(tx, changeOf(before, row));
      return row;
    });
  }

  private async checkCount(tx: Transaction): Promise<void> {
    const [row] = await tx
      .select({ count: sql<number>`count(*)::int` })
      .from(policies)
      .where(isNull(policies.deletedAt));
    if ((row?.count ?? 0) < policiesMax) return;
    const violations = [{ path: 'input', message: `there are ${policiesMax} policies already: put some together` }];
    throw new AppError('INVALID_INPUT', { violations });
  }

  private async find(reader: Reader, id: string, lock = false): Promise<PolicyRow> {
    if (!isUuid(id)) throw new AppError('NOT_FOUND');
    const query = reader
      .select()
      .from(policies)
      .where(and(eq(policies.id, id), isNull(policies.deletedAt)));
    const [row] = lock ? await query.for('update') : await query;
    if (row === undefined) throw new AppError('NOT_FOUND');
    return row;
  }
}
