import type { DetectionInput, DetectionResult } from '@sallyport/schema';
import { startWorker } from '@sallyport/schema/platform';
import { ThreadPool, type ThreadPoolOptions, workerMemoryMiBMax } from '../thread-pool.ts';

export interface DetectorPoolOptions extends Omit<ThreadPoolOptions, 'start'> {
  /** Starts a thread that answers each `DetectionInput` with a `DetectionResult`. */
  readonly start?: ThreadPoolOptions['start'];
}

/** Threads that look at long texts. Whoever asked treats what is refused as not inspected. */
export class DetectorPool {
  readonly #threads: ThreadPool<DetectionInput, DetectionResult>;

  constructor({
    start = () => startWorker(import.meta.url, 'detect-worker', workerMemoryMiBMax),
    ...options
  }: DetectorPoolOptions) {
    this.#threads = new ThreadPool({ ...options, start });
  }

  /** Rejects where the pool is full or closed, the thread died, or the time is up. */
  detect(input: DetectionInput): Promise<DetectionResult> {
    const length = input.texts.reduce((sum, { text }) => sum + text.length, 0);
    return this.#threads.run(input, length);
  }

  close(): Promise<void> {
    return this.#threads.close();
  }
}
