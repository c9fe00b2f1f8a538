import { AppError, payloadContentSchema, payloadIdentity, type PolicyDirection } from '@sallyport/schema';
import { openPayload, uuidv7 } from '@sallyport/schema/platform';
import { and, desc, eq, gt, gte, inArray, lt, ne, or, type SQL, sql } from 'drizzle-orm';
import { recordAccess, recordMutation } from '../audit/audit.service.ts';
import { storableText } from '../audit/storable-text.ts';
import type { Context } from '../context.ts';
import type { Database, Transaction } from '../database/client.ts';
import { claimIdempotencyKey, idempotencyKeyViolations } from '../database/idempotency.ts';
import { mutate, type MutationOptions } from '../database/mutation.ts';
import { descriptionLengthMax, Violations } from '../database/violations.ts';
import type { Page } from '../graphql-connection.ts';
import { payloadErasures, type PayloadRow, payloads } from './capture.tables.ts';
import { nothingKept } from './payload-ingest.service.ts';
import type { PayloadKeyService } from './payload-key.service.ts';

const purposeLengthMax = 500;
const eventIdsMax = 200;
const filterTextLengthMax = 128;
/** Rows erased in one statement. */
const rowsPerStep = 1_000;

/** Absent members do not narrow. */
export interface PayloadFilter {
  readonly eventIds?: readonly string[] | null | undefined;
  readonly principalId?: string | null | undefined;
  readonly policyId?: string | null | undefined;
  readonly serverId?: string | null | undefined;
  /** Inclusive, of the time of the event. */
  readonly from?: Date | null | undefined;
  /** Exclusive. */
  readonly to?: Date | null | undefined;
}

export interface ReadPayload {
  /** Of the event. */
  readonly id: string;
  readonly direction: PolicyDirection;
  readonly purpose: string;
}

export interface OpenedPayload {
  readonly row: PayloadRow;
  /** In order, each as its JSON text; none where nothing is kept. */
  readonly messages: readonly string[];
}

export interface ErasePayloads extends PayloadFilter, MutationOptions {
  readonly reason: string;
  readonly idempotencyKey?: string | null | undefined;
}

export interface Erasure {
  readonly id: string;
  /** How many payloads had something to erase. */
  readonly count: number;
}

/** What was captured: listed, read, one event of the audit trail for each, and erased. */
export class PayloadService {
  private readonly database: Database;
  private readonly keys: Pick<PayloadKeyService, 'open'>;

  constructor(database: Database, keys: Pick<PayloadKeyService, 'open'>) {
    this.database = database;
    this.keys = keys;
  }

  /** Newest first; `limit + 1` rows. Nothing is opened. */
  async list(ctx: Context, filter: PayloadFilter, page: Page): Promise<PayloadRow[]> {
    ctx.authorize('payload:read');
    const found = new Violations();
    const condition = conditionOf(found, '', filter);
    found.assertNone();
    return this.database.db
      .select()
      .from(payloads)
      .where(and(condition, isKept(ctx), afterCursor(page.after)))
      .orderBy(desc(payloads.time), desc(payloads.eventId), desc(payloads.direction))
      .limit(page.limit + 1);
  }

  /**
   * Opens a payload. The event that says who read what, and why, is in the trail before anything is returned.
   * @throws AppError NOT_FOUND, PAYLOAD_UNAVAILABLE where its key cannot be had, or it was changed
   */
  async read(ctx: Context, input: ReadPayload): Promise<OpenedPayload> {
    ctx.authorize('payload:read');
    const found = new Violations();
    checkPurpose(found, 'purpose', input.purpose);
    found.assertNone();
    const row = await this.find(ctx, input.id, input.direction);
    return this.open(ctx, row, input.purpose);
  }

