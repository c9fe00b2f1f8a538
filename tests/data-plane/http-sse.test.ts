import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Client as ModernClient, StreamableHTTPClientTransport as ModernTransport } from '@modelcontextprotocol/client';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import { ElicitRequestSchema, ToolListChangedNotificationSchema } from '@modelcontextprotocol/sdk/types.js';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { waitFor } from '../kit/condition.ts';
import { type HttpSseUpstream, httpSseTools, startHttpSseUpstream } from '../kit/http-sse-upstream.ts';
import { type ReferenceServer, startReferenceServer } from '../kit/reference-server.ts';
import { type FleetOfNodes, startFleetOfNodes } from './fleet-of-nodes.ts';
import { approvedBy, otherKey, type TestConfiguration, testKey } from './pipeline-node.ts';
import { changed, legacy, modern, send } from './requests.ts';

const legacyRevisions = ['2025-11-25', '2025-06-18', '2025-03-26', '2024-11-05'];
const referenceTools = ['test_simple_text', 'test_elicitation', 'test_tool_with_progress'];
const headers = { authorization: `Bearer ${testKey}` };

let upstream: HttpSseUpstream;
let references: Readonly<Record<'legacy' | 'modern', ReferenceServer>>;
/** Behind a plain round robin: no request is sent twice to the same node because of whom it belongs to. */
let fleet: FleetOfNodes;
let configuration: TestConfiguration;
const closing: (() => Promise<unknown>)[] = [];

beforeAll(async () => {
  upstream = await startHttpSseUpstream();
  references = {
    legacy: await startReferenceServer({ eras: 'legacy' }),
    modern: await startReferenceServer({ eras: 'modern' }),
  };
  const old = { url: upstream.url, transport: 'httpSse', protocolRevisions: legacyRevisions } as const;
  const defined = { ...old, definitions: await approvedBy(upstream.url, httpSseTools) };
  const ofReference = ({ url }: ReferenceServer) => approvedBy(url, referenceTools);
  configuration = {
    servers: [
      { slug: 'old', ...defined },
      { slug: 'twin', ...defined },
      {
        slug: 'legacy',
        url: references.legacy.url,
        protocolRevisions: legacyRevisions,
        definitions: await ofReference(references.legacy),
      },
      {
        slug: 'modern',
        url: references.modern.url,
        protocolRevisions: ['2026-07-28'],
        definitions: await ofReference(references.modern),
      },
    ],
    grants: ['old', 'twin', 'legacy', 'modern'].map((server) => ({
      server,
      tools: ['*'],
      resources: ['*'],
      prompts: ['*'],
    })),
  };
  fleet = await startFleetOfNodes(3, configuration);
});
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
  fleet.configure(configuration);
});
afterAll(async () => {
  await fleet.stop();
  await Promise.all([upstream.stop(), references.legacy.stop(), references.modern.stop()]);
});

/** What all nodes recorded. */
const records = () => fleet.nodes.flatMap(({ node }) => node.records);
const recordsOf = (tool: string) =>
  records().filter((record) => record.type === 'opened' && record.target?.name === tool);

/** Each request goes to the next node. */
const roundRobin = (input: string | URL, init?: RequestInit): Promise<Response> => {
  const url = new URL(input);
  url.port = new URL(fleet.next('old')).port;
  return fetch(url, init);
};

async function connected(transport: Transport): Promise<Client> {
  const client = new Client({ name: 'old', version: '1' }, { capabilities: { elicitation: {} } });
  client.setRequestHandler(ElicitRequestSchema, () => ({
    action: 'accept',
    content: { name: 'Ada', username: 'Ada' },
  }));
  closing.push(() => client.close());
  await client.connect(transport);
  return client;
}

function overSse(slug: string, key = testKey): Promise<Client> {
  const requestInit = { headers: { authorization: `Bearer ${key}` } };
  const url = new URL(fleet.next(slug));
  return connected(new SSEClientTransport(url, { requestInit, fetch: roundRobin }) as Transport);
}

function overStreamableHttp(slug: string): Promise<Client> {
  const url = new URL(fleet.next(slug));
  return connected(
    new StreamableHTTPClientTransport(url, { requestInit: { headers }, fetch: roundRobin }) as Transport,
  );
}

async function modernClient(slug: string): Promise<ModernClient> {
  const client = new ModernClient(
    { name: 'new', version: '1' },
    { capabilities: { elicitation: {} }, versionNegotiation: { mode: 'auto' } },
  );
  client.setRequestHandler('elicitation/create', () => ({ action: 'accept' as const, content: { name: 'Ada' } }));
  closing.push(() => client.close());
  await client.connect(new ModernTransport(new URL(fleet.next(slug)), { requestInit: { headers }, fetch: roundRobin }));
  return client;
}

