import type { Worker } from 'node:worker_threads';

/** Of one thread. */
export const workerMemoryMiBMax = 256;
/** Jobs that wait for a thread, and what they hold together, in UTF-16 units or bytes. */
const waitingMax = 64;
const waitingLengthMax = 16 * 1_048_576;
/** For one job, the start of a thread included, in milliseconds: many times what the longest text takes. */
const jobTimeoutMs = 10_000;

interface Job<Input, Result> {
  readonly input: Input;
  readonly length: number;
  readonly transferred: readonly ArrayBuffer[];
  readonly resolve: (result: Result) => void;
  readonly reject: (error: Error) => void;
  readonly deadline: NodeJS.Timeout;
}

export interface ThreadPoolOptions {
  readonly threadsMax: number;
  readonly timeoutMs?: number | undefined;
  /** Starts a thread that answers each input with a result. */
  readonly start: () => Worker;
}

/**
 * Threads for what would hold up the event loop. Started when first needed; one that dies or takes too long is replaced.
 * Bounded: what finds no place is refused at once.
 */
export class ThreadPool<Input, Result> {
  readonly #threadsMax: number;
  readonly #timeoutMs: number;
  readonly #start: () => Worker;
  readonly #idle: Worker[] = [];
  readonly #busy = new Map<Worker, Job<Input, Result>>();
  readonly #waiting: Job<Input, Result>[] = [];
  #waitingLength = 0;
  #closed = false;

  constructor({ threadsMax, timeoutMs = jobTimeoutMs, start }: ThreadPoolOptions) {
    this.#threadsMax = threadsMax;
    this.#timeoutMs = timeoutMs;
    this.#start = start;
  }

  /**
   * Rejects where the pool is full or closed, the thread died, or the time is up.
   * @param length of what is in it, for the bound on what waits
   * @param transferred of the input, what nobody here uses any more
   */
  run(input: Input, length: number, transferred: readonly ArrayBuffer[] = []): Promise<Result> {
    if (this.#closed || this.#waiting.length >= waitingMax || this.#waitingLength + length > waitingLengthMax) {
      return Promise.reject(new Error('no thread is free'));
    }
    const { promise, resolve, reject } = Promise.withResolvers<Result>();
    const job: Job<Input, Result> = {
      input,
      length,
      transferred,
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
      if (this.#idle.length === 0 && this.#busy.size >= this.#threadsMax) return;
      const job = this.#waiting.shift();
      if (job === undefined) return;
      this.#waitingLength -= job.length;
      try {
        this.#give(job, this.#idle.pop() ?? this.#open());
      } catch (error) {
        // Also where the system has no room for a thread.
        this.#fail(job, String(error));
      }
    }
  }

  #give(job: Job<Input, Result>, thread: Worker): void {
    try {
      thread.postMessage(job.input, [...job.transferred]);
    } catch (error) {
      this.#idle.push(thread);
      throw error;
    }
    this.#busy.set(thread, job);
  }

  #open(): Worker {
    const thread = this.#start();
    thread.on('message', (result: Result) => {
      const job = this.#busy.get(thread);
      if (job === undefined) return;
      this.#busy.delete(thread);
      this.#idle.push(thread);
      clearTimeout(job.deadline);
      job.resolve(result);
      this.#assign();
    });
    thread.on('error', (error) => this.#lost(thread, `the thread ended: ${String(error)}`));
    thread.on('exit', () => this.#lost(thread, 'the thread ended'));
    // Whoever listens to it keeps the process, which may end while it idles.
    thread.unref();
    return thread;
  }

  #lost(thread: Worker, reason: string): void {
    const at = this.#idle.indexOf(thread);
    if (at >= 0) this.#idle.splice(at, 1);
    const job = this.#busy.get(thread);
    if (job === undefined) return;
    this.#busy.delete(thread);
    this.#fail(job, reason);
    this.#assign();
  }

  #overdue(job: Job<Input, Result>): void {
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
    this.#fail(job, 'it took too long');
    void thread.terminate();
    this.#assign();
  }

  #fail(job: Job<Input, Result>, reason: string): void {
    clearTimeout(job.deadline);
    job.reject(new Error(`a thread did not do its work: ${reason}`));
  }
}
