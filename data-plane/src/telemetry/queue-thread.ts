import { type Log, type QueueBackend, type QueueProducer, startWorker } from '@sallyport/schema/platform';
import { ThreadPool, workerMemoryMiBMax } from '../thread-pool.ts';

/** For one job, the start of the thread and the patience of a queue included, in milliseconds. */
const jobTimeoutMs = 30_000;

/** What the thread is asked to do with a queue; `close` is for one that something was added to. */
export type QueueJob =
  | {
      readonly kind: 'add';
      readonly queue: string;
      readonly jobId: string;
      readonly data: object;
      readonly lines: Buffer | undefined;
    }
  | { readonly kind: 'close'; readonly queue: string };

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
  readonly #used = new Set<string>();

  constructor(data: QueueThreadData, log: Log) {
    this.#threads = new ThreadPool({
      threadsMax: 1,
      timeoutMs: jobTimeoutMs,
      start: () =>
        startWorker(import.meta.url, 'queue-worker', workerMemoryMiBMax, data).on('error', (error) =>
          log.error({ err: error }, 'the thread of the queues ended; the next batch starts another'),
        ),
    });
  }

  producer(queue: string): QueueProducer {
    return {
      add: (jobId, data, lines) => {
        this.#used.add(queue);
        return this.#run({ kind: 'add', queue, jobId, data, lines }, lines);
      },
      close: async () => {
        if (this.#used.delete(queue)) await this.#run({ kind: 'close', queue });
      },
    };
  }

  /** To be called when its producers are closed. */
  close(): Promise<void> {
    return this.#threads.close();
  }

  async #run(job: QueueJob, lines?: Buffer): Promise<void> {
    const given = lines?.buffer instanceof ArrayBuffer ? [lines.buffer] : [];
    const problem = await this.#threads.run(job, lines?.length ?? 0, given);
    if (problem !== null) throw new Error(problem);
  }
}
