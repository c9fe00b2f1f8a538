import type { ReportedLogin } from './login-code.ts';

/** What a newcomer needs after a start; everything but `directory` is printed as it is. */
export interface ReportInput {
  readonly directory: string;
  readonly entryUrl: string;
  readonly graphqlUrl: string;
  readonly adminToken: { readonly secret: string; readonly expiresAt: string };
  readonly clientKey: { readonly secret: string; readonly expiresAt: string; readonly replacesExpiring: boolean };
  readonly login: ReportedLogin;
  readonly servers: readonly ReportedServer[];
}

export interface ReportedServer {
  readonly slug: string;
  readonly title: string;
  readonly era: 'legacy' | 'modern';
  /** The tools granted to the key. */
  readonly grantedTools: readonly string[];
  readonly toolCount: number;
  /** A call that the shell lines make. */
  readonly example: { readonly tool: string; readonly arguments: Readonly<Record<string, unknown>> };
}

export const legacyProtocolRevision = '2025-11-25';
export const modernProtocolRevision = '2026-07-28';

export function endpointOf(entryUrl: string, slug: string): string {
  return `${entryUrl}/mcp/${slug}`;
}

/** The whole report; its shell lines stand between lines that begin with `# Shell`, each block to be pasted as it is. */
export function formatReport(input: ReportInput): string {
  const { entryUrl, clientKey, adminToken } = input;
  const endpoints = input.servers.flatMap((server) => [
    `  ${endpointOf(entryUrl, server.slug)}`,
    `      ${server.title}: ${grantedTools(server)}`,
  ]);
  const callable = input.servers.filter(({ grantedTools: granted, example }) => granted.includes(example.tool));
  const successor = clientKey.replacesExpiring ? '  (the successor of a key that is about to expire)' : '';
  return [
    '',
    'Sallyport runs.',
    '',
    'MCP endpoints',
    ...endpoints,
    '',
    'API key of the example client',
    `  ${clientKey.secret}`,
    `  valid until ${day(clientKey.expiresAt)}${successor}`,
    '',
    'Or log in by OAuth: give your client an endpoint and no key; in the browser it opens, enter this login code',
    `  ${input.login.code}`,
    `  once within a day, as "${input.login.userName}"; createLoginCode makes another`,
    '',
    'Client configuration (VS Code, Cursor, Claude Code and others; name the file as your client does)',
    ...indent(clientSnippet(input)),
    '',
    callable.length > 0 ? 'Call a tool' : 'No tool of the examples is granted to this key any more.',
    ...callable.flatMap((server) => [
      '',
      `# Shell: ${server.title}`,
      ...shellLines(entryUrl, clientKey.secret, server),
    ]),
    '# End of shell lines',
    '',
    'GraphQL API',
    `  ${input.graphqlUrl}`,
    'Admin token (owner)',
    `  ${adminToken.secret}`,
    `  valid until ${day(adminToken.expiresAt)}`,
    '',
    `Data and logs: ${input.directory}`,
    'Stop: Ctrl-C.  Begin anew: npx pnpm@12 sallyport reset.  Options: npx pnpm@12 sallyport start --help.',
    '',
  ].join('\n');
}

function grantedTools({ grantedTools: granted, toolCount }: ReportedServer): string {
  const names = granted.length === 0 ? '' : ` (${granted.join(', ')})`;
  return `${granted.length} of ${toolCount} tools granted${names}`;
}

/** In the form most clients read: one entry per server with its URL and the key as a header. */
export function clientSnippet({ entryUrl, clientKey, servers }: ReportInput): string {
  const entries = servers.map((server) => [
    server.slug,
    {
      type: 'http',
      url: endpointOf(entryUrl, server.slug),
      headers: { Authorization: `Bearer ${clientKey.secret}` },
    },
  ]);
  return JSON.stringify({ mcpServers: Object.fromEntries(entries) }, undefined, 2);
}

/** Lines for any POSIX shell; they use curl and awk alone. */
export function shellLines(entryUrl: string, secret: string, server: ReportedServer): readonly string[] {
  const endpoint = endpointOf(entryUrl, server.slug);
  return [
    `KEY=${secret}`,
    ...(server.era === 'modern' ? modernLines(endpoint, server) : legacyLines(endpoint, server)),
  ];
}

/** An answer may end without a line feed; the prompt then begins on a line of its own. */
const showing = "-w '\\n'";

function modernLines(endpoint: string, { example }: ReportedServer): readonly string[] {
  const meta = {
    'io.modelcontextprotocol/protocolVersion': modernProtocolRevision,
    'io.modelcontextprotocol/clientCapabilities': {},
    'io.modelcontextprotocol/clientInfo': { name: 'curl', version: '1.0.0' },
  };
  const headers = [
    `MCP-Protocol-Version: ${modernProtocolRevision}`,
    'Mcp-Method: tools/call',
    `Mcp-Name: ${example.tool}`,
  ];
  return post(endpoint, headers, call(1, example, meta), showing);
}

function legacyLines(endpoint: string, { example }: ReportedServer): readonly string[] {
  const initialize = {
    jsonrpc: '2.0',
    id: 1,
    method: 'initialize',
    params: {
      protocolVersion: legacyProtocolRevision,
      capabilities: {},
      clientInfo: { name: 'curl', version: '1.0.0' },
    },
  };
  const [first = '', ...rest] = post(endpoint, [], initialize, '-D - -o /dev/null');
  const opening = [`SESSION=$(${first}`, ...rest];
  const last = opening.pop() ?? '';
  const session = ['Mcp-Session-Id: $SESSION', `MCP-Protocol-Version: ${legacyProtocolRevision}`];
  return [
    ...opening,
    `${last} | awk 'tolower($1) == "mcp-session-id:" { sub(/\\r$/, ""); print $2 }')`,
    ...post(endpoint, session, { jsonrpc: '2.0', method: 'notifications/initialized' }, '-o /dev/null'),
    ...post(endpoint, session, call(2, example), showing),
  ];
}

function call(id: number, example: ReportedServer['example'], meta?: Readonly<Record<string, unknown>>): unknown {
  const params = { name: example.tool, arguments: example.arguments, ...(meta === undefined ? {} : { _meta: meta }) };
  return { jsonrpc: '2.0', id, method: 'tools/call', params };
}

/** One curl command over several lines. Headers may hold shell variables; the body is quoted so that none is read. */
function post(endpoint: string, headers: readonly string[], body: unknown, options: string): readonly string[] {
  const all = [
    'Authorization: Bearer $KEY',
    'Content-Type: application/json',
    'Accept: application/json, text/event-stream',
    ...headers,
  ];
  return [
    `curl -sS ${options} ${endpoint} \\`,
    ...all.map((header) => `  -H "${header}" \\`),
    `  -d '${JSON.stringify(body).replaceAll("'", `'\\''`)}'`,
  ];
}

function indent(text: string): readonly string[] {
  return text.split('\n').map((line) => `  ${line}`);
}

function day(time: string): string {
  return time.slice(0, 10);
}
