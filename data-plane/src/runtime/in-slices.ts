import { setTimeout as delay } from 'node:timers/promises';
import type { Clock } from '@sallyport/schema/platform';
import type { MarkingWatch } from './marking-watch.ts';

/** How long a slice lasts where requests leave the event loop idle, and however busy it is, in milliseconds. */
const sliceMsMin = 2;
const sliceMsMax = 8;
/** Between slices, for requests and for V8's threads, which collect what slices leave and may share the core, in milliseconds. */
const restMs = 3;

export interface Slicing {
  readonly clock: Pick<Clock, 'monotonic'>;
  /** While it is on nothing is computed. */
  readonly marking: Pick<MarkingWatch, 'isOn'>;
  /** Asked after each rest; once it says no, the computation is given up. */
  readonly isWanted: () => boolean;
}

/**
 * Runs a computation in slices, with rests between them in which requests are served. A slice lasts half as long as requests
 * kept the event loop beyond the rest before it, within bounds: a node that has more of them than it can serve still gets
 * done. What fits into one slice is done before this returns to the event loop.
 * @param steps yields wherever it may be interrupted
 * @returns what the computation returned, or undefined where it was given up
 */
export async function inSlices<T>(
  steps: Generator<undefined, T>,
  { clock, marking, isWanted }: Slicing,
): Promise<T | undefined> {
  let sliceMs = sliceMsMin;
  for (;;) {
    const beganAt = clock.monotonic();
    do {
      const step = steps.next();
      if (step.done === true) return step.value;
    } while (clock.monotonic() - beganAt < sliceMs);
    const leftAt = clock.monotonic();
    await delay(restMs);
    const servedMs = clock.monotonic() - leftAt - restMs;
    sliceMs = Math.min(sliceMsMax, Math.max(sliceMsMin, servedMs / 2));
    while (marking.isOn && isWanted()) await delay(restMs);
    if (!isWanted()) return undefined;
  }
}
