import { epochSeed, sha256 } from '@sallyport/schema';
import type { Log } from '@sallyport/schema/platform';
import type { Database, RawTransaction } from '../database/client.ts';
import { isShippersOwn, type NodeKeys, wellFormedBatch } from './accept-batch.ts';
import { type CheckedLine, checkLines, type LineProblem } from './chain-check.ts';
import { copyField, copyRows } from './copy-rows.ts';
import { EpochLanes, PredecessorMissing, type Stretch } from './epoch-lane.ts';
import { exchangesOf } from './event-rows.ts';
import { storableText } from './storable-text.ts';
import { storeEvents } from './store-events.ts';

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
  | 'AUDIT_DELIVERY_UNUSABLE'
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

/** A node that joined anew may ship the spool of its former identity once that has been silent for this long. */
const formerIdentitySilenceSeconds = 60;
/** Errors of PostgreSQL after which the same transaction may go well: a deadlock, or one that had to give way. */
const passingErrors: ReadonlySet<unknown> = new Set(['40P01', '40001']);
const attemptsMax = 3;

interface Epoch {
  readonly watermark: number;
  readonly head: string;
  readonly ended: boolean;
}

/** Stores batches of audit lines: once each, in the order of their chain, whatever order and number they come in. */
export class IngestService {
  readonly #options: IngestOptions;
  readonly #lanes = new EpochLanes((stretch) => this.#storeStretch(stretch));

  constructor(options: IngestOptions) {
    this.#options = options;
  }

  /**
   * Stores a batch from the queue. Resolves when it is stored, or is one that no repetition makes acceptable; rejects
   * when it should be tried again.
   */
  async ingest(data: unknown): Promise<void> {
    const batch = wellFormedBatch(data, 'auditBatch', this.#refuse);
    if (batch === undefined || !(await isShippersOwn(batch, this.#options.keys, this.#refuse))) return;
    try {
      await this.#lanes.add(batch);
    } catch (error) {
      // The node may believe that more is stored than is, as after a restore from a backup: it is told again.
      if (error instanceof PredecessorMissing)
        await this.#options.database.raw`select pg_notify(${watermarkChannel}, ${batch.signedBy})`;
      throw error;
    }
  }

  async #storeStretch(stretch: Stretch): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        const stored = await this.#options.database.raw.begin((sql) => this.#store(sql, stretch));
        if (stored.length > 0) this.#options.onStored?.(stored.length, oldestOf(stored));
        return;
      } catch (error) {
        // Given back to the queue, it would come again after all that continue it.
        const mayPass = error instanceof Error && 'code' in error && passingErrors.has(error.code);
        if (!mayPass || attempt >= attemptsMax) throw error;
      }
    }
  }

  readonly #refuse = (nodeId: string, problem: string): void =>
    this.#options.onAlarm('AUDIT_BATCH_REFUSED', nodeId, `an audit batch was refused: ${problem}`);

  /** @returns the lines that were not stored before */
  async #store(sql: RawTransaction, batch: Stretch): Promise<readonly CheckedLine[]> {
    const epoch = await this.#lockEpoch(sql, batch);
    if (epoch === undefined) return [];
    const isGap = batch.first > epoch.watermark + 1;
    if (isGap && batch.undeliverableFrom > epoch.watermark + 1)
      throw new PredecessorMissing('a batch before this one is missing');
    const known = Math.max(0, epoch.watermark - batch.first + 1);
    const atWatermark = batch.lines[known - 1];
    const otherHead = atWatermark === undefined || sha256(atWatermark) === epoch.head ? undefined : sha256(atWatermark);
    const head = otherHead ?? (isGap ? undefined : epoch.head);
    const checked = checkLines(batch.lines.slice(known), batch.first + known, head, batch.nodeId).map((line) =>
      otherHead === undefined ? line : { ...line, problem: line.problem ?? 'forked' },
    );
    const last = checked.at(-1);
    if (last !== undefined) await this.#insert(sql, batch, checked);
    if (isGap) this.#alarm('AUDIT_GAP', batch, `records ${epoch.watermark + 1} to ${batch.first - 1} are gone`);
    const gaps = isGap ? [{ first: epoch.watermark + 1, last: batch.first - 1 }] : [];
    await sql`
      update audit_epochs set watermark = ${last?.sequence ?? epoch.watermark}, head = ${last?.hash ?? epoch.head},
        gaps = gaps || ${JSON.stringify(gaps)}::text::jsonb, updated_at = now()
      where node_id = ${batch.nodeId} and epoch = ${batch.epoch}`;
    if (batch.epochEnded && !epoch.ended) await endEpoch(sql, batch.nodeId, batch.epoch, 'stopped');
    await sql`select pg_notify(${watermarkChannel}, ${batch.signedBy})`;
    if (last !== undefined) await sql`select pg_notify('sallyport_signal', 'auditEvents')`;
    return checked;
  }

