import { setTimeout as delay } from 'node:timers/promises';
import { type AuditBatch, epochSeed } from '@sallyport/schema';
import type { Log } from '@sallyport/schema/platform';
import type { Database, RawTransaction } from '../database/client.ts';
import { isShippersOwn, type NodeKeys, wellFormedBatch } from './accept-batch.ts';
import { type CheckedLine, checkLines, type LineProblem } from './chain-check.ts';
import { type EventRow, eventRow, mergeRows, upsertEvents } from './event-rows.ts';

export type AuditAlarm =
  | 'AUDIT_BATCH_REFUSED'
  | 'AUDIT_LINES_QUARANTINED'
  | 'AUDIT_GAP'
  | 'AUDIT_RECORDS_SHED'
  | 'AUDIT_EPOCH_LOST'
  | 'PAYLOAD_BATCH_REFUSED'
  | 'PAYLOADS_SHED'
  | 'PAYLOADS_UNREADABLE'
  | 'PAYLOADS_LOST'
  | 'AUDIT_DELIVERY_STOPPED';

/** Tells an operator what he must know of a node's trail or payloads. */
export type RaiseAlarm = (code: AuditAlarm, nodeId: string, message: string) => void;

export interface IngestOptions {
  readonly database: Database;
  readonly keys: NodeKeys;
  readonly log: Log;
  readonly onAlarm: RaiseAlarm;
  /** Told of each batch that brought something new: its records, and when the oldest of them was written. */
  readonly onStored?: ((records: number, oldestMs: number | null) => void) | undefined;
  /** A key was used on a node; told for each event, at least once. */
  readonly onKeyUsed: (keyId: string, atMs: number) => void;
}

/** Told with the node's id when the watermark of one of its epochs has moved. */
export const watermarkChannel = 'sallyport_watermark';

/** A batch that came before the one it continues waits for it this long, in steps. */
const predecessorWaitMs = 500;
const predecessorStepMs = 50;
/** A node that joined anew may ship the spool of its former identity once that has been silent for this long. */
const formerIdentitySilenceSeconds = 60;
/** Errors of PostgreSQL that say the data does not fit, by the class of their code; others say that it cannot now. */
const dataErrorClasses: ReadonlySet<string> = new Set(['22', '23', '54']);

interface Epoch {
  readonly watermark: number;
  readonly head: string;
  readonly ended: boolean;
}

/** A batch that is being stored here. */
interface UnderWay {
  readonly batch: AuditBatch;
  /** Settles when it is stored or failed; never rejects. */
  readonly done: Promise<unknown>;
}

function isBefore(one: AuditBatch, other: AuditBatch): boolean {
  return one.epoch === other.epoch && one.signedBy === other.signedBy && one.first < other.first;
}

/** The batch that this one continues has not been stored yet. */
export class PredecessorMissing extends Error {}

/** Stores batches of audit lines: once each, in the order of their chain, whatever order and number they come in. */
export class IngestService {
  readonly #options: IngestOptions;
  readonly #underWay = new Set<UnderWay>();

  constructor(options: IngestOptions) {
    this.#options = options;
  }

