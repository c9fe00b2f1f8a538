import type { ErrorCode, WebhookFailure } from '@sallyport/schema';
import type { Clock, Log, QueueDepth } from '@sallyport/schema/platform';
import { Counter, Gauge, Histogram, type Registry } from 'prom-client';
import type { AuditAlarm } from './audit/ingest.service.ts';
import type { AuditState } from './audit/checkpoint.service.ts';
import type { CompileOutcome } from './fleet/publish-snapshot.ts';
import type { FleetCounts } from './fleet/node.service.ts';

/** Scrapes that come close together share one look into the database and the queues. */
const readAgainAfterMs = 1_000;
/** A scrape does not wait longer than this for what is away; its gauges are absent then. */
const readTimeoutMs = 3_000;

export type GraphqlOperation = 'query' | 'mutation' | 'subscription' | 'none';

/** What only this process knows, or what has to be asked for, at each scrape. */
export interface MetricsSources {
  readonly fleet: () => Promise<FleetCounts>;
  readonly audit: () => Promise<AuditState>;
  /** By the name of the queue; absent in a process that has no queues. */
  readonly queues?: (() => Promise<Readonly<Record<string, QueueDepth>>>) | undefined;
  readonly syncConnections: () => { readonly nodes: number; readonly strangers: number };
  readonly graphqlSockets: () => number;
}

/** What an operator watches of the control plane, for Prometheus. Labels have few values: never a name or an id. */
export class ControlPlaneMetrics {
  readonly #registry: Registry;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #graphql: Histogram<'operation' | 'code'>;
  readonly #failures: Counter<'answer'>;
  readonly #compiles: Histogram<'outcome'>;
  readonly #definitions: Histogram<'webhook' | 'failure'>;
  readonly #records: Counter;
  readonly #lag: Histogram;
  readonly #alarms: Counter<'code'>;

