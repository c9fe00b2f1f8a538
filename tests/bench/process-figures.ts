/** What the system says of processes (proc(5)), and on which cores it runs this one. */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';

const childrenOf = (pid: number): number[] =>
  readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number);

/** User and system time of a process and its children that live, in seconds (proc(5), /proc/<pid>/stat). */
export function processorSeconds(pid: number): number {
  return childrenOf(pid).reduce((sum, child) => sum + processorSeconds(child), secondsOf(`/proc/${pid}/stat`));
}

function secondsOf(statPath: string): number {
  const ticksPerSecond = 100;
  const fields = readFileSync(statPath, 'utf8')
    .replace(/^.*\) /, '')
    .split(' ');
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
}

/** Threads of a process by their name, as the system has it; their ids. */
function threadsOf(pid: number, name: string): number[] {
  const threads = readdirSync(`/proc/${pid}/task`).map(Number);
  return threads.filter((id) => {
    const comm = `/proc/${pid}/task/${id}/comm`;
    return existsSync(comm) && readFileSync(comm, 'utf8').trim() === name;
  });
}

/** The same of the threads of that name alone, which are told, since those that ended are not counted any more. */
export function threadSeconds(pid: number, name: string): { readonly seconds: number; readonly threads: string } {
  const threads = threadsOf(pid, name);
  const seconds = threads.reduce((sum, id) => sum + secondsOf(`/proc/${pid}/task/${id}/stat`), 0);
  return { seconds, threads: threads.join() };
}

/** Has the threads of that name run on the first core from now on, wherever the others run. @returns whether there are any */
export function moveToFirstCore(pid: number, name: string): boolean {
  const threads = threadsOf(pid, name);
  for (const id of threads) {
    const { status } = spawnSync('taskset', ['-p', '-c', '0', String(id)]);
    if (status !== 0) throw new Error(`a thread of ${name} could not be moved`);
  }
  return threads.length > 0;
}

function statusMebibytes(pid: number, line: string): number {
  const kibibytes = new RegExp(`^${line}:\\s+(\\d+)`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  return Number(kibibytes) / 1024;
}

export function residentMebibytes(pid: number): number {
  return statusMebibytes(pid, 'VmRSS');
}

/** The most that was resident since the process began. */
export function residentMebibytesMax(pid: number): number {
  return statusMebibytes(pid, 'VmHWM');
}

/** How often new children are looked for, in milliseconds. */
const childrenIntervalMs = 250;
/** Of a group of processes (sched(7), the autogroup feature), which then gets a seventieth of what another one gets. */
const groupNiceness = '19';

/**
 * Has the children of a process stand back, those that it has and those to come, until the end. Each process of PostgreSQL
 * begins a session, and to Linux so a group that takes its full share of a core beside all of the load together: the policy
 * of its processes counts within the group alone. A system without such groups needs nothing of it.
 */
export function putChildrenBehind(pid: number, atEnd: (stop: () => Promise<void>) => void): void {
  const put = new Set<number>();
  const look = (): void => {
    const children = childrenOf(pid);
    for (const child of put) if (!children.includes(child)) put.delete(child);
    for (const child of children) {
      if (put.has(child)) continue;
      try {
        const group = `/proc/${child}/autogroup`;
        if (existsSync(group)) writeFileSync(group, groupNiceness);
        put.add(child);
      } catch {
        // It ended meanwhile, or the system takes no more of this at once from who is not root: the next look tells.
      }
    }
  };
  look();
  const timer = setInterval(look, childrenIntervalMs).unref();
  atEnd(() => Promise.resolve(clearInterval(timer)));
}

/** Keeps this process, with all its threads and what it starts, to the first core until the end. */
export function keepToFirstCore(atEnd: (stop: () => Promise<void>) => void): void {
  const cores = /^Cpus_allowed_list:\s+(\S+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0';
  const keepTo = (list: string): void => void spawnSync('taskset', ['-a', '-p', '-c', list, String(process.pid)]);
  keepTo('0');
  atEnd(() => Promise.resolve(keepTo(cores)));
}
