import type { Worker } from 'node:worker_threads';
import type { DetectionInput, DetectionResult } from '@sallyport/schema';
import { startWorker } from '@sallyport/schema/platform';

const workerMemoryMiBMax = 256;
/** Looks that wait for a thread, and the text they hold, in UTF-16 units. */
const waitingMax = 64;
const waitingLengthMax = 16 * 1_048_576;
/** For one look, the start of a thread included, in milliseconds: many times what the longest text takes. */
const lookTimeoutMs = 10_000;

interface Job {
  readonly input: DetectionInput;
  readonly length: number;
  readonly resolve: (result: DetectionResult) => void;
  readonly reject: (error: Error) => void;
  readonly deadline: NodeJS.Timeout;
}

export interface DetectorPoolOptions {
  readonly threadsMax: number;
  readonly timeoutMs?: number;
  /** Starts a thread that answers each `DetectionInput` with a `DetectionResult`. */
  readonly start?: () => Worker;
}

/**
 * Threads that look at long texts. Started when first needed; one that dies or takes too long is replaced. Bounded: what
 * finds no place is refused at once, and whoever asked treats it as not inspected.
 */
export class DetectorPool {
  readonly #threadsMax: number;
  readonly #timeoutMs: number;
  readonly #start: () => Worker;
  readonly #idle: Worker[] = [];
  readonly #busy = new Map<Worker, Job>();
  readonly #waiting: Job[] = [];
  #waitingLength = 0;
  #closed = false;

  constructor({ threadsMax, timeoutMs = lookTimeoutMs, start }: DetectorPoolOptions) {
    this.#threadsMax = threadsMax;
    this.#timeoutMs = timeoutMs;
    this.#start = start ?? (() => startWorker(import.meta.url, 'detect-worker', workerMemoryMiBMax));
  }

  /** Rejects where the pool is full or closed, the thread died, or the time is up. */
  detect(input: DetectionInput): Promise<DetectionResult> {
    const length = input.texts.reduce((sum, { text }) => sum + text.length, 0);
    if (this.#closed || this.#waiting.length >= waitingMax || this.#waitingLength + length > waitingLengthMax) {
      return Promise.reject(new Error('no thread is free to inspect a text'));
    }
    const { promise, resolve, reject } = Promise.withResolvers<DetectionResult>();
    const job: Job = {
      input,
      length,
      resolve,
      reject,
      deadline: setTimeout(() => this.#overdue(job), this.#timeoutMs),
    };
    this.#waiting.push(job);
    this.#waitingLength += length;
    this.#assign();
    return promise;
  }

  async close(): Promise<void> {
    this.#closed = true;
    for (const job of this.#waiting.splice(0)) this.#fail(job, 'the node stops');
    for (const job of this.#busy.values()) this.#fail(job, 'the node stops');
    const threads = [...this.#idle.splice(0), ...this.#busy.keys()];
    this.#busy.clear();
    await Promise.all(threads.map((thread) => thread.terminate()));
  }

  #assign(): void {
    while (this.#waiting.length > 0) {
      const thread = this.#idle.pop() ?? (this.#busy.size < this.#threadsMax ? this.#open() : undefined);
      if (thread === undefined) return;
      const job = this.#waiting.shift();
      if (job === undefined) return;
      this.#waitingLength -= job.length;
      this.#busy.set(thread, job);
      thread.postMessage(job.input);
    }
  }

  #open(): Worker {
    const thread = this.#start();
    thread.on('message', (result: DetectionResult) => {
      const job = this.#busy.get(thread);
      if (job === undefined) return;
      this.#busy.delete(thread);
      this.#idle.push(thread);
      clearTimeout(job.deadline);
      job.resolve(result);
      this.#assign();
    });
    thread.on('error', () => this.#lost(thread));
    thread.on('exit', () => this.#lost(thread));
    return thread;
  }

  #lost(thread: Worker): void {
    const at = this.#idle.indexOf(thread);
    if (at >= 0) this.#idle.splice(at, 1);
    const job = this.#busy.get(thread);
    if (job === undefined) return;
    this.#busy.delete(thread);
    this.#fail(job, 'the thread ended');
    this.#assign();
  }

  #overdue(job: Job): void {
    const at = this.#waiting.indexOf(job);
    if (at >= 0) {
      this.#waiting.splice(at, 1);
      this.#waitingLength -= job.length;
      this.#fail(job, 'no thread was free in time');
      return;
    }
    const thread = [...this.#busy].find(([, busy]) => busy === job)?.[0];
    if (thread === undefined) return;
    this.#busy.delete(thread);
    this.#fail(job, 'the look took too long');
    void thread.terminate();
    this.#assign();
  }

  #fail(job: Job, reason: string): void {
    clearTimeout(job.deadline);
    job.reject(new Error(`a text was not inspected: ${reason}`));
  }
}