  constructor(options: { readonly registry: Registry; readonly clock: Clock; readonly log: Log }) {
    this.#registry = options.registry;
    this.#clock = options.clock;
    this.#log = options.log;
    const registers = [options.registry];
    this.#graphql = new Histogram({
      name: 'sallyport_graphql_request_duration_seconds',
      help: 'GraphQL requests over HTTP, by operation and by the first error code, "OK" without one.',
      labelNames: ['operation', 'code'],
      buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
      registers,
    });
    this.#failures = new Counter({
      name: 'sallyport_authentication_failures_total',
      help: 'Credentials of administrators that did not open; "limited" without being looked at.',
      labelNames: ['answer'],
      registers,
    });
    this.#compiles = new Histogram({
      name: 'sallyport_config_compile_duration_seconds',
      help: 'Compiling and publishing the configuration, by outcome.',
      labelNames: ['outcome'],
      buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
      registers,
    });
    this.#definitions = new Histogram({
      name: 'sallyport_definition_webhook_duration_seconds',
      help: 'Webhooks asked about definitions, by their id and why there was no verdict; empty where there was one.',
      labelNames: ['webhook', 'failure'],
      buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
      registers,
    });
    this.#records = new Counter({
      name: 'sallyport_audit_records_stored_total',
      help: 'Audit records that this process has stored.',
      registers,
    });
    this.#lag = new Histogram({
      name: 'sallyport_audit_ingest_lag_seconds',
      help: 'Age of the oldest record of a batch when it was stored.',
      buckets: [0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 3_600, 86_400],
      registers,
    });
    this.#alarms = new Counter({
      name: 'sallyport_audit_alarms_total',
      help: 'What an operator must know of the audit trail, by kind; the log says more.',
      labelNames: ['code'],
      registers,
    });
  }

  graphqlAnswered(operation: GraphqlOperation, code: ErrorCode | 'OK', durationMs: number): void {
    this.#graphql.observe({ operation, code }, durationMs / 1_000);
  }

  authenticationFailed(isLimited: boolean): void {
    this.#failures.inc({ answer: isLimited ? 'limited' : 'refused' });
  }

  compiled(outcome: CompileOutcome, durationMs: number): void {
    this.#compiles.observe({ outcome }, durationMs / 1_000);
  }

  definitionAsked(webhook: string, durationMs: number, failure: WebhookFailure | null): void {
    this.#definitions.observe({ webhook, failure: failure ?? '' }, durationMs / 1_000);
  }

  batchStored(records: number, lagMs: number): void {
    this.#records.inc(records);
    this.#lag.observe(Math.max(0, lagMs) / 1_000);
  }

  auditAlarm(code: AuditAlarm): void {
    this.#alarms.inc({ code });
  }

  /** Adds the gauges that are read at each scrape. */
  watch(sources: MetricsSources): void {
    const { fleet, audit, queues, syncConnections, graphqlSockets } = sources;
    const counts = this.#read(fleet);
    this.#gauge('sallyport_nodes', 'Nodes by state.', ['state'], counts, ({ nodes }) =>
      Object.entries(nodes).map(([state, count]) => [{ state }, count]),
    );
    this.#gauge('sallyport_config_revision', 'Revision published last.', [], counts, ({ revision }) => [
      [{}, revision],
    ]);
    this.#gauge('sallyport_config_pending', '1 while changes wait to be published.', [], counts, ({ pending }) => [
      [{}, pending ? 1 : 0],
    ]);
    this.#gauge('sallyport_config_withheld_objects', 'Objects that cannot be published.', [], counts, (state) => [
      [{}, state.withheld],
    ]);
    const state = this.#read(audit);
    this.#gauge('sallyport_audit_quarantined_lines', 'Lines kept in quarantine.', [], state, ({ quarantined }) => [
      [{}, quarantined],
    ]);
    this.#gauge(
      'sallyport_audit_unchained_events',
      'Events that wait for their place in the chain.',
      [],
      state,
      (one) => [[{}, one.unchained]],
    );
    this.#gauge(
      'sallyport_audit_deliveries',
      'Deliveries of audit events to webhooks, by how they stand: active, failing or stopped.',
      ['state'],
      state,
      ({ deliveries }) => Object.entries(deliveries).map(([standing, count]) => [{ state: standing }, count]),
    );
    if (queues !== undefined) {
      this.#gauge(
        'sallyport_queue_jobs',
        'Jobs by queue and state.',
        ['queue', 'state'],
        this.#read(queues),
        (depths) =>
          Object.entries(depths).flatMap(([queue, depth]) =>
            Object.entries(depth).map(([jobs, count]): Sample => [{ queue, state: jobs }, count]),
          ),
      );
    }
    const now =
      <T>(value: () => T) =>
      () =>
        Promise.resolve(value());
    this.#gauge('sallyport_sync_connections', 'Sockets of nodes.', ['kind'], now(syncConnections), (open) =>
      Object.entries(open).map(([kind, count]) => [{ kind }, count]),
    );
    this.#gauge('sallyport_graphql_sockets', 'Sockets of subscribers.', [], now(graphqlSockets), (open) => [
      [{}, open],
    ]);
  }

  #gauge<T>(
    name: string,
    help: string,
    labelNames: readonly string[],
    read: () => Promise<T>,
    samples: (value: T) => readonly Sample[],
  ): void {
    const log = this.#log;
    new Gauge({
      name,
      help,
      labelNames,
      registers: [this.#registry],
      async collect() {
        this.reset();
        try {
          for (const [labels, value] of samples(await read())) this.set(labels, value);
        } catch (error) {
          // Absent rather than old: an alert on absence finds it.
          this.reset();
          log.debug({ err: error, metric: name }, 'a gauge could not be read');
        }
      },
    });
  }

  /** The source, read once for all gauges of a scrape and never waited for without end. */
  #read<T>(source: () => Promise<T>): () => Promise<T> {
    let at = Number.NEGATIVE_INFINITY;
    let value: Promise<T> | undefined;
    return () => {
      if (value === undefined || this.#clock.monotonic() - at > readAgainAfterMs) {
        at = this.#clock.monotonic();
        value = inTime(source());
      }
      return value;
    };
  }
}

type Sample = readonly [labels: Readonly<Record<string, string>>, value: number];

async function inTime<T>(work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer in ${readTimeoutMs} ms`)), readTimeoutMs);
  });
  return Promise.race([work, timeout]).finally(() => clearTimeout(timer));
}
