import type { Worker } from 'node:worker_threads';
import type { DefinitionFinding } from '@sallyport/schema';
import { startWorker } from '@sallyport/schema/platform';

/** One definition is of 256 KiB at most; this is many times what the largest takes, in milliseconds. */
const scanTimeoutMs = 10_000;
const workerMemoryMiBMax = 256;

/** What a scan that did not end says: unknown is not harmless. */
const notScanned: DefinitionFinding = {
  detector: 'scan',
  category: 'notScanned',
  severity: 'high',
  path: '',
  start: 0,
  end: 0,
};

type Definition = Readonly<Record<string, unknown>>;

/** Scans definitions in a thread of its own, one after the other. */
export class DefinitionScanner {
  private readonly timeoutMs: number;
  private worker: Worker | undefined;
  private queue: Promise<unknown> = Promise.resolve();

  constructor(timeoutMs: number = scanTimeoutMs) {
    this.timeoutMs = timeoutMs;
  }

  /** Never rejects: a definition whose scan fails or takes too long has a finding that says so. */
  scan(raw: Definition): Promise<readonly DefinitionFinding[]> {
    const result = this.queue.then(() => this.run(raw));
    this.queue = result;
    return result;
  }

  async stop(): Promise<void> {
    const { worker } = this;
    this.worker = undefined;
    await worker?.terminate();
  }

  private async run(raw: Definition): Promise<readonly DefinitionFinding[]> {
    const worker = (this.worker ??= startWorker(import.meta.url, 'scan-worker', workerMemoryMiBMax));
    const { promise, resolve } = Promise.withResolvers<readonly DefinitionFinding[]>();
    const fail = (): void => resolve([notScanned]);
    const deadline = setTimeout(fail, this.timeoutMs);
    worker.on('message', resolve).on('error', fail).on('exit', fail);
    worker.postMessage(raw);
    const findings = await promise;
    clearTimeout(deadline);
    worker.off('message', resolve).off('error', fail).off('exit', fail);
    if (findings[0] === notScanned) {
      this.worker = undefined;
      await worker.terminate();
    }
    return findings;
  }
}
