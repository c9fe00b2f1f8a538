import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** Whether a process of this id exists; one that belongs to somebody else counts, a zombie does not. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
  return stateOf(pid) !== 'Z';
}

/** The whole command line of a process, or undefined when it is gone or cannot be seen. */
export function commandLineOf(pid: number): string | undefined {
  if (process.platform !== 'linux') return ps(pid, 'command=');
  return readProc(pid, 'cmdline')?.replaceAll('\0', ' ').trim();
}

/**
 * When the process started, as text that is only good for comparing: an id that was given to another process since
 * shows another time. Undefined when it is gone.
 */
export function startTimeOf(pid: number): string | undefined {
  if (process.platform !== 'linux') return ps(pid, 'lstart=');
  // Field 22 of stat, counted after the command's name, which may itself hold blanks and parentheses.
  return statFields(pid)?.[19];
}

function stateOf(pid: number): string | undefined {
  return process.platform === 'linux' ? statFields(pid)?.[0] : ps(pid, 'state=')?.slice(0, 1);
}

function statFields(pid: number): readonly string[] | undefined {
  const stat = readProc(pid, 'stat');
  return stat?.slice(stat.lastIndexOf(')') + 2).split(' ');
}

function readProc(pid: number, file: string): string | undefined {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'utf8');
  } catch {
    return undefined;
  }
}

function ps(pid: number, format: string): string | undefined {
  if (process.platform === 'win32') return undefined;
  const result = spawnSync('ps', ['-p', String(pid), '-o', format], { encoding: 'utf8' });
  return result.status === 0 ? result.stdout.trim() : undefined;
}