/** What a client is told on the way to an answer. Its own handlers lose what comes with the answer in one piece. */
async function progressOf(client: Client, name: string): Promise<unknown[]> {
  const heard: unknown[] = [];
  const { transport } = client;
  const deliver = transport?.onmessage;
  if (transport === undefined || deliver === undefined) throw new Error('not connected');
  transport.onmessage = (message, extra) => {
    if ('method' in message && message.method === 'notifications/progress') heard.push(message.params?.['progress']);
    deliver(message, extra);
  };
  await client.callTool({ name }, undefined, { onprogress: () => undefined });
  transport.onmessage = deliver;
  return heard;
}

const textOf = (result: unknown): string => (result as { content: { text: string }[] }).content[0]?.text ?? '';

describe('a client of HTTP+SSE', () => {
  test.each(['legacy', 'modern'])(
    'uses a server of the %s era: lists, calls, is asked, hears of progress',
    async (slug) => {
      const client = await overSse(slug);
      expect((await client.listTools()).tools.map(({ name }) => name).sort()).toEqual(referenceTools.toSorted());
      expect(textOf(await client.callTool({ name: 'test_simple_text' }))).toContain('simple text');
      const asked = await client.callTool({ name: 'test_elicitation', arguments: { message: 'Who?' } });
      expect(textOf(asked)).toContain('accept');
      expect(await progressOf(client, 'test_tool_with_progress')).toEqual([0, 50, 100]);
      await expect(client.callTool({ name: 'test_image_content' })).rejects.toThrow('Unknown tool');
    },
  );

  test('uses a server of HTTP+SSE: lists, calls, reads, gets, is asked, hears of progress and of changes', async () => {
    const client = await overSse('old');
    let changes = 0;
    client.setNotificationHandler(ToolListChangedNotificationSchema, () => void changes++);
    expect(await useAll(client)).toBe('Hello Ada');
    await waitFor('the change to be heard of', async () => {
      await upstream.announce();
      return changes > 0;
    });
  });

  test('is told where to post by a path of the gateway, never by the server’s own [P72]', async () => {
    let text = '';
    const abort = new AbortController();
    const stream = send(fleet.next('old'), {
      method: 'GET',
      headers: { accept: 'text/event-stream' },
      signal: abort.signal,
      onChunk: (chunk) => (text += chunk),
    }).catch(() => undefined);
    await waitFor('the endpoint', () => text.endsWith('\n\n'));
    expect(text).toMatch(/^event: endpoint\ndata: \/mcp\/old\?sessionId=k1\.[\w-]+\n\n$/);
    abort.abort();
    await stream;
  });

  test('each message is decided and recorded like any other', async () => {
    const client = await overSse('legacy');
    for (const { node } of fleet.nodes) node.records.length = 0;
    await client.callTool({ name: 'test_simple_text' });
    await client.callTool({ name: 'test_image_content' }).catch(() => undefined);
    const told = records().flatMap((record) =>
      record.type === 'opened' || record.type === 'refused'
        ? [[record.type, record.method, record.target?.name, record.decision.effect]]
        : [],
    );
    expect(told.sort(([a], [b]) => String(a).localeCompare(String(b)))).toEqual([
      ['opened', 'tools/call', 'test_simple_text', 'allow'],
      ['refused', 'tools/call', 'test_image_content', 'deny'],
    ]);
  });

  test('who goes away takes the session at the upstream along', async () => {
    const before = upstream.sessions.size;
    const client = await overSse('old');
    await client.listTools();
    expect(upstream.sessions.size).toBe(before + 1);
    await client.close();
    await waitFor('the session to end', () => upstream.sessions.size === before);
  });

  test('who is revoked loses the stream at once', async () => {
    const client = await overSse('old');
    const lost = new Promise<void>((resolve) => {
      client.onerror = () => resolve();
    });
    fleet.configure({ ...configuration, revision: 2, grants: [] });
    await lost;
    await expect(client.listTools()).rejects.toThrow(/./);
  });
});

