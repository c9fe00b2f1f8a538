import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { type Command, parsing, UsageError } from '../command.ts';
import { readApiKey, readConfigDirectory } from '../config.ts';
import { Connector } from './connector.ts';
import { CredentialStore } from './credential-store.ts';
import { Login } from './login.ts';
import { openBrowser } from './open-browser.ts';

export const connectCommand: Command = {
  summary: 'Let a client that speaks stdio use an MCP endpoint',
  help: [
    'Usage: sallyport connect <endpoint> [--key-file <path> | --client-id <id>] [--no-browser]',
    '       sallyport connect <endpoint> --login | --forget',
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
    '                       Without either you log in: the browser opens, and the page is printed to standard error.',
    '  --client-id <id>     The client to log in as, as an administrator registered it; without it, the program',
    '                       registers itself, where that is allowed.',
    '  --no-browser         Print the page to log in at, and open nothing',
    '  --login              Log in, and end',
    '  --forget             Delete what logins at this endpoint left on this machine, and end',
    '  --help               Show this',
    '',
    'What a login leaves is kept in the configuration directory of the user (SALLYPORT_CONFIG_DIRECTORY, else',
    '$XDG_CONFIG_HOME/sallyport or ~/.config/sallyport), readable by nobody else, and refreshed by itself.',
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
      parseArgs({
        args: [...given],
        allowPositionals: true,
        options: {
          'key-file': { type: 'string' },
          'client-id': { type: 'string' },
          'no-browser': { type: 'boolean', default: false },
          login: { type: 'boolean', default: false },
          forget: { type: 'boolean', default: false },
        },
      }),
    );
    const [text, ...more] = positionals;
    if (text === undefined || more.length > 0) {
      throw new UsageError('Say "sallyport connect <endpoint>". See "npx pnpm@12 sallyport connect --help".');
    }
    const endpoint = endpointOf(text);
    const warn = (line: string): void => io.writeError(`${line}\n`);
    const store = new CredentialStore(readConfigDirectory(), endpoint);
    const show = (page: URL): void => {
      warn(`Log in at: ${page.href}`);
      if (!values['no-browser']) openBrowser(page);
    };
    const login = new Login({ endpoint, store, clientId: values['client-id'], show });
    if (values.forget) {
      store.forget();
      return 0;
    }
    if (values.login) {
      await logInNow(login, endpoint);
      warn('Logged in.');
      return 0;
    }
    const apiKey = apiKeyOf(values['key-file']);
    const stopping = new AbortController();
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stopping.abort());
    const connector = new Connector({
      endpoint,
      credential: apiKey === undefined ? login : { token: () => Promise.resolve(apiKey) },
      input: process.stdin,
      output: process.stdout,
      warn,
    });
    await connector.run(stopping.signal);
    return 0;
  },
};

/** Logs in at an endpoint whether a call needs it or not. */
async function logInNow(login: Login, endpoint: URL): Promise<void> {
  const token = await login.token();
  const response = await fetch(endpoint, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      accept: 'application/json, text/event-stream',
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
    },
    body: JSON.stringify({ jsonrpc: '2.0', id: 0, method: 'ping' }),
    redirect: 'error',
  });
  await response.body?.cancel();
  if (response.status === 401) await login.onUnauthorized({ response, serverUrl: endpoint, fetchFn: fetch });
}

function endpointOf(text: string): URL {
  const url = URL.parse(text);
  if (url === null || !/^https?:$/.test(url.protocol)) {
    throw new UsageError(`"${text}" is not the URL of an endpoint, such as https://gateway.example.com/mcp/jira.`);
  }
  return url;
}

/** Undefined where the person logs in instead. */
function apiKeyOf(file: string | undefined): string | undefined {
  if (file === undefined) return readApiKey();
  const key = keyIn(file);
  if (key === '') throw new UsageError('The file of --key-file is empty.');
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
