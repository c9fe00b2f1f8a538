import { AppError, type WebhookEntry } from '@sallyport/schema';
import {
  type Egress,
  newWebhookKey,
  readWebhookSecret,
  uuidv7,
  webhookPublicKey,
  webhookSecretPrefix,
} from '@sallyport/schema/platform';
import { and, asc, eq, gt, inArray, isNull, sql } from 'drizzle-orm';
import { recordAccess, recordMutation } from '../audit/audit.service.ts';
import {
  type AuditDeliveryRow,
  closeDelivery,
  deliveryCursors,
  deliveryOf,
  openDelivery,
  restartDelivery,
  type ShownCursor,
} from '../audit/delivery.service.ts';
import type { Context } from '../context.ts';
import type { Database, Reader, Transaction } from '../database/client.ts';
import { bumpConfigGeneration } from '../database/config-generation.ts';
import { claimIdempotencyKey, idempotencyKeyViolations, usedForAnother } from '../database/idempotency.ts';
import { assertRevision, isUuid, mutate, type MutationOptions } from '../database/mutation.ts';
import { containsWords } from '../database/text-search.ts';
import { Violations } from '../database/violations.ts';
import type { FleetVault } from '../fleet/fleet-keys.ts';
import { policies, type StoredSigningKey, type WebhookRow, webhooks, webhookText } from './inspection.tables.ts';
import { compileWebhookRow, signingKeyOpener, signingKeyPurpose } from './webhook-entry.ts';
import {
  checkSecret,
  checkWebhook,
  newWebhook,
  urlProblem,
  type WebhookFieldsInput,
  webhookFieldsOf,
} from './webhook-form.ts';

const webhooksMax = 100;
/** Keys that sign at once: one in use, one that succeeds it, and some to spare. */
const keysMax = 4;
export const webhookOverlapSecondsMax = 30 * 24 * 3600;
const overlapSecondsDefault = 24 * 3600;

export interface CreateWebhook extends WebhookFieldsInput, MutationOptions {
  readonly idempotencyKey?: string | null | undefined;
  readonly name: string;
  readonly url: string;
  readonly events: readonly WebhookRow['events'][number][];
  readonly algorithm?: WebhookRow['algorithm'] | null | undefined;
  /** Brought along by the caller; absent: one is made. */
  readonly secret?: string | null | undefined;
}
interface Reference extends MutationOptions {
  readonly id: string;
  readonly expectedRevision?: number | null | undefined;
}
export type UpdateWebhook = WebhookFieldsInput & Reference;
export type DeleteWebhook = Reference;
export interface RotateWebhookKey extends Reference {
  readonly secret?: string | null | undefined;
  readonly overlapSeconds?: number | null | undefined;
}

export interface RestartDelivery extends Reference {
  readonly from?: Date | null | undefined;
}

/** The only moment at which a secret exists outside of its receiver and nodes. */
export interface IssuedWebhook {
  readonly webhook: WebhookRow;
  /** Null on a dry run, a repeated create, for Ed25519, and where the caller brought it. */
  readonly secret: string | null;
}

export interface WebhookFilter {
  readonly ids?: readonly string[] | null | undefined;
  readonly mode?: WebhookRow['mode'] | null | undefined;
  readonly search?: string | null | undefined;
}

/** What audit events may hold of a webhook. */
function visible({ signingKeys, ...row }: WebhookRow) {
  return { ...row, signingKeys: signingKeys.map(({ sealed: _sealed, ...key }) => key) };
}

export async function webhookExists(reader: Reader, id: string): Promise<boolean> {
  return (await findWebhook(reader, id)) !== undefined;
}

async function findWebhook(reader: Reader, id: string, lock = false): Promise<WebhookRow | undefined> {
  if (!isUuid(id)) return undefined;
  const query = reader
    .select()
    .from(webhooks)
    .where(and(eq(webhooks.id, id), isNull(webhooks.deletedAt)));
  const [row] = lock ? await query.for('update') : await query;
  return row;
}

