import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, existsSync, openSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import type { Clock } from '@sallyport/schema/platform';
import { describeProcess, isStillRunning, type RunningProcess } from './state-directory.ts';

/** A program of ours or of others that runs under Node.js as a child. */
export interface ChildProgram {
  /** Also the name of its log file. */
  readonly name: string;
  /** Arguments of `node`: options, the script, the script's arguments. */
  readonly nodeArguments: readonly string[];
  /** The whole environment; nothing is inherited. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Asked until it answers 200, or until it answers at all when `anyStatus` is set. */
  readonly readiness: { readonly url: string; readonly anyStatus?: boolean };
}

export interface SupervisorOptions {
  readonly logDirectory: string;
  readonly clock: Clock;
  /** Called with all children whenever one starts or ends, so that a later start can find leftovers. */
  readonly record: (children: readonly RunningProcess[]) => void;
  /** A line for the person at the terminal. */
  readonly notify: (line: string) => void;
  /** Called once when a child keeps ending; the sentence names its log. */
  readonly giveUp: (reason: string) => void;
}

export const supervisionLimits = {
  readyTimeoutMs: 60_000,
  readyPollIntervalMs: 50,
  readyRequestTimeoutMs: 2_000,
  /** Longer than a node's drain, which waits for its audit records to be stored. */
  stopTimeoutMs: 20_000,
  restartDelayMsMin: 250,
  restartDelayMsMax: 8_000,
  /** More ends than this within the window, and the whole `start` gives up. */
  restartsMax: 6,
  restartWindowMs: 120_000,
  /** A log above this is renamed to `<name>.log.1` when its program starts. */
  logBytesMax: 20 * 1024 * 1024,
  logTailBytes: 1_500,
} as const;

interface Supervised {
  readonly program: ChildProgram;
  readonly logFile: string;
  /** Size of the log when the program was started last: what came before is not its fault. */
  logStart: number;
  child: ChildProcess | undefined;
  running: RunningProcess | undefined;
  /** Monotonic times of its unexpected ends within the window. */
  ends: number[];
}

/**
 * Starts programs in groups, keeps them running and stops them in the reverse order. Each child has an IPC channel
 * and ends when it closes, so even a killed parent leaves none behind; each runs in its own process group, so Ctrl-C
 * reaches only the parent, which then stops them in order.
 */
export class Supervisor {
  readonly #options: SupervisorOptions;
  readonly #groups: (readonly Supervised[])[] = [];
  #stopping = false;

  constructor(options: SupervisorOptions) {
    this.#options = options;
  }

