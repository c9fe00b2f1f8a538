import { contactLostAfterMs } from '@sallyport/schema';
import type { Clock } from '@sallyport/schema/platform';
import { type BootTime, readBootTime } from './boot-time.ts';
import type { BuiltConfiguration } from './build-runtime.ts';
import type { Runtime, ServerRuntime } from './runtime.ts';

/** A local clock this little behind the saved time is a slewed one, not one that was set back. */
const clockSetBackToleranceMs = 1_000;

/** What survives a restart of the node's knowledge of time. */
export interface SavedContact {
  /** The control plane's time at the last contact, in milliseconds since the epoch. */
  readonly controlPlaneTimeMs: number;
  /** How long ago that was when this was written. */
  readonly ageMs: number;
  /** The local wall clock when this was written. */
  readonly localTimeMs: number;
  /** When this was written, by the clock that nobody sets; null where there is none. */
  readonly bootTime: BootTime | null;
}

export type SwapListener = (runtime: Runtime, before: Runtime | undefined) => void;

/**
 * Holds the one reference to the running configuration, and what the node knows of the control plane's time.
 * Time is counted by the monotonic clock from the last contact, so that changing the local clock of a running node
 * changes nothing.
 */
export class RuntimeStore {
  readonly #clock: Clock;
  readonly #listeners = new Set<SwapListener>();
  #built: BuiltConfiguration | undefined;
  #attached = false;
  /** Control plane time and contact age at the monotonic instant `at`. */
  #reference: { readonly at: number; readonly timeMs: number; readonly ageMs: number } | undefined;

  readonly #bootTime: () => BootTime | null;

  constructor(options: { readonly clock: Clock; readonly bootTime?: () => BootTime | null }) {
    this.#clock = options.clock;
    this.#bootTime = options.bootTime ?? readBootTime;
  }

  /** The running configuration; undefined until the first one is applied or loaded. Pin it once per request. */
  get current(): Runtime | undefined {
    return this.#built?.runtime;
  }

  get built(): BuiltConfiguration | undefined {
    return this.#built;
  }

  /** Whether the control plane was heard within the last 5 s over a socket that is open. */
  get connected(): boolean {
    return this.#attached && this.contactAgeMs() <= contactLostAfterMs;
  }

  /** Replaces the running configuration; listeners run before this returns and must not throw. */
  swap(built: BuiltConfiguration): void {
    const before = this.#built?.runtime;
    this.#built = built;
    for (const listener of this.#listeners) listener(built.runtime, before);
  }

  /** Called on each swap; the result unsubscribes. */
  onSwap(listener: SwapListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** The control plane's time, estimated, in milliseconds since the epoch; the local clock where nothing is known. */
  now(): number {
    const reference = this.#reference;
    if (reference === undefined) return this.#clock.now();
    return Math.round(reference.timeMs + this.#clock.monotonic() - reference.at);
  }

  /** Milliseconds since the control plane was last heard, across restarts; Infinity where that is unknown. */
  contactAgeMs(): number {
    const reference = this.#reference;
    if (reference === undefined) return Number.POSITIVE_INFINITY;
    return reference.ageMs + this.#clock.monotonic() - reference.at;
  }

  /** Whether the node has been without contact for longer than the server (or, without one, the fleet) allows. */
  isStale(runtime: Runtime, server?: ServerRuntime): boolean {
    const fleetMs = runtime.limits.configStalenessMaxMs;
    return this.contactAgeMs() > (server?.document.configStalenessMaxMs ?? fleetMs);
  }

  /** The control plane was heard, and said what time it is. */
  contact(controlPlaneTimeMs: number): void {
    this.#attached = true;
    this.#reference = { at: this.#clock.monotonic(), timeMs: controlPlaneTimeMs, ageMs: 0 };
  }

  /** The socket is gone; the age goes on counting. */
  detach(): void {
    this.#attached = false;
  }

  /** What to write to disk, or undefined before the first contact. */
  save(): SavedContact | undefined {
    const reference = this.#reference;
    const ageMs = this.contactAgeMs();
    if (reference === undefined || !Number.isFinite(ageMs)) return undefined;
    return {
      controlPlaneTimeMs: Math.round(this.now() - ageMs),
      ageMs: Math.ceil(ageMs),
      localTimeMs: this.#clock.now(),
      bootTime: this.#bootTime(),
    };
  }

  /**
   * Takes up what an earlier process wrote. A local clock that was set back since makes the age maximal; one that was
   * set back by less than the process was away is found out by how long the machine has been running.
   */
  restore(saved: SavedContact): void {
    const sinceMs = this.#clock.now() - saved.localTimeMs;
    const setBack = sinceMs < -clockSetBackToleranceMs;
    const ageMs = saved.ageMs + Math.max(0, sinceMs, this.#bootedSinceMs(saved));
    this.#reference = {
      at: this.#clock.monotonic(),
      timeMs: saved.controlPlaneTimeMs + ageMs,
      ageMs: setBack ? Number.POSITIVE_INFINITY : ageMs,
    };
  }

  /** Time since the contact was saved, where the machine was not started again meanwhile. */
  #bootedSinceMs({ bootTime }: SavedContact): number {
    const now = this.#bootTime();
    return bootTime === null || now?.bootId !== bootTime.bootId ? 0 : now.elapsedMs - bootTime.elapsedMs;
  }
}
