import { isMarkedAsUntransferable } from 'node:worker_threads';
import { type Log, type QueueBackend, type QueueProducer, startWorker } from '@sallyport/schema/platform';
import { ThreadPool, workerMemoryMiBMax } from '../thread-pool.ts';

/** For one job, the start of the thread and the patience of a queue included, in milliseconds. */
const jobTimeoutMs = 30_000;

/** For all producers to close, in milliseconds; then they end with the thread. */
const closeTimeoutMs = 3_000;

/** What the thread is asked: to add to a queue, or to close all that it has opened. */
export type QueueJob =
  | {
      readonly kind: 'add';
      readonly queue: string;
      readonly jobId: string;
      readonly data: object;
      readonly lines: Buffer | undefined;
    }
  | { readonly kind: 'close' };

/** Null: it is done. */
export type QueueProblem = string | null;

/** What the thread runs with. */
export interface QueueThreadData {
  readonly backend: QueueBackend;
  readonly logLevel: string;
}

/**
 * The thread in which a node speaks to its queues. What it ships is as much as all that its calls bring: to make JSON of it
 * and to send it beside the calls costs them a fifth of a core (decision 0136).
 */
export class QueueThread {
  readonly #threads: ThreadPool<QueueJob, QueueProblem>;
  readonly #log: Log;
  #isUsed = false;
  #isBroken = false;

  constructor(data: QueueThreadData, log: Log) {
    this.#log = log;
    this.#threads = new ThreadPool({
      threadsMax: 1,
      timeoutMs: jobTimeoutMs,
      start: () => startWorker(import.meta.url, 'queue-worker', workerMemoryMiBMax, data),
    });
  }

  producer(queue: string): QueueProducer {
    return {
      add: (jobId, data, lines) => {
        this.#isUsed = true;
        return this.#run({ kind: 'add', queue, jobId, data, lines }, lines);
      },
      // All are closed with the thread: of a backend that is away each would wait for its own time.
      close: () => Promise.resolve(),
    };
  }

  /** To be called when nothing is added any more. */
  async close(): Promise<void> {
    const patience = setTimeout(() => void this.#threads.close(), closeTimeoutMs);
    // What does not close in time ends with the thread: nothing to tell anybody.
    if (this.#isUsed) await this.#threads.run({ kind: 'close' }, 0).catch(() => undefined);
    clearTimeout(patience);
    await this.#threads.close();
  }

  async #run(job: QueueJob, lines?: Buffer): Promise<void> {
    const bytes = lines?.buffer;
    // Small ones may share their bytes with others, and are copied.
    const given = bytes instanceof ArrayBuffer && !isMarkedAsUntransferable(bytes) ? [bytes] : [];
    const problem = await this.#threads.run(job, lines?.length ?? 0, given).catch((error: unknown) => {
      // Once, and not with every batch that waits for it.
      if (!this.#isBroken) this.#log.error({ err: error }, 'the thread of the queues fails; what is shipped waits');
      this.#isBroken = true;
      throw error;
    });
    this.#isBroken = false;
    if (problem !== null) throw new Error(problem);
  }
}
