import { type PayloadRecord, payloadRecordSchema } from '@sallyport/schema';
import type { Log } from '@sallyport/schema/platform';
import { sql } from 'drizzle-orm';
import { z } from 'zod';
import { isShippersOwn, type NodeKeys, wellFormedBatch } from '../audit/accept-batch.ts';
import { parseJson, timeMsMax } from '../audit/chain-check.ts';
import { EpochLanes, PredecessorMissing, type Stretch } from '../audit/epoch-lane.ts';
import { type AuditAlarm, type RaiseAlarm, watermarkChannel } from '../audit/ingest.service.ts';
import { storableText } from '../audit/storable-text.ts';
import type { Database, Transaction } from '../database/client.ts';
import { retentionDaysDefault } from '../inspection/capture-form.ts';
import { captureRetentions } from '../inspection/policy.service.ts';
import { payloadErasures, payloads } from './capture.tables.ts';

const dayMs = 86_400_000;

/** What stands in a payload spool beside payloads. */
const lineSchema = z.object({
  sequence: z.number().int(),
  record: z.union([
    payloadRecordSchema,
    z.object({ type: z.literal('epochOpened') }),
    z.object({ type: z.literal('shed'), count: z.number().int().positive() }),
  ]),
});
type SpoolLine = z.infer<typeof lineSchema>['record'];

export interface PayloadIngestOptions {
  readonly database: Database;
  readonly keys: NodeKeys;
  readonly onAlarm: RaiseAlarm;
  readonly now: () => number;
  readonly log: Pick<Log, 'error'>;
}

/**
 * Stores what nodes captured, as it comes: sealed. Each payload once, however often it comes, and none that was erased
 * meanwhile. Opens nothing, and needs no key.
 */
export class PayloadIngestService {
  readonly #options: PayloadIngestOptions;
  readonly #lanes = new EpochLanes((stretch) =>
    this.#options.database.db.transaction((tx) => this.#store(tx, stretch)),
  );

  constructor(options: PayloadIngestOptions) {
    this.#options = options;
  }

  /** Resolves when the batch is stored, or is one that no repetition makes acceptable; rejects where it should come again. */
  async ingest(data: unknown): Promise<void> {
    const { database, keys } = this.#options;
    const batch = wellFormedBatch(data, 'payloadBatch', this.#refuse);
    if (batch === undefined || !(await isShippersOwn(batch, keys, this.#refuse))) return;
    try {
      await this.#lanes.add(batch);
    } catch (error) {
      // The node may believe that more is stored than is, as after a restore from a backup: it is told again.
      if (error instanceof PredecessorMissing)
        await database.raw`select pg_notify(${watermarkChannel}, ${batch.signedBy})`;
      throw error;
    }
  }

  readonly #refuse = (nodeId: string, problem: string): void =>
    this.#options.onAlarm('PAYLOAD_BATCH_REFUSED', nodeId, `a batch of payloads was refused: ${problem}`);

  async #store(tx: Transaction, batch: Stretch): Promise<void> {
    const watermark = await lockEpoch(tx, batch);
    if (batch.first > watermark + 1 && batch.undeliverableFrom > watermark + 1) {
      throw new PredecessorMissing('a batch before this one is missing');
    }
    if (batch.first > watermark + 1) {
      this.#alarm('PAYLOADS_LOST', batch, `lines ${watermark + 1} to ${batch.first - 1} of the payload spool are gone`);
    }
    const fresh = batch.lines.slice(Math.max(0, watermark - batch.first + 1));
    const records = fresh.flatMap((line) => this.#read(line, batch) ?? []);
    const shed = records.reduce((sum, record) => sum + (record.type === 'shed' ? record.count : 0), 0);
    if (shed > 0) this.#alarm('PAYLOADS_SHED', batch, `${shed} payloads were shed: the spool was full`);
    await this.#insert(
      tx,
      batch.nodeId,
      records.filter((record) => record.type === 'payload'),
    );
    await tx.execute(sql`
      update payload_epochs set watermark = ${Math.max(watermark, batch.last)}, updated_at = now(),
        ended_at = case when ${batch.epochEnded} then coalesce(ended_at, now()) else ended_at end
      where node_id = ${batch.nodeId} and epoch = ${batch.epoch}`);
    await tx.execute(sql`select pg_notify(${watermarkChannel}, ${batch.signedBy})`);
  }

  /** One that cannot be read counts as stored: its node would send it for ever. */
  #read(line: string, batch: Stretch): SpoolLine | undefined {
    const parsed = lineSchema.safeParse(parseJson(line));
    const isInTime = parsed.data?.record.type !== 'payload' || parsed.data.record.time <= timeMsMax;
    if (parsed.success && isInTime) return parsed.data.record;
    this.#alarm('PAYLOADS_UNREADABLE', batch, 'a line of the payload spool cannot be read and is left out');
    return undefined;
  }

  async #insert(tx: Transaction, nodeId: string, records: readonly PayloadRecord[]): Promise<void> {
    if (records.length === 0) return;
    const retentions = await captureRetentions(tx);
    // An erasure waits for what is being stored, and what comes after it waits for the erasure: none slips between.
    await tx.execute(sql`lock table ${payloadErasures} in row share mode`);
    const erased = await tx.select().from(payloadErasures);
    const now = this.#options.now();
    const rows = records.flatMap((record): (typeof payloads.$inferInsert)[] => {
      const days = retentions.get(record.policyId) ?? retentionDaysDefault;
      const expiresAt = new Date(Math.min(timeMsMax, record.time + days * dayMs));
      if (expiresAt.getTime() <= now) return [];
      const row = rowOf(record, nodeId, expiresAt);
      return [erased.some((erasure) => covers(erasure, row)) ? { ...row, ...nothingKept } : row];
    });
    // One by one: a page of PostgreSQL's protocol holds what one payload may be, not what many are.
    for (const row of rows) await tx.insert(payloads).values(row).onConflictDoNothing();
  }

  #alarm(code: AuditAlarm, { nodeId, epoch }: Stretch, problem: string): void {
    this.#options.log.error({ code, nodeId, epoch }, problem);
    this.#options.onAlarm(code, nodeId, `epoch ${epoch}: ${problem}`);
  }
}

