import type { ServerResponse } from 'node:http';
import { gzipSync } from 'node:zlib';
import type { ClosedRecord } from '@sallyport/schema';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import { type FakeUpstream, fakeTools, startFakeUpstream, type UpstreamRequest } from '../kit/fake-upstream.ts';
import { approvedAs, type PipelineNode, startPipelineNode, type TestConfiguration } from './pipeline-node.ts';
import { type Answer, legacy, modern, send, type Sent } from './requests.ts';

let upstream: FakeUpstream;
let node: PipelineNode;
let configuration: TestConfiguration;

beforeAll(async () => {
  upstream = await startFakeUpstream();
  configuration = {
    servers: [{ slug: 'open', url: upstream.url, tools: fakeTools }],
    grants: [{ server: 'open', tools: ['*'], resources: ['*'] }],
    limits: {
      responseBodyBytesMax: 500_000,
      upstreamFirstByteTimeoutMs: 300,
      upstreamConnectTimeoutMs: 100,
      upstreamIdleTimeoutMs: 300,
    },
  };
  node = await startPipelineNode(configuration);
});
afterAll(async () => {
  await node.stop();
  await upstream.stop();
});
beforeEach(() => {
  node.records.length = 0;
});

const toolCall = (name: string, values: Record<string, unknown> = {}) =>
  modern('tools/call', { name, arguments: values });

/** Sends through the node while the upstream answers in the given way. */
async function answeredBy(
  answer: (response: ServerResponse, request: UpstreamRequest) => void,
  sent: Sent = toolCall('count'),
): Promise<Answer> {
  let first = true;
  upstream.intercept((request, response) => {
    if (!first) return false;
    first = false;
    answer(response, request);
    return true;
  });
  return await send(node.url('open'), sent);
}

async function closedRecord(): Promise<ClosedRecord> {
  return await waitFor('the closed record', () => node.records.find((record) => record.type === 'closed'));
}

const result = (id: unknown, more = '') =>
  `{"jsonrpc":"2.0","id":${JSON.stringify(id)},"result":{"resultType":"complete"${more}}}`;
const json = (response: ServerResponse, status: number, text: string, headers: Record<string, string> = {}) =>
  void response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(text);

test('a call is recorded before it is sent and again when its answer has left', async () => {
  let openedBefore = false;
  const answer = await answeredBy((response) => {
    openedBefore = node.records.length === 1 && node.records[0]?.type === 'opened';
    json(response, 200, result(1));
  });
  expect(openedBefore).toBe(true);
  const closed = await closedRecord();
  expect(node.records.map(({ type }) => type)).toEqual(['opened', 'closed']);
  expect(closed).toMatchObject({
    eventId: (node.records[0] as { eventId: string }).eventId,
    outcome: 'success',
    status: 200,
    responseBytes: answer.text.length,
    errorCode: null,
  });
  expect(closed.upstreamMs).toBeGreaterThan(0);
  expect(closed.durationMs).toBeGreaterThanOrEqual(closed.upstreamMs ?? 0);
});

describe('bytes pass untouched', () => {
  test('of a request: numbers, spacing, escapes, unknown members', async () => {
    const { headers } = toolCall('count');
    const body = toolCall('count').body.replace(
      '"arguments":{}',
      '"arguments": { "a":12345678901234567890 , "b":1.0,"c":-0,"d":1E2,"e":"\\u0041\\ud83d\\ude00\\ud800\\/","😀":[ ] },"x":null',
    );
    await send(node.url('open'), { body, headers });
    expect(upstream.requests.at(-1)?.body).toBe(body);
  });

  test('of an answer: numbers, spacing, escapes, unknown members', async () => {
    const text = ` {"jsonrpc":"2.0", "id" : 1,"result":{"n":1.0,"big":12345678901234567890,"e":"\\u0041\\ud800","content":[]},"x":[ ]}\n`;
    const answer = await answeredBy((response) => json(response, 200, text));
    expect(answer.text).toBe(text);
  });

  test('of the tools that stay in a list, while the list becomes private [P47]', async () => {
    const tool = (name: string, more: string) => `{ "name":"${name}", "n":1.0 ,${more}"inputSchema":{"type":"object"}}`;
    const kept = [tool('count', '"annotations":{"x":1e3},'), tool('slow', '')];
    const text = `{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","tools":[ ${kept[0]} ,${tool('hidden', '')}, ${kept[1]} ],"cacheScope" : "public","ttlMs":5}}`;
    const definitions = approvedAs(
      'tool',
      kept.map((each) => JSON.parse(each) as Record<string, unknown>),
    );
    node.configure({ ...configuration, servers: [{ slug: 'open', url: upstream.url, definitions }] });
    const answer = await answeredBy((response) => json(response, 200, text), modern('tools/list'));
    node.configure(configuration);
    expect(answer.text).toBe(
      `{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete","tools":[ ${kept.join(',')} ],"cacheScope" : "private","ttlMs":5}}`,
    );
  });
});