/** Who is asked about messages outside of the gateway, and by which keys what is sent is signed. */
export class WebhookService {
  private readonly options: WebhookServiceOptions;

  constructor(options: WebhookServiceOptions) {
    this.options = options;
  }

  async get(ctx: Context, id: string): Promise<WebhookRow> {
    ctx.authorize('policy:read');
    return this.find(this.options.database.db, id);
  }

  async list(
    ctx: Context,
    { ids, mode, search }: WebhookFilter,
    page: { readonly limit: number; readonly after: readonly string[] | undefined },
  ): Promise<WebhookRow[]> {
    ctx.authorize('policy:read');
    const [after] = page.after ?? [];
    return this.options.database.db
      .select()
      .from(webhooks)
      .where(
        and(
          isNull(webhooks.deletedAt),
          ids ? inArray(webhooks.id, ids.filter(isUuid)) : undefined,
          mode ? eq(webhooks.mode, mode) : undefined,
          containsWords(webhookText, search),
          after === undefined ? undefined : gt(webhooks.id, after),
        ),
      )
      .orderBy(asc(webhooks.id))
      .limit(page.limit + 1);
  }

  async create(ctx: Context, input: CreateWebhook): Promise<IssuedWebhook> {
    ctx.authorize('policy:write');
    const now = ctx.clock.now();
    const problem = await this.urlProblem(input.url);
    return mutate(this.options.database, input, async (tx) => {
      const found = new Violations();
      found.addAll(idempotencyKeyViolations(input.idempotencyKey));
      const { name, url, events } = input;
      const fields = webhookFieldsOf(input, { ...newWebhook, name, url, events: [...events] });
      const algorithm = input.algorithm ?? 'hmac';
      assertMayTell(ctx, events);
      checkWebhook(found, fields);
      if (problem !== undefined) found.add('input.url', problem);
      checkSecret(found, algorithm, input.secret);
      found.assertNone();
      const id = uuidv7(now);
      const { secret: brought, ...said } = input;
      const create = {
        actorId: ctx.actor.principalId,
        operation: 'createWebhook',
        key: input.idempotencyKey,
        input: said,
      };
      const earlier = await claimIdempotencyKey(tx, create, id, now);
      if (earlier !== undefined) {
        const webhook = await this.find(tx, earlier);
        if (typeof brought === 'string' && !this.signsWith(webhook, brought)) throw usedForAnother();
        return { webhook, secret: null };
      }
      await this.assertRoom(tx);
      const key = this.newKey(id, algorithm, brought, now);
      const at = new Date(now);
      const [row] = await tx
        .insert(webhooks)
        .values({ id, ...fields, algorithm, signingKeys: [key.stored], createdAt: at, updatedAt: at })
        .returning();
      if (row === undefined) throw new AppError('INTERNAL', { internal: 'a webhook was not stored' });
      await this.tell(tx, ctx, row);
      await recordMutation(tx, ctx, { action: 'webhook.create', object: { kind: 'webhook', id }, after: visible(row) });
      await bumpConfigGeneration(tx);
      return { webhook: row, secret: input.dryRun === true ? null : key.shown };
    });
  }

  async update(ctx: Context, input: UpdateWebhook): Promise<WebhookRow> {
    ctx.authorize('policy:write');
    const problem = input.url ? await this.urlProblem(input.url) : undefined;
    return this.change(ctx, input, 'webhook.update', async (_tx, before, found) => {
      const fields = webhookFieldsOf(input, before);
      checkWebhook(found, fields);
      if (problem !== undefined) found.add('input.url', problem);
      if ((before.interceptor === null) !== (fields.interceptor === null)) {
        found.add('input.interceptor', 'is permanent where there is none: make another webhook');
      }
      return fields;
    });
  }

