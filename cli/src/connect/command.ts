import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { type Command, parsing, UsageError } from '../command.ts';
import { readApiKey } from '../config.ts';
import { Connector } from './connector.ts';

export const connectCommand: Command = {
  summary: 'Let a client that speaks stdio use an MCP endpoint',
  help: [
    'Usage: sallyport connect <endpoint> [--key-file <path>]',
    '',
    'Reads MCP messages from standard input, one in a line, sends them to the endpoint over Streamable HTTP, and writes',
    'what comes back to standard output. It speaks every protocol revision the endpoint does. Ends when the client',
    'closes its end; calls under way then have 30 s to finish.',
    '',
    '  <endpoint>           URL of a server on the gateway, for example https://gateway.example.com/mcp/jira',
    '',
    'Options',
    '  --key-file <path>    File that holds the API key; without it the variable SALLYPORT_API_KEY does. A key is no',
    '                       argument of its own: everybody on the machine can read those.',
    '  --help               Show this',
    '',
    'In the configuration of a client',
    '  { "mcpServers": { "jira": {',
    '      "command": "sallyport",',
    '      "args": ["connect", "https://gateway.example.com/mcp/jira"],',
    '      "env": { "SALLYPORT_API_KEY": "sp_…" } } } }',
    '',
  ].join('\n'),
  run: async (given, io) => {
    const { values, positionals } = parsing('connect', () =>
      parseArgs({ args: [...given], allowPositionals: true, options: { 'key-file': { type: 'string' } } }),
    );
    const [endpoint, ...more] = positionals;
    if (endpoint === undefined || more.length > 0) {
      throw new UsageError('Say "sallyport connect <endpoint>". See "npx pnpm@12 sallyport connect --help".');
    }
    const stopping = new AbortController();
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stopping.abort());
    const connector = new Connector({
      endpoint: endpointOf(endpoint),
      apiKey: apiKeyOf(values['key-file']),
      input: process.stdin,
      output: process.stdout,
      warn: (text) => io.writeError(`${text}\n`),
    });
    await connector.run(stopping.signal);
    return 0;
  },
};

function endpointOf(text: string): URL {
  const url = URL.parse(text);
  if (url === null || !/^https?:$/.test(url.protocol)) {
    throw new UsageError(`"${text}" is not the URL of an endpoint, such as https://gateway.example.com/mcp/jira.`);
  }
  return url;
}

function apiKeyOf(file: string | undefined): string {
  const key = file === undefined ? readApiKey() : keyIn(file);
  if (key === undefined || key === '') {
    throw new UsageError('Set SALLYPORT_API_KEY to an API key, or name a file that holds one with --key-file.');
  }
  return key;
}

function keyIn(file: string): string {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new UsageError(`The file of --key-file could not be read: ${why}`);
  }
}
