import { setTimeout as delay } from 'node:timers/promises';
import {
  type AuditOutcome,
  type DetectorName,
  type InspectionRow,
  type MetricsRow,
  type MetricsWindow,
  metricsSigningText,
  metricsTargetCharactersMax,
  type PayloadOmission,
  Sketch,
  type Verdict,
  type WebhookFailure,
} from '@sallyport/schema';
import type { Clock, Log, QueueProducer } from '@sallyport/schema/platform';
import { Counter, Gauge, type Registry } from 'prom-client';
import { DurationHistogram } from './duration-histogram.ts';
import { InspectionMetrics, type InspectedServer } from './inspection-metrics.ts';
import type { BatchSigner } from './audit-shipper.ts';

export const metricsWindowMs = 10_000;
/** Distinct (server, target, outcome) of one window; what comes after is counted without its target. */
const windowRowsMax = 5_000;
/** A window with more is sent in parts, one after the other: all rows at once stood in the way of calls for 30 ms. */
const partRowsMax = 250;
/** Parts kept while the queue is away: an hour of small windows. Metrics may be lost, audit events may not. */
const partsPendingMax = 400;
/** Outcomes of exchanges that reached an upstream. Other targets are named by the client at will and are not counted. */
const reachedUpstream: ReadonlySet<AuditOutcome> = new Set(['success', 'error', 'upstreamFailure', 'aborted']);

export interface ClosedExchange {
  readonly serverId: string | null;
  readonly slug: string | null;
  readonly target: { readonly kind: 'tool' | 'prompt' | 'resource'; readonly name: string } | null;
  /** JSON-RPC method; null for a listening stream and for what was not understood. */
  readonly method: string | null;
  readonly outcome: AuditOutcome;
  readonly durationMs: number;
  readonly upstreamMs: number | null;
}

export interface MetricsOptions {
  /** Of the audit spool: with the node it makes a window's identity. */
  readonly epoch: string;
  readonly signer: BatchSigner;
  readonly queue: QueueProducer;
  readonly registry: Registry;
  readonly clock: Clock;
  /** The control plane's time, in milliseconds. */
  readonly now: () => number;
  readonly log: Log;
}

/** To the control plane a window of its own, begun as many milliseconds later as parts go before it. */
interface WindowPart {
  readonly windowStart: number;
  readonly rows: readonly Row[];
  readonly inspections: InspectionRow[];
}

interface Row {
  readonly exchange: Pick<ClosedExchange, 'slug' | 'target' | 'outcome'> & { readonly serverId: string };
  readonly sketch: Sketch;
  durationMsSum: number;
}

/** Counts exchanges: for Prometheus with few labels, and for the control plane in windows of 10 s with sketches. */
export class Metrics {
  readonly #options: MetricsOptions;
  /** By server's slug and outcome; put into the counter at each scrape. */
  readonly #calls = new Map<string, Map<AuditOutcome, number>>();
  readonly #duration: DurationHistogram;
  readonly #overhead: DurationHistogram;
  readonly #inspection: InspectionMetrics;
  #windowStart: number;
  /** Of this window, by server and target's name; empty where a row has none. */
  #rowsByName = new Map<string, Map<string, Row[]>>();
  #rowCount = 0;
  readonly #pending: WindowPart[] = [];
  #timer: NodeJS.Timeout | undefined;
  #sending: Promise<void> = Promise.resolve();

