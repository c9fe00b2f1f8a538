import type { Endpoint } from './mcp-clients.ts';

/** An HTTP answer as it came, for tests that look at bytes. */
export interface RawAnswer {
  readonly status: number;
  /** Sorted by name, without `date` and the headers of the connection and the session. */
  readonly headers: readonly (readonly [string, string])[];
  readonly body: string;
}

const differing = new Set(['date', 'connection', 'keep-alive', 'mcp-session-id']);
const accept = 'application/json, text/event-stream';

async function post(endpoint: Endpoint, headers: Readonly<Record<string, string>>, body: string): Promise<Response> {
  return fetch(endpoint.url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept, authorization: `Bearer ${endpoint.key}`, ...headers },
    body,
  });
}

async function answerOf(response: Response): Promise<RawAnswer> {
  return {
    status: response.status,
    headers: [...response.headers].filter(([name]) => !differing.has(name)),
    body: await response.text(),
  };
}

export interface RawRequest {
  readonly method: string;
  readonly params?: Readonly<Record<string, unknown>>;
  readonly id?: string | number;
}

/** One request of 2026-07-28, with the headers that repeat the body. */
export async function askModern(endpoint: Endpoint, { method, params = {}, id = 1 }: RawRequest): Promise<RawAnswer> {
  const name = params['name'] ?? params['uri'];
  const meta = {
    'io.modelcontextprotocol/protocolVersion': '2026-07-28',
    'io.modelcontextprotocol/clientInfo': { name: 'raw', version: '1.0.0' },
    'io.modelcontextprotocol/clientCapabilities': {},
  };
  const headers = {
    'mcp-protocol-version': '2026-07-28',
    'mcp-method': method,
    ...(typeof name === 'string' ? { 'mcp-name': name } : {}),
  };
  const body = JSON.stringify({ jsonrpc: '2.0', id, method, params: { ...params, _meta: meta } });
  return answerOf(await post(endpoint, headers, body));
}

/** Opens a session of a legacy revision and returns what asks in it. */
export async function openLegacySession(
  endpoint: Endpoint,
  protocolVersion = '2025-11-25',
): Promise<(request: RawRequest) => Promise<RawAnswer>> {
  const params = { protocolVersion, capabilities: {}, clientInfo: { name: 'raw', version: '1.0.0' } };
  const initialize = JSON.stringify({ jsonrpc: '2.0', id: 0, method: 'initialize', params });
  const opened = await post(endpoint, {}, initialize);
  await opened.text();
  const sessionId = opened.headers.get('mcp-session-id');
  if (sessionId === null) throw new Error(`no session was opened: ${opened.status}`);
  const headers = { 'mcp-session-id': sessionId, 'mcp-protocol-version': protocolVersion };
  const initialized = await post(endpoint, headers, '{"jsonrpc":"2.0","method":"notifications/initialized"}');
  await initialized.text();
  return async ({ method, params: asked = {}, id = 1 }) =>
    answerOf(await post(endpoint, headers, JSON.stringify({ jsonrpc: '2.0', id, method, params: asked })));
}

/** Any body, with the headers of a well-formed request and those given. */
export async function postRaw(
  endpoint: Endpoint,
  body: string,
  headers: Readonly<Record<string, string>> = {},
): Promise<RawAnswer> {
  return answerOf(await post(endpoint, headers, body));
}
