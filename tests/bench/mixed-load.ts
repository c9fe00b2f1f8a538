/** Calls of every kind, sent by a thread of their own. */
import { Worker } from 'node:worker_threads';
import type { Latency } from './load.ts';
import { ask } from './thread.ts';

export interface MixedData {
  readonly nodeUrl: string;
  /** API keys of those who call. */
  readonly keys: readonly string[];
}

/** Answered with calls a second, and with a `MixedRun`. */
export type ToMixed =
  | { readonly type: 'capacity'; readonly seconds: number }
  | { readonly type: 'run'; readonly seconds: number; readonly requestsPerSecond: number };

export interface MixedRun {
  readonly latency: Latency;
  /** A few that came out otherwise than they should. */
  readonly wrong: readonly string[];
}

export class MixedLoad {
  readonly #worker: Worker;

  constructor(data: MixedData) {
    this.#worker = new Worker(new URL('./mixed-thread.js', import.meta.url), { workerData: data });
  }

  capacity(seconds: number): Promise<number> {
    return ask<number>(this.#worker, { type: 'capacity', seconds } satisfies ToMixed);
  }

  /** Resolves when the last one is answered. */
  run(seconds: number, requestsPerSecond: number): Promise<MixedRun> {
    return ask<MixedRun>(this.#worker, { type: 'run', seconds, requestsPerSecond } satisfies ToMixed);
  }

  async stop(): Promise<void> {
    await this.#worker.terminate();
  }
}
