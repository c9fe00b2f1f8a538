import { sha256, webhookContract, webhookTypes } from '@sallyport/schema';
import { type Clock, type Log, uuidv7 } from '@sallyport/schema/platform';
import { and, desc, eq, sql } from 'drizzle-orm';
import type { PgUpdateSetSource } from 'drizzle-orm/pg-core';
import type { Context } from '../context.ts';
import type { Database, Reader, Transaction } from '../database/client.ts';
import { recordMutation } from './audit.service.ts';
import { type AuditDeliveryRow, auditDeliveries, auditDeliveryCursors, type DeliveryBatch } from './audit.tables.ts';
import { chainLines, type ChainStretch, type StoredLine } from './chain-lines.ts';

export type { AuditDeliveryRow };

/** Events of one batch, and chains that one takes them from. */
export const batchEventsMax = 100;
const batchChainsMax = 16;
/** Webhooks that one run serves at once, and for how long it goes on with one, milliseconds. */
const claimedMax = 8;
const runMs = 5_000;
/** A process that died holds a delivery for as long as one batch can take, and a little. */
const leaseMs = 60_000;
const pausedMs = 30_000;
/** Between attempts: doubled each time, half of it by chance. */
const backoffMsMin = 5_000;
const backoffMsMax = 15 * 60_000;
/** A receiver that takes nothing for so long is given up, which is an alarm. */
export const deliveryFailingMsMax = 72 * 3_600_000;
/** Chains whose cursors are shown. */
const shownCursorsMax = 100;

/** The failure of a webhook that is on, and by which nothing can be sent: its settings or keys do not fit this build. */
const unusable = 'webhookUnusable';

/** Processes and the database may tell different times. */
const atOnce = new Date(0);

/** Where events are sent. */
export interface DeliveryTarget {
  /** Of a batch's events, in bytes of JSON. */
  readonly bytesMax: number;
  send(event: { readonly id: string; readonly body: Buffer }): Promise<{ readonly failure: string | null }>;
}

export interface AuditDeliveryOptions {
  readonly database: Database;
  /** Undefined where the webhook is off or gone: it waits. `unusable` where it is on, and nothing can be sent by it. */
  readonly targetOf: (webhookId: string) => Promise<DeliveryTarget | 'unusable' | undefined>;
  /** Whether somebody may read the audit trail now. */
  readonly mayRead: (principalId: string) => Promise<boolean>;
  /** Told once when a webhook turns out to be unusable. */
  readonly onUnusable: (webhookId: string, message: string) => void;
  /** Told when a receiver is given up. */
  readonly onStopped: (webhookId: string, message: string) => void;
  readonly systemContext: Context;
  readonly clock: Clock;
  readonly log: Log;
  /** From 0 to 1. */
  readonly random: () => number;
}

export interface ShownCursor {
  readonly nodeId: string;
  readonly epoch: string;
  readonly sequence: number;
  readonly movedAt: Date;
}

/** Has a webhook told of audit events; of all that come from now on, where it is not told yet. */
export async function openDelivery(tx: Transaction, webhookId: string, readerId: string): Promise<void> {
  const [made] = await tx
    .insert(auditDeliveries)
    .values({ webhookId, readerId, nextAttemptAt: atOnce })
    .onConflictDoNothing()
    .returning({ webhookId: auditDeliveries.webhookId });
  if (made !== undefined) return setCursors(tx, webhookId, null);
  // Whoever changed the webhook mended it, perhaps.
  await tx
    .update(auditDeliveries)
    .set({ readerId, nextAttemptAt: atOnce })
    .where(eq(auditDeliveries.webhookId, webhookId));
}

export async function closeDelivery(tx: Transaction, webhookId: string): Promise<void> {
  await tx.delete(auditDeliveries).where(eq(auditDeliveries.webhookId, webhookId));
}