  /**
   * Opens a payload to try a policy on it: what it says does not leave the control plane. An event like any read.
   * @param nodeId the node that recorded the event
   * @param bytesMax larger ones are not opened
   * @returns undefined where it is larger
   * @throws AppError as `read` does
   */
  async openForTrial(
    ctx: Context,
    { id, direction, purpose, nodeId, bytesMax }: ReadPayload & { readonly nodeId: string; readonly bytesMax: number },
  ): Promise<OpenedPayload | undefined> {
    ctx.authorize('payload:read');
    const row = await this.find(ctx, id, direction);
    if (row.nodeId !== nodeId) throw new AppError('NOT_FOUND');
    if (keptBytes(row) > bytesMax) return undefined;
    return this.open(ctx, row, purpose, { use: 'testPolicy' });
  }

  private async open(ctx: Context, row: PayloadRow, purpose: string, more: object = {}): Promise<OpenedPayload> {
    const messages = await this.opened(row);
    await this.database.db.transaction(async (tx) => {
      // One that was erased meanwhile is not read.
      const [still] = await tx.select({ state: payloads.state }).from(payloads).where(isRow(row)).for('share');
      if (still?.state !== row.state) throw new AppError('NOT_FOUND');
      await recordAccess(tx, ctx, {
        action: 'payload.read',
        object: { kind: 'payload', id: row.eventId },
        after: { direction: row.direction, policyId: row.policyId, purpose, ...more },
      });
    });
    return { row, messages };
  }

  /** Destroys what was captured. That there was something stays known; and of what comes late nothing is kept either. */
  async erase(ctx: Context, input: ErasePayloads): Promise<Erasure> {
    ctx.authorize('payload:erase');
    const now = new Date(ctx.clock.now());
    const id = uuidv7(now.getTime());
    const { eventIds, principalId, policyId, serverId, from, to, reason } = input;
    const criteria = { eventIds, principalId, policyId, serverId, from, to: to && to < now ? to : now };
    return mutate(this.database, input, async (tx) => {
      const found = new Violations();
      found.addAll(idempotencyKeyViolations(input.idempotencyKey));
      if (!(eventIds || principalId || policyId || serverId)) {
        found.add('input', 'must say whose payloads: eventIds, principalId, policyId or serverId');
      }
      found.text('input.reason', reason, 1, descriptionLengthMax);
      const condition = conditionOf(found, 'input.', criteria);
      found.assertNone();
      const claim = { actorId: ctx.actor.principalId, operation: 'erasePayloads', key: input.idempotencyKey, input };
      const earlier = await claimIdempotencyKey(tx, claim, id, now.getTime());
      if (earlier !== undefined) return { id: earlier, count: 0 };
      await tx.execute(sql`lock table ${payloadErasures} in exclusive mode`);
      await tx.insert(payloadErasures).values({
        id,
        eventIds: eventIds?.map(storableText) ?? null,
        principalId: storedId(principalId) ?? null,
        policyId: storedId(policyId) ?? null,
        serverId: storedId(serverId) ?? null,
        timeFrom: from ?? null,
        timeTo: criteria.to,
        createdAt: now,
      });
      const count = await eraseMatching(tx, condition);
      const object = { kind: 'payloadErasure', id };
      await recordMutation(tx, ctx, { action: 'payload.erase', object, after: { ...criteria, reason, count } });
      return { id, count };
    });
  }

  /** None where nothing is kept. */
  private async opened(row: PayloadRow): Promise<readonly string[]> {
    const { payloadKeyId, wrappedKey, content } = row;
    if (payloadKeyId === null || wrappedKey === null || content === null) return [];
    // Outside of the transaction: it may be asked for over the network.
    const key = await this.keys.open(payloadKeyId).catch((cause: unknown) => {
      throw new AppError('PAYLOAD_UNAVAILABLE', { internal: `payload key ${payloadKeyId} cannot be had`, cause });
    });
    const identity = payloadIdentity(row.nodeId, { ...row, time: row.time.getTime() }, payloadKeyId);
    const opened = openPayload(key, identity, { wrappedKey, content });
    if (opened === undefined) {
      throw new AppError('PAYLOAD_UNAVAILABLE', { internal: `payload ${row.eventId} ${row.direction} does not open` });
    }
    return payloadContentSchema.parse(JSON.parse(opened)).messages;
  }

