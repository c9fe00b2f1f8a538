import { parseArgs } from 'node:util';
import { type Command, parsing, UsageError } from './command.ts';
import { readControlPlaneEnvironment } from './config.ts';
import { readSecrets, readState, runningOwner, stateDirectory } from './start/state-directory.ts';

export const adminCommand: Command = {
  summary: 'Operate a control plane: admin new-history',
  help: [
    'Usage: npx pnpm@12 sallyport admin new-history [--directory <path>]',
    '',
    'new-history',
    '  Run it once after the database was restored from a backup, before or after the control plane is started again.',
    '  Nodes may have applied configurations which the restored database does not know, and refuse lower revisions;',
    '  they accept a new history, because it is signed with the fleet key.',
    '',
    'Environment',
    '  DATABASE_URL           The restored database',
    '  SALLYPORT_SECRET_KEY   The secret key of the control plane',
    'Without them, the database of a running "start" is used.',
    '',
    'Options',
    '  --directory <path>     Where .sallyport lies (default: the current directory)',
    '  --help                 Show this',
    '',
  ].join('\n'),
  run: async (given, io) => {
    const { values, positionals } = parsing('admin', () =>
      parseArgs({
        args: [...given],
        allowPositionals: true,
        options: { directory: { type: 'string', default: '.' } },
      }),
    );
    if (positionals.length !== 1 || positionals[0] !== 'new-history') {
      throw new UsageError(
        'Say what to do: "npx pnpm@12 sallyport admin new-history". See "npx pnpm@12 sallyport admin --help".',
      );
    }
    const { databaseUrl, secretKey } = readControlPlaneEnvironment() ?? ofRunningStart(values.directory);
    // Loaded only here: the whole control plane comes with it.
    const { startNewHistory } = await import('@sallyport/control-plane');
    const id = await startNewHistory(databaseUrl, secretKey);
    io.write(`History ${id} has begun. Nodes take its first configuration within seconds of their next contact.\n`);
    return 0;
  },
};

function ofRunningStart(parent: string): { readonly databaseUrl: string; readonly secretKey: string } {
  const directory = stateDirectory(parent);
  if (runningOwner(directory) === undefined) {
    throw new UsageError(
      `Set DATABASE_URL and SALLYPORT_SECRET_KEY, or run "start" first: nothing runs in ${directory.root}.`,
    );
  }
  const { databaseUrl } = readState(directory);
  if (databaseUrl === undefined) throw new Error(`${directory.stateFile} names no database.`);
  return { databaseUrl, secretKey: readSecrets(directory).secretKey };
}