describe('a message for a stream', () => {
  const ping = { body: legacy('ping').body };

  async function endpoint(): Promise<string> {
    let text = '';
    const abort = new AbortController();
    closing.push(async () => abort.abort());
    const opened = { method: 'GET', headers: { accept: 'text/event-stream' }, signal: abort.signal };
    send(fleet.next('old'), { ...opened, onChunk: (chunk) => (text += chunk) }).catch(() => undefined);
    const path = await waitFor('the endpoint', () => /data: (\S+)/.exec(text)?.[1]);
    return new URL(path, fleet.next('old')).href;
  }

  test('of another principal, another server, changed or made up is 404; without a key 401', async () => {
    const url = await endpoint();
    const statusOf = async (to: string, more = {}): Promise<number> =>
      (await send(to, { ...ping, headers: more })).status;
    expect(await statusOf(url, { authorization: `Bearer ${otherKey}` })).toBe(404);
    expect(await statusOf(url.replace('/old?', '/twin?'))).toBe(404);
    expect(await statusOf(changed(url))).toBe(404);
    expect(await statusOf(fleet.next('old').concat('?sessionId='))).toBe(404);
    expect(await statusOf(url, { authorization: undefined })).toBe(401);
    expect(await statusOf(url)).toBe(202);
  });

  test('does not tell a server that may not be known from one that there is not', async () => {
    fleet.configure({ ...configuration, revision: 2, grants: [] });
    const [hidden, none] = await Promise.all(
      ['old', 'nothing'].map(async (slug) => await send(`${fleet.next(slug)}?sessionId=k1.x`, ping)),
    );
    expect([hidden?.status, hidden?.json]).toEqual([none?.status, none?.json]);
  });

  test('that is no message is refused at once; a batch too, before a revision is agreed on', async () => {
    const url = await endpoint();
    expect((await send(url, { body: '{' })).status).toBe(400);
    expect((await send(url, { body: '[]' })).status).toBe(400);
  });
});

describe('a server of HTTP+SSE', () => {
  test('is used by a client of Streamable HTTP', async () => {
    const client = await overStreamableHttp('old');
    let changes = 0;
    client.setNotificationHandler(ToolListChangedNotificationSchema, () => void changes++);
    expect(await useAll(client)).toBe('Hello Ada');
    await waitFor('the change to be heard of', async () => {
      await upstream.announce();
      return changes > 0;
    });
  });

  test('is used by a client of 2026-07-28', async () => {
    const client = await modernClient('old');
    expect((await client.listTools()).tools.map(({ name }) => name).sort()).toEqual(httpSseTools.toSorted());
    expect(textOf(await client.callTool({ name: 'count', arguments: { id: 'm' } }))).toBe('executed m');
    expect(textOf(await client.callTool({ name: 'ask', arguments: { id: 'm-ask' } }))).toBe('accept Ada');
    expect(upstream.executions.get('m-ask')).toBe(1);
    const heard: number[] = [];
    await client.callTool({ name: 'progress' }, { onprogress: ({ progress }) => void heard.push(progress) });
    expect(heard).toEqual([1, 2, 3]);
    expect((await client.readResource({ uri: 'note://one' })).contents[0]).toMatchObject({ text: 'noted' });
  });

  test('answers whom it belongs to, however many ask at once with the same ids', async () => {
    const clients = await Promise.all([overStreamableHttp('old'), overStreamableHttp('old'), overSse('old')]);
    const answers = await Promise.all(
      clients.flatMap((client, who) =>
        Array.from({ length: 5 }, (_, at) => client.callTool({ name: 'count', arguments: { id: `${who}-${at}` } })),
      ),
    );
    const wanted = clients.flatMap((_client, who) => Array.from({ length: 5 }, (_, at) => `executed ${who}-${at}`));
    expect(answers.map(textOf)).toEqual(wanted);
  });

  test('whose stream breaks: calls under way fail, none is made again, and the next session works', async () => {
    const client = await overStreamableHttp('old');
    const slow = client.callTool({ name: 'slow' }).catch((error: unknown) => error);
    await waitFor('the call to be under way', () => recordsOf('slow').length > 0);
    upstream.breakStreams();
    expect(await slow).toMatchObject({ code: 1030 });
    const next = await overStreamableHttp('old');
    expect(textOf(await next.callTool({ name: 'count', arguments: { id: 'after' } }))).toBe('executed after');
    expect(upstream.executions.get('after')).toBe(1);
  });

  test('is told of a cancellation', async () => {
    const client = await overStreamableHttp('old');
    const abort = new AbortController();
    const slow = client.callTool({ name: 'slow' }, undefined, { signal: abort.signal });
    slow.catch(() => undefined);
    await waitFor('the call', () => recordsOf('slow').length > 0);
    const before = upstream.cancelled.length;
    abort.abort('enough');
    await expect(slow).rejects.toThrow('enough');
    await waitFor('the cancellation', () => upstream.cancelled.length > before);
  });

  test('that names an endpoint of another origin is not spoken to [P72]', async () => {
    const elsewhere: string[] = [];
    const other = createServer((request, response) => {
      elsewhere.push(request.url ?? '');
      response.writeHead(202).end();
    });
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
    const endpoint = `http://127.0.0.1:${(other.address() as AddressInfo).port}/messages`;
    const hostile = await startHttpSseUpstream({ stream: `event: endpoint\ndata: ${endpoint}\n\n` });
    closing.push(async () => {
      await hostile.stop();
      other.closeAllConnections();
      await new Promise((resolve) => other.close(resolve));
    });
    const { url } = hostile;
    const [old] = configuration.servers;
    if (old === undefined) throw new Error('no server');
    fleet.configure({ ...configuration, revision: 3, servers: [{ ...old, url }, ...configuration.servers.slice(1)] });
    const initialize = legacy('initialize', {
      protocolVersion: '2025-03-26',
      capabilities: {},
      clientInfo: { name: 'x', version: '1' },
    });
    expect((await send(fleet.next('old'), initialize)).json.error.code).toBe(1032);
    expect((await send(fleet.next('old'), modern('tools/list'))).json.error.code).toBe(1032);
    expect(elsewhere).toEqual([]);
  });
});

