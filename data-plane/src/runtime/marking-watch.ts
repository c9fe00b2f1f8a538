import { constants, type PerformanceEntry, PerformanceObserver } from 'node:perf_hooks';
import { setTimeout as delay } from 'node:timers/promises';
import type { Clock } from '@sallyport/schema/platform';

/** What can be stopped for a while: a connection that is read. */
export interface PausableSource {
  readonly isPaused: boolean;
  pause(): void;
  resume(): void;
}

/** The longest rest while V8 marks, in milliseconds: a node so busy that it does not get done with that goes on. */
const markingMsMax = 1_000;
const pollMs = 3;

/**
 * Whether V8 is marking what lives. It has to keep up with what is allocated meanwhile, and has the thread that allocates
 * help: what then receives and builds a configuration takes most of the time from requests. Never on for more than half of
 * the time, so that whoever waits for it gets done however often V8 marks.
 */
export class MarkingWatch {
  readonly #clock: Pick<Clock, 'monotonic'>;
  readonly #observer: PerformanceObserver;
  #beganAt: number | undefined;
  /** Markings that begin before are let pass. */
  #nextFrom = 0;

  constructor(clock: Pick<Clock, 'monotonic'>) {
    this.#clock = clock;
    this.#observer = new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) {
        const { detail } = entry as PerformanceEntry & { readonly detail: { readonly kind: number } };
        if (detail.kind === constants.NODE_PERFORMANCE_GC_INCREMENTAL) this.#begin();
        else if (detail.kind === constants.NODE_PERFORMANCE_GC_MAJOR) this.#end();
      }
    });
    this.#observer.observe({ entryTypes: ['gc'] });
  }

  get isOn(): boolean {
    if (this.#beganAt !== undefined && this.#clock.monotonic() - this.#beganAt >= markingMsMax) this.#end();
    return this.#beganAt !== undefined;
  }

  #begin(): void {
    this.#end();
    const now = this.#clock.monotonic();
    if (now >= this.#nextFrom) this.#beganAt = now;
  }

  #end(): void {
    if (this.#beganAt === undefined) return;
    const now = this.#clock.monotonic();
    this.#nextFrom = now + (now - this.#beganAt);
    this.#beganAt = undefined;
  }

  /** Has nothing come from a source until it is over. */
  async holdBack(source: PausableSource): Promise<void> {
    if (!this.isOn || source.isPaused) return;
    source.pause();
    while (this.isOn) await delay(pollMs);
    source.resume();
  }

  stop(): void {
    this.#observer.disconnect();
    this.#beganAt = undefined;
  }
}
