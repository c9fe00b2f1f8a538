/**
 * A request that waits while a revocation lands is not forwarded, whatever it waits for; and nothing more is delivered
 * to whom it concerns.
 */
import { request as httpRequest } from 'node:http';
import type { AuditRecord } from '@sallyport/schema';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import { describeTool, type FakeUpstream, fakeTools, startFakeUpstream } from '../kit/fake-upstream.ts';
import { otherKey, type PipelineNode, startPipelineNode, type TestConfiguration, testKey } from './pipeline-node.ts';
import { eventsOf, legacy, modern, send } from './requests.ts';

let upstream: FakeUpstream;
let node: PipelineNode;
let configuration: TestConfiguration;

async function start(options: Partial<TestConfiguration> = {}, host = '127.0.0.1'): Promise<void> {
  const url = upstream.url.replace('127.0.0.1', host);
  configuration = {
    servers: [
      { slug: 'open', url, tools: fakeTools },
      { slug: 'strict', url, tools: fakeTools, auditMode: 'strict' },
    ],
    grants: [
      { server: 'open', tools: ['*'] },
      { server: 'strict', tools: ['*'] },
    ],
    principals: [
      { id: 'first', key: testKey },
      { id: 'another', key: otherKey },
    ],
    ...options,
  };
  node = await startPipelineNode(configuration);
}

beforeEach(async () => {
  upstream = await startFakeUpstream();
});
afterEach(async () => {
  await node.stop();
  await upstream.stop();
});

/** What may be taken away, and what the caller hears then. */
const revocations: readonly [string, () => Partial<TestConfiguration>, number][] = [
  ['the principal', () => ({ principals: [{ id: 'first', key: testKey, status: 'disabled' }] }), 401],
  ['the key', () => ({ principals: [{ id: 'first', key: 'another key' }] }), 401],
  // A tool that is not there is an answer like any other.
  ['the grant', () => ({ grants: [{ server: 'open', tools: ['slow'] }] }), 200],
  ['every grant on the server', () => ({ grants: [] }), 404],
  ['the server', () => ({ servers: [], grants: [] }), 404],
];
function revoke(without: Partial<TestConfiguration> = { grants: [] }): void {
  node.configure({ ...configuration, ...without, revision: 2 });
}

const call = modern('tools/call', { name: 'count', arguments: { id: 'late' } });
const listen = modern('subscriptions/listen', { notifications: { toolsListChanged: true } }, 'l');

async function records(count: number): Promise<readonly AuditRecord[]> {
  return await waitFor(`${count} records`, () => node.records.length >= count && node.records);
}

function expectNothingSent(): void {
  expect(upstream.requests.filter(({ body }) => body.includes('late'))).toEqual([]);
}

const isRefused = (record: AuditRecord): boolean => 'outcome' in record && record.outcome === 'refused';

/** It was refused before its record was opened: by what was in force then. */
async function expectRefused(): Promise<void> {
  expectNothingSent();
  const refused = await waitFor('the record of the refusal', () => node.records.find(isRefused));
  expect(refused).toMatchObject({ type: 'refused', config: { revision: 2 } });
  expect(refused).not.toMatchObject({ decision: { effect: 'allow' } });
}

/** Its record was opened, and closes by saying that nothing was sent. */
async function expectClosedUnsent(): Promise<void> {
  expectNothingSent();
  const closed = await waitFor('the record of the refusal', () => node.records.find(isRefused));
  expect(closed).toMatchObject({ type: 'closed', upstreamMs: null });
  const eventId = 'eventId' in closed ? closed.eventId : '';
  const opened = node.records.find((record) => record.type === 'opened' && record.eventId === eventId);
  expect(opened).toMatchObject({ decision: { effect: 'allow' }, config: { revision: 1 } });
}

