import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { afterEach, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import { approvedAs, type PipelineNode, startPipelineNode, type TestServer } from './pipeline-node.ts';
import { eventsOf, legacy, modern, send } from './requests.ts';

const work = { name: 'work', inputSchema: { type: 'object' } };
const initialized = {
  protocolVersion: '2025-11-25',
  capabilities: { tools: { listChanged: true } },
  serverInfo: { name: 'guarded', version: '1' },
};
const changed = { jsonrpc: '2.0', method: 'notifications/tools/list_changed' };

interface Asked {
  readonly http: string;
  readonly path: string;
  readonly trace: string;
  readonly isGuarded: boolean;
  readonly token: string;
  // oxlint-disable-next-line typescript/no-explicit-any -- tests look into what came
  readonly message: any;
}

/** A server that takes one token at a time, and nothing without it. */
class GuardedServer {
  readonly asked: Asked[] = [];
  token = 'token-1';
  url = '';
  private readonly serve: (asked: Asked, response: ServerResponse) => void;
  private readonly server = createServer((incoming, response) => void this.answer(incoming, response));

  constructor(serve: (asked: Asked, response: ServerResponse) => void) {
    this.serve = serve;
  }

  async start(): Promise<this> {
    await new Promise<void>((resolve) => this.server.listen(0, '127.0.0.1', resolve));
    const address = this.server.address();
    this.url = `http://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}/mcp`;
    return this;
  }

  async stop(): Promise<void> {
    this.server.closeAllConnections();
    await new Promise((resolve) => this.server.close(resolve));
  }

  count(http: string): number {
    return this.asked.filter((one) => one.http === http && one.isGuarded).length;
  }

  private async answer(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of incoming) chunks.push(Buffer.from(chunk as Uint8Array));
    const text = Buffer.concat(chunks).toString();
    const token = incoming.headers.authorization?.slice('Bearer '.length) ?? '';
    const asked: Asked = {
      http: incoming.method ?? '',
      path: incoming.url ?? '',
      trace: String(incoming.headers['traceparent'] ?? '').split('-')[1] ?? '',
      isGuarded: token === this.token,
      token,
      message: text === '' ? {} : JSON.parse(text),
    };
    this.asked.push(asked);
    if (asked.isGuarded) this.serve(asked, response);
    else response.writeHead(401).end();
  }
}

const stops: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const stop of stops.splice(0).toReversed()) await stop();
});

interface Started {
  readonly server: GuardedServer;
  readonly node: PipelineNode;
  /** What was lent, by the token. */
  readonly lent: string[];
  /** The user has to connect his account from now on. */
  readonly disconnect: () => void;
}

async function start(
  serve: (asked: Asked, response: ServerResponse) => void,
  more: Partial<TestServer> = {},
): Promise<Started> {
  const server = await new GuardedServer(serve).start();
  stops.push(() => server.stop());
  const lent: string[] = [];
  let isConnected = true;
  const node = await startPipelineNode({
    servers: [
      {
        slug: 'guarded',
        url: server.url,
        protocolRevisions: ['2025-11-25'],
        definitions: approvedAs('tool', [work]),
        credential: { mode: 'userOAuth', revision: 1 },
        ...more,
      },
    ],
    grants: [{ server: 'guarded', tools: ['*'], resources: ['*'] }],
    listPollMs: 20,
    lend: ({ serverId, principalId }) => {
      if (!isConnected) return Promise.resolve({ ok: false, problem: 'CONNECTION_NEEDED', connectUrl: null });
      lent.push(server.token);
      const headers: [string, string][] = [['authorization', `Bearer ${server.token}`]];
      const whose = { id: 'account', serverId, principalId, issuer: 'https://as', resource: null, revision: 1 };
      const { origin } = new URL(server.url);
      const credential = { ...whose, origin, headers, expiresAt: null, renewable: true };
      return Promise.resolve({ ok: true, credential });
    },
  });
  stops.push(node.stop);
  return { server, node, lent, disconnect: () => (isConnected = false) };
}

function json(response: ServerResponse, body: object, headers: Record<string, string> = {}): void {
  response.writeHead(200, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));
}

