import { setTimeout as delay } from 'node:timers/promises';
import type { Arrival } from '../kit/echo-upstream.ts';

/** How often a runtime is called on behalf of a victim, in milliseconds: the resolution of the measurement. */
export const callIntervalMs = 10;
/** So many refusals in a row mean that it is over. */
const refusalsInARow = 15;
const deadlineMs = 10_000;

/** One runtime, as one victim uses it. */
export interface Watched {
  readonly runtime: string;
  /** Shared instant of the last call that went through; undefined where none did. */
  readonly lastAdmittedAt: number | undefined;
}

/**
 * Calls one runtime again and again. `admitted` resolves after the first call that went through; `refused` when, after
 * `settle`, nothing has gone through for a while, or the deadline has passed. What counts as having gone through is what
 * went with the same credential as the first call did, so that one that is taken away ends it, too.
 */
export class Watch {
  readonly admitted: Promise<void>;
  readonly refused: Promise<Watched>;
  #settling = false;

  /** @param call undefined where it was refused */
  constructor(runtime: string, call: () => Promise<Arrival | undefined>) {
    const admitted = Promise.withResolvers<void>();
    this.admitted = admitted.promise;
    this.refused = this.#run(runtime, call, admitted.resolve);
    // Seen by whoever waits for the end.
    this.refused.catch(() => undefined);
  }

  /** From now on a while of refusals is the end. */
  settle(): void {
    this.#settling = true;
  }

  async #run(runtime: string, call: () => Promise<Arrival | undefined>, admitted: () => void): Promise<Watched> {
    let first: Arrival | undefined;
    let lastAdmittedAt: number | undefined;
    let refusals = 0;
    let settledAt: number | undefined;
    for (;;) {
      const arrival = await call();
      first ??= arrival;
      if (arrival === undefined || arrival.authorization !== first?.authorization) refusals++;
      else {
        refusals = 0;
        lastAdmittedAt = arrival.at;
        admitted();
      }
      if (this.#settling) settledAt ??= performance.now();
      else refusals = 0;
      if (refusals >= refusalsInARow) return { runtime, lastAdmittedAt };
      if (settledAt !== undefined && performance.now() - settledAt > deadlineMs) {
        throw new Error(`${runtime} still admits calls ${deadlineMs} ms after the revocation`);
      }
      await delay(callIntervalMs);
    }
  }
}
