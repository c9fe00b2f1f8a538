import type { Clock } from './clock.ts';

interface Bucket {
  credit: number;
  /** Monotonic, milliseconds. */
  at: number;
}

export interface BucketsOptions {
  readonly clock: Pick<Clock, 'monotonic'>;
  /** What a full bucket holds. */
  readonly burst: number;
  readonly perSecond: number;
  /** Buckets remembered; beyond, the one that was used longest ago is forgotten, and full again. */
  readonly keysMax: number;
}

/** Buckets by key that fill again with time, each its own; how many there are is bounded. */
export class Buckets {
  readonly #options: BucketsOptions;
  readonly #buckets = new Map<string, Bucket>();

  constructor(options: BucketsOptions) {
    this.#options = options;
  }

  /** Whether anything of the key's was changed lately. */
  has(key: string): boolean {
    return this.#buckets.has(key);
  }

  /** What is in the bucket now. */
  creditOf(key: string): number {
    const { burst, perSecond, clock } = this.#options;
    const bucket = this.#buckets.get(key);
    if (bucket === undefined) return burst;
    return Math.min(burst, bucket.credit + ((clock.monotonic() - bucket.at) / 1_000) * perSecond);
  }

  change(key: string, by: number): void {
    const { clock, keysMax } = this.#options;
    const credit = Math.max(0, this.creditOf(key) + by);
    this.#buckets.delete(key);
    this.#buckets.set(key, { credit, at: clock.monotonic() });
    if (this.#buckets.size <= keysMax) return;
    for (const oldest of this.#buckets.keys()) {
      this.#buckets.delete(oldest);
      break;
    }
  }

  /** Takes one, where there is one. @returns 0, or the whole seconds until there is one */
  take(key: string): number {
    const missing = 1 - this.creditOf(key);
    if (missing > 0) return Math.ceil(missing / this.#options.perSecond);
    this.change(key, -1);
    return 0;
  }
}
