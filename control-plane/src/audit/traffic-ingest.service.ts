import {
  type AuditOutcome,
  metricsSigningText,
  type MetricsWindow,
  metricsWindowSchema,
  Sketch,
} from '@sallyport/schema';
import type { Log } from '@sallyport/schema/platform';
import type { Database, RawTransaction } from '../database/client.ts';
import type { NodeKeys } from './accept-batch.ts';
import { isSignedBy } from './signature.ts';
import { storableText } from './storable-text.ts';

const minuteMs = 60_000;
const dayMs = 86_400_000;
/** With the day it makes the lock of its rows: sketches are merged here, so that two must not read the same ones. */
const trafficLock = 0x5350_0007;

/** Outcomes of calls that never reached an upstream: they say nothing of how it does. */
export const notForwarded: readonly string[] = ['refused', 'malformed'] satisfies AuditOutcome[];

/** Of a minute, by outcome. */
interface StoredRow {
  readonly server_id: string;
  readonly server_slug: string;
  readonly target_kind: string;
  readonly target_name: string;
  readonly outcome: string;
  readonly calls: number;
  readonly duration_ms_sum: number;
  readonly sketch: string;
}

/** Of an hour or a day, whatever the outcome; duration and sketch are those of forwarded calls. */
interface RollupRow extends StoredRow {
  readonly refused: number;
  readonly succeeded: number;
}

/** Adds up what nodes count, by the minute, the hour and the day. */
export class TrafficIngestService {
  readonly #database: Database;
  readonly #keys: NodeKeys;
  readonly #log: Log;

  constructor(options: { readonly database: Database; readonly keys: NodeKeys; readonly log: Log }) {
    this.#database = options.database;
    this.#keys = options.keys;
    this.#log = options.log;
  }

  /** Counts a window once, however often it comes. */
  async ingest(data: unknown): Promise<void> {
    const parsed = metricsWindowSchema.safeParse(data);
    if (!parsed.success || !isSigned(parsed.data)) return this.#log.warn('a metrics window was refused');
    const window = parsed.data;
    if (!(await this.#keys.accepts(window.nodeId, window.publicKey))) {
      return this.#log.warn({ nodeId: window.nodeId }, 'a metrics window was refused: its key is not registered');
    }
    await this.#database.raw.begin((sql) => this.#count(sql, window));
  }

  async #count(sql: RawTransaction, window: MetricsWindow): Promise<void> {
    const windowStart = new Date(window.windowStart).toISOString();
    const first = await sql`
      insert into traffic_windows (node_id, epoch, window_start)
      values (${window.nodeId}, ${storableText(window.epoch)}, ${windowStart}) on conflict do nothing`;
    if (first.count === 0) return;
    const minute = new Date(Math.floor(window.windowStart / minuteMs) * minuteMs).toISOString();
    await sql`select pg_advisory_xact_lock(${trafficLock}, ${Math.floor(window.windowStart / dayMs)}::int)`;
    const added = addedRows(window);
    const { serverIds, targetNames } = namesOf(added);
    const stored = await sql<StoredRow[]>`
      select server_id, server_slug, target_kind, target_name, outcome, calls::double precision as calls,
        duration_ms_sum, sketch
      from traffic_minutes
      where minute = ${minute} and server_id = any (${serverIds}) and target_name = any (${targetNames})`;
    const rows = summed(added, stored, sumOf);
    await sql`
      insert into traffic_minutes
        (minute, server_id, server_slug, target_kind, target_name, outcome, calls, duration_ms_sum, sketch)
      select ${minute}, server_id, server_slug, target_kind, target_name, outcome, calls, duration_ms_sum, sketch
      from jsonb_to_recordset(${JSON.stringify(rows)}::text::jsonb) as x(server_id text, server_slug text,
        target_kind text, target_name text, outcome text, calls bigint, duration_ms_sum double precision, sketch text)
      on conflict (minute, server_id, target_kind, target_name, outcome) do update set
        server_slug = excluded.server_slug, calls = excluded.calls,
        duration_ms_sum = excluded.duration_ms_sum, sketch = excluded.sketch`;
    for (const whole of [false, true]) {
      const rollups = rollupsOf(added, whole);
      for (const unit of ['hour', 'day'] as const) await addRollups(sql, { unit, whole, minute }, rollups);
    }
    await addInspections(sql, window, minute);
    await sql`select pg_notify('sallyport_signal', 'traffic')`;
  }
}

/** What may be known of what is added: a day of a server may hold very many other targets, which need not be read. */
function namesOf(rows: ReadonlyMap<string, StoredRow>): {
  readonly serverIds: string[];
  readonly targetNames: string[];
} {
  const added = [...rows.values()];
  return {
    serverIds: [...new Set(added.map((row) => row.server_id))],
    targetNames: [...new Set(added.map((row) => row.target_name))],
  };
}

/** What is added, each together with what was counted of the same before. */
function summed<Row extends StoredRow>(
  added: ReadonlyMap<string, Row>,
  stored: readonly Row[],
  sum: (row: Row, before: Row | undefined) => Row,
): Row[] {
  const before = new Map(stored.map((row) => [keyOf(row), row]));
  return [...added].map(([key, row]) => sum(row, before.get(key)));
}

/** Rows of targets, or of servers as a whole, whatever the outcome. */
function rollupsOf(rows: ReadonlyMap<string, StoredRow>, whole: boolean): ReadonlyMap<string, RollupRow> {
  const rollups = new Map<string, RollupRow>();
  for (const row of rows.values()) {
    const isForwarded = !notForwarded.includes(row.outcome);
    const rollup = {
      ...row,
      ...(whole ? { target_kind: '', target_name: '' } : {}),
      ...(isForwarded ? {} : { duration_ms_sum: 0, sketch: new Sketch().serialize() }),
      outcome: '',
      refused: isForwarded ? 0 : row.calls,
      succeeded: row.outcome === 'success' ? row.calls : 0,
    };
    const key = keyOf(rollup);
    rollups.set(key, sumOfRollups(rollup, rollups.get(key)));
  }
  return rollups;
}

