import { type AddressInfo, createServer, type ListenOptions } from 'node:net';
import { type Clock, type Log, type Readiness, startOperationsServer } from '@sallyport/schema/platform';
import { Gauge, Registry } from 'prom-client';
import type { NodeConfig } from '../config.ts';
import { mergeMetrics } from './merge-metrics.ts';
import { forgetWorker, retiredWorkers } from './worker-config.ts';
import { WorkerProcess } from './worker-process.ts';

export interface SupervisorOptions {
  /** The program that runs a worker when it is given `--worker`. */
  readonly program: string;
  readonly clock: Clock;
  readonly log: Log;
}

/** What all workers tell of themselves, and who of them runs. */
class WorkersRegistry extends Registry {
  readonly #workers: readonly WorkerProcess[];
  readonly #up: Gauge<'worker'>;
  readonly #restarts: Gauge<'worker'>;

  constructor(workers: readonly WorkerProcess[]) {
    super();
    this.#workers = workers;
    const labelled = { labelNames: ['worker'] as const, registers: [this] };
    this.#up = new Gauge({ ...labelled, name: 'sallyport_worker_up', help: 'Whether the worker answers.' });
    this.#restarts = new Gauge({
      ...labelled,
      name: 'sallyport_worker_restarts',
      help: 'How often the worker ended by itself and was started again.',
    });
  }

  override async metrics(): Promise<string> {
    const texts = await Promise.all(
      this.#workers.map(async (one) => {
        const answer = await one.ask('metrics');
        const worker = String(one.worker);
        this.#up.set({ worker }, answer === undefined ? 0 : 1);
        this.#restarts.set({ worker }, one.restarts);
        return answer?.about === 'metrics' ? answer.text : '';
      }),
    );
    return mergeMetrics([await super.metrics(), ...texts]);
  }
}

/**
 * Several workers that share one port (SO_REUSEPORT: the system spreads connections over them, and no traffic passes
 * here), each a whole node to the control plane. One that ends is started again. Ready means that every one is: a
 * balancer cannot choose among them, so a connection may meet any.
 */
export class Supervisor {
  readonly #config: NodeConfig;
  readonly #options: SupervisorOptions;
  readonly #workers: WorkerProcess[] = [];
  readonly #retiring: WorkerProcess[] = [];
  #isDraining = false;
  #operations: { readonly url: string; close(): Promise<void> } | undefined;

  constructor(config: NodeConfig, options: SupervisorOptions) {
    this.#config = config;
    this.#options = options;
  }

  get operationsUrl(): string {
    return this.#operations?.url ?? '';
  }

  /** @returns the port that the workers share. @throws Error where the port is taken or cannot be shared */
  async start(): Promise<number> {
    const { workers: count, operations, listen } = this.#config;
    const port = await sharedPort(listen);
    for (let worker = 1; worker <= count; worker++) {
      this.#workers.push(this.#process(worker, [`--port=${port}`], () => true));
    }
    for (const worker of retiredWorkers(this.#config)) this.#retire(worker);
    this.#operations = await startOperationsServer({
      ...operations,
      registry: new WorkersRegistry(this.#workers),
      ready: () => this.#readiness(),
    });
    for (const worker of [...this.#workers, ...this.#retiring]) worker.start();
    return port;
  }

  /** Drains every worker. @returns whether all stopped cleanly */
  async stop(): Promise<boolean> {
    this.#isDraining = true;
    const clean = await Promise.all([...this.#workers, ...this.#retiring].map((worker) => worker.stop()));
    await this.#operations?.close();
    return clean.every(Boolean);
  }

  #process(worker: number, args: readonly string[], onEnded: (code: number | null) => boolean): WorkerProcess {
    const { drainTimeoutMs } = this.#config;
    return new WorkerProcess({ ...this.#options, worker, args, drainTimeoutMs, onEnded });
  }

  /** Its spool may hold what nobody has yet: it runs, uncalled, until that is stored, and is forgotten then. */
  #retire(worker: number): void {
    const { log } = this.#options;
    log.warn({ worker }, 'there are fewer workers than before: this one brings its audit spool home');
    const retiring = this.#process(worker, ['--retire'], (code) => {
      if (code !== 0) return true;
      if (forgetWorker(this.#config.dataDirectory, worker)) {
        log.info({ worker }, 'the audit spool of a worker that is gone is stored');
      } else log.error({ worker }, 'a part of the audit spool of a worker that is gone cannot be read, and stays');
      return false;
    });
    this.#retiring.push(retiring);
  }

  async #readiness(): Promise<Readiness> {
    const answers = await Promise.all(this.#workers.map((worker) => worker.ask('readiness')));
    const reasons = answers.flatMap((answer, at) => {
      const of = answer?.about === 'readiness' ? answer.readiness.reasons : ['does not answer'];
      return of.map((reason) => `worker ${at + 1}: ${reason}`);
    });
    if (this.#isDraining) reasons.unshift('draining');
    return { ready: reasons.length === 0, reasons };
  }
}

/**
 * The port, once it is certain that nobody else has it: where ports are shared, a second program of the same user would
 * get a part of the connections without anybody noticing.
 */
async function sharedPort({ host, port }: NodeConfig['listen']): Promise<number> {
  const free = await listenOnce({ host, port, exclusive: true });
  try {
    return await listenOnce({ host, port: free, reusePort: true });
  } catch (error) {
    throw new Error('SALLYPORT_WORKERS: this system does not let several processes share a port', { cause: error });
  }
}

function listenOnce(options: ListenOptions): Promise<number> {
  const server = createServer();
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(options, () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(port));
    });
  });
}
