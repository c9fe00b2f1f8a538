/**
 * An MCP server at the level of HTTP bytes whose lists a test sets and changes as it likes, invalid ones too, for what
 * discovery makes of them.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { z } from 'zod';

type Lists = Record<'tools' | 'prompts' | 'resources' | 'resourceTemplates', readonly unknown[]>;

export interface ListingUpstream {
  readonly url: string;
  /** Methods asked for, in order, with the revision of an `initialize`. */
  readonly asked: string[];
  /** Legacy sessions that were opened and not ended. */
  readonly sessions: Set<string>;
  /** What it lists on one page; change it at will. */
  lists: Lists;
  /** What it lists to clients of the legacy era, where that differs. */
  legacyLists: Partial<Lists>;
  /** What is read of it, by URI. */
  contents: Readonly<Record<string, object>>;
  /** What it tells of itself when it is greeted. */
  instructions: string | undefined;
  /** What it says that it is. */
  serverInfo: Readonly<Record<string, unknown>>;
  /** Revisions whose `initialize` it accepts; none: it is modern only. */
  legacyRevisions: readonly string[];
  modern: boolean;
  /** Whether it says that it tells of changes; it offers no stream to do so. */
  announcesChanges: boolean;
  /** What it declares; undefined: all it has. */
  capabilities: Readonly<Record<string, object>> | undefined;
  /** Notifications that go before its answer to a call of a tool, on a stream; none: it has no answer. */
  tells: readonly string[];
  /** Takes the answer to a list method into the test's own hands. */
  page: ((method: string, cursor: string | undefined) => Record<string, unknown>) | undefined;
  /** Answers everything with this status. */
  failure: number | undefined;
  /** Answers with these bytes of JSON instead of anything else. */
  rawAnswer: ((id: string | number, method: string) => string | undefined) | undefined;
  stop(): Promise<void>;
}

const messageSchema = z.looseObject({
  id: z.union([z.string(), z.number()]).optional(),
  method: z.string(),
  params: z.looseObject({ cursor: z.string(), protocolVersion: z.string(), uri: z.string() }).partial().optional(),
});

const members = {
  'tools/list': 'tools',
  'prompts/list': 'prompts',
  'resources/list': 'resources',
  'resources/templates/list': 'resourceTemplates',
} as const;

type Settings = Omit<ListingUpstream, 'url' | 'stop'>;

function isListMethod(method: string): method is keyof typeof members {
  return Object.hasOwn(members, method);
}

function resultOf(upstream: Settings, message: z.infer<typeof messageSchema>, modern: boolean) {
  const { method, params } = message;
  const capabilities = upstream.capabilities ?? {
    tools: upstream.announcesChanges ? { listChanged: true } : {},
    prompts: {},
    resources: {},
  };
  const complete = modern ? { resultType: 'complete', ttlMs: 0, cacheScope: 'private' } : {};
  if (method === 'server/discover' && upstream.modern) {
    const _meta = { 'io.modelcontextprotocol/serverInfo': upstream.serverInfo };
    return {
      ...complete,
      supportedVersions: ['2026-07-28', '2099-01-01'],
      capabilities,
      instructions: upstream.instructions,
      _meta,
    };
  }
  if (method === 'initialize' && upstream.legacyRevisions.length > 0) {
    const wanted = params?.protocolVersion ?? '';
    const protocolVersion = upstream.legacyRevisions.includes(wanted) ? wanted : upstream.legacyRevisions[0];
    const { serverInfo, instructions } = upstream;
    return { protocolVersion, capabilities, serverInfo, instructions };
  }
  const content = method === 'resources/read' ? upstream.contents[params?.uri ?? ''] : undefined;
  if (content !== undefined) return { ...complete, contents: [content] };
  if (!isListMethod(method) || (modern ? !upstream.modern : upstream.legacyRevisions.length === 0)) return undefined;
  if (upstream.page !== undefined) return { ...complete, ...upstream.page(method, params?.cursor) };
  const member = members[method];
  const list = modern ? upstream.lists[member] : (upstream.legacyLists[member] ?? upstream.lists[member]);
  return { ...complete, [member]: list };
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(Buffer.from(chunk as Uint8Array));
  return Buffer.concat(chunks).toString();
}

async function serve(upstream: Settings, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const body = await bodyOf(request);
  if (upstream.failure !== undefined)
    return void response.writeHead(upstream.failure).end('secret words of the upstream');
  if (request.method === 'DELETE') {
    const ended = upstream.sessions.delete(String(request.headers['mcp-session-id']));
    return void response.writeHead(ended ? 204 : 404).end();
  }
  if (request.method !== 'POST') return void response.writeHead(405).end();
  const message = messageSchema.parse(JSON.parse(body));
  const { id, method } = message;
  if (id === undefined) return void response.writeHead(202).end();
  upstream.asked.push(method === 'initialize' ? `${method} ${message.params?.protocolVersion ?? ''}` : method);
  const modern = body.includes('io.modelcontextprotocol/protocolVersion');
  const answer = (status: number, text: string): void => {
    response.writeHead(status, { 'content-type': 'application/json' }).end(text);
  };
  if (method === 'initialize' && upstream.legacyRevisions.length > 0) {
    const session = `session-${upstream.asked.length}`;
    upstream.sessions.add(session);
    response.setHeader('mcp-session-id', session);
  }
  const raw = upstream.rawAnswer?.(id, method);
  if (raw !== undefined) return answer(200, raw);
  if (method === 'tools/call' && upstream.tells.length > 0) {
    const told = upstream.tells.map((notification) => ({ jsonrpc: '2.0', method: notification }));
    const answered = { jsonrpc: '2.0', id, result: { ...(modern && { resultType: 'complete' }), content: [] } };
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    return void response.end([...told, answered].map((each) => `data: ${JSON.stringify(each)}\n\n`).join(''));
  }
  const result = resultOf(upstream, message, modern);
  if (result === undefined) {
    const error = { code: -32601, message: 'Method not found' };
    return answer(modern ? 404 : 400, JSON.stringify({ jsonrpc: '2.0', id, error }));
  }
  answer(200, JSON.stringify({ jsonrpc: '2.0', id, result }));
}

/** A tool definition with one member that no specification knows. */
export function toolNamed(name: string, description = `The tool ${name}`): Record<string, unknown> {
  return { name, description, inputSchema: { type: 'object', properties: {} }, 'x-unknown': { kept: true } };
}

export async function startListingUpstream(tools: readonly unknown[] = [toolNamed('echo')]): Promise<ListingUpstream> {
  const settings: Settings = {
    asked: [],
    sessions: new Set(),
    lists: { tools, prompts: [], resources: [], resourceTemplates: [] },
    legacyLists: {},
    contents: {},
    instructions: undefined,
    serverInfo: { name: 'listing', version: '1.0.0' },
    legacyRevisions: ['2025-11-25', '2025-06-18', '2025-03-26'],
    modern: true,
    announcesChanges: false,
    capabilities: undefined,
    tells: [],
    page: undefined,
    failure: undefined,
    rawAnswer: undefined,
  };
  const server = createServer((request, response) => {
    serve(upstream, request, response).catch(() => response.destroy());
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  const upstream: ListingUpstream = Object.assign(settings, {
    url: `http://127.0.0.1:${port}/mcp`,
    stop: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  });
  return upstream;
}
