import { constants, type PerformanceEntry, PerformanceObserver } from 'node:perf_hooks';
import { setTimeout as delay } from 'node:timers/promises';

/** The longest rest while V8 marks: a node so busy that it does not get done with that still gets its configuration. */
const markingMsMax = 1_000;
const pollMs = 3;

/**
 * Whether V8 is marking what lives. It has to keep up with what is allocated meanwhile, and has the thread that allocates
 * help: what then receives and builds a configuration takes most of the time from requests.
 */
export class MarkingWatch {
  readonly #observer: PerformanceObserver;
  #beganAt: number | undefined;

  constructor() {
    this.#observer = new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) {
        const { detail } = entry as PerformanceEntry & { readonly detail: { readonly kind: number } };
        if (detail.kind === constants.NODE_PERFORMANCE_GC_INCREMENTAL) this.#beganAt = performance.now();
        else if (detail.kind === constants.NODE_PERFORMANCE_GC_MAJOR) this.#beganAt = undefined;
      }
    });
    this.#observer.observe({ entryTypes: ['gc'] });
  }

  get isOn(): boolean {
    return this.#beganAt !== undefined && performance.now() - this.#beganAt < markingMsMax;
  }

  /** Has nothing come from a source until it is over. */
  async holdBack(source: { readonly isPaused: boolean; pause(): void; resume(): void }): Promise<void> {
    if (!this.isOn || source.isPaused) return;
    source.pause();
    while (this.isOn) await delay(pollMs);
    source.resume();
  }

  stop(): void {
    this.#observer.disconnect();
  }
}
