import { existsSync, lstatSync, readdirSync, realpathSync, rmSync } from 'node:fs';
import { createInterface } from 'node:readline/promises';
import { parseArgs } from 'node:util';
import { systemClock } from '@sallyport/schema/platform';
import { type Command, parsing, UsageError } from './command.ts';
import { claimDirectory, type StateDirectory, stateDirectory } from './start/state-directory.ts';
import { endLeftovers } from './start/supervise.ts';

export const resetCommand: Command = {
  summary: 'Delete everything that "start" made here',
  help: [
    'Usage: npx pnpm@12 sallyport reset [--yes] [--directory <path>]',
    '',
    'Deletes the directory .sallyport: database, secrets, keys, audit spools and logs. Shows what it deletes and',
    'asks first. Refuses while Sallyport runs there.',
    '',
    'Options',
    '  --yes                Do not ask',
    '  --directory <path>   Where .sallyport lies (default: the current directory)',
    '  --help               Show this',
    '',
  ].join('\n'),
  run: async (given, io) => {
    const { values } = parsing('reset', () =>
      parseArgs({
        args: [...given],
        options: { yes: { type: 'boolean', default: false }, directory: { type: 'string', default: '.' } },
      }),
    );
    if (!values.yes && !io.isInteractive) throw new UsageError('Nobody can be asked here: pass --yes to delete.');
    const confirm = async (question: string) => {
      if (values.yes) return true;
      const prompt = createInterface({ input: process.stdin, output: process.stdout });
      const answer = await prompt.question(`${question} [y/N] `).finally(() => prompt.close());
      return /^y(es)?$/i.test(answer.trim());
    };
    return (await reset({ directory: stateDirectory(values.directory), write: io.write, confirm })) ? 0 : 1;
  },
};

export interface ResetOptions {
  readonly directory: StateDirectory;
  readonly write: (text: string) => void;
  /** Asks the person; true means go on. */
  readonly confirm: (question: string) => Promise<boolean>;
}

const contents: Readonly<Record<string, string>> = {
  'secrets.json': 'generated secrets',
  'state.json': 'ports, the admin token and the API key',
  postgres: 'the database: servers, grants, keys, audit events',
  logs: 'logs of every process',
  nodes: 'last-known-good configuration and audit spool of every node',
};

/**
 * Deletes what `start` made, after showing it.
 * @returns whether nothing is left.
 * @throws Error while a `start` runs there: its database would be pulled away from under it.
 */
export async function reset({ directory, write, confirm }: ResetOptions): Promise<boolean> {
  if (!existsSync(directory.root)) {
    write(`Nothing to delete: ${directory.root} does not exist.\n`);
    return true;
  }
  // Held until the end, so that no start begins meanwhile.
  const leftovers = claimDirectory(directory);
  try {
    await endLeftovers(leftovers, systemClock);
    write(`This deletes ${directory.root}:\n`);
    for (const name of readdirSync(directory.root).toSorted()) {
      if (contents[name] !== undefined) write(`  ${name.padEnd(14)} ${contents[name]}\n`);
    }
    if (!(await confirm('Delete all of it?'))) {
      write('Nothing was deleted.\n');
      return false;
    }
    deletePostgres(directory.postgres);
    rmSync(directory.root, { recursive: true, force: true });
    write('Deleted. The next start begins anew.\n');
    return true;
  } finally {
    rmSync(directory.runFile, { force: true });
  }
}

/** Under root's home the database lies elsewhere, and `.sallyport/postgres` is a link to it. */
function deletePostgres(path: string): void {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found?.isSymbolicLink() === true && existsSync(path)) {
    rmSync(realpathSync(path), { recursive: true, force: true });
  }
}