  /**
   * Stores a batch from the queue. Resolves when it is stored, or is one that no repetition makes acceptable; rejects
   * when it should be tried again.
   */
  async ingest(data: unknown): Promise<void> {
    const batch = wellFormedBatch(data, 'auditBatch', this.#refuse);
    if (batch === undefined) return;
    // Each batch of an epoch continues the one before: tried beside it, it would find it missing, and wait.
    const before = [...this.#underWay].filter((other) => isBefore(other.batch, batch));
    const done = Promise.all(before.map((other) => other.done)).then(() => this.#ingestNow(batch));
    const own: UnderWay = { batch, done: done.catch(() => undefined) };
    this.#underWay.add(own);
    try {
      await done;
    } finally {
      this.#underWay.delete(own);
    }
  }

  async #ingestNow(batch: AuditBatch): Promise<void> {
    if (!(await isShippersOwn(batch, this.#options.keys, this.#refuse))) return;
    const steps = predecessorWaitMs / predecessorStepMs;
    for (let step = 0; ; step++) {
      try {
        const stored = await this.#options.database.raw.begin((sql) => this.#store(sql, batch));
        if (stored.length > 0) this.#options.onStored?.(stored.length, oldestOf(stored));
        return;
      } catch (error) {
        if (!(error instanceof PredecessorMissing)) throw error;
        if (step < steps) {
          await delay(predecessorStepMs);
          continue;
        }
        // The node may believe that more is stored than is, as after a restore from a backup: it is told again.
        await this.#options.database.raw`select pg_notify(${watermarkChannel}, ${batch.signedBy})`;
        throw error;
      }
    }
  }

  readonly #refuse = (nodeId: string, problem: string): void =>
    this.#options.onAlarm('AUDIT_BATCH_REFUSED', nodeId, `an audit batch was refused: ${problem}`);

  /** @returns the lines that were not stored before */
  async #store(sql: RawTransaction, batch: AuditBatch): Promise<readonly CheckedLine[]> {
    const epoch = await this.#lockEpoch(sql, batch);
    if (epoch === undefined) return [];
    const isGap = batch.first > epoch.watermark + 1;
    if (isGap && batch.undeliverableFrom > epoch.watermark + 1)
      throw new PredecessorMissing('a batch before this one is missing');
    const known = Math.max(0, epoch.watermark - batch.first + 1);
    const overlap = checkLines(batch.lines.slice(0, known), batch.first, undefined, batch.nodeId).at(-1);
    const forked = overlap !== undefined && overlap.sequence === epoch.watermark && overlap.hash !== epoch.head;
    const head = isGap ? undefined : epoch.head;
    const checked = checkLines(
      batch.lines.slice(known),
      batch.first + known,
      forked ? overlap.hash : head,
      batch.nodeId,
    );
    const last = checked.at(-1);
    if (last !== undefined) {
      await this.#insert(
        sql,
        batch,
        forked ? checked.map((line) => ({ ...line, problem: line.problem ?? 'forked' })) : checked,
      );
      const gap = isGap ? [{ first: epoch.watermark + 1, last: batch.first - 1 }] : [];
      if (isGap) this.#alarm('AUDIT_GAP', batch, `records ${epoch.watermark + 1} to ${batch.first - 1} are gone`);
      await sql`
        update audit_epochs set watermark = ${last.sequence}, head = ${last.hash},
          gaps = gaps || ${JSON.stringify(gap)}::text::jsonb
        where node_id = ${batch.nodeId} and epoch = ${batch.epoch}`;
    }
    await sql`update audit_epochs set updated_at = now() where node_id = ${batch.nodeId} and epoch = ${batch.epoch}`;
    if (batch.epochEnded && !epoch.ended) await endEpoch(sql, batch.nodeId, batch.epoch, 'stopped');
    await sql`select pg_notify(${watermarkChannel}, ${batch.signedBy})`;
    if (last !== undefined) await sql`select pg_notify('sallyport_signal', 'auditEvents')`;
    return checked;
  }

  /** The epoch's row, locked; undefined where this shipper may not write to it now. */
  async #lockEpoch(sql: RawTransaction, batch: AuditBatch): Promise<Epoch | undefined> {
    await sql`
      insert into audit_epochs (node_id, epoch, shipped_by, head)
      values (${batch.nodeId}, ${batch.epoch}, ${batch.signedBy}, ${epochSeed(batch.nodeId, batch.epoch)})
      on conflict do nothing`;
    const rows = await sql<
      { watermark: string; head: string; ended: boolean; shipped_by: string; is_silent: boolean }[]
    >`
      select watermark, head, ended_at is not null as ended, shipped_by,
        updated_at < now() - make_interval(secs => ${formerIdentitySilenceSeconds}) as is_silent
      from audit_epochs where node_id = ${batch.nodeId} and epoch = ${batch.epoch} for update`;
    const row = rows[0];
    if (row === undefined) throw new Error('the epoch was not there after it was inserted');
    if (row.shipped_by !== batch.signedBy) {
      if (!row.is_silent) {
        this.#alarm(
          'AUDIT_BATCH_REFUSED',
          batch,
          `${batch.signedBy} ships an epoch that ${row.shipped_by} is shipping`,
        );
        return undefined;
      }
      await sql`
        update audit_epochs set shipped_by = ${batch.signedBy}
        where node_id = ${batch.nodeId} and epoch = ${batch.epoch}`;
    }
    return { watermark: Number(row.watermark), head: row.head, ended: row.ended };
  }

  async #insert(sql: RawTransaction, batch: AuditBatch, checked: readonly CheckedLine[]): Promise<void> {
    const shed = checked.reduce((sum, { record }) => sum + (record?.type === 'shed' ? record.count : 0), 0);
    if (shed > 0) this.#alarm('AUDIT_RECORDS_SHED', batch, `${shed} records were shed: the spool was full`);
    await this.#insertLines(
      sql,
      batch,
      checked.filter((line) => line.problem !== 'notStorable'),
    );
    const rejected = await this.#insertEvents(sql, batch, checked);
    const quarantined = checked.flatMap((line) => {
      const problem = line.problem ?? rejected.get(line.sequence);
      return problem === undefined ? [] : [{ line, problem }];
    });
    if (quarantined.length === 0) return;
    const rows = quarantined.map(({ line, problem }) => ({
      sequence: line.sequence,
      reason: problem,
      line: Buffer.from(line.line).toString('base64'),
    }));
    await sql`
      insert into audit_quarantine (node_id, epoch, sequence, reason, line)
      select ${batch.nodeId}, ${batch.epoch}, sequence, reason, decode(line, 'base64')
      from jsonb_to_recordset(${JSON.stringify(rows)}::text::jsonb) as x(sequence bigint, reason text, line text)`;
    const reasons = [...new Set(quarantined.map(({ problem }) => problem))].join(', ');
    const first = quarantined[0]?.line.sequence;
    this.#alarm('AUDIT_LINES_QUARANTINED', batch, `${quarantined.length} lines from ${first} on: ${reasons}`);
  }

  async #insertLines(sql: RawTransaction, batch: AuditBatch, lines: readonly CheckedLine[]): Promise<void> {
    const rows = lines.map(({ sequence, line, hash, record }) => ({
      sequence,
      line,
      hash,
      time: record === undefined || record.type === 'closed' ? null : new Date(record.time).toISOString(),
    }));
    await sql`
      insert into audit_lines (node_id, epoch, sequence, time, hash, line)
      select ${batch.nodeId}, ${batch.epoch}, sequence, time, hash, line
      from jsonb_to_recordset(${JSON.stringify(rows)}::text::jsonb)
        as x(sequence bigint, time timestamptz, hash text, line text)`;
  }

  /** @returns the lines whose event was not stored, and why */
  async #insertEvents(
    sql: RawTransaction,
    batch: AuditBatch,
    checked: readonly CheckedLine[],
  ): Promise<ReadonlyMap<number, LineProblem>> {
    const sequencesOf = new Map<string, number[]>();
    const rows: EventRow[] = [];
    for (const { record, sequence } of checked) {
      const row = record === undefined ? undefined : eventRow(record, batch.nodeId, batch.epoch);
      if (row === undefined) continue;
      rows.push(row);
      if (typeof row.key_id === 'string') this.#options.onKeyUsed(row.key_id, Date.parse(row.time));
      sequencesOf.set(row.id, [...(sequencesOf.get(row.id) ?? []), sequence]);
    }
    const rejected = new Map<number, LineProblem>();
    const reject = (id: string, problem: LineProblem): void => {
      for (const sequence of sequencesOf.get(id) ?? []) rejected.set(sequence, problem);
    };
    const merged = mergeRows(rows);
    const stored = await upsert(sql, merged);
    if (stored !== undefined) {
      for (const { id } of merged) if (!stored.has(id)) reject(id, 'idTaken');
      return rejected;
    }
    // Some row does not fit: each by itself, so that it alone is left out.
    for (const row of merged) {
      const one = await upsert(sql, [row]);
      if (one === undefined) reject(row.id, 'notStorable');
      else if (!one.has(row.id)) reject(row.id, 'idTaken');
    }
    return rejected;
  }

  #alarm(code: AuditAlarm, batch: AuditBatch, problem: string): void {
    this.#options.log.error({ code, nodeId: batch.nodeId, epoch: batch.epoch }, problem);
    this.#options.onAlarm(code, batch.nodeId, `epoch ${batch.epoch}: ${problem}`);
  }
}