  constructor(options: MetricsOptions) {
    this.#options = options;
    const registers = [options.registry];
    const calls = this.#calls;
    new Counter({
      name: 'sallyport_exchanges_total',
      help: 'Exchanges closed, by server and outcome.',
      labelNames: ['server', 'outcome'],
      registers,
      collect() {
        this.reset();
        for (const [server, counts] of calls) {
          for (const [outcome, count] of counts) this.inc({ server, outcome }, count);
        }
      },
    });
    const buckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];
    const { registry } = options;
    this.#duration = new DurationHistogram({
      name: 'sallyport_exchange_duration_seconds',
      help: 'From receipt of a request to the last byte of its answer.',
      buckets,
      registry,
    });
    this.#overhead = new DurationHistogram({
      name: 'sallyport_gateway_overhead_seconds',
      help: 'Duration of exchanges that reached an upstream, less the wait for its first byte.',
      buckets,
      registry,
    });
    this.#inspection = new InspectionMetrics(options.registry);
    this.#windowStart = this.#currentWindow();
  }

  /** A detector looked at a message, in so many milliseconds. */
  inspected(server: InspectedServer, detector: DetectorName, durationMs: number): void {
    this.#inspection.inspected(server, detector, durationMs);
  }

  /** A webhook was asked. */
  asked(webhookId: string, durationMs: number, failure: WebhookFailure | null): void {
    this.#inspection.asked(webhookId, durationMs, failure);
  }

  /** A direction of an exchange was captured, or left out, and why. */
  captured(omission: PayloadOmission | null): void {
    this.#inspection.captured(omission);
  }

  judged(server: InspectedServer, verdict: Verdict): void {
    this.#inspection.judged(server, verdict);
  }

  start(): void {
    this.#timer ??= setInterval(() => {
      if (this.#currentWindow() > this.#windowStart) this.flush();
    }, metricsWindowMs / 2).unref();
  }

  exchangeClosed(exchange: ClosedExchange): void {
    // A server that does not exist has a name the client made up: no label, no row of its own.
    this.#count(exchange.serverId === null ? '' : (exchange.slug ?? ''), exchange.outcome);
    if (isStream(exchange)) return;
    this.#duration.count(exchange.durationMs / 1000);
    if (exchange.upstreamMs !== null) {
      this.#overhead.count(Math.max(0, exchange.durationMs - exchange.upstreamMs) / 1000);
    }
    if (exchange.serverId === null) return;
    if (this.#currentWindow() > this.#windowStart) this.flush();
    const row = this.#rowOf(exchange, exchange.serverId);
    row.sketch.add(exchange.durationMs);
    row.durationMsSum += exchange.durationMs;
  }

  #count(server: string, outcome: AuditOutcome): void {
    let counts = this.#calls.get(server);
    if (counts === undefined) this.#calls.set(server, (counts = new Map()));
    counts.set(outcome, (counts.get(outcome) ?? 0) + 1);
  }

  /** Ends the current window and sends what is pending; what cannot be sent waits for the next time. */
  flush(): void {
    const parts = partsOf(this.#windowStart, this.#rowsByName, this.#inspection.take());
    this.#pending.push(...parts);
    // Never the same start twice, also where the estimate of time is corrected backwards: it would count once.
    this.#windowStart = Math.max(this.#currentWindow(), this.#windowStart + Math.max(1, parts.length));
    this.#rowsByName = new Map();
    this.#rowCount = 0;
    const { log } = this.#options;
    if (this.#pending.length > partsPendingMax) {
      const dropped = this.#pending.splice(0, this.#pending.length - partsPendingMax);
      log.warn({ parts: dropped.length }, 'metrics were dropped: the queue is away, or slow, for too long');
    }
    this.#sending = this.#sending
      .then(() => this.#send())
      .catch((error: unknown) => log.error({ err: error }, 'sending metrics failed'));
  }

  /** @param deadlineMs for what is pending; what was not sent by then is lost */
  async close(deadlineMs: number): Promise<void> {
    clearInterval(this.#timer);
    this.flush();
    await Promise.race([this.#sending, delay(deadlineMs, undefined, { ref: false })]);
    this.#pending.length = 0;
    await this.#options.queue.close();
  }

  async #send(): Promise<void> {
    for (let part = this.#pending[0]; part !== undefined; part = this.#pending[0]) {
      const window = this.#windowOf(part);
      try {
        await this.#options.queue.add(`${window.nodeId}.${window.epoch}.${window.windowStart}`, window);
      } catch (error) {
        this.#options.log.debug({ err: error }, 'metrics wait for the queue');
        return;
      }
      // Unless it was dropped meanwhile.
      if (this.#pending[0] === part) this.#pending.shift();
    }
  }

  #currentWindow(): number {
    const now = this.#options.now();
    return Math.max(0, now - (now % metricsWindowMs));
  }

  #rowOf({ target, slug, outcome }: ClosedExchange, serverId: string): Row {
    const wanted = reachedUpstream.has(outcome) ? target : null;
    const known = this.#known(serverId, wanted, outcome);
    if (known !== undefined) return known;
    const isFull = this.#rowCount >= windowRowsMax;
    const without = isFull ? this.#known(serverId, null, outcome) : undefined;
    if (without !== undefined) return without;
    const counted = isFull ? null : bounded(wanted);
    const row: Row = { exchange: { serverId, slug, target: counted, outcome }, sketch: new Sketch(), durationMsSum: 0 };
    this.#rowCount += 1;
    this.#remember(row);
    return row;
  }

  #known(serverId: string, target: ClosedExchange['target'], outcome: AuditOutcome): Row | undefined {
    const kind = target?.kind;
    const rows = this.#rowsByName.get(serverId)?.get(boundedName(target));
    // As many at most as there are kinds and outcomes.
    return rows?.find(({ exchange }) => exchange.outcome === outcome && exchange.target?.kind === kind);
  }

  #remember(row: Row): void {
    const { serverId, target } = row.exchange;
    const ofServer = this.#rowsByName.get(serverId) ?? new Map<string, Row[]>();
    this.#rowsByName.set(serverId, ofServer);
    const name = boundedName(target);
    const ofName = ofServer.get(name);
    if (ofName === undefined) ofServer.set(name, [row]);
    else ofName.push(row);
  }

  #windowOf(part: WindowPart): MetricsWindow {
    const { signer, epoch } = this.#options;
    const { windowStart, inspections } = part;
    const rows = part.rows.map(
      ({ exchange, sketch, durationMsSum }): MetricsRow => ({
        serverId: exchange.serverId,
        slug: exchange.slug ?? '',
        target: exchange.target,
        outcome: exchange.outcome,
        durationMsSum,
        sketch: sketch.serialize(),
      }),
    );
    const { nodeId, publicKey } = signer;
    const window = { nodeId, epoch, windowStart, rows, inspections, publicKey };
    return { ...window, signature: signer.sign(metricsSigningText(window)) };
  }
}

