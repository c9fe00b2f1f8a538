import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { systemClock } from '@sallyport/schema/platform';
import { type Command, parsing, UsageError } from '../command.ts';
import { readCliEnvironment } from '../config.ts';
import { start } from './start.ts';

export const startCommand: Command = {
  summary: 'Run the whole of Sallyport on this machine, with two example MCP servers',
  help: [
    'Usage: npx pnpm@12 start [options]      (or: npx pnpm@12 sallyport start [options])',
    '',
    'Runs PostgreSQL (from npm, nothing to install), the control plane, two data-plane nodes behind a round-robin',
    'entry, and two example MCP servers on this machine; registers the servers, makes an API key, and prints how to',
    'connect a client. Everything listens on 127.0.0.1 alone. Data lives in .sallyport/ and survives a restart.',
    'Ctrl-C stops all of it.',
    '',
    'Options',
    '  --port <number>       Port of the MCP entry (default: 7750, or another one when that is busy)',
    '  --api-port <number>   Port of the GraphQL API (default: 7751, or another one when that is busy)',
    '  --directory <path>    Where .sallyport lies (default: the current directory)',
    '  --redis-url <url>     Keep the queues in this Redis instead of PostgreSQL (or set REDIS_URL)',
    '  --help                Show this',
    '',
    'Environment',
    '  DATABASE_URL          Use this PostgreSQL instead of the embedded one; its user must be able to create roles',
    '  REDIS_URL             As --redis-url',
    '',
    'See also: npx pnpm@12 sallyport reset deletes .sallyport/.',
    '',
  ].join('\n'),
  run: async (given, io) => {
    const { values } = parsing('start', () =>
      parseArgs({
        args: [...given],
        options: {
          port: { type: 'string' },
          'api-port': { type: 'string' },
          directory: { type: 'string', default: '.' },
          'redis-url': { type: 'string' },
        },
      }),
    );
    const redisUrl = values['redis-url'];
    const environment = readCliEnvironment(redisUrl === undefined ? {} : { REDIS_URL: redisUrl });
    return start({
      directory: resolve(values.directory),
      port: parsePort('--port', values.port),
      apiPort: parsePort('--api-port', values['api-port']),
      environment,
      terminal: { write: io.write, isInteractive: io.isInteractive },
      clock: systemClock,
    });
  },
};

const portMax = 65_535;

function parsePort(option: string, value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  const port = Number(value);
  if (/^\d+$/.test(value) && port >= 1 && port <= portMax) return port;
  throw new UsageError(`${option} must be a number from 1 to ${portMax}, not "${value}".`);
}