/** Begins a stream of events, the first with something in it. */
function stream(response: ServerResponse): ServerResponse {
  response.writeHead(200, { 'content-type': 'text/event-stream' }).write(': open\n\n');
  return response;
}

const event = (message: object): string => `data: ${JSON.stringify(message)}\n\n`;

/** Listens until the test has seen what it waits for. */
function listen(node: PipelineNode, sent: Parameters<typeof send>[1]) {
  const controller = new AbortController();
  let text = '';
  let isOver = false;
  const ended = send(node.url('guarded'), { ...sent, signal: controller.signal, onChunk: (chunk) => (text += chunk) })
    .catch(() => undefined)
    .finally(() => (isOver = true));
  return {
    events: () => eventsOf(text),
    changes: () => eventsOf(text).filter(({ method }) => method === changed.method).length,
    isOver: () => isOver,
    stop: async () => {
      controller.abort();
      await ended;
    },
  };
}

const notifications = { toolsListChanged: true };

/** A legacy server with a session, and a stream that the test holds; `null` where it offers none. */
function listening(streams: ServerResponse[] | null): (asked: Asked, response: ServerResponse) => void {
  return ({ http, message }, response) => {
    const { id, method } = message;
    if (method === 'initialize') json(response, { jsonrpc: '2.0', id, result: initialized }, { 'mcp-session-id': 's' });
    else if (method === 'tools/list') json(response, { jsonrpc: '2.0', id, result: { tools: [work] } });
    else if (http === 'GET' && streams !== null) streams.push(stream(response));
    else response.writeHead(http === 'POST' ? 202 : http === 'DELETE' ? 200 : 405).end();
  };
}

test('what the gateway answers in the place of a client goes out with the credential and in the trace of the call', async () => {
  let waiting: { readonly response: ServerResponse; readonly id: unknown } | undefined;
  const { server, node } = await start(
    ({ message }, response) => {
      const { id, method } = message;
      if (method === 'initialize') return json(response, { jsonrpc: '2.0', id, result: initialized });
      if (method === 'tools/call') {
        waiting = { response: stream(response), id };
        response.write(event({ jsonrpc: '2.0', id: 'q', method: 'sampling/createMessage', params: { maxTokens: 1 } }));
        return;
      }
      response.writeHead(202).end();
      if (message.error === undefined || waiting === undefined) return;
      waiting.response.end(event({ jsonrpc: '2.0', id: waiting.id, result: { content: [] } }));
    },
    { asks: { sampling: false } },
  );
  const answer = await send(node.url('guarded'), legacy('tools/call', { name: 'work', arguments: {} }));
  expect(eventsOf(answer.text).at(-1)).toMatchObject({ id: 1, result: { content: [] } });
  const [call, refusal] = server.asked.filter(({ message }) => message.method === 'tools/call' || 'error' in message);
  expect(refusal?.message).toMatchObject({ id: 'q', error: { code: -32601 } });
  expect([refusal?.isGuarded, refusal?.trace]).toEqual([true, call?.trace]);
});

test('a ping of an HTTP+SSE server is answered with the credential and in the trace of its session', async () => {
  const { server, node } = await start(
    ({ http, message }, response) => {
      const { method } = message;
      if (http === 'GET') {
        sse = stream(response);
        response.write('event: endpoint\ndata: /messages\n\n');
        return;
      }
      response.writeHead(202).end();
      if (method === 'initialize') sse?.write(event({ jsonrpc: '2.0', id: 'alive', method: 'ping' }));
      if (method === undefined) sse?.write(event({ jsonrpc: '2.0', id: 1, result: initialized }));
    },
    { transport: 'httpSse' },
  );
  let sse: ServerResponse | undefined;
  const clientInfo = { name: 'test', version: '1' };
  const opening = legacy('initialize', { protocolVersion: '2025-11-25', capabilities: {}, clientInfo });
  expect((await send(node.url('guarded'), opening)).status).toBe(200);
  const pong = server.asked.find(({ message }) => message.id === 'alive');
  expect(pong?.message).toEqual({ jsonrpc: '2.0', id: 'alive', result: {} });
  expect([pong?.isGuarded, pong?.trace]).toEqual([true, server.asked[0]?.trace]);
});

