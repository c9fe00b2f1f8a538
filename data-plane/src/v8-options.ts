import { readdirSync, readFileSync } from 'node:fs';
import { setPriority } from 'node:os';
import { getHeapStatistics, setFlagsFromString } from 'node:v8';

/**
 * How V8 keeps memory in a node (decision 0133). A configuration is parsed into what lives as long as it does: with a young
 * generation as large as V8 would let it become, each collection meanwhile stops the requests for longer. From that, and
 * from what waits while a node starts, V8 would conclude that what the same lines make for calls lives as long, and make it
 * among old objects: most of all the arguments of `process.nextTick`, behind which is all that a call was.
 */
const v8Options = ['--max-semi-space-size=8', '--no-allocation-site-pretenuring'] as const;
const growthOption = '--heap-growing-percent';
/** What old objects may grow by before they are collected, in MiB. */
const growthMebibytes = 32;
/** What a collection leaves is measured by what there was before it, so this is often. */
const growthSetEveryMs = 250;

const nameOf = (option: string): string =>
  option
    .replaceAll('_', '-')
    .replace(/=.*/s, '')
    .replace(/^--no-/, '--');

/** Options for Node.js with those above, but for what is given already. */
export function withV8Options(given: readonly string[]): string[] {
  const names = new Set(given.map(nameOf));
  return [...v8Options.filter((option) => !names.has(nameOf(option))), ...given];
}

/**
 * Starts this process over under these options, which Node.js takes at its start alone: in place, so with the same id,
 * environment and files. Does nothing where they are in force, where the system has no such call (Windows), and in a
 * child with a channel to its parent, which would be lost: who starts those gives the options himself.
 */
export function applyV8Options(): void {
  const options = withV8Options(process.execArgv);
  if (options.length === process.execArgv.length || process.connected) return;
  if (process.platform === 'win32' || process.execve === undefined) return;
  process.execve(process.execPath, [process.execPath, ...options, ...process.argv.slice(1)]);
}

/**
 * Keeps what V8 lets old objects grow by to one size, whatever there is of them: V8 knows only a share of it. A share that is
 * right for a large configuration has a node with a small one collect all the time, and the other way round its memory
 * doubles. For the whole process, so for that of a node alone; what was given on the command line stays.
 */
export function boundHeapGrowth(): void {
  if (process.execArgv.some((option) => nameOf(option) === growthOption)) return;
  const bound = (): void => setFlagsFromString(`${growthOption}=${growthPercent(getHeapStatistics().used_heap_size)}`);
  bound();
  setInterval(bound, growthSetEveryMs).unref();
}

/** @param usedBytes of the heap */
export function growthPercent(usedBytes: number): number {
  return Math.ceil((growthMebibytes * 1_048_576 * 100) / usedBytes);
}

/** Of V8's threads; the one that serves requests has 0. */
const collectorNiceness = 10;

/**
 * Has V8's own threads, which mark what lives and compile what is hot, stand back behind the one that serves requests: there
 * are four of them, and on a core that all share they left a fifth of it to requests for as long as they marked a large
 * configuration. On Linux, where threads have priorities of their own; elsewhere it does nothing.
 */
export function putCollectorsBehind(): void {
  if (process.platform !== 'linux') return;
  const tasks = '/proc/self/task';
  try {
    for (const id of readdirSync(tasks)) {
      if (readFileSync(`${tasks}/${id}/comm`, 'utf8').trim() === 'V8Worker') setPriority(Number(id), collectorNiceness);
    }
  } catch (error) {
    // A sandbox without /proc, or without priorities: a node is slower there at times, and no reason not to start.
    process.emitWarning(`the threads of V8 keep their priority: ${String(error)}`);
  }
}