test('no credential or internal header of the client reaches the upstream [P54]', async () => {
  const secrets = [
    'cookie',
    'x-api-key',
    'x-mcp-auth',
    'proxy-authorization',
    'x-auth-token',
    'mcp-session-id',
    'x-forwarded-for',
    'x-forwarded-host',
    'x-real-ip',
    'mcp-init-host',
    'x-sallyport-principal',
    'forwarded',
  ];
  const call = toolCall('count');
  const headers = Object.fromEntries(secrets.map((name, at) => [name, `SECRET-${at}`]));
  await send(node.url('open'), {
    ...call,
    headers: { ...call.headers, ...headers, 'mcp-param-region': 'eu', baggage: 'SECRET-b' },
  });
  const sent = upstream.requests.at(-1);
  expect(sent?.rawHeaders.join('\n')).not.toMatch(/SECRET|sp_test/);
  expect(Object.keys(sent?.headers ?? {}).sort()).toEqual([
    'accept',
    'accept-encoding',
    'connection',
    'content-length',
    'content-type',
    'host',
    'mcp-method',
    'mcp-name',
    'mcp-param-region',
    'mcp-protocol-version',
    'traceparent',
    'user-agent',
  ]);
});

test('the trace of the caller goes on', async () => {
  const traceId = '0af7651916cd43dd8448eb211c80319c';
  const call = toolCall('count');
  await send(node.url('open'), {
    ...call,
    headers: { ...call.headers, traceparent: `00-${traceId}-b7ad6b7169203331-01` },
  });
  expect(upstream.requests.at(-1)?.headers['traceparent']).toMatch(
    new RegExp(`^00-${traceId}-(?!b7ad6b7169203331)[0-9a-f]{16}-01$`),
  );
  expect(node.records[0]).toMatchObject({ traceId });
});

