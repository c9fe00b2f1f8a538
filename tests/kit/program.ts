import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { waitFor } from './condition.ts';
import { testConfig } from './config.ts';
import type { ClockMessage } from './moved-clock.ts';

/** Of the sources, or of what was built of them. */
const repository = import.meta.dirname.replace(/tests\/(dist\/)?kit$/, '');
const startDeadlineMs = 30_000;
const respawnDelayMs = 200;
const outputLengthMax = 100_000;

/** In the environment of a program whose clock is to be moved; the system's own, and PostgreSQL's, stay. */
export const movableClock = { NODE_OPTIONS: `--import=${join(repository, 'tests/dist/kit/moved-clock.js')}` };

/** A program that is started, killed and started again with the same environment; again also when it ends by itself. */
export class Program {
  readonly #script: string;
  readonly #environment: Readonly<Record<string, string>>;
  readonly #readyUrl: string;
  #child: ChildProcess | undefined;
  #wanted = false;
  #ready = false;
  /** Times it ended though it was ready and nobody had killed it. */
  readonly crashes: string[] = [];
  /** Of its last end; null where a signal ended it. */
  exitCode: number | null = null;
  /** What it wrote to stderr. */
  output = '';

  constructor(script: string, environment: Readonly<Record<string, string>>, readyUrl: string) {
    this.#script = script;
    this.#environment = environment;
    this.#readyUrl = readyUrl;
  }

  /** Undefined while it does not run. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** Starts it without waiting for it to be ready. */
  begin(): void {
    this.#wanted = true;
    this.#spawn();
  }

  async start(): Promise<void> {
    this.begin();
    await waitFor(`${this.#script} is ready`, async () => (await fetch(`${this.#readyUrl}/readyz`)).ok, {
      deadlineMs: startDeadlineMs,
      intervalMs: 50,
    });
    this.#ready = true;
  }

  /** Of one with `movableClock`, until it is started again: its time is so much ahead of the system's, in milliseconds. */
  async moveClock(aheadMs: number): Promise<void> {
    const child = this.#child;
    if (child === undefined) throw new Error(`${this.#script} does not run`);
    const { promise, resolve } = Promise.withResolvers<void>();
    const onMessage = (message: unknown): void => {
      if ((message as Partial<ClockMessage> | null)?.type === 'clockMoved') resolve();
    };
    child.on('message', onMessage);
    child.send({ type: 'moveClock', aheadMs } satisfies ClockMessage);
    await promise;
    child.off('message', onMessage);
  }

  /** A program that loses its database in the midst of its start ends, and whoever supervises it starts it again. */
  #spawn(): void {
    const child = spawn(process.execPath, [join(repository, this.#script)], {
      env: {
        // Of nodes, which else would all have the default pair of edges; no other program looks at it.
        SALLYPORT_HTTP_ENGINE: testConfig.httpEngine,
        ...this.#environment,
        SALLYPORT_LOG_LEVEL: testConfig.logLevel === 'silent' ? 'fatal' : testConfig.logLevel,
      },
      stdio: ['ignore', 'inherit', 'pipe', 'ipc'],
    });
    this.#child = child;
    child.stderr?.on('data', (chunk: Buffer) => {
      this.output = (this.output + chunk.toString()).slice(-outputLengthMax);
      if (testConfig.logLevel !== 'silent') process.stderr.write(chunk);
    });
    child.once('exit', (code, signal) => {
      if (!this.#wanted || this.#child !== child) return;
      if (this.#ready) this.crashes.push(`${this.#script} ended by itself with ${String(code ?? signal)}`);
      setTimeout(() => this.#wanted && this.#spawn(), respawnDelayMs);
    });
  }

  async end(signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
    this.#wanted = false;
    this.#ready = false;
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    child.kill(signal);
    await exited;
    this.exitCode = child.exitCode;
  }
}
