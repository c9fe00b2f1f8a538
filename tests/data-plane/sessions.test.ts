import { Client as LegacyClient } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport as LegacyTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { ElicitRequestSchema, ToolListChangedNotificationSchema } from '@modelcontextprotocol/sdk/types.js';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type ReferenceServer, startReferenceServer } from '../kit/reference-server.ts';
import {
  approvedBy,
  otherKey,
  type PipelineNode,
  startPipelineNode,
  type TestConfiguration,
  testKey,
} from './pipeline-node.ts';
import { legacy, send } from './requests.ts';

let reference: ReferenceServer;
let fake: FakeUpstream;
let nodes: [PipelineNode, PipelineNode];
let configuration: TestConfiguration;
const tools = ['test_simple_text', 'test_elicitation', 'test_tool_with_progress'];
const key = (id: string, use: 'open' | 'seal') => ({ id, secret: Buffer.alloc(32, id).toString('base64'), use });

beforeAll(async () => {
  reference = await startReferenceServer();
  fake = await startFakeUpstream();
  configuration = {
    servers: [
      { slug: 'reference', url: reference.url, definitions: await approvedBy(reference.url, tools) },
      { slug: 'fake', url: fake.url, tools: ['count'] },
      { slug: 'twin', url: fake.url, tools: ['count'] },
    ],
    grants: ['reference', 'fake', 'twin'].map((server) => ({ server, tools: ['*'], resources: ['*'] })),
    sealing: [key('k1', 'seal')],
  };
  nodes = [await startPipelineNode(configuration), await startPipelineNode(configuration)];
});
afterAll(async () => {
  await Promise.all(nodes.map((node) => node.stop()));
  await Promise.all([reference.stop(), fake.stop()]);
});

/** Sends each request to the next node, as a balancer without stickiness does. */
function roundRobin(): (input: string | URL, init?: RequestInit) => Promise<Response> {
  let turn = 0;
  return (input, init) => {
    const url = new URL(input);
    url.port = String((nodes[turn++ % 2] ?? nodes[0]).port);
    return fetch(url, init);
  };
}

test('a legacy client works over two nodes that share nothing but the configuration [P24]', async () => {
  const client = new LegacyClient({ name: 'legacy', version: '1' }, { capabilities: { elicitation: {} } });
  client.setRequestHandler(ElicitRequestSchema, () => ({ action: 'accept', content: { response: 'yes' } }));
  let changed = 0;
  client.setNotificationHandler(ToolListChangedNotificationSchema, () => void changed++);
  const transport = new LegacyTransport(new URL(nodes[0].url('reference')), {
    fetch: roundRobin(),
    requestInit: { headers: { authorization: `Bearer ${testKey}` } },
  });
  await client.connect(transport as never);
  expect(transport.sessionId).toMatch(/^k1\./);
  for (let at = 0; at < 4; at++) {
    expect((await client.listTools()).tools.map(({ name }) => name)).toEqual(
      expect.arrayContaining(['test_simple_text']),
    );
    const answer = await client.callTool({ name: 'test_simple_text', arguments: {} });
    expect(answer.content).toMatchObject([{ type: 'text' }]);
  }
  // The question comes on the call's stream of one node, its answer is posted to the other.
  const asked = await client.callTool({ name: 'test_elicitation', arguments: { message: 'sure?' } });
  expect(asked.isError ?? false).toBe(false);
  await transport.terminateSession();
  await client.close();
  for (const node of nodes) expect(node.records.some(({ type }) => type === 'opened')).toBe(true);
});

async function openSession(node: PipelineNode, slug = 'fake', bearer = testKey): Promise<string> {
  const answer = await send(node.url(slug), {
    ...legacy('initialize', {
      protocolVersion: '2025-11-25',
      capabilities: {},
      clientInfo: { name: 'ide', version: '2' },
    }),
    headers: { authorization: `Bearer ${bearer}` },
  });
  return String(answer.headers['mcp-session-id']);
}

async function use(node: PipelineNode, token: string, slug = 'fake', bearer = testKey): Promise<number> {
  const headers = { 'mcp-session-id': token, authorization: `Bearer ${bearer}`, 'mcp-protocol-version': undefined };
  return (await send(node.url(slug), { ...legacy('ping'), headers })).status;
}

