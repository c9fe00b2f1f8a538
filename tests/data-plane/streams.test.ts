import type { ServerResponse } from 'node:http';
import type { ClosedRecord } from '@sallyport/schema';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import { describeTool, type FakeUpstream, fakeTools, startFakeUpstream } from '../kit/fake-upstream.ts';
import { otherKey, type PipelineNode, startPipelineNode, type TestConfiguration, testKey } from './pipeline-node.ts';
import { changed, eventsOf, legacy, modern, send } from './requests.ts';

let upstream: FakeUpstream;
let node: PipelineNode;
let configuration: TestConfiguration;

beforeEach(async () => {
  upstream = await startFakeUpstream();
  configuration = {
    servers: [
      { slug: 'open', url: upstream.url, tools: fakeTools },
      { slug: 'twin', url: upstream.url, tools: fakeTools },
    ],
    grants: [
      { server: 'open', tools: ['*'], resources: ['file://mine/*'] },
      { server: 'twin', tools: ['*'] },
    ],
    limits: { sseEventBytesMax: 100_000 },
  };
  node = await startPipelineNode(configuration);
});
afterEach(async () => {
  await node.stop();
  await upstream.stop();
});

const call = modern('tools/call', { name: 'count', arguments: {} });
const listen = modern('subscriptions/listen', { notifications: { toolsListChanged: true } }, 'listen-1');
const event = (message: unknown, id?: string) =>
  `${id === undefined ? '' : `id: ${id}\n`}event: message\ndata: ${JSON.stringify(message)}\n\n`;
const answerOf = (id: unknown, more: object = {}) => ({
  jsonrpc: '2.0',
  id,
  result: { resultType: 'complete', ...more },
});
const progress = (at: number) => ({ jsonrpc: '2.0', method: 'notifications/progress', params: { progress: at } });

/** The upstream answers with an event stream that the test writes. */
function streaming(): { open: Promise<ServerResponse>; closed: () => Promise<{ answered: boolean }> } {
  const { promise, resolve } = Promise.withResolvers<ServerResponse>();
  let taken = false;
  upstream.intercept((_request, response) => {
    if (taken) return false;
    taken = true;
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.flushHeaders();
    resolve(response);
    return true;
  });
  return {
    open: promise,
    closed: async () => await (upstream.requests.at(-1)?.closed ?? Promise.reject(new Error('no request'))),
  };
}

async function closedRecord(): Promise<ClosedRecord> {
  return await waitFor('the closed record', () => node.records.find((record) => record.type === 'closed'));
}

test('each event leaves when it comes, with its bytes [P12]', async () => {
  const { open } = streaming();
  let seen = '';
  const answer = send(node.url('open'), { ...call, onChunk: (text) => (seen += text) });
  const stream = await open;
  const first =
    ': hello\r\nevent: message\r\nid: 1\r\nretry: 5\r\ndata: {"jsonrpc":"2.0","method":"notifications/message","params":{"n":1.0}}\r\n\r\n';
  stream.write(first.slice(0, 60));
  stream.write(first.slice(60));
  await waitFor('the first event', () => seen === first);
  const last = event(answerOf(1));
  stream.end(last);
  const { status, headers, text } = await answer;
  expect(text).toBe(first + last);
  expect(status).toBe(200);
  expect(headers).toMatchObject({
    'content-type': 'text/event-stream',
    'x-accel-buffering': 'no',
    'cache-control': 'no-store',
  });
  expect(headers['content-encoding']).toBeUndefined();
  expect(await closedRecord()).toMatchObject({
    outcome: 'success',
    status: 200,
    responseBytes: Buffer.byteLength(text),
  });
});

test('a list inside a stream is filtered like any other', async () => {
  const { open } = streaming();
  const answer = send(node.url('open'), modern('tools/list'));
  (await open).end(
    event(answerOf(1, { tools: [describeTool('hidden'), describeTool('count')], cacheScope: 'public' }), '7'),
  );
  const { text } = await answer;
  expect(eventsOf(text)).toEqual([answerOf(1, { tools: [describeTool('count')], cacheScope: 'private' })]);
  expect(text).toContain('id: 7\n');
});