describe('is not forwarded when a revocation lands while it waits:', () => {
  test.each(revocations)('for the rest of its body (%s)', async (_what, without, status) => {
    await start();
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    const headers = {
      authorization: `Bearer ${testKey}`,
      accept: 'application/json, text/event-stream',
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(call.body),
      ...call.headers,
    };
    const outgoing = httpRequest(node.url('open'), { method: 'POST', headers, agent: false }, (response) => {
      response.resume();
      resolve(response.statusCode ?? 0);
    });
    outgoing.on('error', reject);
    await new Promise((sent) => outgoing.write(call.body.slice(0, 40), sent));
    await waitFor('the body is awaited', () => node.listener.open === 1);
    revoke(without());
    outgoing.end(call.body.slice(40));
    expect(await promise).toBe(status);
    await expectRefused();
  });

  test.each(revocations)('for a connection to its upstream (%s)', async (_what, without, status) => {
    const address = Promise.withResolvers<readonly string[]>();
    let asked = 0;
    const resolve = () => {
      asked++;
      return address.promise;
    };
    await start({ egress: { resolve } }, 'upstream.test');
    const answer = send(node.url('open'), call);
    await waitFor('the dial', () => asked > 0);
    expect(node.records.map(({ type }) => type)).toEqual(['opened']);
    revoke(without());
    address.resolve(['127.0.0.1']);
    expect((await answer).status).toBe(status);
    await expectClosedUnsent();
  });

  test.each(revocations)('for a place in the pool of connections (%s)', async (_what, without, status) => {
    await start({ egress: { connectionsPerOriginMax: 1 } });
    const stop = new AbortController();
    const hanging = modern('tools/call', { name: 'hang', arguments: {} });
    const holder = send(node.url('open'), {
      ...hanging,
      headers: { ...hanging.headers, authorization: `Bearer ${otherKey}` },
      signal: stop.signal,
    }).catch(() => undefined);
    await waitFor('the only connection is taken', () => upstream.requests.length === 1);
    const answer = send(node.url('open'), call);
    await records(2);
    revoke(without());
    stop.abort();
    await holder;
    expect((await answer).status).toBe(status);
    await expectClosedUnsent();
  });

  test('for its record to be on disk', async () => {
    await start();
    const release = node.holdDisk();
    const answer = send(node.url('strict'), call);
    await records(1);
    revoke();
    release();
    expect((await answer).status).toBe(404);
    await expectClosedUnsent();
  });

  test('for a connection, and its session is ended meanwhile', async () => {
    await start();
    const opened = await send(node.url('open'), legacy('initialize', { protocolVersion: '2025-11-25' }));
    const session = String(opened.headers['mcp-session-id']);
    const release = node.holdDisk();
    const late = legacy('tools/call', { name: 'count', arguments: { id: 'late' } });
    // The strict server is another one: a session of its own.
    const other = await sessionOn('strict', release);
    const again = node.holdDisk();
    const answer = send(node.url('strict'), { ...late, headers: { ...late.headers, 'mcp-session-id': other } });
    await waitFor('the call is recorded', () => node.records.at(-1)?.type === 'opened');
    revoke({ principals: [{ id: 'first', key: testKey, epoch: 1 }] });
    again();
    expect((await answer).status).toBe(404);
    await expectClosedUnsent();
    const after = send(node.url('open'), { ...late, headers: { ...late.headers, 'mcp-session-id': session } });
    expect((await after).status).toBe(404);
  });
});

async function sessionOn(slug: string, release: () => void): Promise<string> {
  const opening = send(node.url(slug), legacy('initialize', { protocolVersion: '2025-11-25' }));
  release();
  return String((await opening).headers['mcp-session-id']);
}