/** Sends what was sent or not since an instant, or what is left, from now on; also where the receiver was given up. */
export async function restartDelivery(
  tx: Transaction,
  webhookId: string,
  readerId: string,
  from: Date | null,
): Promise<boolean> {
  const fresh = { state: 'active' as const, attempts: 0, failingSince: null, failure: null, nextAttemptAt: atOnce };
  const rows = await tx
    .update(auditDeliveries)
    // What is under way is sent again under its own id, unless other events come first.
    .set({ ...fresh, readerId, ...(from === null ? {} : { batch: null, lease: null, leaseUntil: null }) })
    .where(eq(auditDeliveries.webhookId, webhookId))
    .returning({ webhookId: auditDeliveries.webhookId });
  if (rows.length === 0) return false;
  if (from !== null) await setCursors(tx, webhookId, from);
  return true;
}

/** Before the first line of each chain that was written at an instant or later; without one, behind all lines. */
async function setCursors(tx: Transaction, webhookId: string, from: Date | null): Promise<void> {
  const before =
    from === null
      ? sql`e.watermark`
      : sql`coalesce((select min(l.sequence) - 1 from audit_lines l where l.node_id = e.node_id and l.epoch = e.epoch
          and l.time >= ${from.toISOString()}::timestamptz), e.watermark)`;
  await tx.execute(sql`
    insert into audit_delivery_cursors (webhook_id, node_id, epoch, sequence)
    select ${webhookId}::uuid, e.node_id, e.epoch, ${before} from audit_epochs e
    on conflict (webhook_id, node_id, epoch) do update set sequence = excluded.sequence, moved_at = now()`);
}

/** How the delivery to a webhook stands; undefined where it is told of no audit events. */
export async function deliveryOf(reader: Reader, webhookId: string): Promise<AuditDeliveryRow | undefined> {
  const [row] = await reader.select().from(auditDeliveries).where(eq(auditDeliveries.webhookId, webhookId));
  return row;
}

/** The cursors that moved last. */
export async function deliveryCursors(reader: Reader, webhookId: string): Promise<ShownCursor[]> {
  return reader
    .select()
    .from(auditDeliveryCursors)
    .where(eq(auditDeliveryCursors.webhookId, webhookId))
    .orderBy(desc(auditDeliveryCursors.movedAt), auditDeliveryCursors.nodeId, auditDeliveryCursors.epoch)
    .limit(shownCursorsMax);
}

/** Sends audit events to webhooks: each chain in its order, each event at least once, nothing while the reader may not. */
export class AuditDeliveryService {
  readonly #options: AuditDeliveryOptions;

  constructor(options: AuditDeliveryOptions) {
    this.#options = options;
  }

  /** Sends what is due, some of it to each. */
  async run(): Promise<void> {
    const lease = uuidv7(this.#options.clock.now());
    const rows = await this.#claim(lease);
    await Promise.all(
      rows.map(async ({ webhookId }) => {
        try {
          await this.#serve(webhookId, lease);
        } finally {
          await this.#update(webhookId, lease, { lease: null, leaseUntil: null });
        }
      }),
    );
  }

  async #claim(lease: string): Promise<AuditDeliveryRow[]> {
    const { database, clock } = this.#options;
    const now = new Date(clock.now()).toISOString();
    const due = sql`select d.webhook_id from audit_deliveries d
      where d.state = 'active' and d.next_attempt_at <= ${now}::timestamptz
        and (d.lease_until is null or d.lease_until < ${now}::timestamptz)
        and (d.batch is not null or exists (
          select from audit_epochs e left join audit_delivery_cursors c
            on c.webhook_id = d.webhook_id and c.node_id = e.node_id and c.epoch = e.epoch
          where e.watermark > coalesce(c.sequence, 0)))
      order by d.next_attempt_at limit ${claimedMax} for update skip locked`;
    return database.db
      .update(auditDeliveries)
      .set({ lease, leaseUntil: new Date(clock.now() + leaseMs) })
      .where(sql`${auditDeliveries.webhookId} = any(array(${due}))`)
      .returning();
  }

