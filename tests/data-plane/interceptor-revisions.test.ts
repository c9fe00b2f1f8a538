/** Interceptors of MCP servers that do not speak today's revision, asked by the sender that both planes have. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { legacyRevisions, type WebhookEntry } from '@sallyport/schema';
import {
  createEgress,
  newWebhookKey,
  parseEgressAllowList,
  systemClock,
  WebhookSender,
} from '@sallyport/schema/platform';
import { afterAll, afterEach, describe, expect, test } from 'vitest';

interface Message {
  readonly id?: string;
  readonly method: string;
  readonly params?: { readonly protocolVersion?: string; readonly name?: string };
}

interface Asked {
  readonly method: string;
  readonly headers: IncomingMessage['headers'];
}

const egress = createEgress({ allow: parseEgressAllowList('127.0.0.0/8:1-65535').allow });
const stops: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const stop of stops.splice(0)) await stop();
});
afterAll(() => egress.close());

/** Ways in which servers of older revisions refuse what is not `initialize`. */
const refusals: readonly (readonly [string, (response: ServerResponse, id: unknown) => void])[] = [
  ['400, not initialized', (response) => answer(response, 400, { id: null, error: { code: -32000, message: 'Bad' } })],
  ['400, another revision', (response, id) => answer(response, 400, { id, error: { code: -32022, message: 'No' } })],
  ['404', (response) => void response.writeHead(404).end()],
  ['405', (response) => void response.writeHead(405).end()],
  ['200 and an error', (response, id) => answer(response, 200, { id, error: { code: -32601, message: 'Unknown' } })],
  [
    '200 and an error that names no request',
    (response) => answer(response, 200, { id: null, error: { code: -32600 } }),
  ],
];

function answer(response: ServerResponse, status: number, body: object, headers: Record<string, string> = {}): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers });
  response.end(JSON.stringify({ jsonrpc: '2.0', ...body }));
}

/** A server that speaks one older revision, strictly: in sessions, told by their headers, and never before `initialize`. */
class LegacyServer {
  readonly asked: Asked[] = [];
  /** Sessions, and whether their client has said that it is ready. */
  readonly sessions = new Map<string, boolean>();
  readonly revision: string;
  readonly refuse: (response: ServerResponse, id: unknown) => void;
  asStream = false;

  constructor(revision: string, refuse = refusals[0]?.[1]) {
    this.revision = revision;
    this.refuse = refuse ?? (() => undefined);
  }

  count(method: string): number {
    return this.asked.filter((each) => each.method === method).length;
  }

  serve(message: Message, { headers }: IncomingMessage, response: ServerResponse): void {
    const { id, method } = message;
    this.asked.push({ method, headers });
    if (method === 'initialize') {
      const session = `session-${this.sessions.size + 1}`;
      this.sessions.set(session, false);
      const serverInfo = { name: 'older', version: '1' };
      const result = { protocolVersion: this.revision, capabilities: {}, serverInfo };
      return this.say(response, id, result, { 'mcp-session-id': session });
    }
    const session = String(headers['mcp-session-id'] ?? '');
    // Which revision a request is in is told from 2025-06-18 on (basic/transports).
    const isTold = headers['mcp-protocol-version'] === this.revision || this.revision < '2025-06-18';
    if (!this.sessions.has(session))
      return session === '' ? this.refuse(response, id) : void response.writeHead(404).end();
    if (!isTold) return answer(response, 400, { id: null, error: { code: -32000, message: 'Bad revision' } });
    if (method === 'notifications/initialized') {
      this.sessions.set(session, true);
      return void response.writeHead(202).end();
    }
    if (this.sessions.get(session) !== true)
      return answer(response, 400, { id, error: { code: -32002, message: 'Early' } });
    if (method === 'interceptors/list') {
      const hook = { events: ['tools/call'], phase: 'both' };
      return this.say(response, id, { interceptors: [{ name: 'validator', type: 'validation', hook }] });
    }
    return this.say(response, id, { valid: false, severity: 'error' });
  }

  say(response: ServerResponse, id: unknown, result: object, headers: Record<string, string> = {}): void {
    if (!this.asStream) return answer(response, 200, { id, result }, headers);
    response.writeHead(200, { 'content-type': 'text/event-stream', ...headers });
    const message = JSON.stringify({ jsonrpc: '2.0', id, result });
    response.end(`: a comment\n\nevent: message\nid: 1\ndata: ${message}\n\n`);
  }
}

/** What the sender makes of the server: the verdict, or why there is none. */
async function asking(server: LegacyServer): Promise<() => Promise<unknown>> {
  const http = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => server.serve(JSON.parse(Buffer.concat(chunks).toString()) as Message, request, response));
  });
  await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
  stops.push(() => {
    http.closeAllConnections();
    return new Promise((resolve) => http.close(resolve));
  });
  const sender = new WebhookSender({
    egress,
    now: () => systemClock.now(),
    monotonic: () => systemClock.monotonic(),
  });
  const webhook: WebhookEntry = {
    id: 'hook',
    version: 1,
    url: `http://127.0.0.1:${(http.address() as AddressInfo).port}/mcp`,
    mode: 'enforce',
    events: ['request'],
    failMode: 'closed',
    content: 'full',
    deadlineMs: 10_000,
    payloadBytesMax: 65_536,
    mutablePaths: [],
    algorithm: 'hmac',
    interceptor: 'validator',
    signingKeys: [{ secret: newWebhookKey('hmac'), notAfter: null }],
  };
  let asked = 0;
  return async () => {
    const { failure, verdict } = await sender.ask(webhook, {
      kind: 'request',
      id: `msg_${asked++}`,
      digest: 'sha256:0',
      at: systemClock.now(),
      deadlineMs: webhook.deadlineMs,
      context: {},
      method: 'tools/call',
      message: '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"count"}}',
    });
    return failure ?? verdict.decision;
  };
}

describe.each(legacyRevisions)('an interceptor of a server that speaks %s alone', (revision) => {
  test.each([
    ['an object', false],
    ['a stream', true],
  ])('is asked in a session of that revision, and its no counts (answers as %s)', async (_how, asStream) => {
    const server = new LegacyServer(revision);
    server.asStream = asStream;
    const ask = await asking(server);
    expect(await ask()).toBe('deny');
    expect(await ask()).toBe('deny');
    // One handshake for both.
    expect([server.count('initialize'), server.count('interceptor/invoke')]).toEqual([1, 2]);
    for (const { method, headers } of server.asked.filter(
      ({ headers: sent }) => sent['mcp-session-id'] !== undefined,
    )) {
      expect({ method, revision: headers['mcp-protocol-version'] }).toEqual({ method, revision });
      expect(headers['webhook-signature']).toBeDefined();
    }
  });

  test('is asked in another session where its server has forgotten the first', async () => {
    const server = new LegacyServer(revision);
    const ask = await asking(server);
    await ask();
    server.sessions.delete('session-1');
    server.sessions.set('kept for its number', false);
    expect(await ask()).toBe('deny');
    expect(server.count('initialize')).toBe(2);
  });
});

test.each(refusals)('a server that refuses today’s revision by %s is greeted as an older one', async (_how, refuse) => {
  const ask = await asking(new LegacyServer('2025-06-18', refuse));
  expect(await ask()).toBe('deny');
});

test('a server that answers in a revision that nobody knows gave no verdict, and is told nothing of the message', async () => {
  const server = new LegacyServer('2031-01-01');
  const ask = await asking(server);
  expect(await ask()).toBe('answerInvalid');
  expect([server.count('interceptors/list'), server.count('interceptor/invoke')]).toEqual([1, 0]);
});