  /** Starts the programs side by side; resolves when all are ready, rejects with the log's end when one is not. */
  async start(programs: readonly ChildProgram[]): Promise<void> {
    const group = programs.map((program) => ({
      program,
      logFile: join(this.#options.logDirectory, `${program.name}.log`),
      logStart: 0,
      child: undefined,
      running: undefined,
      ends: [],
    }));
    this.#groups.push(group);
    await Promise.all(group.map((supervised) => this.#bringUp(supervised)));
  }

  /** Ids of the children that run, by name. */
  get pids(): ReadonlyMap<string, number> {
    return new Map(this.#running().map(({ name, pid }) => [name, pid]));
  }

  /** Ends the groups in reverse order of their start; within a group side by side. Never rejects. */
  async stop(): Promise<void> {
    this.#stopping = true;
    for (const group of this.#groups.toReversed()) {
      await Promise.all(group.map((supervised) => this.#end(supervised)));
    }
  }

  /** Kills what still runs, for the impatient second Ctrl-C. */
  killAll(): void {
    this.#stopping = true;
    for (const supervised of this.#groups.flat()) supervised.child?.kill('SIGKILL');
  }

  #running(): readonly RunningProcess[] {
    return this.#groups.flat().flatMap(({ running }) => (running === undefined ? [] : [running]));
  }

  async #bringUp(supervised: Supervised): Promise<void> {
    const { clock } = this.#options;
    const child = this.#spawn(supervised);
    let ended: string | undefined;
    child.once('error', (error) => (ended = error.message));
    child.once('exit', (code, signal) => (ended = `ended with ${String(code ?? signal)}`));
    const deadline = clock.monotonic() + supervisionLimits.readyTimeoutMs;
    for (;;) {
      const problem = await probe(supervised.program.readiness);
      if (ended !== undefined) throw startFailure(supervised, ended);
      if (problem === undefined) break;
      if (clock.monotonic() > deadline) throw startFailure(supervised, `was not ready in time (${problem})`);
      await wait(supervisionLimits.readyPollIntervalMs);
    }
    child.once('exit', (code, signal) => void this.#restart(supervised, String(code ?? signal)));
  }

  #spawn(supervised: Supervised): ChildProcess {
    const { program, logFile } = supervised;
    rotate(logFile);
    const log = openSync(logFile, 'a', 0o600);
    supervised.logStart = statSync(logFile).size;
    const child = spawn(process.execPath, [...program.nodeArguments], {
      env: program.env,
      stdio: ['ignore', log, log, 'ipc'],
      detached: true,
      windowsHide: true,
    });
    closeSync(log);
    supervised.child = child;
    supervised.running = child.pid === undefined ? undefined : describeProcess(program.name, child.pid);
    child.once('exit', () => {
      supervised.child = undefined;
      supervised.running = undefined;
      this.#options.record(this.#running());
    });
    this.#options.record(this.#running());
    return child;
  }

  async #restart(supervised: Supervised, ending: string): Promise<void> {
    const { clock, notify, giveUp } = this.#options;
    const { program, logFile } = supervised;
    const limits = supervisionLimits;
    for (let how = ending; !this.#stopping; ) {
      const now = clock.monotonic();
      supervised.ends = [...supervised.ends.filter((at) => now - at < limits.restartWindowMs), now];
      if (supervised.ends.length > limits.restartsMax) {
        return giveUp(`${program.name} ended ${supervised.ends.length} times, last with ${how}; see ${logFile}`);
      }
      const delayMs = Math.min(limits.restartDelayMsMin * 2 ** (supervised.ends.length - 1), limits.restartDelayMsMax);
      notify(`${program.name} ended with ${how}; starting it again in ${delayMs / 1000} s. Its log: ${logFile}`);
      await wait(delayMs);
      if (this.#stopping) return;
      try {
        await this.#bringUp(supervised);
        return notify(`${program.name} runs again.`);
      } catch (error) {
        supervised.child?.kill('SIGKILL');
        how = error instanceof Error ? (error.message.split('\n')[0] ?? 'an error') : String(error);
      }
    }
  }

  async #end(supervised: Supervised): Promise<void> {
    const { child, program, logFile } = supervised;
    if (child === undefined) return;
    const exited = new Promise<boolean>((resolve) => child.once('exit', () => resolve(true)));
    child.kill('SIGTERM');
    const timeout = new AbortController();
    const timedOut = wait(supervisionLimits.stopTimeoutMs, false, { signal: timeout.signal }).catch(() => false);
    if (!(await Promise.race([exited, timedOut]))) {
      this.#options.notify(`${program.name} did not stop in time and was killed; see ${logFile}`);
      child.kill('SIGKILL');
      await exited;
    }
    timeout.abort();
  }
}

/** Ends processes that a killed `start` left behind: asks first, kills after 5 s. */
export async function endLeftovers(leftovers: readonly RunningProcess[], clock: Clock): Promise<void> {
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    for (const leftover of leftovers.filter(isStillRunning)) process.kill(leftover.pid, signal);
    const deadline = clock.monotonic() + 5_000;
    while (leftovers.some(isStillRunning) && clock.monotonic() < deadline) await wait(20);
  }
}

/** @returns undefined when ready, else what was observed. */
async function probe(readiness: ChildProgram['readiness']): Promise<string | undefined> {
  try {
    const response = await fetch(readiness.url, {
      signal: AbortSignal.timeout(supervisionLimits.readyRequestTimeoutMs),
    });
    if (readiness.anyStatus === true || response.status === 200) {
      await response.body?.cancel();
      return undefined;
    }
    return `${readiness.url} answered ${response.status}: ${(await response.text()).slice(0, 300)}`;
  } catch {
    return `${readiness.url} does not answer`;
  }
}

function startFailure(supervised: Supervised, what: string): Error {
  const log = existsSync(supervised.logFile) ? readFileSync(supervised.logFile) : Buffer.alloc(0);
  const tail = log.subarray(supervised.logStart).subarray(-supervisionLimits.logTailBytes).toString();
  return new Error(`${supervised.program.name} ${what}. End of ${supervised.logFile}:\n${tail}`);
}

function rotate(logFile: string): void {
  if (!existsSync(logFile) || statSync(logFile).size < supervisionLimits.logBytesMax) return;
  rmSync(`${logFile}.1`, { force: true });
  renameSync(logFile, `${logFile}.1`);
}