  /** Batch after batch, until there is none, one is not taken, or others wait. */
  async #serve(webhookId: string, lease: string): Promise<void> {
    const { clock, database, targetOf, mayRead } = this.#options;
    const until = clock.monotonic() + runMs;
    while (clock.monotonic() < until) {
      const row = await deliveryOf(database.db, webhookId);
      if (row?.lease !== lease) return;
      const target = await targetOf(webhookId);
      if (target === undefined) {
        await this.#update(webhookId, lease, { nextAttemptAt: new Date(clock.now() + pausedMs) });
        return;
      }
      if (target === 'unusable') return this.#failed(row, lease, unusable);
      if (!(await mayRead(row.readerId))) return this.#failed(row, lease, 'readerNotPermitted');
      const batch = row.batch ?? (await this.#nextBatch(webhookId, target.bytesMax));
      if (batch === undefined) return;
      // Kept before it is sent: whatever comes between, it is sent again as it was, under its id.
      const isKept = await this.#update(webhookId, lease, { batch, leaseUntil: new Date(clock.now() + leaseMs) });
      if (!isKept) return;
      const { body, count } = await this.#bodyOf(batch, target.bytesMax);
      const { failure } = await target.send({ id: batch.id, body });
      if (failure !== null) return this.#failed(row, lease, failure);
      if (!(await this.#taken(webhookId, lease, batch, count))) return;
    }
  }

  /** The next lines of the chains that waited longest, as many as one batch may have. */
  async #nextBatch(webhookId: string, bytesMax: number): Promise<DeliveryBatch | undefined> {
    const { raw } = this.#options.database;
    const chains = await raw<{ node_id: string; epoch: string; after: number; up_to: number }[]>`
      select e.node_id, e.epoch, coalesce(c.sequence, 0)::double precision as after,
        e.watermark::double precision as up_to
      from audit_epochs e left join audit_delivery_cursors c
        on c.webhook_id = ${webhookId} and c.node_id = e.node_id and c.epoch = e.epoch
      where e.watermark > coalesce(c.sequence, 0)
      order by c.moved_at nulls first, e.node_id, e.epoch limit ${batchChainsMax}`;
    const parts: ChainStretch[] = [];
    let [events, bytes] = [batchEventsMax, bytesMax];
    for (const { node_id: nodeId, epoch, after, up_to: upTo } of chains) {
      if (events === 0) break;
      const stretch = { nodeId, epoch, after, upTo };
      const lines = await chainLines(raw, stretch, events);
      const sizes = lines.map((line) => Buffer.byteLength(entryText(stretch, line, bytesMax)));
      let fitting = 0;
      while (fitting < lines.length && (bytes >= (sizes[fitting] ?? 0) || parts.length + fitting === 0)) {
        bytes -= sizes[fitting] ?? 0;
        fitting += 1;
      }
      // Without any line there is nothing left of the stretch: its lines are past their retention.
      if (lines.length === 0) parts.push(stretch);
      else if (fitting > 0) parts.push({ ...stretch, upTo: lines[fitting - 1]?.sequence ?? after });
      events -= fitting;
      if (fitting < lines.length) break;
    }
    const at = this.#options.clock.now();
    return parts.length === 0 ? undefined : { id: `msg_${uuidv7(at)}`, at, parts };
  }

  async #bodyOf(batch: DeliveryBatch, bytesMax: number): Promise<{ readonly body: Buffer; readonly count: number }> {
    const entries: string[] = [];
    for (const part of batch.parts) {
      for (const line of await chainLines(this.#options.database.raw, part)) {
        entries.push(entryText(part, line, bytesMax));
      }
    }
    const head = JSON.stringify({
      type: webhookTypes.auditBatch,
      contract: webhookContract,
      timestamp: new Date(batch.at).toISOString(),
      data: { count: entries.length },
    });
    return { body: Buffer.from(`${head.slice(0, -2)},"events":[${entries.join(',')}]}}`), count: entries.length };
  }

  async #taken(webhookId: string, lease: string, batch: DeliveryBatch, count: number): Promise<boolean> {
    const now = new Date(this.#options.clock.now());
    const success = { attempts: 0, failingSince: null, failure: null, nextAttemptAt: now, deliveredAt: now };
    return this.#options.database.db.transaction(async (tx) => {
      const eventsDelivered = sql`${auditDeliveries.eventsDelivered} + ${count}`;
      // Somebody restarted it meanwhile: the cursors are where that one wants them.
      if (!(await updateHeld(tx, webhookId, lease, { ...success, batch: null, eventsDelivered }))) return false;
      for (const { nodeId, epoch, upTo } of batch.parts) {
        await tx
          .insert(auditDeliveryCursors)
          .values({ webhookId, nodeId, epoch, sequence: upTo, movedAt: now })
          .onConflictDoUpdate({
            target: [auditDeliveryCursors.webhookId, auditDeliveryCursors.nodeId, auditDeliveryCursors.epoch],
            set: { sequence: upTo, movedAt: now },
          });
      }
      return true;
    });
  }

  async #failed(row: AuditDeliveryRow, lease: string, failure: string): Promise<void> {
    const { clock, random, log, onStopped, onUnusable, database, systemContext } = this.#options;
    const now = clock.now();
    const { webhookId } = row;
    const attempts = row.attempts + 1;
    const failingSince = row.failingSince ?? new Date(now);
    const longest = Math.min(backoffMsMax, backoffMsMin * 2 ** (attempts - 1));
    const nextAttemptAt = new Date(now + longest / 2 + (random() * longest) / 2);
    const isOver = now - failingSince.getTime() >= deliveryFailingMsMax;
    const state = isOver ? ('stopped' as const) : ('active' as const);
    // The receiver's failures are its own to tell of, for three days; this one is nobody's but ours.
    const isNews = failure === unusable && row.failure !== unusable;
    log.warn({ webhookId, failure, attempts }, 'audit events were not delivered');
    const isMine = await database.db.transaction(async (tx) => {
      const isHeld = await updateHeld(tx, webhookId, lease, { attempts, failingSince, failure, nextAttemptAt, state });
      const action = isOver ? 'webhook.stopDelivery' : isNews ? 'webhook.suspendDelivery' : undefined;
      if (!isHeld || action === undefined) return isHeld;
      const object = { kind: 'webhook', id: webhookId } as const;
      await recordMutation(tx, systemContext, { action, object, after: { failure, attempts, failingSince } });
      return true;
    });
    if (isMine && isNews) onUnusable(webhookId, 'audit events cannot be sent by it: its settings do not fit');
    if (isMine && isOver) onStopped(webhookId, `no audit events were taken since ${failingSince.toISOString()}`);
  }

  #update(webhookId: string, lease: string, set: DeliveryUpdate): Promise<boolean> {
    return updateHeld(this.#options.database.db, webhookId, lease, set);
  }
}

