/** What the system says of processes (proc(5)), and on which cores it runs this one. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** User and system time of a process and its children that live, in seconds (proc(5), /proc/<pid>/stat). */
export function processorSeconds(pid: number): number {
  const ticksPerSecond = 100;
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number);
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
    .replace(/^.*\) /, '')
    .split(' ');
  const own = (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
  return children.reduce((sum, child) => sum + processorSeconds(child), own);
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

/** Keeps this process, with all its threads and what it starts, to the first core until the end. */
export function keepToFirstCore(atEnd: (stop: () => Promise<void>) => void): void {
  const cores = /^Cpus_allowed_list:\s+(\S+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0';
  const keepTo = (list: string): void => void spawnSync('taskset', ['-a', '-p', '-c', list, String(process.pid)]);
  keepTo('0');
  atEnd(() => Promise.resolve(keepTo(cores)));
}