  /** Another key signs from now on; those before sign beside it until the overlap is over. */
  async rotate(ctx: Context, input: RotateWebhookKey): Promise<IssuedWebhook> {
    const overlapSeconds = input.overlapSeconds ?? overlapSecondsDefault;
    const now = ctx.clock.now();
    let shown: string | null = null;
    const webhook = await this.change(ctx, input, 'webhook.rotateKey', async (_tx, before, found) => {
      if (overlapSeconds < 0 || overlapSeconds > webhookOverlapSecondsMax) {
        found.add('input.overlapSeconds', `must be between 0 and ${webhookOverlapSecondsMax}`);
      }
      checkSecret(found, before.algorithm, input.secret);
      const end = now + overlapSeconds * 1000;
      const kept = before.signingKeys
        .map((key) => ({ ...key, notAfter: new Date(Math.min(end, endOf(key))).toISOString() }))
        .filter((key) => endOf(key) > now);
      if (kept.length >= keysMax) {
        found.add(
          'input.id',
          `has ${keysMax} keys that sign already: rotate with overlapSeconds 0, or wait for one to end`,
        );
      }
      if (found.list.length > 0) return {};
      const key = this.newKey(before.id, before.algorithm, input.secret, now);
      shown = key.shown;
      return { signingKeys: [key.stored, ...kept] };
    });
    return { webhook, secret: input.dryRun === true ? null : shown };
  }

  /** Soft: audit events keep naming it. One that a policy names must be taken out there first. */
  async delete(ctx: Context, input: DeleteWebhook): Promise<WebhookRow> {
    return this.change(ctx, input, 'webhook.delete', async (tx, before, found) => {
      const [named] = await tx
        .select({ name: policies.name })
        .from(policies)
        .where(and(isNull(policies.deletedAt), sql`${before.id}::uuid = any (${policies.webhookIds})`))
        .limit(1);
      if (named !== undefined) found.add('input.id', `the policy "${named.name}" names it: take it out there first`);
      return { deletedAt: new Date(ctx.clock.now()), signingKeys: [] };
    });
  }

  /** Sends audit events from an instant on again, or, without one, goes on where it was given up. */
  async restartDelivery(ctx: Context, input: RestartDelivery): Promise<WebhookRow> {
    ctx.authorize('policy:write');
    ctx.authorize('audit:read');
    return mutate(this.options.database, input, async (tx) => {
      const row = await this.find(tx, input.id, true);
      assertRevision(row, input.expectedRevision);
      const from = input.from ?? null;
      const found = new Violations();
      if (from !== null && from.getTime() > ctx.clock.now()) found.add('input.from', 'must not be in the future');
      found.assertNone();
      if (!(await restartDelivery(tx, row.id, ctx.actor.principalId, from))) {
        found.add('input.id', 'is not told of audit events: it needs the event AUDIT_BATCH');
      }
      found.assertNone();
      const object = { kind: 'webhook', id: row.id } as const;
      await recordMutation(tx, ctx, { action: 'webhook.restartDelivery', object, after: { from } });
      return row;
    });
  }

  async delivery(ctx: Context, id: string): Promise<AuditDeliveryRow | undefined> {
    ctx.authorize('policy:read');
    return deliveryOf(this.options.database.db, id);
  }

  async deliveryCursors(ctx: Context, id: string): Promise<ShownCursor[]> {
    ctx.authorize('policy:read');
    return deliveryCursors(this.options.database.db, id);
  }

  /**
   * What audit events are sent by; undefined where none are to be sent, `unusable` where they are and what is stored of
   * the webhook, or of all its keys, gives nothing to send by.
   */
  async entryOf(id: string): Promise<WebhookEntry | 'unusable' | undefined> {
    const row = await findWebhook(this.options.database.db, id);
    if (row === undefined || row.mode === 'off' || !row.events.includes('auditBatch')) return undefined;
    const { entry } = compileWebhookRow(row, signingKeyOpener(this.options.vault));
    return entry === undefined || entry.signingKeys.length === 0 ? 'unusable' : entry;
  }

  private async tell(tx: Transaction, ctx: Context, row: WebhookRow): Promise<void> {
    const isTold = row.deletedAt === null && row.events.includes('auditBatch');
    await (isTold ? openDelivery(tx, row.id, ctx.actor.principalId) : closeDelivery(tx, row.id));
  }