test('a connection that waited for a refused call serves the next one', async () => {
  await start({ egress: { connectionsPerOriginMax: 1 } });
  await send(node.url('open'), modern('tools/call', { name: 'count', arguments: { id: 'before' } }));
  const slow = send(node.url('open'), modern('tools/call', { name: 'slow', arguments: { delayMs: 100 } }));
  await waitFor('the only connection is taken', () => upstream.requests.length === 2);
  const late = send(node.url('open'), call);
  await records(4);
  revoke({ grants: [{ server: 'open', tools: ['slow', 'big'] }] });
  expect((await slow).status).toBe(200);
  expect((await late).json).toMatchObject({ error: { code: -32602 } });
  const next = await send(node.url('open'), modern('tools/call', { name: 'big', arguments: { bytes: 10 } }));
  expect(next.status).toBe(200);
  const ports = new Set(upstream.requests.map(({ headers }) => headers.host));
  expect(ports.size).toBe(1);
});

test('a call that outlived the window of its grant while it waited is not forwarded', async () => {
  await start({ egress: { connectionsPerOriginMax: 1 } });
  const hanging = send(node.url('open'), modern('tools/call', { name: 'slow', arguments: { delayMs: 800 } }));
  await waitFor('the only connection is taken', () => upstream.requests.length === 1);
  const windowed = { server: 'open', tools: ['*'], notAfter: node.store.now() + 300 };
  node.configure({ ...configuration, grants: [windowed] });
  const answer = send(node.url('open'), call);
  await hanging;
  expect((await answer).status).toBe(404);
  expect(upstream.executions.has('late')).toBe(false);
});

describe('what the upstream answers after the revocation', () => {
  test('does not reach the caller', async () => {
    await start();
    const answer = send(node.url('open'), modern('tools/call', { name: 'slow', arguments: { delayMs: 150 } }));
    await waitFor('the call is under way', () => upstream.requests.length === 1);
    revoke();
    expect((await answer).status).toBe(404);
    expect((await records(2)).at(-1)).toMatchObject({ type: 'closed', outcome: 'refused', errorCode: 'NOT_FOUND' });
    const closed = node.records.at(-1);
    expect(closed?.type === 'closed' && closed.upstreamMs).toBeGreaterThan(100);
  });

  test('in a stream that only opens then, neither', async () => {
    await start();
    let open = (): void => undefined;
    upstream.intercept((_request, response) => {
      open = () => {
        response.writeHead(200, { 'content-type': 'text/event-stream' });
        response.write('data: {"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n\n');
      };
      return true;
    });
    const answer = send(node.url('open'), listen);
    await waitFor('the subscription is under way', () => upstream.requests.length === 1);
    revoke();
    open();
    const { status, text } = await answer;
    expect(status).toBe(404);
    expect(text).not.toContain('list_changed');
    expect(node.pipeline.streams.size).toBe(0);
    expect(await upstream.requests[0]?.closed).toEqual({ answered: false });
  });

  test('is a list filtered by what is in force then', async () => {
    await start();
    upstream.intercept((_request, response) => {
      revoke({ grants: [{ server: 'open', tools: ['big'] }] });
      const result = { resultType: 'complete', tools: [describeTool('count'), describeTool('big')] };
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(JSON.stringify({ jsonrpc: '2.0', id: 1, result }));
      return true;
    });
    const { json } = await send(node.url('open'), modern('tools/list'));
    expect(json.result.tools).toEqual([describeTool('big')]);
  });
});

test('open streams of one principal end with its rights; those of another go on', async () => {
  await start();
  upstream.intercept((_request, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.flushHeaders();
    return true;
  });
  const stop = new AbortController();
  const mine = send(node.url('open'), listen);
  const theirs = send(node.url('open'), {
    ...listen,
    headers: { ...listen.headers, authorization: `Bearer ${otherKey}` },
    signal: stop.signal,
  }).catch(() => 'aborted');
  await waitFor('both streams are open', () => node.pipeline.streams.size === 2);
  revoke({ principals: [{ id: 'another', key: otherKey }] });
  expect(eventsOf((await mine).text)).toMatchObject([{ id: 'l', error: { code: 1001 } }]);
  expect(node.pipeline.streams.size).toBe(1);
  stop.abort();
  expect(await theirs).toBe('aborted');
});