describe('a stream that ends without the answer [P15]', () => {
  test('gives the request an error', async () => {
    const { open } = streaming();
    const answer = send(node.url('open'), call);
    (await open).end(event(progress(1)));
    expect(eventsOf((await answer).text)).toMatchObject([progress(1), { id: 1, error: { code: 1032 } }]);
    expect(await closedRecord()).toMatchObject({ outcome: 'upstreamFailure', errorCode: 'UPSTREAM_PROTOCOL' });
  });

  test('by breaking off gives the request an error', async () => {
    const { open } = streaming();
    const answer = send(node.url('open'), call);
    const stream = await open;
    stream.write(event(progress(1)), () => stream.destroy());
    expect(eventsOf((await answer).text)).toMatchObject([progress(1), { id: 1, error: { code: 1030 } }]);
  });

  test('just ends where the client can take it up again by an event’s id', async () => {
    const { open } = streaming();
    const answer = send(node.url('open'), legacy('tools/call', { name: 'count', arguments: {} }));
    (await open).end('id: 0\nretry: 10\ndata: \n\n');
    expect((await answer).text).toMatch(/^retry: 10\ndata: \nid: k1\.[\w-]+\n\n$/);
  });
});

test.each([
  ['too large', `data: "${'x'.repeat(200_000)}"\n\n`, 1033],
  ['endless', `data: "${'x'.repeat(200_000)}`, 1033],
  ['no JSON', 'data: nonsense\n\n', 1032],
])('an event that is %s ends the stream with an error', async (_what, text, code) => {
  const { open, closed } = streaming();
  const answer = send(node.url('open'), call);
  (await open).write(text);
  expect(eventsOf((await answer).text)).toMatchObject([{ id: 1, error: { code } }]);
  expect(await closed()).toEqual({ answered: false });
});

test('an answer to another request does not get through', async () => {
  const { open } = streaming();
  const answer = send(node.url('open'), call);
  (await open).end(event(answerOf(2)) + event(answerOf('1')) + event(answerOf(1)));
  expect(eventsOf((await answer).text)).toEqual([answerOf(1)]);
});

test('a failure of another request does not get through', async () => {
  const { open } = streaming();
  const answer = send(node.url('open'), call);
  const failure = { jsonrpc: '2.0', id: 2, error: { code: -32000, message: 'forged' } };
  (await open).end(event(failure) + event(answerOf(1)));
  expect(eventsOf((await answer).text)).toEqual([answerOf(1)]);
});

test.each([
  ['a result and an error', { result: { tools: [{ name: 'hidden' }] }, error: { code: 1, message: '' } }],
  ['a result and a method', { result: { tools: [{ name: 'hidden' }] }, method: 'notifications/message' }],
])('a message that is %s at once shows nothing that a list would hide', async (_what, members) => {
  const { open } = streaming();
  const answer = send(node.url('open'), modern('tools/list'));
  (await open).end(event({ jsonrpc: '2.0', id: 1, ...members }));
  const { text } = await answer;
  expect(text).not.toContain('hidden');
  expect(eventsOf(text)).toMatchObject([{ id: 1, error: { code: 1032 } }]);
});

