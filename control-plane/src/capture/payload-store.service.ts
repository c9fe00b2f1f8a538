import { payloadEpoch, type PolicyDirection, policyDirections } from '@sallyport/schema';
import type { Clock, Log } from '@sallyport/schema/platform';
import { inArray, sql } from 'drizzle-orm';
import { type EpochWatermark, readWatermarks } from '../audit/epoch.service.ts';
import type { RaiseAlarm } from '../audit/ingest.service.ts';
import type { Database } from '../database/client.ts';
import { captureRetentions } from '../inspection/policy.service.ts';
import { payloads } from './capture.tables.ts';

/** Rows changed in one statement: nobody waits long for their locks. */
const rowsPerStep = 1_000;
/** For so long a payload may be under way after its exchange has ended on a node that still runs, in seconds. */
const underWaySeconds = 86_400;
/** For so long the spool of a process that has ended may be waited for, in seconds. */
const endedSeconds = 600;
/** What was asked to be erased counts for what comes this late, in days. */
const erasureDays = 400;

/** What became of what an exchange's record says is captured. */
export type PayloadState = 'stored' | 'omitted' | 'erased' | 'expired' | 'pending' | 'lost';

export interface EventPayload {
  readonly direction: PolicyDirection;
  readonly policyId: string;
  readonly state: PayloadState;
  readonly omission: string | null;
  readonly bytes: number | null;
  readonly messages: number | null;
  readonly messagesOmitted: number | null;
  readonly redactions: number | null;
  readonly expiresAt: Date | null;
}

/** Of an audit event, what tells of its payloads. */
export interface CapturedEvent {
  readonly id: string;
  readonly time: Date;
  readonly nodeId: string | null;
  readonly epoch: string | null;
  readonly outcome: string | null;
  readonly storedAt: Date;
  readonly capture: { readonly request: string | null; readonly response: string | null } | null;
}

/** Keeps the store of payloads: how far spools are stored, what has become of payloads, and what is past its time. */
export class PayloadStore {
  readonly #database: Database;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #onAlarm: RaiseAlarm;

  constructor(options: {
    readonly database: Database;
    readonly clock: Clock;
    readonly log: Log;
    readonly onAlarm: RaiseAlarm;
  }) {
    this.#database = options.database;
    this.#clock = options.clock;
    this.#log = options.log;
    this.#onAlarm = options.onAlarm;
  }

