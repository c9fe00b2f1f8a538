import { accessSync, constants, existsSync, readFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { testConfig } from './config.ts';

/** Administrator programs such as nginx live outside of an ordinary user's PATH. */
const searchPath = [...testConfig.path.split(delimiter), '/usr/sbin', '/usr/local/sbin', '/usr/local/bin'];

export function findBinary(name: string): string | undefined {
  for (const folder of searchPath) {
    const file = join(folder, name);
    try {
      accessSync(file, constants.X_OK);
      return file;
    } catch {
      // Not in this folder.
    }
  }
  return undefined;
}

/**
 * True when a program of the operating system is there. Otherwise says what is skipped and which Debian package has
 * it; where skipping is forbidden (see `testConfig.strict`) it throws instead. Use with `describe.skipIf(!…)`.
 */
export function hasBinary(name: string, debianPackage: string, what: string): boolean {
  if (findBinary(name) !== undefined) return true;
  return skipped(`${what} needs ${name} (apt install ${debianPackage})`);
}

/** True when a process may have so many descriptors; otherwise as above. */
export function mayOpenFiles(count: number, what: string): boolean {
  const limits = '/proc/self/limits';
  // Where the system does not say, one finds out.
  const hard = existsSync(limits) ? /^Max open files +\S+ +(\d+)/m.exec(readFileSync(limits, 'utf8'))?.[1] : undefined;
  if (hard === undefined || Number(hard) >= count) return true;
  return skipped(`${what} need ${count} open files in a process; the limit is ${hard} (ulimit -Hn)`);
}

function skipped(problem: string): false {
  if (testConfig.strict) throw new Error(problem);
  process.stdout.write(`skipped: ${problem}\n`);
  return false;
}
