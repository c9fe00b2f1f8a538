import { type SealedMessages, type SealJob, startWorker } from '@sallyport/schema/platform';
import { ThreadPool, workerMemoryMiBMax } from '../thread-pool.ts';

/** The thread that captured messages are sealed in. There is one: they come one after the other. */
export class SealerPool {
  readonly #threads = new ThreadPool<SealJob, SealedMessages>({
    threadsMax: 1,
    start: () => startWorker(import.meta.url, 'seal-worker', workerMemoryMiBMax),
  });

  /** Rejects where the thread died, the time is up, or the pool is full or closed. The bytes of messages are given away. */
  seal(job: SealJob): Promise<SealedMessages> {
    const { messages } = job;
    return this.#threads.run(job, messages?.bytes.length ?? 0, messages === null ? [] : [messages.bytes.buffer]);
  }

  close(): Promise<void> {
    return this.#threads.close();
  }
}