  /** As those of the audit trail. */
  async watermarksOf(nodeId: string): Promise<EpochWatermark[]> {
    return readWatermarks(this.#database.raw, 'payload_epochs', nodeId);
  }

  /** What runs here and is not among what a node holds was lost with its disk. */
  async spoolEpochsReported(nodeId: string, held: readonly string[]): Promise<void> {
    const lost = await this.#database.raw<{ epoch: string }[]>`
      update payload_epochs set ended_at = now(), updated_at = now()
      where shipped_by = ${nodeId} and ended_at is null and not (epoch = any (${[...held]}::text[]))
      returning epoch`;
    for (const { epoch } of lost) {
      this.#log.error({ nodeId, epoch }, 'a payload spool is gone from its node');
      this.#onAlarm('PAYLOADS_LOST', nodeId, `${epoch} is gone from the node; what was not stored by then is lost`);
    }
  }

  /** Deletes what is past its retention, as policies say now. @returns how many payloads */
  async expire(): Promise<number> {
    for (const [policyId, days] of await captureRetentions(this.#database.db)) {
      await this.#steps(sql`
        update payloads set expires_at = time + make_interval(days => ${days})
        where ctid in (select ctid from payloads where policy_id = ${policyId}
          and expires_at <> time + make_interval(days => ${days}) limit ${rowsPerStep})`);
    }
    const now = new Date(this.#clock.now()).toISOString();
    const deleted = await this.#steps(sql`
      delete from payloads where ctid in (select ctid from payloads where expires_at <= ${now} limit ${rowsPerStep})`);
    if (deleted > 0) this.#log.info({ deleted }, 'payloads past their retention were deleted');
    await this.#database.raw`
      delete from payload_erasures where created_at < ${now}::timestamptz - make_interval(days => ${erasureDays})`;
    await this.#database.raw`
      delete from payload_epochs where ended_at < ${now}::timestamptz - make_interval(days => ${erasureDays})`;
    return deleted;
  }

  async #steps(statement: Parameters<Database['db']['execute']>[0]): Promise<number> {
    let changed = 0;
    for (;;) {
      const { count } = await this.#database.db.execute(statement);
      changed += count;
      if (count < rowsPerStep) return changed;
    }
  }

  /** What has become of the payloads of events, by event; none where nothing was to be captured. */
  async ofEvents(events: readonly CapturedEvent[]): Promise<ReadonlyMap<string, readonly EventPayload[]>> {
    const captured = events.filter(({ capture }) => capture !== null);
    if (captured.length === 0) return new Map();
    const rows = await this.#stored(captured.map(({ id }) => id));
    const epochs = await this.#ended(captured);
    const retentions = await captureRetentions(this.#database.db);
    const payloadsOf = (event: CapturedEvent): EventPayload[] =>
      policyDirections.flatMap((direction): EventPayload[] => {
        const policyId = event.capture?.[direction] ?? null;
        if (policyId === null) return [];
        const row = rows.get(`${event.nodeId} ${event.id} ${direction}`);
        if (row !== undefined) return [{ ...row, direction, policyId }];
        const state = this.#missing(event, epochs, retentions.get(policyId));
        return [{ ...nothingKnown, direction, policyId, state }];
      });
    return new Map(captured.map((event) => [event.id, payloadsOf(event)]));
  }

  async #stored(eventIds: readonly string[]) {
    const { eventId, nodeId, direction, state, omission, bytes, messages, messagesOmitted, redactions, expiresAt } =
      payloads;
    const told = { state, omission, bytes, messages, messagesOmitted, redactions, expiresAt };
    const rows = await this.#database.db
      .select({ eventId, nodeId, direction, told })
      .from(payloads)
      .where(inArray(eventId, [...eventIds]));
    return new Map(rows.map((row) => [`${row.nodeId} ${row.eventId} ${row.direction}`, row.told]));
  }

  /** Of processes of nodes: whether nothing more can come from their payload spools. */
  async #ended(events: readonly CapturedEvent[]): Promise<ReadonlySet<string>> {
    const epochs = [...new Set(events.flatMap(({ epoch }) => epoch ?? []))];
    const rows = await this.#database.raw<{ node_id: string; epoch: string }[]>`
      select a.node_id, a.epoch from audit_epochs a
      left join payload_epochs p on p.node_id = a.node_id and p.epoch = ${payloadEpoch('')} || a.epoch
      where a.epoch = any (${epochs}::text[]) and a.ended_at is not null
        and (p.ended_at is not null or a.ended_at < now() - make_interval(secs => ${endedSeconds}))`;
    return new Set(rows.map(({ node_id, epoch }) => `${node_id} ${epoch}`));
  }

  #missing(event: CapturedEvent, ended: ReadonlySet<string>, days: number | undefined): PayloadState {
    const age = (this.#clock.now() - event.time.getTime()) / 86_400_000;
    if (days !== undefined && age >= days) return 'expired';
    if (ended.has(`${event.nodeId} ${event.epoch}`)) return 'lost';
    const isClosed = event.outcome !== null;
    const since = (this.#clock.now() - event.storedAt.getTime()) / 1_000;
    return isClosed && since > underWaySeconds ? 'lost' : 'pending';
  }
}

const nothingKnown = {
  omission: null,
  bytes: null,
  messages: null,
  messagesOmitted: null,
  redactions: null,
  expiresAt: null,
} as const;