describe('a client that goes away [P17]', () => {
  test('ends a modern call at the upstream', async () => {
    const { open, closed } = streaming();
    const stop = new AbortController();
    const answer = send(node.url('open'), { ...call, signal: stop.signal }).catch(() => 'aborted');
    const stream = await open;
    stream.write(event(progress(1)));
    await waitFor('the stream is open', () => node.pipeline.streams.size === 1);
    stop.abort();
    expect(await answer).toBe('aborted');
    expect(await closed()).toEqual({ answered: false });
    expect(await closedRecord()).toMatchObject({ outcome: 'aborted', status: null });
  });

  test('ends a modern call that has no answer yet', async () => {
    const stop = new AbortController();
    const hanging = modern('tools/call', { name: 'hang', arguments: {} });
    const answer = send(node.url('open'), { ...hanging, signal: stop.signal }).catch(() => 'aborted');
    const request = await waitFor('the request', () => upstream.requests[0]);
    stop.abort();
    expect(await answer).toBe('aborted');
    expect(await request.closed).toEqual({ answered: false });
    expect(await closedRecord()).toMatchObject({ outcome: 'aborted', status: null });
  });

  test('does not end a legacy call, whose outcome is recorded', async () => {
    const { open, closed } = streaming();
    const stop = new AbortController();
    const sent = legacy('tools/call', { name: 'count', arguments: {} });
    const answer = send(node.url('open'), { ...sent, signal: stop.signal }).catch(() => 'aborted');
    const stream = await open;
    stream.write(event(progress(1)));
    await waitFor('the stream is open', () => node.pipeline.streams.size === 1);
    stop.abort();
    await answer;
    for (let at = 2; at < 50; at++) stream.write(event(progress(at)));
    stream.end(event(answerOf(1)));
    expect(await closed()).toEqual({ answered: true });
    expect(await closedRecord()).toMatchObject({ outcome: 'success', status: null });
    expect(node.records).toHaveLength(2);
  });

  test('leaves a legacy call that has no answer yet running to its end', async () => {
    const stop = new AbortController();
    const sent = legacy('tools/call', { name: 'slow', arguments: { delayMs: 200 } });
    const answer = send(node.url('open'), { ...sent, signal: stop.signal }).catch(() => 'aborted');
    const request = await waitFor('the request', () => upstream.requests[0]);
    stop.abort();
    await answer;
    expect(await request.closed).toEqual({ answered: true });
    expect(await closedRecord()).toMatchObject({ outcome: 'success', status: null });
  });
});

test('a slow client holds back the upstream instead of filling the node', async () => {
  const { open } = streaming();
  const { promise: paused, resolve: pause } = Promise.withResolvers<() => void>();
  const { request } = await import('node:http');
  const received = new Promise<number>((resolve, reject) => {
    const outgoing = request(
      node.url('open'),
      {
        method: 'POST',
        headers: {
          ...call.headers,
          authorization: 'Bearer sp_test_key_of_the_first_principal',
          'content-type': 'application/json',
        },
      },
      (response) => {
        let bytes = 0;
        response
          .on('data', (chunk: Buffer) => (bytes += chunk.length))
          .once('end', () => resolve(bytes))
          .once('error', reject);
        response.pause();
        pause(() => response.resume());
      },
    );
    outgoing.end(call.body);
  });
  const stream = await open;
  const resume = await paused;
  const chunk = event({ jsonrpc: '2.0', method: 'notifications/message', params: { data: 'x'.repeat(60_000) } });
  let accepted = 0;
  // Writes until nothing more is taken for a while: that is what fits into the buffers on the way.
  while (
    await Promise.race([
      new Promise<boolean>((resolve) => stream.write(chunk, () => resolve(true))),
      new Promise<boolean>((resolve) => setTimeout(() => resolve(false), 300)),
    ])
  ) {
    accepted += chunk.length;
    if (accepted > 64 * 1024 * 1024) break;
  }
  expect(accepted).toBeLessThan(32 * 1024 * 1024);
  resume();
  stream.end(event(answerOf(1)));
  expect(await received).toBeGreaterThanOrEqual(accepted);
});

