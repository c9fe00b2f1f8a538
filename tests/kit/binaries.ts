import { accessSync, constants } from 'node:fs';
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
  const problem = `${what} needs ${name} (apt install ${debianPackage})`;
  if (testConfig.strict) throw new Error(problem);
  process.stdout.write(`skipped: ${problem}\n`);
  return false;
}