  /** That somebody had a sample sent is on record before it is. */
  async noteTrial(ctx: Context, row: WebhookRow, event: string): Promise<void> {
    const object = { kind: 'webhook', id: row.id } as const;
    await this.options.database.db.transaction((tx) =>
      recordAccess(tx, ctx, { action: 'webhook.test', object, after: { event, revision: row.revision } }),
    );
  }

  /** Whether a secret is that of one of its keys; a key that does not open is nobody's. */
  private signsWith(row: WebhookRow, brought: string): boolean {
    const openKey = signingKeyOpener(this.options.vault);
    const secret = readWebhookSecret(brought);
    return secret !== undefined && row.signingKeys.some((key) => openKey(row.id, key) === secret);
  }

  private newKey(
    webhookId: string,
    algorithm: WebhookRow['algorithm'],
    brought: string | null | undefined,
    now: number,
  ) {
    const given = brought === undefined || brought === null ? undefined : readWebhookSecret(brought);
    const secret = given ?? newWebhookKey(algorithm);
    const id = uuidv7(now);
    const stored: StoredSigningKey = {
      id,
      sealed: this.options.vault.seal(signingKeyPurpose(webhookId, id), secret),
      publicKey: algorithm === 'ed25519' ? webhookPublicKey(secret) : null,
      createdAt: new Date(now).toISOString(),
      notAfter: null,
    };
    return { stored, shown: algorithm === 'hmac' && given === undefined ? `${webhookSecretPrefix}${secret}` : null };
  }

  private async urlProblem(url: string): Promise<string | undefined> {
    return urlProblem(url) ?? (await this.options.egress.check(url, 'others'));
  }

  private async change(
    ctx: Context,
    input: Reference,
    action: string,
    values: (tx: Transaction, before: WebhookRow, found: Violations) => Promise<Partial<typeof webhooks.$inferInsert>>,
  ): Promise<WebhookRow> {
    ctx.authorize('policy:write');
    return mutate(this.options.database, input, async (tx) => {
      const before = await this.find(tx, input.id, true);
      assertRevision(before, input.expectedRevision);
      const found = new Violations();
      const changed = await values(tx, before, found);
      // Whoever may say where events go, or by which key they are signed, has them sent.
      if (changed.deletedAt === undefined) assertMayTell(ctx, [...before.events, ...(changed.events ?? [])]);
      found.assertNone();
      const [row] = await tx
        .update(webhooks)
        .set({ ...changed, revision: before.revision + 1, updatedAt: new Date(ctx.clock.now()) })
        .where(eq(webhooks.id, before.id))
        .returning();
      if (row === undefined) throw new AppError('INTERNAL', { internal: 'a webhook vanished under its lock' });
      await this.tell(tx, ctx, row);
      const object = { kind: 'webhook', id: row.id } as const;
      await recordMutation(tx, ctx, { action, object, before: visible(before), after: visible(row) });
      await bumpConfigGeneration(tx);
      return row;
    });
  }

  private async assertRoom(tx: Transaction): Promise<void> {
    const count = await tx.$count(webhooks, isNull(webhooks.deletedAt));
    if (count < webhooksMax) return;
    throw new AppError('INVALID_INPUT', {
      violations: [{ path: 'input', message: `there are ${webhooksMax} webhooks already` }],
    });
  }

  private async find(reader: Reader, id: string, lock = false): Promise<WebhookRow> {
    const row = await findWebhook(reader, id, lock);
    if (row === undefined) throw new AppError('NOT_FOUND');
    return row;
  }
}

export interface WebhookServiceOptions {
  readonly database: Database;
  readonly vault: Pick<FleetVault, 'seal' | 'open'>;
  readonly egress: Pick<Egress, 'check'>;
}

/** Nobody has audit events sent that he may not read. */
function assertMayTell(ctx: Context, events: readonly WebhookRow['events'][number][]): void {
  if (events.includes('auditBatch')) ctx.authorize('audit:read');
}

function endOf({ notAfter }: Pick<StoredSigningKey, 'notAfter'>): number {
  return notAfter === null ? Number.POSITIVE_INFINITY : Date.parse(notAfter);
}