/** None where nothing was counted. */
function partsOf(
  windowStart: number,
  rowsByName: ReadonlyMap<string, ReadonlyMap<string, readonly Row[]>>,
  inspections: InspectionRow[],
): WindowPart[] {
  const rows = [...rowsByName.values()].flatMap((ofServer) => [...ofServer.values()].flat());
  const parts: WindowPart[] = [];
  for (let at = 0; at < Math.max(rows.length, inspections.length); at += partRowsMax) {
    parts.push({
      windowStart: windowStart + parts.length,
      rows: rows.slice(at, at + partRowsMax),
      inspections: inspections.slice(at, at + partRowsMax),
    });
  }
  return parts;
}

function bounded(target: ClosedExchange['target']): ClosedExchange['target'] {
  return target === null ? null : { kind: target.kind, name: boundedName(target) };
}

function boundedName(target: ClosedExchange['target']): string {
  return target === null ? '' : target.name.slice(0, metricsTargetCharactersMax);
}

function isStream(exchange: ClosedExchange): boolean {
  const listens = exchange.method === null || exchange.method === 'subscriptions/listen';
  return listens && reachedUpstream.has(exchange.outcome);
}

/** What a node says of itself at each scrape. */
export interface NodeState {
  readonly spoolBytes: number;
  readonly shedCount: number;
  readonly recordsUnconfirmed: number;
  readonly exchangesOpen: number;
  /** 0 before the first configuration. */
  readonly configRevision: number;
  /** Milliseconds since the control plane was heard; infinite where it never was. */
  readonly contactAgeMs: number;
  readonly payloadSpoolBytes: number;
  readonly payloadsShedCount: number;
  readonly payloadsUnconfirmed: number;
  /** Of messages in memory that wait to be sealed. */
  readonly payloadBytesHeld: number;
}

export function registerNodeGauges(registry: Registry, state: () => NodeState): void {
  const gauge = (name: string, help: string, value: (state: NodeState) => number): void => {
    new Gauge({
      name,
      help,
      registers: [registry],
      collect() {
        this.set(value(state()));
      },
    });
  };
  gauge('sallyport_audit_spool_bytes', 'Size of the audit spool.', ({ spoolBytes }) => spoolBytes);
  gauge(
    'sallyport_audit_spool_shed_records',
    'Records shed and not yet recorded as such.',
    ({ shedCount }) => shedCount,
  );
  gauge(
    'sallyport_audit_spool_unconfirmed_records',
    'Records the control plane has not confirmed.',
    ({ recordsUnconfirmed }) => recordsUnconfirmed,
  );
  gauge('sallyport_payload_spool_bytes', 'Size of the payload spool.', ({ payloadSpoolBytes }) => payloadSpoolBytes);
  gauge(
    'sallyport_payload_spool_shed_records',
    'Payloads shed and not yet recorded as such.',
    ({ payloadsShedCount }) => payloadsShedCount,
  );
  gauge(
    'sallyport_payload_spool_unconfirmed_records',
    'Payloads the control plane has not confirmed.',
    ({ payloadsUnconfirmed }) => payloadsUnconfirmed,
  );
  gauge(
    'sallyport_payload_held_bytes',
    'Messages in memory that are to be sealed.',
    ({ payloadBytesHeld }) => payloadBytesHeld,
  );
  gauge('sallyport_exchanges_open', 'Exchanges under way, streams included.', ({ exchangesOpen }) => exchangesOpen);
  gauge('sallyport_config_applied_revision', 'Revision that serves.', ({ configRevision }) => configRevision);
  gauge(
    'sallyport_control_plane_contact_age_seconds',
    'Since the control plane was heard.',
    ({ contactAgeMs }) => contactAgeMs / 1_000,
  );
}
