import type { Worker } from 'node:worker_threads';
import type { DefinitionFinding } from '@sallyport/schema';
import { startWorker } from '@sallyport/schema/platform';

/** One definition is of 256 KiB at most; this is many times what the largest takes, in milliseconds. */
const scanTimeoutMs = 10_000;
const workerMemoryMiBMax = 256;

/** What a scan that did not end says: unknown is not harmless. */
export const notScanned: DefinitionFinding = {
  detector: 'scan',
  category: 'notScanned',
  severity: 'high',
  path: '',
  start: 0,
  end: 0,
};

/** What one scan looks at. */
export interface ScanJob {
  readonly raw: Readonly<Record<string, unknown>>;
  /** Keys of tools of other servers that it may speak of. */
  readonly foreign: readonly string[];
  /** Whether its own words were scanned before, and only those about other tools are looked at. */
  readonly isKnown: boolean;
}

/** Whether a scan did not end, so that nothing is known of what it was to look at. */
export function isNotScanned(findings: readonly DefinitionFinding[]): boolean {
  return findings.some(({ detector }) => detector === notScanned.detector);
}

/** Scans definitions in a thread of its own, one after the other. */
export class DefinitionScanner {
  private readonly timeoutMs: number;
  private worker: Worker | undefined;
  private queue: Promise<unknown> = Promise.resolve();

  constructor(timeoutMs: number = scanTimeoutMs) {
    this.timeoutMs = timeoutMs;
  }

  /** Never rejects: a definition whose scan fails or takes too long has a finding that says so. */
  scan(job: ScanJob): Promise<readonly DefinitionFinding[]> {
    const result = this.queue.then(() => this.run(job));
    this.queue = result;
    return result;
  }

  async stop(): Promise<void> {
    const { worker } = this;
    this.worker = undefined;
    await worker?.terminate();
  }

  private async run(job: ScanJob): Promise<readonly DefinitionFinding[]> {
    const worker = (this.worker ??= startWorker(import.meta.url, 'scan-worker', workerMemoryMiBMax));
    const { promise, resolve } = Promise.withResolvers<readonly DefinitionFinding[]>();
    const fail = (): void => resolve([notScanned]);
    const deadline = setTimeout(fail, this.timeoutMs);
    worker.on('message', resolve).on('error', fail).on('exit', fail);
    worker.postMessage(job);
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
