import type { ServerResponse } from 'node:http';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import { type FakeUpstream, fakeTools, startFakeUpstream } from '../kit/fake-upstream.ts';
import { otherKey, type PipelineNode, startPipelineNode } from './pipeline-node.ts';
import { type Answer, eventsOf, modernRevision, type Sent, send } from './requests.ts';

let upstream: FakeUpstream;
let node: PipelineNode;

beforeEach(async () => {
  upstream = await startFakeUpstream();
  node = await startPipelineNode({
    servers: [{ slug: 'open', url: upstream.url, tools: fakeTools }],
    grants: [{ server: 'open', tools: ['count', 'slow', 'stream', 'hang'] }],
  });
});
afterEach(async () => {
  await node.stop();
  await upstream.stop();
});

const request = (id: number | string, method: string, params: object = {}) => ({ jsonrpc: '2.0', id, method, params });
const call = (id: number | string, name: string, values: object = {}) =>
  request(id, 'tools/call', { name, arguments: values });
const notification = (method: string, params: object = {}) => ({ jsonrpc: '2.0', method, params });

function sendBatch(messages: readonly unknown[], sent: Sent = {}): Promise<Answer> {
  return send(node.url('open'), { body: JSON.stringify(messages), ...sent });
}

async function sessionOf(protocolVersion: string): Promise<string> {
  const params = { protocolVersion, capabilities: {}, clientInfo: { name: 'old', version: '1' } };
  const { headers } = await send(node.url('open'), { body: JSON.stringify(request(0, 'initialize', params)) });
  node.records.length = 0;
  return String(headers['mcp-session-id']);
}

describe('a batch of a client of 2025-03-26 [P74]', () => {
  test('is answered in one array, each request with its own outcome', async () => {
    const session = await sessionOf('2025-03-26');
    const { status, headers, json } = await sendBatch(
      [
        call(1, 'count', { id: 'a' }),
        call('1', 'count', { id: 'b' }),
        notification('notifications/progress', { progressToken: 1, progress: 1 }),
        call(2, 'big'),
        request(3, 'tools/list'),
        request(4, 'tools/destroy'),
      ],
      { headers: { 'mcp-session-id': session } },
    );
    expect([status, headers['content-type']]).toEqual([200, 'application/json']);
    expect(json.map(({ id }: { id: unknown }) => id)).toEqual([1, '1', 2, 3, 4]);
    expect(json[0].result.content[0].text).toBe('executed a');
    expect(json[1].result.content[0].text).toBe('executed b');
    expect(json[2].error).toMatchObject({ code: -32602, message: 'Unknown tool' });
    expect(json[3].result.tools.map(({ name }: { name: string }) => name)).toEqual(['count', 'slow', 'stream', 'hang']);
    expect(json[4].error.code).toBe(-32601);
    expect(Object.fromEntries(upstream.executions)).toEqual({ a: 1, b: 1 });
  });

  test('is recorded as what it holds: an event for each message, each with its own decision', async () => {
    const session = await sessionOf('2025-03-26');
    await sendBatch([call(1, 'count'), call(2, 'big'), notification('notifications/initialized')], {
      headers: { 'mcp-session-id': session },
    });
    await waitFor('all to be closed', () => node.records.filter(({ type }) => type === 'closed').length === 2);
    const told = node.records.flatMap((record) =>
      record.type === 'opened' || record.type === 'refused'
        ? [[record.type, record.method, record.target?.name, record.decision.effect]]
        : [],
    );
    expect(told).toEqual(
      expect.arrayContaining([
        ['opened', 'tools/call', 'count', 'allow'],
        ['refused', 'tools/call', 'big', 'deny'],
        ['opened', 'notifications/initialized', undefined, 'allow'],
      ]),
    );
    expect(told).toHaveLength(3);
  });

  test('without a session and a stated revision is one too', async () => {
    const { json } = await sendBatch([call(1, 'count')]);
    expect(json).toMatchObject([{ id: 1, result: {} }]);
  });

  test('of notifications and responses alone is accepted', async () => {
    const response = { jsonrpc: '2.0', id: 9, result: {} };
    const { status, text } = await sendBatch([notification('notifications/initialized'), response]);
    expect([status, text]).toEqual([202, '']);
  });

  test('becomes a stream where an answer is one, which brings all the answers', async () => {
    const { headers, text } = await sendBatch([call(1, 'stream', { events: 2 }), call(2, 'count'), call(3, 'big')]);
    expect(headers['content-type']).toBe('text/event-stream');
    const events = eventsOf(text);
    expect(events.filter(({ method }) => method === 'notifications/progress')).toHaveLength(2);
    expect(new Set(events.flatMap(({ id }) => (id === undefined ? [] : [id])))).toEqual(new Set([1, 2, 3]));
    await waitFor('all to be closed', () => node.records.filter(({ type }) => type === 'closed').length === 2);
    expect(node.records.find(({ type }) => type === 'closed')).toMatchObject({ outcome: 'success', status: 200 });
  });

  test('does not hold back a question of the server that another answer waits for', async () => {
    const { promise, resolve } = Promise.withResolvers<ServerResponse>();
    upstream.intercept(({ body }, response) => {
      if (body.includes('"asks"')) {
        response.writeHead(200, { 'content-type': 'text/event-stream' });
        response.write(`data: ${JSON.stringify(request('q', 'roots/list'))}\n\n`);
        resolve(response);
      } else response.destroy();
      return true;
    });
    let seen = '';
    const answer = sendBatch([call(1, 'hang', { id: 'asks' })], { onChunk: (text) => (seen += text) });
    await waitFor('the question', () => seen.includes('roots/list'));
    (await promise).end(`data: ${JSON.stringify({ jsonrpc: '2.0', id: 1, result: {} })}\n\n`);
    expect(eventsOf((await answer).text)).toHaveLength(2);
  });
});