describe('an open stream', () => {
  const revoked: readonly [string, (given: TestConfiguration) => TestConfiguration, number][] = [
    ['the grant is gone', (given) => ({ ...given, grants: [] }), 1003],
    ['the server is gone', (given) => ({ ...given, servers: [], grants: [] }), 1003],
    [
      'the principal is disabled',
      (given) => ({
        ...given,
        principals: [{ id: 'first', key: 'sp_test_key_of_the_first_principal', status: 'disabled' }],
      }),
      1001,
    ],
    [
      'the key is gone',
      (given) => ({ ...given, principals: [{ id: 'first', key: 'sp_another_key_of_the_same' }] }),
      1001,
    ],
  ];
  test.each(revoked)('ends when %s', async (_what, change, code) => {
    const { open, closed } = streaming();
    const answer = send(node.url('open'), listen);
    (await open).write(event({ jsonrpc: '2.0', method: 'notifications/subscriptions/acknowledged' }));
    await waitFor('the stream is open', () => node.pipeline.streams.size === 1);
    node.configure({ ...change(configuration), revision: 2 });
    expect(eventsOf((await answer).text).at(-1)).toMatchObject({ id: 'listen-1', error: { code } });
    expect(await closed()).toEqual({ answered: false });
    expect(node.pipeline.streams.size).toBe(0);
  });

  test('goes on when the change does not concern it', async () => {
    const { open } = streaming();
    const answer = send(node.url('open'), listen);
    const stream = await open;
    stream.write(event({ jsonrpc: '2.0', method: 'notifications/subscriptions/acknowledged' }));
    await waitFor('the stream is open', () => node.pipeline.streams.size === 1);
    node.configure({
      ...configuration,
      grants: [...configuration.grants, { server: 'open', prompts: ['p'] }],
      revision: 2,
    });
    stream.end(event(answerOf('listen-1')));
    expect(eventsOf((await answer).text).at(-1)).toEqual(answerOf('listen-1'));
  });

  test('of a call ends when its tool is no longer granted', async () => {
    const { open } = streaming();
    const answer = send(node.url('open'), call);
    (await open).write(event(progress(1)));
    await waitFor('the stream is open', () => node.pipeline.streams.size === 1);
    node.configure({ ...configuration, grants: [{ server: 'open', tools: ['slow'] }], revision: 2 });
    expect(eventsOf((await answer).text).at(-1)).toMatchObject({ id: 1, error: { code: -32602 } });
    expect(await closedRecord()).toMatchObject({ outcome: 'refused', errorCode: 'TOOL_NOT_AVAILABLE' });
  });

  test('tells nothing of resources that are not granted', async () => {
    const { open } = streaming();
    const answer = send(node.url('open'), listen);
    const updated = (uri: string) => ({ jsonrpc: '2.0', method: 'notifications/resources/updated', params: { uri } });
    (await open).end(event(updated('file://yours/1')) + event(updated('file://mine/1')) + event(answerOf('listen-1')));
    expect(eventsOf((await answer).text)).toEqual([updated('file://mine/1'), answerOf('listen-1')]);
  });

  test('ends as its server would end it when the node drains; a call keeps its stream until the deadline', async () => {
    const { open } = streaming();
    const answer = send(node.url('open'), listen);
    (await open).write(event({ jsonrpc: '2.0', method: 'notifications/subscriptions/acknowledged' }));
    await waitFor('the stream is open', () => node.pipeline.streams.size === 1);
    const second = streaming();
    const calling = send(node.url('open'), call);
    const stream = await second.open;
    stream.write(event(progress(1)));
    await waitFor('both are open', () => node.pipeline.streams.size === 2);
    node.listener.stopAccepting();
    node.pipeline.streams.endSubscriptions();
    expect(eventsOf((await answer).text).at(-1)).toEqual(
      answerOf('listen-1', { _meta: { 'io.modelcontextprotocol/subscriptionId': 'listen-1' } }),
    );
    expect(await node.listener.idle(50)).toBe(false);
    stream.end(event(answerOf(1)));
    expect(eventsOf((await calling).text)).toEqual([progress(1), answerOf(1)]);
    expect(await node.listener.idle(1_000)).toBe(true);
    await expect(send(node.url('open'), call)).rejects.toThrow(/ECONNREFUSED/);
  });
});