test('the end of a session that only listened is told with its credential', async () => {
  const streams: ServerResponse[] = [];
  const { server, node } = await start(listening(streams));
  const client = listen(node, modern('subscriptions/listen', { notifications }));
  await waitFor('the stream', () => streams.length === 1 && client.events().length > 0);
  await client.stop();
  await waitFor('the end of the session', () => server.asked.some(({ http }) => http === 'DELETE'));
  expect(server.count('DELETE')).toBe(1);
});

test('a stream that is dialled again takes a fresh token where the old one has ended, asked for once', async () => {
  const streams: ServerResponse[] = [];
  const { server, node, lent } = await start(listening(streams));
  const client = listen(node, modern('subscriptions/listen', { notifications }));
  await waitFor('the stream', () => streams.length === 1 && client.events().length > 0);
  server.token = 'token-2';
  streams[0]?.end();
  await waitFor('another stream', () => streams.length === 2);
  streams[1]?.write(event(changed));
  await waitFor('the change', () => client.changes() === 1);
  expect(lent).toEqual(['token-1', 'token-2']);
  expect(server.asked.filter(({ http, isGuarded }) => http === 'GET' && !isGuarded)).toHaveLength(1);
  await client.stop();
});

test('a client whose account is not connected any longer does not listen on: it comes back and is told', async () => {
  const streams: ServerResponse[] = [];
  const { server, node, disconnect } = await start(listening(streams));
  const client = listen(node, modern('subscriptions/listen', { notifications }));
  await waitFor('the stream', () => streams.length === 1 && client.events().length > 0);
  server.token = 'token-2';
  disconnect();
  streams[0]?.end();
  await waitFor('the end', () => client.isOver());
  const before = server.asked.length;
  const answer = await send(node.url('guarded'), modern('tools/call', { name: 'work', arguments: {} }));
  expect(answer.json.result).toMatchObject({ isError: true });
  expect(server.asked.length).toBe(before);
});

test('lists that are read again and again are read with a fresh token once the old one has ended', async () => {
  const { server, node, lent } = await start(listening(null));
  const client = listen(node, modern('subscriptions/listen', { notifications }));
  const readings = (token: string): number =>
    server.asked.filter((one) => one.token === token && one.message.method === 'tools/list' && one.isGuarded).length;
  await waitFor('a reading', () => readings('token-1') > 0);
  server.token = 'token-2';
  await waitFor('readings with the fresh token', () => readings('token-2') > 1);
  expect(lent).toEqual(['token-1', 'token-2']);
  await client.stop();
});

test('streams that are open with a credential that was taken away end, and others go on', async () => {
  const streams: ServerResponse[] = [];
  const { node, disconnect } = await start(listening(streams));
  const own = listen(node, modern('subscriptions/listen', { notifications }));
  await waitFor('the stream', () => streams.length === 1 && own.events().length > 0);
  // Somebody else's, and an order that concerns everybody while the account is still there: nothing ends.
  node.credentials.forget('server-guarded', 'another');
  node.credentials.forget(null, null);
  streams[0]?.write(event(changed));
  await waitFor('the change', () => own.changes() === 1);
  disconnect();
  node.credentials.forget('server-guarded', 'first');
  await waitFor('the end', () => own.isOver());
  await expect.poll(() => streams[0]?.destroyed, { timeout: 10_000 }).toBe(true);
});

test('a call under way whose credential is taken away gets no answer, and is ended at the server', async () => {
  let held: ServerResponse | undefined;
  const { node, disconnect } = await start(({ message }, response) => {
    if (message.method === 'tools/call') held = response;
    else json(response, { jsonrpc: '2.0', id: message.id, result: initialized });
  });
  const answer = send(node.url('guarded'), legacy('tools/call', { name: 'work', arguments: {} }));
  await waitFor('the call', () => held !== undefined);
  disconnect();
  node.credentials.forget('server-guarded', 'first');
  expect((await answer).json.result).toMatchObject({ isError: true });
  await waitFor('the end at the server', () => held?.destroyed === true);
});
