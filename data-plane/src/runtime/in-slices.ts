import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Clock } from '@sallyport/schema/platform';

/** How long a slice lasts where requests leave the event loop idle, in milliseconds. */
const sliceMsMin = 3;
/** However busy the node is: a slice this long delays each request by no more. */
const sliceMsMax = 12;

/**
 * Runs a computation in slices, with turns of the event loop between them in which requests are served. A slice lasts as
 * long as the turn before it took, within bounds: requests get at least half of the time, and a node that has more of
 * them than it can serve still gets done. What fits into one slice is done before this returns to the event loop.
 * @param steps yields wherever it may be interrupted
 * @param isWanted asked after each turn; once it is not, the computation is given up
 * @returns what the computation returned, or undefined where it was given up
 */
export async function inSlices<T>(
  steps: Generator<undefined, T>,
  clock: Pick<Clock, 'monotonic'>,
  isWanted: () => boolean,
): Promise<T | undefined> {
  let sliceMs = sliceMsMin;
  for (;;) {
    const beganAt = clock.monotonic();
    do {
      const step = steps.next();
      if (step.done === true) return step.value;
    } while (clock.monotonic() - beganAt < sliceMs);
    const leftAt = clock.monotonic();
    await nextTurn();
    if (!isWanted()) return undefined;
    sliceMs = Math.min(sliceMsMax, Math.max(sliceMsMin, clock.monotonic() - leftAt));
  }
}
