/** Calls of every kind, sent by a thread of their own. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import type { Latency } from './load.ts';

export interface MixedData {
  readonly nodeUrl: string;
  /** API keys of those who call. */
  readonly keys: readonly string[];
}

export type ToMixed =
  | { readonly type: 'capacity'; readonly seconds: number }
  | { readonly type: 'run'; readonly seconds: number; readonly requestsPerSecond: number };

export interface MixedRun {
  readonly latency: Latency;
  /** A few that came out otherwise than they should. */
  readonly wrong: readonly string[];
}

export type FromMixed = MixedRun | { readonly requestsPerSecond: number };

export class MixedLoad {
  readonly #worker: Worker;

  constructor(data: MixedData) {
    this.#worker = new Worker(new URL('./mixed-thread.js', import.meta.url), { workerData: data });
  }

  async capacity(seconds: number): Promise<number> {
    const found = await this.#ask({ type: 'capacity', seconds });
    return 'requestsPerSecond' in found ? found.requestsPerSecond : Number.NaN;
  }

  /** Resolves when the last one is answered. */
  async run(seconds: number, requestsPerSecond: number): Promise<MixedRun> {
    const found = await this.#ask({ type: 'run', seconds, requestsPerSecond });
    if ('latency' in found) return found;
    throw new Error('the load was not run');
  }

  async stop(): Promise<void> {
    await this.#worker.terminate();
  }

  async #ask(message: ToMixed): Promise<FromMixed> {
    const answered = once(this.#worker, 'message') as Promise<[FromMixed]>;
    this.#worker.postMessage(message);
    return (await answered)[0];
  }
}