  /** The epoch's row, locked; undefined where this shipper may not write to it now. */
  async #lockEpoch(sql: RawTransaction, batch: Stretch): Promise<Epoch | undefined> {
    let row = await readEpoch(sql, batch);
    if (row === undefined) {
      await sql`
        insert into audit_epochs (node_id, epoch, shipped_by, head)
        values (${batch.nodeId}, ${batch.epoch}, ${batch.signedBy}, ${epochSeed(batch.nodeId, batch.epoch)})
        on conflict do nothing`;
      row = await readEpoch(sql, batch);
    }
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

  async #insert(sql: RawTransaction, batch: Stretch, checked: readonly CheckedLine[]): Promise<void> {
    const shed = checked.reduce((sum, { record }) => sum + (record?.type === 'shed' ? record.count : 0), 0);
    if (shed > 0) this.#alarm('AUDIT_RECORDS_SHED', batch, `${shed} records were shed: the spool was full`);
    await insertLines(
      sql,
      batch,
      checked.filter((line) => line.problem !== 'notStorable'),
    );
    const exchanges = exchangesOf(checked);
    for (const { opening } of exchanges) {
      if (opening?.principal?.keyId) this.#options.onKeyUsed(storableText(opening.principal.keyId), opening.time);
    }
    const rejected = new Map<number, LineProblem>();
    for (const [{ sequences }, problem] of await storeEvents(sql, batch, exchanges)) {
      for (const sequence of sequences) rejected.set(sequence, problem);
    }
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

  #alarm(code: AuditAlarm, batch: Stretch, problem: string): void {
    this.#options.log.error({ code, nodeId: batch.nodeId, epoch: batch.epoch }, problem);
    this.#options.onAlarm(code, batch.nodeId, `epoch ${batch.epoch}: ${problem}`);
  }
}

function oldestOf(lines: readonly CheckedLine[]): number | null {
  const times = lines.flatMap(({ record }) => (record === undefined ? [] : [record.time]));
  return times.length === 0 ? null : Math.min(...times);
}

async function readEpoch(sql: RawTransaction, { nodeId, epoch }: Stretch) {
  const rows = await sql<{ watermark: string; head: string; ended: boolean; shipped_by: string; is_silent: boolean }[]>`
    select watermark, head, ended_at is not null as ended, shipped_by,
      updated_at < now() - make_interval(secs => ${formerIdentitySilenceSeconds}) as is_silent
    from audit_epochs where node_id = ${nodeId} and epoch = ${epoch} for update`;
  return rows[0];
}

const lineColumns = 'node_id, epoch, sequence, time, hash, line';

async function insertLines(sql: RawTransaction, batch: Stretch, lines: readonly CheckedLine[]): Promise<void> {
  const chain = `${copyField(batch.nodeId)}\t${copyField(batch.epoch)}`;
  let rows = '';
  for (const { sequence, line, hash, record } of lines) {
    const time = record === undefined || record.type === 'closed' ? null : new Date(record.time).toISOString();
    rows += `${chain}\t${sequence}\t${copyField(time)}\t${hash}\t${copyField(line)}\n`;
  }
  if (rows !== '') await copyRows(sql, 'audit_lines', lineColumns, rows);
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