describe('a failing upstream gives a clear error that names nothing of it [P16] [P56]', () => {
  const rows: readonly [string, string | ((response: ServerResponse) => void), number, number, string][] = [
    ['answers 500', 'fail', 502, 1032, 'UPSTREAM_PROTOCOL'],
    ['redirects', 'redirect', 502, 1032, 'UPSTREAM_PROTOCOL'],
    ['breaks off', 'cut', 502, 1030, 'UPSTREAM_UNREACHABLE'],
    ['sends no JSON', 'malformed', 502, 1032, 'UPSTREAM_PROTOCOL'],
    ['sends too much', 'big', 502, 1033, 'UPSTREAM_RESPONSE_TOO_LARGE'],
    ['is silent', 'hang', 504, 1031, 'UPSTREAM_TIMEOUT'],
    ['is late', 'slow', 504, 1031, 'UPSTREAM_TIMEOUT'],
    [
      'wants a login',
      (response) => json(response, 401, '{"secret":1}', { 'www-authenticate': 'Bearer realm="upstream"' }),
      502,
      1034,
      'UPSTREAM_REFUSED',
    ],
    ['forbids', (response) => json(response, 403, result(1)), 502, 1034, 'UPSTREAM_REFUSED'],
    [
      'sends HTML',
      (response) => void response.writeHead(200, { 'content-type': 'text/html' }).end('<p>secret'),
      502,
      1032,
      'UPSTREAM_PROTOCOL',
    ],
    [
      'sends an encoding nobody asked for',
      (response) => json(response, 200, gzipSync(result(1)) as never, { 'content-encoding': 'gzip' }),
      502,
      1032,
      'UPSTREAM_PROTOCOL',
    ],
    ['answers another request', (response) => json(response, 200, result(2)), 502, 1032, 'UPSTREAM_PROTOCOL'],
    ['answers the id as text', (response) => json(response, 200, result('1')), 502, 1032, 'UPSTREAM_PROTOCOL'],
    ['sends nothing', (response) => void response.writeHead(200).end(), 502, 1032, 'UPSTREAM_PROTOCOL'],
    ['accepts without an answer', (response) => void response.writeHead(202).end(), 502, 1032, 'UPSTREAM_PROTOCOL'],
    [
      'stops in the middle',
      (response) => void response.writeHead(200, { 'content-type': 'application/json' }).write('{'),
      504,
      1031,
      'UPSTREAM_TIMEOUT',
    ],
  ];
  test.each(rows)('that %s', async (_what, behaviour, status, code, errorCode) => {
    const values = { bytes: 600_000, delayMs: 2_000 };
    const before = upstream.requests.length;
    const answer =
      typeof behaviour === 'string'
        ? await send(node.url('open'), toolCall(behaviour, values))
        : await answeredBy(behaviour);
    expect([answer.status, answer.json.error.code, answer.json.id]).toEqual([status, code, 1]);
    expect(answer.text).not.toMatch(/secret|127\.0\.0\.1|upstream realm/i);
    expect(answer.headers['www-authenticate']).toBeUndefined();
    expect(await closedRecord()).toMatchObject({ outcome: 'upstreamFailure', status, errorCode, rpcErrorCode: code });
    // A call is never made twice.
    expect(upstream.requests.length).toBe(before + 1);
  });

  test('that a legacy client calls: the error comes over 200, which keeps its session alive', async () => {
    const answer = await send(node.url('open'), legacy('tools/call', { name: 'fail', arguments: {} }));
    expect([answer.status, answer.json.error.code]).toEqual([200, 1032]);
  });

  test('that is not there', async () => {
    node.configure({ ...configuration, servers: [{ slug: 'open', url: 'http://127.0.0.1:1/mcp', tools: ['count'] }] });
    const answer = await send(node.url('open'), toolCall('count'));
    expect([answer.status, answer.json.error.code]).toEqual([502, 1030]);
    node.configure(configuration);
  });
});

describe('errors of the upstream pass as they are', () => {
  test.each([
    [400, -32021],
    [404, -32601],
    [200, -32602],
    [400, -32001],
  ])('status %i with %i', async (status, code) => {
    const text = `{"jsonrpc":"2.0","id":1,"error":{"code":${code},"message":"its own words","data":{"x":1.0}}}`;
    const answer = await answeredBy((response) => json(response, status, text));
    expect([answer.status, answer.text]).toEqual([status, text]);
    expect(await closedRecord()).toMatchObject({ outcome: 'error', status, rpcErrorCode: code, errorCode: null });
  });

  test('a tool that says it failed is recorded as an error', async () => {
    await answeredBy((response) => json(response, 200, result(1, ',"isError":true,"content":[]')));
    expect(await closedRecord()).toMatchObject({ outcome: 'error', status: 200, rpcErrorCode: null });
  });
});

