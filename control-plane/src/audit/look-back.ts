import type { Clock } from '@sallyport/schema/platform';

/** A part of a time range, in milliseconds since the epoch; infinite where it has no such end. */
export interface TimeStretch {
  /** Inclusive. */
  readonly fromMs: number;
  /** Exclusive. */
  readonly toMs: number;
}

export interface LookBackOptions<Row> {
  readonly range: TimeStretch;
  /** Rows to find. */
  readonly wanted: number;
  readonly clock: Clock;
  /**
   * Reads rows of a stretch, newest first. `timeoutMs` is undefined for the first stretch.
   * @returns undefined where it took longer than that
   */
  readonly read: (
    stretch: TimeStretch,
    limit: number,
    timeoutMs: number | undefined,
  ) => Promise<readonly Row[] | undefined>;
  /** Whether there is anything of the range before that time, wanted or not; true where that took longer. */
  readonly isAnyBefore: (timeMs: number, timeoutMs: number) => Promise<boolean>;
}

export interface Found<Row> {
  readonly rows: readonly Row[];
  /**
   * Set where time was up: what is not older than this was looked through, in milliseconds since the epoch. Undefined
   * where all that was wanted was found, or all was looked through.
   */
  readonly stoppedAtMs: number | undefined;
}

const firstStretchMs = 15 * 60_000;
/** Longer than any trail: a stretch of this length, or that begins before 1970, has no beginning. */
const endlessMs = 3_650 * 86_400_000;
/** No stretch is begun after this time, but for the first ones: a page goes back some hours however slow the database is. */
const budgetMs = 150;
const stretchesMin = 4;
/** How long a stretch should take; the next one is made longer for that, the first ones in any case. */
const stretchTargetMs = 40;
const growthMax = 8;
const firstGrowthMin = 2;
/** A stretch that turns out to hold far more than the one before is given up after this time, and a part of it is read. */
const timeoutMs = 100;
const growthAfterTimeout = 1 / 16;

/**
 * Looks for rows from the newest backwards, in stretches of time that grow while there is little to read in them, until
 * enough are found or time is up. So it takes as long where few rows match as where all do, and a short time in any case:
 * how far it comes is what depends on the question.
 */
export async function lookBack<Row>(options: LookBackOptions<Row>): Promise<Found<Row>> {
  const { range, wanted, clock, read, isAnyBefore } = options;
  const began = clock.monotonic();
  const rows: Row[] = [];
  let { toMs } = range;
  let lengthMs = firstStretchMs;
  for (let stretches = 0; toMs > range.fromMs; stretches++) {
    const start = clock.monotonic();
    if (stretches >= stretchesMin && start - began >= budgetMs) {
      const isMore = await isAnyBefore(toMs, timeoutMs);
      return { rows, stoppedAtMs: isMore ? toMs : undefined };
    }
    // What is said to be of the future belongs to the first stretch.
    const startMs = Math.floor(Math.min(toMs, clock.now()) - lengthMs);
    const isEndless = lengthMs >= endlessMs || startMs <= 0;
    const stretch = { fromMs: Math.max(range.fromMs, isEndless ? -Infinity : startMs), toMs };
    const found = await read(stretch, wanted - rows.length, stretches === 0 ? undefined : timeoutMs);
    if (found === undefined) {
      lengthMs *= growthAfterTimeout;
      continue;
    }
    rows.push(...found);
    if (rows.length >= wanted) return { rows, stoppedAtMs: undefined };
    toMs = stretch.fromMs;
    const pace = stretchTargetMs / Math.max(1, clock.monotonic() - start);
    lengthMs *= Math.min(growthMax, Math.max(stretches < stretchesMin ? firstGrowthMin : 1, pace));
  }
  return { rows, stoppedAtMs: undefined };
}
