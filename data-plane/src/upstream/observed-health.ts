import { AppError, type HealthObservation } from '@sallyport/schema';

/** How often what was seen is reported, in milliseconds. */
const reportIntervalMs = 5_000;
/** One server's protocol revisions are doubted no more often than this, in milliseconds. */
const doubtIntervalMs = 5_000;

/**
 * What this node sees of its upstreams, from the traffic it carries: the last outcome per server. An observation for
 * the operator; no decision looks at it.
 */
export class ObservedHealth {
  readonly #now: () => number;
  readonly #report: (observations: readonly HealthObservation[]) => void;
  readonly #doubt: (serverId: string) => void;
  readonly #doubtedAt = new Map<string, number>();
  readonly #seen = new Map<string, HealthObservation>();
  readonly #timer: NodeJS.Timeout;

  constructor(options: {
    /** The control plane's time, milliseconds since the epoch. */
    readonly now: () => number;
    readonly report: (observations: readonly HealthObservation[]) => void;
    /** Asks for another discovery of a server. */
    readonly doubt: (serverId: string) => void;
  }) {
    this.#now = options.now;
    this.#report = options.report;
    this.#doubt = options.doubt;
    this.#timer = setInterval(() => this.#flush(), reportIntervalMs);
    this.#timer.unref();
  }

  answered(serverId: string, status: number, latencyMs: number): void {
    const healthy = status < 500 && status !== 401 && status !== 403;
    this.#seen.set(serverId, {
      serverId,
      state: healthy ? 'healthy' : 'unhealthy',
      observedAt: this.#now(),
      latencyMs,
      problem: healthy ? null : status < 500 ? 'UPSTREAM_REFUSED' : 'UPSTREAM_PROTOCOL',
    });
  }

  /** Counts only where the upstream is to blame. */
  failed(serverId: string, thrown: unknown): void {
    if (!(thrown instanceof AppError) || thrown.entry.owner !== 'upstream') return;
    this.#seen.set(serverId, {
      serverId,
      state: 'unhealthy',
      observedAt: this.#now(),
      latencyMs: null,
      problem: thrown.code,
    });
  }

  /** The upstream answered like one of another protocol era than it is published with. */
  doubted(serverId: string): void {
    const now = this.#now();
    const before = this.#doubtedAt.get(serverId);
    if (before !== undefined && Math.abs(now - before) < doubtIntervalMs) return;
    this.#doubtedAt.set(serverId, now);
    this.#doubt(serverId);
  }

  close(): void {
    clearInterval(this.#timer);
    this.#flush();
  }

  #flush(): void {
    this.#doubtedAt.clear();
    if (this.#seen.size === 0) return;
    this.#report([...this.#seen.values()]);
    this.#seen.clear();
  }
}
