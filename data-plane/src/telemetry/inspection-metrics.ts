import type { DetectorName, InspectionRow, PayloadOmission, Verdict, WebhookFailure } from '@sallyport/schema';
import { Counter, Histogram, type Registry } from 'prom-client';
import { DurationHistogram } from './duration-histogram.ts';

const milliseconds = 0.001;
/** Distinct (server, detector, decision, mode) of one window; what comes after is told to Prometheus alone. */
const windowRowsMax = 5_000;

/** The server of an exchange that was inspected: one that exists, since no other has policies. */
export interface InspectedServer {
  readonly id: string;
  readonly slug: string;
}

/** Counts what detectors and policies did: for Prometheus, and for the control plane in windows. */
export class InspectionMetrics {
  readonly #verdicts: Counter<'server' | 'direction' | 'detector' | 'decision' | 'mode'>;
  readonly #duration: DurationHistogram;
  readonly #webhooks: Histogram<'webhook' | 'failure'>;
  readonly #payloads: Counter<'omission'>;
  #rows = new Map<string, InspectionRow>();

  constructor(registry: Registry) {
    const registers = [registry];
    this.#verdicts = new Counter({
      name: 'sallyport_inspection_verdicts_total',
      help: 'Verdicts of policies over messages, by server, direction, detector, decision and mode.',
      labelNames: ['server', 'direction', 'detector', 'decision', 'mode'],
      registers,
    });
    this.#duration = new DurationHistogram({
      name: 'sallyport_inspection_duration_seconds',
      help: 'Time that a detector took for one message.',
      label: 'detector',
      buckets: [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1],
      registry,
    });
    this.#payloads = new Counter({
      name: 'sallyport_payloads_captured_total',
      help: 'Directions of exchanges captured, by why nothing but the size was kept; empty where something was.',
      labelNames: ['omission'],
      registers,
    });
    this.#webhooks = new Histogram({
      name: 'sallyport_webhook_duration_seconds',
      help: 'Time that a webhook took for one message, by its id and why there was no verdict; empty where there was one.',
      labelNames: ['webhook', 'failure'],
      buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
      registers,
    });
  }

  captured(omission: PayloadOmission | null): void {
    this.#payloads.inc({ omission: omission ?? '' });
  }

  asked(webhook: string, durationMs: number, failure: WebhookFailure | null): void {
    this.#webhooks.observe({ webhook, failure: failure ?? '' }, durationMs * milliseconds);
  }

  inspected({ id, slug }: InspectedServer, detector: DetectorName, durationMs: number): void {
    this.#duration.count(durationMs * milliseconds, detector);
    this.#add({ serverId: id, slug, detector, verdict: null, count: 1, durationMsSum: durationMs });
  }

  judged({ id, slug }: InspectedServer, { direction, detector, decision, mode, count, durationMs }: Verdict): void {
    this.#verdicts.inc({ server: slug, direction, detector, decision, mode });
    const verdict = { decision, mode };
    this.#add({ serverId: id, slug, detector, verdict, count: Math.max(1, count), durationMsSum: durationMs });
  }

  /** What was counted since the last time. */
  take(): InspectionRow[] {
    const rows = [...this.#rows.values()];
    this.#rows = new Map();
    return rows;
  }

  #add(row: InspectionRow): void {
    const { serverId, detector, verdict } = row;
    const key = `${serverId} ${detector} ${verdict?.decision ?? ''} ${verdict?.mode ?? ''}`;
    const known = this.#rows.get(key);
    if (known === undefined && this.#rows.size >= windowRowsMax) return;
    const count = row.count + (known?.count ?? 0);
    this.#rows.set(key, { ...row, count, durationMsSum: row.durationMsSum + (known?.durationMsSum ?? 0) });
  }
}
