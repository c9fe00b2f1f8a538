import { type ChildProcess, fork } from 'node:child_process';
import type { Clock, Log, Readiness } from '@sallyport/schema/platform';
import { withV8Options } from '../v8-options.ts';

const restartDelayMsMin = 200;
const restartDelayMsMax = 10_000;
/** Who ran for this long is not in a crash loop: the next end counts as the first again. */
const stableAfterMs = 60_000;
const answerTimeoutMs = 5_000;
/** What a worker that is asked to stop gets besides its own drain time, in milliseconds. */
const stopGraceMs = 10_000;

/** What the supervisor asks a worker. */
export interface Question {
  readonly id: number;
  readonly about: 'readiness' | 'metrics';
}

export type Answer =
  | { readonly id: number; readonly about: 'readiness'; readonly readiness: Readiness }
  | { readonly id: number; readonly about: 'metrics'; readonly text: string };

export interface WorkerProcessOptions {
  readonly worker: number;
  /** Of the program, besides the number of the worker. */
  readonly args: readonly string[];
  readonly program: string;
  readonly drainTimeoutMs: number;
  readonly clock: Clock;
  readonly log: Log;
  /** It ended though nobody had asked it to. @returns whether it is to be started again */
  readonly onEnded: (code: number | null) => boolean;
}

/** One worker, started again whenever it ends, until it is stopped. */
export class WorkerProcess {
  readonly #options: WorkerProcessOptions;
  #child: ChildProcess | undefined;
  #restart: NodeJS.Timeout | undefined;
  #startedAt = 0;
  #failures = 0;
  #stopping = false;
  #asked = 0;
  readonly #waiting = new Map<number, (answer: Answer) => void>();
  /** Times it was started again. */
  restarts = 0;

  constructor(options: WorkerProcessOptions) {
    this.#options = options;
  }

  get worker(): number {
    return this.#options.worker;
  }

  start(): void {
    const { program, args, worker, clock, log } = this.#options;
    this.#startedAt = clock.monotonic();
    let child: ChildProcess;
    try {
      child = fork(program, [`--worker=${worker}`, ...args], {
        execArgv: withV8Options(process.execArgv),
        stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      });
    } catch (error) {
      // As where there is no memory for one more.
      log.error({ err: error, worker }, 'a worker could not be started');
      return this.#ended(null, null);
    }
    child.on('error', (error) => log.error({ err: error, worker }, 'a worker could not be started or asked'));
    if (child.pid === undefined) {
      // As where there are as many processes as there may be: what never began has no end.
      child.once('error', () => this.#ended(null, null));
      return;
    }
    this.#child = child;
    child.on('message', (answer: Answer) => this.#waiting.get(answer.id)?.(answer));
    child.once('exit', (code, signal) => this.#ended(code, signal));
  }

  /** Undefined where the worker does not run, or does not answer in time. */
  ask(about: Question['about']): Promise<Answer | undefined> {
    const child = this.#child;
    if (child?.connected !== true) return Promise.resolve(undefined);
    const id = this.#asked++;
    return new Promise((resolve) => {
      const settle = (answer: Answer | undefined): void => {
        clearTimeout(deadline);
        this.#waiting.delete(id);
        resolve(answer);
      };
      const deadline = setTimeout(() => settle(undefined), answerTimeoutMs);
      this.#waiting.set(id, settle);
      child.send({ id, about } satisfies Question, (error) => {
        if (error !== null) settle(undefined);
      });
    });
  }

  /** Drains it, or ends it when it does not within its time. @returns whether it stopped cleanly */
  async stop(): Promise<boolean> {
    this.#stopping = true;
    clearTimeout(this.#restart);
    const child = this.#child;
    if (child === undefined) return true;
    const { drainTimeoutMs, log, worker } = this.#options;
    return new Promise((resolve) => {
      const deadline = setTimeout(() => {
        log.error({ worker }, 'a worker did not stop in time and is ended');
        child.kill('SIGKILL');
      }, drainTimeoutMs + stopGraceMs);
      child.once('exit', (code, signal) => {
        clearTimeout(deadline);
        // SIGTERM ends only who has not begun with anything yet.
        resolve(code === 0 || signal === 'SIGTERM');
      });
      child.kill('SIGTERM');
    });
  }

  #ended(code: number | null, signal: NodeJS.Signals | null): void {
    const { clock, log, worker, onEnded } = this.#options;
    this.#child = undefined;
    if (this.#stopping) return;
    if (!onEnded(code)) return;
    this.#failures = clock.monotonic() - this.#startedAt > stableAfterMs ? 0 : this.#failures + 1;
    const delayMs = Math.min(restartDelayMsMax, restartDelayMsMin * 2 ** Math.min(this.#failures, 10));
    log.error({ worker, code, signal, delayMs }, 'a worker ended and is started again');
    this.restarts++;
    this.#restart = setTimeout(() => this.start(), delayMs);
  }
}