describe('a node that is killed', () => {
  test('takes its sessions with servers of HTTP+SSE along: a clear error, then a new session; nothing runs twice', async () => {
    const own = await startFleetOfNodes(3, configuration);
    closing.push(() => own.stop());
    const [first, second, third] = own.nodes;
    if (first === undefined || second === undefined || third === undefined) throw new Error('no nodes');
    const params = { protocolVersion: '2025-06-18', capabilities: {}, clientInfo: { name: 'x', version: '1' } };
    const opened = await send(first.node.url('old'), legacy('initialize', params));
    const inSession = { 'mcp-session-id': String(opened.headers['mcp-session-id']) };
    const count = (at: typeof first, id: string) => {
      const { body } = legacy('tools/call', { name: 'count', arguments: { id } });
      return send(at.node.url('old'), { body, headers: inSession });
    };
    expect((await count(second, 'killed-1')).json.result.content[0].text).toBe('executed killed-1');
    first.kill();
    const lost = await count(second, 'killed-2');
    expect([lost.status, lost.json.error.code]).toEqual([503, 1062]);
    // The control plane does not name it any more.
    own.introduce([second, third]);
    expect((await count(third, 'killed-3')).status).toBe(404);
    const again = await send(third.node.url('old'), legacy('initialize', params));
    expect(again.status).toBe(200);
    expect(['killed-1', 'killed-2', 'killed-3'].map((id) => upstream.executions.get(id))).toEqual([
      1,
      undefined,
      undefined,
    ]);
  });

  test('takes the streams of its clients along: a message for one of them is 503, then 404', async () => {
    const own = await startFleetOfNodes(2, configuration);
    closing.push(() => own.stop());
    const [first, second] = own.nodes;
    if (first === undefined || second === undefined) throw new Error('no nodes');
    let text = '';
    const opened = { method: 'GET', headers: { accept: 'text/event-stream' } };
    const stream = send(first.node.url('old'), { ...opened, onChunk: (chunk) => (text += chunk) }).catch(
      () => 'broken',
    );
    const path = await waitFor('the endpoint', () => /data: (\S+)/.exec(text)?.[1]);
    const url = new URL(path, second.node.url('old')).href;
    expect((await send(url, { body: legacy('ping').body })).status).toBe(202);
    first.kill();
    expect(await stream).toBe('broken');
    expect((await send(url, { body: legacy('ping').body })).status).toBe(503);
    own.introduce([second]);
    expect((await send(url, { body: legacy('ping').body })).status).toBe(404);
  });
});

/** Lists, calls, is asked, hears of progress, reads and gets; the last of it is what comes back. */
async function useAll(client: Client): Promise<string> {
  expect((await client.listTools()).tools.map(({ name }) => name).sort()).toEqual(httpSseTools.toSorted());
  const id = `all-${upstream.executions.size}`;
  expect(textOf(await client.callTool({ name: 'count', arguments: { id } }))).toBe(`executed ${id}`);
  expect(upstream.executions.get(id)).toBe(1);
  expect(textOf(await client.callTool({ name: 'ask', arguments: {} }))).toBe('accept Ada');
  expect(await progressOf(client, 'progress')).toEqual([1, 2, 3]);
  expect((await client.readResource({ uri: 'note://one' })).contents[0]).toMatchObject({ text: 'noted' });
  const { messages } = await client.getPrompt({ name: 'greet', arguments: { name: 'Ada' } });
  return z.object({ type: z.literal('text'), text: z.string() }).parse(messages[0]?.content).text;
}
