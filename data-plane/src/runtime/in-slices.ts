import { constants, type PerformanceEntry, PerformanceObserver } from 'node:perf_hooks';
import { setTimeout as delay } from 'node:timers/promises';
import type { Clock } from '@sallyport/schema/platform';

/** How long a slice lasts where requests leave the event loop idle, and however busy it is, in milliseconds. */
const sliceMsMin = 2;
const sliceMsMax = 8;
/** Between slices, for requests and for V8's threads, which collect what slices leave and may share the core, in milliseconds. */
const restMs = 3;
/** The longest rest while V8 marks: a node so busy that it does not get done with that still gets its configuration. */
const markingMsMax = 1_000;

/**
 * Runs a computation in slices, with rests between them in which requests are served. A slice lasts half as long as requests
 * kept the event loop beyond the rest before it, within bounds: a node that has more of them than it can serve still gets
 * done. What fits into one slice is done before this returns to the event loop.
 * @param steps yields wherever it may be interrupted
 * @param isWanted asked after each rest; once it is not, the computation is given up
 * @returns what the computation returned, or undefined where it was given up
 */
export async function inSlices<T>(
  steps: Generator<undefined, T>,
  clock: Pick<Clock, 'monotonic'>,
  isWanted: () => boolean,
): Promise<T | undefined> {
  let sliceMs = sliceMsMin;
  let marking: MarkingWatch | undefined;
  try {
    for (;;) {
      const beganAt = clock.monotonic();
      do {
        const step = steps.next();
        if (step.done === true) return step.value;
      } while (clock.monotonic() - beganAt < sliceMs);
      marking ??= new MarkingWatch(clock);
      const leftAt = clock.monotonic();
      await delay(restMs);
      const servedMs = clock.monotonic() - leftAt - restMs;
      sliceMs = Math.min(sliceMsMax, Math.max(sliceMsMin, servedMs / 2));
      while (marking.isOn && isWanted()) await delay(restMs);
      if (!isWanted()) return undefined;
    }
  } finally {
    marking?.stop();
  }
}

/**
 * Whether V8 is marking what lives. It has to keep up with what is allocated meanwhile, and has the thread that allocates
 * help: slices then took most of the time from requests.
 */
class MarkingWatch {
  readonly #clock: Pick<Clock, 'monotonic'>;
  readonly #observer: PerformanceObserver;
  #beganAt: number | undefined;

  constructor(clock: Pick<Clock, 'monotonic'>) {
    this.#clock = clock;
    this.#observer = new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) {
        const { detail } = entry as PerformanceEntry & { readonly detail: { readonly kind: number } };
        if (detail.kind === constants.NODE_PERFORMANCE_GC_INCREMENTAL) this.#beganAt = clock.monotonic();
        else if (detail.kind === constants.NODE_PERFORMANCE_GC_MAJOR) this.#beganAt = undefined;
      }
    });
    this.#observer.observe({ entryTypes: ['gc'] });
  }

  get isOn(): boolean {
    return this.#beganAt !== undefined && this.#clock.monotonic() - this.#beganAt < markingMsMax;
  }

  stop(): void {
    this.#observer.disconnect();
  }
}