describe('a batch is refused with 400, and nothing of it is sent [P74]', () => {
  test.each([
    ['of a client that states a later revision', [call(1, 'count')], { 'mcp-protocol-version': '2025-06-18' }, -32600],
    ['of a modern client', [call(1, 'count')], { 'mcp-protocol-version': modernRevision }, -32600],
    ['that is empty', [], {}, -32600],
    [
      'with initialize in it',
      [request(1, 'initialize', { protocolVersion: '2025-03-26' }), call(2, 'count')],
      {},
      -32600,
    ],
    ['with a batch in it', [[call(1, 'count')]], {}, -32600],
    ['of too many messages', Array.from({ length: 101 }, (_, id) => call(id, 'count')), {}, -32600],
  ])('%s', async (_case, messages, headers, code) => {
    const { status, json } = await sendBatch(messages, { headers });
    expect([status, json.error.code]).toEqual([400, code]);
    expect(upstream.requests).toEqual([]);
    expect(node.records.map(({ type }) => type)).toEqual(['refused']);
  });

  test('of a session of a later revision', async () => {
    const session = await sessionOf('2025-11-25');
    const before = upstream.requests.length;
    for (const more of [{}, { 'mcp-protocol-version': '2025-03-26' }]) {
      const { status } = await sendBatch([call(1, 'count')], { headers: { 'mcp-session-id': session, ...more } });
      expect(status).toBe(400);
    }
    expect(upstream.requests.length).toBe(before);
  });

  test('of whoever has no key, as a stranger’s; of another’s session, as a session that is not', async () => {
    const session = await sessionOf('2025-03-26');
    expect((await sendBatch([call(1, 'count')], { headers: { authorization: undefined } })).status).toBe(401);
    const headers = { 'mcp-session-id': session, authorization: `Bearer ${otherKey}` };
    expect((await sendBatch([call(1, 'count')], { headers })).status).toBe(404);
  });
});

test('a member that is no message gets an error of its own', async () => {
  const { json } = await sendBatch([call(1, 'count'), 1, { jsonrpc: '2.0', id: 2 }]);
  expect(json.map(({ id, error }: { id: unknown; error?: { code: number } }) => [id, error?.code])).toEqual([
    [1, undefined],
    [null, -32600],
    [null, -32600],
  ]);
});