describe('a session', () => {
  test('is the upstream’s own, sealed: any node opens it, the client never sees it', async () => {
    const token = await openSession(nodes[0]);
    expect(token).not.toContain('fake-');
    expect(await use(nodes[1], token)).toBe(200);
    expect(fake.requests.at(-1)?.headers['mcp-session-id']).toMatch(/^fake-\d+$/);
    expect(nodes[1].records.findLast(({ type }) => type === 'opened')).toMatchObject({
      protocolRevision: '2025-11-25',
      client: { info: 'ide/2' },
    });
  });

  test('serves nobody else and nothing else [P21] [P26]', async () => {
    const token = await openSession(nodes[0]);
    const before = fake.requests.length;
    expect(await use(nodes[0], token, 'fake', otherKey)).toBe(404);
    expect(await use(nodes[0], token, 'twin')).toBe(404);
    expect(await use(nodes[0], `${token}x`)).toBe(404);
    expect(await use(nodes[0], '')).toBe(404);
    expect(fake.requests.length).toBe(before);
  });

  test('ends when the principal’s epoch is raised', async () => {
    const token = await openSession(nodes[0]);
    nodes[0].configure({
      ...configuration,
      principals: [
        { id: 'first', key: testKey, epoch: 1 },
        { id: 'another', key: otherKey },
      ],
    });
    expect(await use(nodes[0], token)).toBe(404);
    nodes[0].configure(configuration);
  });

  test('ends at its time [P21]', async () => {
    nodes[0].configure({ ...configuration, limits: { sessionTtlMs: 1 } });
    const token = await openSession(nodes[0]);
    nodes[0].configure(configuration);
    expect(await use(nodes[1], token)).toBe(404);
  });

  test('lives through a rotation of the keys in two steps, on nodes at different steps', async () => {
    const first = await openSession(nodes[0]);
    const steps = [[key('k1', 'seal'), key('k2', 'open')], [key('k1', 'open'), key('k2', 'seal')], [key('k2', 'seal')]];
    const at = (node: PipelineNode, step: number): void =>
      node.configure({ ...configuration, sealing: steps[step] ?? [] });
    at(nodes[0], 0);
    at(nodes[1], 0);
    at(nodes[0], 1);
    const second = await openSession(nodes[0]);
    expect(second).toMatch(/^k2\./);
    for (const node of nodes) {
      expect(await use(node, first)).toBe(200);
      expect(await use(node, second)).toBe(200);
    }
    at(nodes[1], 2);
    expect([await use(nodes[1], second), await use(nodes[1], first)]).toEqual([200, 404]);
    for (const node of nodes) node.configure(configuration);
  });

  test('is ended at the upstream by the client', async () => {
    const token = await openSession(nodes[0]);
    const answer = await send(nodes[1].url('fake'), { method: 'DELETE', headers: { 'mcp-session-id': token } });
    expect(answer.status).toBe(200);
    expect(fake.requests.at(-1)).toMatchObject({ httpMethod: 'DELETE' });
    expect(fake.requests.at(-1)?.headers['mcp-session-id']).toMatch(/^fake-/);
  });

  test('that the upstream forgot is 404, so that the client starts anew', async () => {
    const token = await openSession(nodes[0]);
    fake.intercept((_request, response) => {
      fake.intercept(() => false);
      response.writeHead(404, { 'content-type': 'text/plain' }).end('who?');
      return true;
    });
    expect(await use(nodes[0], token)).toBe(404);
  });

  test('is not looked at for a modern client', async () => {
    const { modern } = await import('./requests.ts');
    const call = modern('tools/call', { name: 'count', arguments: {} });
    const answer = await send(nodes[0].url('fake'), {
      ...call,
      headers: { ...call.headers, 'mcp-session-id': 'nonsense' },
    });
    expect(answer.status).toBe(200);
    expect(fake.requests.at(-1)?.headers['mcp-session-id']).toBeUndefined();
  });
});

test('a call that a legacy client wants as a task reaches a server of its era like any other', async () => {
  const params = { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'ide', version: '2' } };
  const session = String((await send(nodes[0].url('fake'), legacy('initialize', params))).headers['mcp-session-id']);
  const sent = legacy('tools/call', { task: { ttl: 1_000 }, name: 'count', arguments: { id: 'as-task' } });
  const answer = await send(nodes[0].url('fake'), { ...sent, headers: { ...sent.headers, 'mcp-session-id': session } });
  expect(answer.json.result.content[0].text).toBe('executed as-task');
  const told = fake.requests.findLast(({ body }) => body.includes('as-task'));
  expect(JSON.parse(told?.body ?? '').params).toEqual({ name: 'count', arguments: { id: 'as-task' } });
});