describe('capabilities the gateway does not carry are not offered', () => {
  test('tasks, to a legacy client', async () => {
    const text =
      '{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{},"tasks":{"list":{}}},"serverInfo":{"name":"s","version":"1"}}}';
    const answer = await answeredBy(
      (response) => json(response, 200, text),
      legacy('initialize', { protocolVersion: '2025-11-25' }),
    );
    expect(answer.text).toBe(text.replace(',"tasks":{"list":{}}', ''));
    expect(answer.headers['mcp-session-id']).toBeUndefined();
  });

  test('extensions and revisions that the gateway does not know, to a modern client', async () => {
    const text =
      '{"jsonrpc":"2.0","id":1,"result":{"supportedVersions":["2030-01-01","2026-07-28"],"capabilities":{"extensions":{"io.modelcontextprotocol/tasks":{},"com.x/y":{}}}}}';
    const answer = await answeredBy((response) => json(response, 200, text), modern('server/discover'));
    expect(answer.json.result).toEqual({
      supportedVersions: ['2026-07-28'],
      capabilities: { extensions: { 'io.modelcontextprotocol/tasks': {} } },
    });
  });

  test('an unknown extension, to the server', async () => {
    const call = toolCall('count');
    const body = call.body.replace(
      'clientCapabilities":{}',
      'clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}, "com.x/y":{}}}',
    );
    await send(node.url('open'), { ...call, body });
    expect(upstream.requests.at(-1)?.body).toBe(body.replace(', "com.x/y":{}', ''));
  });

  test('a handshake for a revision the gateway does not know is ended with those it knows [P39]', async () => {
    const text =
      '{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2024-10-07","capabilities":{},"serverInfo":{"name":"s","version":"1"}}}';
    const answer = await answeredBy(
      (response) => json(response, 200, text),
      legacy('initialize', { protocolVersion: '2024-10-07' }),
    );
    expect([answer.json.error.code, answer.json.error.data.supported[0]]).toEqual([-32022, '2025-11-25']);
  });
});

test('inspect-response denies a list that two parsers would read differently', async () => {
  const text = '{"jsonrpc":"2.0","id":1,"result":{"tools":[],"tools":[{"name":"hidden"}]}}';
  const answer = await answeredBy((response) => json(response, 200, text), modern('tools/list'));
  expect([answer.status, answer.json.error.code]).toEqual([502, 1032]);
});

test('record denies a strict server’s call that cannot be written down, and it is not sent', async () => {
  node.configure({
    ...configuration,
    servers: [{ slug: 'open', url: upstream.url, tools: fakeTools, auditMode: 'strict' }],
  });
  const answer = await send(node.url('open'), toolCall('count'));
  expect(answer.status).toBe(200);
  // Strict: the end is on disk before the client has it.
  expect(node.records.map(({ type }) => type)).toEqual(['opened', 'closed']);
  const before = upstream.requests.length;
  node.failAudit(true);
  const refused = await send(node.url('open'), toolCall('count'));
  expect([refused.status, refused.json.error.code]).toEqual([503, 1042]);
  expect(upstream.requests.length).toBe(before);
  node.failAudit(false);
  node.configure(configuration);
});

test('equal ids of many clients in flight never meet [P28]', async () => {
  upstream.intercept((request, response) => {
    const message = JSON.parse(request.body) as { id: unknown; params: { arguments: { nonce: string } } };
    const text = result(message.id, `,"nonce":"${message.params.arguments.nonce}"`);
    // Answers come back in another order than they went.
    setTimeout(() => json(response, 200, text), Number(message.params.arguments.nonce.split('-')[1]) % 17);
    return true;
  });
  const wrong: string[] = [];
  const client = async (who: number): Promise<void> => {
    for (let at = 0; at < 20; at++) {
      const id = at % 2 === 0 ? at : String(at - 1);
      const nonce = `${who}-${(who * 7 + at * 5) % 31}-${at}`;
      const answer = await send(node.url('open'), modern('tools/call', { name: 'count', arguments: { nonce } }, id));
      if (answer.json.id !== id || answer.json.result.nonce !== nonce) wrong.push(`${nonce}: ${answer.text}`);
    }
  };
  await Promise.all(Array.from({ length: 25 }, (_none, who) => client(who)));
  expect(wrong).toEqual([]);
  upstream.intercept(() => false);
  const eventIds = node.records.flatMap((record) => (record.type === 'opened' ? [record.eventId] : []));
  expect(new Set(eventIds).size).toBe(500);
});