  private async find(ctx: Context, eventId: string, direction: PolicyDirection): Promise<PayloadRow> {
    const [row] = await this.database.db
      .select()
      .from(payloads)
      .where(
        and(eq(payloads.eventId, storableText(eventId)), eq(payloads.direction, direction), isKept(ctx), isOfItsNode),
      )
      .limit(1);
    if (row === undefined) throw new AppError('NOT_FOUND');
    return row;
  }
}

/** Another node can say that it captured what this one did; only the one that recorded the event is believed. */
const isOfItsNode = sql`exists (select 1 from audit_events e
  where e.time = ${payloads.time} and e.id = ${payloads.eventId} and e.node_id = ${payloads.nodeId})`;

/** Within its retention; what is past it waits to be deleted. */
function isKept(ctx: Context): SQL {
  return gt(payloads.expiresAt, new Date(ctx.clock.now()));
}

function isRow({ eventId, direction, nodeId }: PayloadRow): SQL | undefined {
  return and(eq(payloads.eventId, eventId), eq(payloads.direction, direction), eq(payloads.nodeId, nodeId));
}

/** At most so many; what is kept is base64. */
function keptBytes({ content }: Pick<PayloadRow, 'content'>): number {
  return Math.ceil(((content?.length ?? 0) * 3) / 4);
}

export function checkPurpose(found: Violations, path: string, purpose: string): void {
  found.text(path, purpose, 1, purposeLengthMax);
}

/** As payloads have ids, however they are said. */
function storedId(id: string | null | undefined): string | undefined {
  return id ? storableText(id.toLowerCase()) : undefined;
}

function conditionOf(found: Violations, path: string, filter: PayloadFilter): SQL | undefined {
  const { eventIds, principalId, policyId, serverId, from, to } = filter;
  if (eventIds && (eventIds.length === 0 || eventIds.length > eventIdsMax)) {
    found.add(`${path}eventIds`, `must have 1 to ${eventIdsMax} ids`);
  }
  const texts = { principalId, policyId, serverId };
  for (const [name, text] of Object.entries(texts)) found.text(`${path}${name}`, text, 1, filterTextLengthMax);
  const equal = (column: Parameters<typeof eq>[0], value: string | undefined): SQL | undefined =>
    value === undefined ? undefined : eq(column, value);
  return and(
    eventIds ? inArray(payloads.eventId, eventIds.slice(0, eventIdsMax).map(storableText)) : undefined,
    equal(payloads.principalId, storedId(principalId)),
    equal(payloads.policyId, storedId(policyId)),
    equal(payloads.serverId, storedId(serverId)),
    from ? gte(payloads.time, from) : undefined,
    to ? lt(payloads.time, to) : undefined,
  );
}

function afterCursor(after: readonly string[] | undefined): SQL | undefined {
  if (after === undefined) return undefined;
  const [ms, eventId = '', direction = ''] = after;
  const time = new Date(Number(ms));
  if (Number.isNaN(time.getTime()) || !(direction === 'request' || direction === 'response')) {
    throw new AppError('INVALID_INPUT', { violations: [{ path: 'after', message: 'is not a cursor of this list' }] });
  }
  return or(
    lt(payloads.time, time),
    and(eq(payloads.time, time), lt(payloads.eventId, eventId)),
    and(eq(payloads.time, time), eq(payloads.eventId, eventId), lt(payloads.direction, direction)),
  );
}

/** @returns how many rows had something in them */
async function eraseMatching(tx: Transaction, condition: SQL | undefined): Promise<number> {
  let erased = 0;
  for (;;) {
    const step = tx
      .select({ ctid: sql`ctid` })
      .from(payloads)
      .where(and(condition, ne(payloads.state, 'erased')))
      .limit(rowsPerStep);
    const rows = await tx
      .update(payloads)
      .set({ ...nothingKept, targetName: null })
      .where(sql`ctid in ${step}`)
      .returning({ eventId: payloads.eventId });
    erased += rows.length;
    if (rows.length < rowsPerStep) return erased;
  }
}
