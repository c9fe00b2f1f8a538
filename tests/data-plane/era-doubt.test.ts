import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type PipelineNode, startPipelineNode } from './pipeline-node.ts';
import { legacy, modern, type Sent, send } from './requests.ts';

let upstream: FakeUpstream;
let node: PipelineNode;

beforeEach(async () => {
  upstream = await startFakeUpstream();
  node = await startPipelineNode({
    servers: [
      { slug: 'open', url: upstream.url, tools: ['count'] },
      { slug: 'modern', url: upstream.url, tools: ['count'], protocolRevisions: ['2026-07-28'] },
      { slug: 'legacy', url: upstream.url, tools: ['count'], protocolRevisions: ['2025-11-25'] },
    ],
    grants: ['open', 'modern', 'legacy'].map((server) => ({ server, tools: ['*'] })),
  });
});
afterEach(async () => {
  await node.stop();
  await upstream.stop();
});

const modernCall = modern('tools/call', { name: 'count', arguments: {} });
const legacyCall = legacy('tools/call', { name: 'count', arguments: {} });
const initialize = legacy('initialize', { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'x' } });
const error = (code: number) => JSON.stringify({ jsonrpc: '2.0', id: 1, error: { code, message: 'no' } });

type Case = readonly [what: string, sent: Sent, status: number, type: string, body: string];

async function doubtsAfter([, sent, status, type, body]: Case): Promise<readonly string[]> {
  upstream.intercept((_request, response) => {
    response.writeHead(status, { 'content-type': type }).end(body);
    return true;
  });
  await send(node.url('open'), sent);
  return node.doubted;
}

describe('an upstream that answers like one of the other era is to be discovered again', () => {
  test.each<Case>([
    ['a page over 404', modernCall, 404, 'text/html', '<h1>Not found</h1>'],
    ['text over 400', modernCall, 400, 'text/plain', 'Bad Request'],
    ['a session that a modern client has not', modernCall, 400, 'application/json', error(-32000)],
    ['no POST', modernCall, 405, 'text/plain', ''],
    ['not acceptable', modernCall, 406, 'application/json', error(-32000)],
    ['no discovery', modern('server/discover'), 200, 'application/json', error(-32601)],
    ['no initialize', initialize, 404, 'application/json', error(-32601)],
    ['a header that a legacy client does not send', legacyCall, 400, 'application/json', error(-32020)],
    ['an unsupported revision', legacyCall, 400, 'application/json', error(-32022)],
    ['an unsupported revision over 200', legacyCall, 200, 'application/json', error(-32022)],
    ['an envelope that a legacy client does not send', legacyCall, 400, 'application/json', error(-32602)],
  ])('%s', async (...of) => {
    expect(await doubtsAfter(of)).toEqual(['server-open']);
  });
});

describe('what says nothing of the era is no reason', () => {
  test.each<Case>([
    ['a method that a modern server does not know', modernCall, 404, 'application/json', error(-32601)],
    ['a capability that a modern client has not', modernCall, 400, 'application/json', error(-32021)],
    ['parameters that are not valid', modernCall, 400, 'application/json', error(-32602)],
    ['a failed call', modernCall, 200, 'application/json', error(-32603)],
    ['a session that a legacy server forgot', legacyCall, 404, 'application/json', error(-32001)],
    ['a denial', modernCall, 401, 'text/plain', ''],
    ['too many requests', modernCall, 429, 'application/json', error(-32000)],
  ])('%s', async (...of) => {
    expect(await doubtsAfter(of)).toEqual([]);
  });

  test('an upstream that is away, and a request that never went there', async () => {
    await upstream.stop();
    await send(node.url('open'), modernCall);
    await send(node.url('open'), modern('tools/call', { name: 'other', arguments: {} }));
    expect(node.doubted).toEqual([]);
  });
});

describe('an upstream that changes its era while clients of the other one use it', () => {
  const answering = (status: number, code: number): void =>
    upstream.intercept(({ body }, response) => {
      const { id } = JSON.parse(body === '' ? '{}' : body) as { id?: unknown };
      if (id === undefined) response.writeHead(202).end();
      else {
        response.writeHead(status, { 'content-type': 'application/json' });
        response.end(JSON.stringify({ jsonrpc: '2.0', id, error: { code, message: 'no' } }));
      }
      return true;
    });

  test.each([
    [400, -32602],
    [400, -32022],
    [200, -32020],
  ])('a legacy one says %i and %i to the session of a modern client', async (status, code) => {
    expect((await send(node.url('legacy'), modernCall)).json.result).toBeDefined();
    expect(node.doubted).toEqual([]);
    answering(status, code);
    await send(node.url('legacy'), modernCall);
    expect(node.doubted).toEqual(['server-legacy']);
  });

  async function withinSession(): Promise<Sent> {
    const opened = await send(node.url('modern'), initialize);
    return { ...legacyCall, headers: { ...legacyCall.headers, 'mcp-session-id': opened.headers['mcp-session-id'] } };
  }

  test('a modern one says what no modern one does to a legacy client', async () => {
    const call = await withinSession();
    expect((await send(node.url('modern'), call)).json.result).toBeDefined();
    expect(node.doubted).toEqual([]);
    answering(400, -32000);
    await send(node.url('modern'), call);
    expect(node.doubted).toEqual(['server-modern']);
  });

  test('what fails over a bridge for other reasons is none', async () => {
    const call = await withinSession();
    await send(node.url('legacy'), modernCall);
    answering(200, -32603);
    await send(node.url('modern'), call);
    await send(node.url('legacy'), modernCall);
    answering(400, -32021);
    await send(node.url('modern'), call);
    expect(node.doubted).toEqual([]);
  });
});

test('one server is doubted once in a while, however often it is met', async () => {
  for (let count = 0; count < 3; count++) await doubtsAfter(['', modernCall, 400, 'text/plain', 'no']);
  expect(node.doubted).toEqual(['server-open']);
});