type DeliveryUpdate = PgUpdateSetSource<typeof auditDeliveries>;

/** @returns false where another one holds the delivery now, and nothing is changed */
async function updateHeld(db: Reader, webhookId: string, lease: string, set: DeliveryUpdate): Promise<boolean> {
  const rows = await db
    .update(auditDeliveries)
    .set(set)
    .where(and(eq(auditDeliveries.webhookId, webhookId), eq(auditDeliveries.lease, lease)))
    .returning({ webhookId: auditDeliveries.webhookId });
  return rows.length > 0;
}

/** A line as it is sent: itself where it is JSON, which keeps its bytes; what no batch may hold by its digest. */
function entryText({ nodeId, epoch }: ChainStretch, { sequence, line, bytes }: StoredLine, bytesMax: number): string {
  const place = { nodeId, epoch, sequence };
  const text = line ?? bytes ?? '';
  if (Buffer.byteLength(text) > bytesMax) {
    return JSON.stringify({ ...place, omitted: 'larger than a batch', sizeBytes: text.length, sha256: sha256(text) });
  }
  if (line === null) return JSON.stringify({ ...place, bytes });
  return isJsonObject(line)
    ? `${JSON.stringify(place).slice(0, -1)},"line":${line}}`
    : JSON.stringify({ ...place, text: line });
}

function isJsonObject(text: string): boolean {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value);
  } catch {
    return false;
  }
}