function oldestOf(lines: readonly CheckedLine[]): number | null {
  const times = lines.flatMap(({ record }) => (record === undefined ? [] : [record.time]));
  return times.length === 0 ? null : Math.min(...times);
}

/** The ids stored, or undefined where PostgreSQL says that the data does not fit. */
async function upsert(sql: RawTransaction, rows: readonly EventRow[]): Promise<ReadonlySet<string> | undefined> {
  if (rows.length === 0) return new Set();
  try {
    const stored = await sql.savepoint((inner) => inner.unsafe<{ id: string }[]>(upsertEvents, [JSON.stringify(rows)]));
    return new Set(stored.map(({ id }) => id));
  } catch (error) {
    if (isDataError(error)) return undefined;
    throw error;
  }
}

function isDataError(error: unknown): boolean {
  return (
    error instanceof Error &&
    'code' in error &&
    typeof error.code === 'string' &&
    dataErrorClasses.has(error.code.slice(0, 2))
  );
}

/** Nothing more will come of the epoch: what was opened in it and not closed has an unknown outcome. */
export async function endEpoch(
  sql: RawTransaction,
  nodeId: string,
  epoch: string,
  reason: 'stopped' | 'lost',
): Promise<number> {
  await sql`
    update audit_epochs set ended_at = now(), ended_reason = ${reason}, updated_at = now()
    where node_id = ${nodeId} and epoch = ${epoch} and ended_at is null`;
  const unknown = await sql`
    update audit_events set outcome = 'unknown'
    where node_id = ${nodeId} and epoch = ${epoch} and outcome is null`;
  return unknown.count;
}