interface Rollup {
  readonly unit: 'hour' | 'day';
  readonly whole: boolean;
  /** Within the hour or day. */
  readonly minute: string;
}

async function addRollups(
  sql: RawTransaction,
  { unit, whole, minute }: Rollup,
  added: ReadonlyMap<string, RollupRow>,
): Promise<void> {
  const { serverIds, targetNames } = namesOf(added);
  const stored = await sql<RollupRow[]>`
    select server_id, server_slug, target_kind, target_name, outcome, calls::double precision as calls,
      refused::double precision as refused, succeeded::double precision as succeeded, duration_ms_sum, sketch
    from traffic_rollups
    where unit = ${unit} and whole = ${whole} and start = date_trunc(${unit}, ${minute}::timestamptz, 'UTC')
      and server_id = any (${serverIds}) and target_name = any (${targetNames}) and outcome = ''`;
  const rows = summed(added, stored, sumOfRollups);
  await sql`
    insert into traffic_rollups (unit, whole, start, server_id, server_slug, target_kind, target_name, outcome, calls,
      refused, succeeded, duration_ms_sum, sketch)
    select ${unit}, ${whole}, date_trunc(${unit}, ${minute}::timestamptz, 'UTC'), server_id, server_slug, target_kind,
      target_name, outcome, calls, refused, succeeded, duration_ms_sum, sketch
    from jsonb_to_recordset(${JSON.stringify(rows)}::text::jsonb) as x(server_id text, server_slug text,
      target_kind text, target_name text, outcome text, calls bigint, refused bigint, succeeded bigint,
      duration_ms_sum double precision, sketch text)
    on conflict (unit, whole, start, server_id, target_kind, target_name, outcome) do update set
      server_slug = excluded.server_slug, calls = excluded.calls, refused = excluded.refused,
      succeeded = excluded.succeeded, duration_ms_sum = excluded.duration_ms_sum, sketch = excluded.sketch`;
}

/** Sums alone, so that nothing needs to be read before. */
async function addInspections(sql: RawTransaction, { inspections }: MetricsWindow, minute: string): Promise<void> {
  if (inspections.length === 0) return;
  const rows = inspections.map(({ serverId, slug, detector, verdict, count, durationMsSum }) => ({
    server_id: storableText(serverId),
    server_slug: storableText(slug),
    detector,
    decision: verdict?.decision ?? '',
    mode: verdict?.mode ?? '',
    count,
    duration_ms_sum: durationMsSum,
  }));
  await sql`
    insert into inspection_minutes as i (minute, server_id, server_slug, detector, decision, mode, count, duration_ms_sum)
    select ${minute}, server_id, min(server_slug), detector, decision, mode, sum(count), sum(duration_ms_sum)
    from jsonb_to_recordset(${JSON.stringify(rows)}::text::jsonb) as x(server_id text, server_slug text, detector text,
      decision text, mode text, count bigint, duration_ms_sum double precision)
    group by server_id, detector, decision, mode
    on conflict (minute, server_id, detector, decision, mode) do update set
      server_slug = excluded.server_slug, count = i.count + excluded.count,
      duration_ms_sum = i.duration_ms_sum + excluded.duration_ms_sum`;
}

function keyOf(row: Pick<StoredRow, 'server_id' | 'target_kind' | 'target_name' | 'outcome'>): string {
  return [row.server_id, row.target_kind, row.target_name, row.outcome].join('\n');
}

/** The window's rows; two that read the same once stored are one. A sketch that is none counts nothing. */
function addedRows(window: MetricsWindow): ReadonlyMap<string, StoredRow> {
  const rows = new Map<string, StoredRow>();
  for (const row of window.rows) {
    const sketch = Sketch.parse(row.sketch);
    if (sketch === undefined || sketch.count === 0) continue;
    const stored: StoredRow = {
      server_id: storableText(row.serverId),
      server_slug: storableText(row.slug),
      target_kind: row.target?.kind ?? '',
      target_name: storableText(row.target?.name ?? ''),
      outcome: row.outcome,
      calls: sketch.count,
      duration_ms_sum: row.durationMsSum,
      // In our own words: others may have room between the numbers.
      sketch: sketch.serialize(),
    };
    rows.set(keyOf(stored), sumOf(stored, rows.get(keyOf(stored))));
  }
  return rows;
}

function sumOf(row: StoredRow, before: StoredRow | undefined): StoredRow {
  const sketch = Sketch.parse(row.sketch);
  const other = before === undefined ? undefined : Sketch.parse(before.sketch);
  if (before === undefined || sketch === undefined || other === undefined) return row;
  const calls = row.calls + before.calls;
  const durationMsSum = row.duration_ms_sum + before.duration_ms_sum;
  // No node that tells the truth comes near: what cannot be stored would keep all that follows from being counted.
  if (!Number.isSafeInteger(calls) || !Number.isFinite(durationMsSum)) return row;
  sketch.merge(other);
  return { ...row, calls, duration_ms_sum: durationMsSum, sketch: sketch.serialize() };
}

function sumOfRollups(row: RollupRow, before: RollupRow | undefined): RollupRow {
  const sum = sumOf(row, before);
  if (before === undefined || sum === row) return row;
  return { ...row, ...sum, refused: row.refused + before.refused, succeeded: row.succeeded + before.succeeded };
}

function isSigned(window: MetricsWindow): boolean {
  return isSignedBy(window.publicKey, metricsSigningText(window), window.signature);
}
