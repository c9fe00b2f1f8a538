import { parseArgs } from 'node:util';
import { type Command, type CommandIo, parsing, UsageError } from './command.ts';
import { readControlPlaneEnvironment } from './config.ts';
import { readSecrets, readState, runningOwner, stateDirectory } from './start/state-directory.ts';

export const adminCommand: Command = {
  summary: 'Operate a control plane: admin new-history, admin issue-key',
  help: [
    'Usage: npx pnpm@12 sallyport admin new-history [--directory <path>]',
    '       npx pnpm@12 sallyport admin issue-key --principal <id> [--days <number>] [--directory <path>]',
    '',
    'new-history',
    '  Run it once after the database was restored from a backup, before or after the control plane is started again.',
    '  Nodes may have applied configurations which the restored database does not know, and refuse lower revisions;',
    '  they accept a new history, because it is signed with the fleet key.',
    '',
    'issue-key',
    '  Makes an API key for a user or service account and prints it, this once. No user of the control plane has seen it:',
    '  hand it to its holder alone. Where two people are needed (owner, auditor), keys that one made for the other count',
    '  as one person; this is the way to a key that does not. The audit trail tells of it.',
    '',
    'Environment',
    '  DATABASE_URL           The database of the control plane',
    '  SALLYPORT_SECRET_KEY   The secret key of the control plane',
    'Without them, the database of a running "start" is used.',
    '',
    'Options',
    '  --principal <id>       Whose key it is to be',
    '  --days <number>        For how long it is good (default: 30, at most 366)',
    '  --directory <path>     Where .sallyport lies (default: the current directory)',
    '  --help                 Show this',
    '',
  ].join('\n'),
  run: async (given, io) => {
    const { values, positionals } = parsing('admin', () =>
      parseArgs({
        args: [...given],
        allowPositionals: true,
        options: {
          directory: { type: 'string', default: '.' },
          principal: { type: 'string' },
          days: { type: 'string', default: '30' },
        },
      }),
    );
    const [task] = positionals;
    if (positionals.length !== 1 || (task !== 'new-history' && task !== 'issue-key')) {
      throw new UsageError(
        'Say what to do: "npx pnpm@12 sallyport admin new-history". See "npx pnpm@12 sallyport admin --help".',
      );
    }
    if (task === 'issue-key') return issueKey(values, io);
    const { databaseUrl, secretKey } = readControlPlaneEnvironment() ?? ofRunningStart(values.directory);
    // Loaded only here: the whole control plane comes with it.
    const { startNewHistory } = await import('@sallyport/control-plane');
    const id = await startNewHistory(databaseUrl, secretKey);
    io.write(`History ${id} has begun. Nodes take its first configuration within seconds of their next contact.\n`);
    return 0;
  },
};

interface KeyOptions {
  readonly principal?: string | undefined;
  readonly days: string;
  readonly directory: string;
}

async function issueKey({ principal, days, directory }: KeyOptions, io: CommandIo): Promise<number> {
  if (principal === undefined) throw new UsageError('Say whose key it is to be: --principal <id>.');
  const lifetimeMs = Number(days) * 86_400_000;
  if (!/^\d{1,3}$/.test(days) || lifetimeMs < 86_400_000 || Number(days) > 366) {
    throw new UsageError(`--days takes a number from 1 to 366, not "${days}".`);
  }
  const { databaseUrl } = readControlPlaneEnvironment() ?? ofRunningStart(directory);
  const { issueOperatorKey } = await import('@sallyport/control-plane');
  const secret = await issueOperatorKey(databaseUrl, { principalId: principal, name: 'from an operator', lifetimeMs });
  io.write(`${secret}\n`);
  return 0;
}

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