/** What a row is after it was erased: that there was something, and no more. */
export const nothingKept = {
  state: 'erased',
  payloadKeyId: null,
  wrappedKey: null,
  content: null,
} as const satisfies Partial<typeof payloads.$inferInsert>;

function rowOf(record: PayloadRecord, nodeId: string, expiresAt: Date): typeof payloads.$inferInsert {
  const { sealed, target, omission, messages, messagesOmitted, bytes, redactions, direction } = record;
  return {
    eventId: storableText(record.eventId),
    direction,
    nodeId,
    time: new Date(record.time),
    policyId: storableText(record.policyId),
    serverId: storableText(record.serverId),
    principalId: storableText(record.principalId),
    method: record.method === null ? null : storableText(record.method),
    targetKind: target?.kind ?? null,
    targetName: target === null ? null : storableText(target.name),
    state: sealed === null ? 'omitted' : 'stored',
    omission: sealed === null ? (omission ?? 'notInspected') : null,
    messages,
    messagesOmitted,
    bytes,
    redactions,
    payloadKeyId: sealed === null ? null : storableText(sealed.keyId),
    wrappedKey: sealed === null ? null : storableText(sealed.wrappedKey),
    content: sealed === null ? null : storableText(sealed.content),
    expiresAt,
  };
}

/** Whether a payload that comes now was asked to be erased before. */
function covers(erasure: typeof payloadErasures.$inferSelect, row: typeof payloads.$inferInsert): boolean {
  const { eventIds, principalId, policyId, serverId, timeFrom, timeTo } = erasure;
  return (
    (eventIds?.includes(row.eventId) ?? true) &&
    (principalId ?? row.principalId) === row.principalId &&
    (policyId ?? row.policyId) === row.policyId &&
    (serverId ?? row.serverId) === row.serverId &&
    (timeFrom === null || row.time >= timeFrom) &&
    row.time < timeTo
  );
}

/** @returns how far the epoch is stored */
async function lockEpoch(tx: Transaction, { nodeId, epoch, signedBy }: Stretch): Promise<number> {
  await tx.execute(sql`
    insert into payload_epochs (node_id, epoch, shipped_by) values (${nodeId}, ${epoch}, ${signedBy})
    on conflict (node_id, epoch) do update set shipped_by = excluded.shipped_by`);
  const [row] = await tx.execute<{ watermark: string }>(sql`
    select watermark from payload_epochs where node_id = ${nodeId} and epoch = ${epoch} for update`);
  return Number(row?.watermark ?? 0);
}
