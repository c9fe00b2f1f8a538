import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { approvedAs, type PipelineNode, startPipelineNode } from './pipeline-node.ts';
import { legacy, modern, send } from './requests.ts';

/** Clients that speak both eras at once, and servers whose answers the eras read differently. */
let upstream: FakeUpstream;
let node: PipelineNode;

beforeEach(async () => {
  upstream = await startFakeUpstream();
  node = await startPipelineNode({
    servers: [
      { slug: 'open', url: upstream.url, tools: ['count'] },
      { slug: 'modern', url: upstream.url, tools: ['count'], protocolRevisions: ['2026-07-28'] },
    ],
    grants: [
      { server: 'open', tools: ['*'] },
      { server: 'modern', tools: ['*'] },
    ],
  });
});
afterEach(async () => {
  await node.stop();
  await upstream.stop();
});

const count = { name: 'count', arguments: {} };
const initialize = { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'both', version: '1' } };

test('a client that initializes after a discovery is served on both [P35]', async () => {
  const discovered = await send(node.url('open'), modern('server/discover'));
  expect(discovered.json.result.supportedVersions).toEqual(['2026-07-28']);
  const opened = await send(node.url('open'), legacy('initialize', initialize));
  const session = { 'mcp-session-id': String(opened.headers['mcp-session-id']) };
  const inSession = await send(node.url('open'), { ...legacy('tools/call', count), headers: session });
  expect(inSession.json.result.content).toHaveLength(1);
  const beside = await send(node.url('open'), modern('tools/call', count));
  expect(beside.json.result).toMatchObject({ resultType: 'complete' });
});

describe('refusals that early releases of the SDKs numbered otherwise [P40]', () => {
  test.each([
    [-32001, { supported: ['2026-07-28'] }],
    [-32003, { requiredCapabilities: { sampling: {} } }],
    [-32004, undefined],
  ])('%i passes with its bytes', async (code, data) => {
    const body = JSON.stringify({ jsonrpc: '2.0', id: 1, error: { code, message: 'beta', data } });
    upstream.intercept((_request, response) => {
      response.writeHead(400, { 'content-type': 'application/json' }).end(body);
      return true;
    });
    const { status, text } = await send(node.url('open'), modern('tools/call', count));
    expect([status, text]).toEqual([400, body]);
  });
});

describe('a refusal of 2026-07-28 [P36]', () => {
  test.each([-32021, -32022])('%i over 400 passes to a modern client as it is', async (code) => {
    const body = JSON.stringify({ jsonrpc: '2.0', id: 1, error: { code, message: 'no', data: { supported: [] } } });
    upstream.intercept((_request, response) => {
      response.writeHead(400, { 'content-type': 'application/json' }).end(body);
      return true;
    });
    const { status, text } = await send(node.url('open'), modern('tools/call', count));
    expect([status, text]).toEqual([400, body]);
  });

  test.each([-32021, -32022])('%i reaches a legacy client over 200, under a code of its own era', async (code) => {
    const opened = await send(node.url('modern'), legacy('initialize', initialize));
    const session = { ...legacy('').headers, 'mcp-session-id': opened.headers['mcp-session-id'] };
    upstream.intercept(({ body }, response) => {
      const { id } = JSON.parse(body) as { id: string };
      const error = { code, message: 'no', data: { supported: [] } };
      response.writeHead(400, { 'content-type': 'application/json' });
      response.end(JSON.stringify({ jsonrpc: '2.0', id, error }));
      return true;
    });
    const answer = await send(node.url('modern'), { ...legacy('tools/call', count), headers: session });
    expect([answer.status, answer.json?.error.code]).toEqual([200, -32603]);
    expect(JSON.stringify(answer.json.error.data)).toContain(String(code));
    upstream.intercept(() => false);
    const after = await send(node.url('modern'), { ...legacy('ping'), headers: session });
    expect([after.status, after.json?.result]).toEqual([200, {}]);
  });
});

test('404 with an unknown method means that, not that a session or a server is gone [P34]', async () => {
  const body = JSON.stringify({ jsonrpc: '2.0', id: 1, error: { code: -32601, message: 'Method not found' } });
  upstream.intercept((_request, response) => {
    response.writeHead(404, { 'content-type': 'application/json' }).end(body);
    return true;
  });
  const asModern = await send(node.url('open'), modern('tools/list'));
  expect([asModern.status, asModern.text, node.doubted]).toEqual([404, body, []]);
});

test('what no specification knows survives in both directions: _meta, annotations, icons, structured content [P44] [P45]', async () => {
  const definition = {
    name: 'count',
    title: 'Counts',
    inputSchema: { type: 'object' },
    outputSchema: { type: 'object', properties: { n: { type: 'number' } } },
    annotations: { readOnlyHint: true, unheard: 1 },
    icons: [{ src: 'https://example.com/i.png' }],
    _meta: { 'com.example/x': [1, null] },
  };
  const definitions = approvedAs('tool', [definition]);
  node.configure({
    servers: [{ slug: 'open', url: upstream.url, definitions }],
    grants: [{ server: 'open', tools: ['*'] }],
  });
  const answers = [
    { tools: [definition], resultType: 'complete', ttlMs: 0, cacheScope: 'private', 'com.example/y': true },
    {
      content: [{ type: 'text', text: '1' }],
      structuredContent: { n: 1, deep: [{ a: null }] },
      resultType: 'complete',
    },
  ];
  upstream.intercept((_request, response) => {
    const result = answers.shift();
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ jsonrpc: '2.0', id: 1, result }));
    return true;
  });
  const [list, called] = [{ ...answers[0] }, { ...answers[1] }];
  expect((await send(node.url('open'), modern('tools/list'))).json.result).toEqual(list);
  const params = { ...count, arguments: { n: 1.5, unheard: { deep: [] } } };
  expect((await send(node.url('open'), modern('tools/call', params))).json.result).toEqual(called);
  expect(upstream.requests.at(-1)?.body).toContain('"unheard":{"deep":[]}');
});
