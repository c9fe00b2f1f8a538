import type { DetectorName, Verdict } from '@sallyport/schema';
import { Counter, Histogram, type Registry } from 'prom-client';

const milliseconds = 0.001;

/** Counts what detectors and policies did, for Prometheus. Servers that do not exist have no policies, so no label either. */
export class InspectionMetrics {
  readonly #verdicts: Counter<'server' | 'direction' | 'detector' | 'decision' | 'mode'>;
  readonly #duration: Histogram<'detector'>;

  constructor(registry: Registry) {
    const registers = [registry];
    this.#verdicts = new Counter({
      name: 'sallyport_inspection_verdicts_total',
      help: 'Verdicts of policies over messages, by server, direction, detector, decision and mode.',
      labelNames: ['server', 'direction', 'detector', 'decision', 'mode'],
      registers,
    });
    this.#duration = new Histogram({
      name: 'sallyport_inspection_duration_seconds',
      help: 'Time that a detector took for one message.',
      labelNames: ['detector'],
      buckets: [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1],
      registers,
    });
  }

  inspected(detector: DetectorName, durationMs: number): void {
    this.#duration.observe({ detector }, durationMs * milliseconds);
  }

  judged({ slug }: { readonly slug: string | null }, { direction, detector, decision, mode }: Verdict): void {
    this.#verdicts.inc({ server: slug ?? '', direction, detector, decision, mode });
  }
}