describe('the id of an event', () => {
  const idsOf = (text: string): string[] =>
    text.split('\n').flatMap((line) => (line.startsWith('id: ') ? [line.slice(4)] : []));
  const resume = (lastEventId: string, headers: Record<string, string> = {}, slug = 'open') =>
    send(node.url(slug), { method: 'GET', headers: { 'last-event-id': lastEventId, ...headers } });

  async function streamWithId(headers: Record<string, string> = {}): Promise<string> {
    const { open } = streaming();
    const sent = legacy('tools/call', { name: 'count', arguments: {} });
    const answer = send(node.url('open'), { ...sent, headers: { ...sent.headers, ...headers } });
    (await open).end(`id: stream-1_é\n${event(answerOf(1))}`);
    const [id = ''] = idsOf((await answer).text);
    return id;
  }

  test('lets its client take up the stream, and stands for the upstream’s own', async () => {
    const id = await streamWithId();
    expect(id).not.toContain('stream-1');
    const { open } = streaming();
    const answer = resume(id);
    (await open).end(event(progress(1), 'stream-1_2'));
    const { text } = await answer;
    expect(eventsOf(text)).toEqual([progress(1)]);
    expect(upstream.requests.at(-1)?.headers['last-event-id']).toBe(Buffer.from('stream-1_é').toString('latin1'));
    expect(idsOf(text)).toHaveLength(1);
  });

  test('is useless to anybody else, on another server, in another session, and to who made it up', async () => {
    const id = await streamWithId();
    const opened = await send(node.url('open'), legacy('initialize', { protocolVersion: '2025-11-25' }));
    const session = String(opened.headers['mcp-session-id']);
    const forwarded = upstream.requests.length;
    const answers = [
      await resume(id, { authorization: `Bearer ${otherKey}` }),
      await resume(id, {}, 'twin'),
      await resume(id, { 'mcp-session-id': session }),
      await resume('stream-1_é'),
      await resume(changed(id)),
    ];
    expect(answers.map(({ status }) => status)).toEqual([404, 404, 404, 404, 404]);
    expect(upstream.requests).toHaveLength(forwarded);
  });

  test('ends with the sessions of its principal', async () => {
    const id = await streamWithId();
    node.configure({ ...configuration, principals: [{ id: 'first', key: testKey, epoch: 1 }] });
    expect((await resume(id)).status).toBe(404);
  });
});

describe('a legacy client’s own stream', () => {
  // Without a word of Streamable HTTP it would be the stream of an HTTP+SSE client.
  const own = { method: 'GET', headers: { 'mcp-protocol-version': '2025-11-25' } };

  test('is filtered by shape, since it may bring the answer to any request', async () => {
    const { open } = streaming();
    const answer = send(node.url('open'), own);
    (await open).end(
      event(answerOf(3, { tools: [describeTool('hidden'), describeTool('count')] }), '6') +
        event({ jsonrpc: '2.0', id: 9, method: 'sampling/createMessage', params: { maxTokens: 9 } }, '7'),
    );
    expect(eventsOf((await answer).text)).toEqual([
      answerOf(3, { tools: [describeTool('count')] }),
      { jsonrpc: '2.0', id: 9, method: 'sampling/createMessage', params: { maxTokens: 9 } },
    ]);
    expect(upstream.requests.at(-1)?.headers).toMatchObject({ accept: 'text/event-stream' });
  });

  test('that the upstream does not offer is 405 [P10]', async () => {
    const answer = await send(node.url('open'), own);
    expect(answer.status).toBe(405);
  });

  test('ends at the upstream with its client', async () => {
    const { open, closed } = streaming();
    const stop = new AbortController();
    const answer = send(node.url('open'), { ...own, signal: stop.signal }).catch(() => 'aborted');
    await open;
    await waitFor('the stream is open', () => node.pipeline.streams.size === 1);
    stop.abort();
    expect(await answer).toBe('aborted');
    expect(await closed()).toEqual({ answered: false });
  });
});
