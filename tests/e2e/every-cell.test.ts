import { fileURLToPath } from 'node:url';
import { Client as ModernClient, StreamableHTTPClientTransport as ModernTransport } from '@modelcontextprotocol/client';
import { StdioClientTransport as ModernStdioTransport } from '@modelcontextprotocol/client/stdio';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { SSEClientTransport } from '@modelcontextprotocol/sdk/client/sse.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import { ElicitRequestSchema } from '@modelcontextprotocol/sdk/types.js';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { waitFor } from '../kit/condition.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { httpSseTools, startHttpSseUpstream } from '../kit/http-sse-upstream.ts';
import type { Endpoint } from '../kit/mcp-clients.ts';
import { startReferenceServer } from '../kit/reference-server.ts';

/** Every kind of client on every kind of server, through three nodes that a round robin chooses among per request. */
const referenceTools = { simple: 'test_simple_text', asking: 'test_elicitation', telling: 'test_tool_with_progress' };
const oldTools = { simple: 'count', asking: 'ask', telling: 'progress' };
const servers = [
  ['2026-07-28', 'modern', referenceTools],
  ['legacy revisions over Streamable HTTP', 'legacy', referenceTools],
  ['HTTP+SSE', 'old', oldTools],
] as const;

const main = fileURLToPath(new URL('../../cli/src/main.ts', import.meta.url));
const info = { name: 'cell', version: '1.0.0' };
const answer = { action: 'accept' as const, content: { name: 'Ada', username: 'ada', email: 'ada@example.com' } };
const stops: (() => Promise<unknown>)[] = [];
let harness: Harness;
let key: string;

beforeAll(async () => {
  const upstreams = {
    modern: await startReferenceServer({ eras: 'modern' }),
    legacy: await startReferenceServer({ eras: 'legacy' }),
    old: await startHttpSseUpstream(),
  };
  stops.push(...Object.values(upstreams).map((upstream) => () => upstream.stop()));
  harness = await startHarness({ upstreams: Object.values(upstreams).map(({ url }) => url), nodes: 3 });
  stops.push(() => harness.stop());
  const { administrator } = harness;
  key = (await administrator.createClient('caller')).key;
  for (const [slug, { url }] of Object.entries(upstreams)) {
    const { id } = await administrator.registerServer(slug, url);
    await administrator.grant({ serverId: id, tools: [...Object.values(referenceTools), ...Object.values(oldTools)] });
  }
  await administrator.converged();
  await waitFor('the nodes to know each other', async () => {
    const client = await overHttpSse(harness.endpoint('old', key));
    await client.used({ ...oldTools, telling: oldTools.simple });
    return true;
  });
});
afterAll(async () => {
  for (const stop of stops.reverse()) await stop();
});

interface Cell {
  /** Lists, calls, is asked and hears of progress; then goes. @returns what came of being asked */
  used(tools: Readonly<Record<'simple' | 'asking' | 'telling', string>>): Promise<string>;
}

const connector = ({ url, key: apiKey }: Endpoint) => ({
  command: process.execPath,
  args: ['--conditions=@sallyport/source', main, 'connect', url],
  env: { SALLYPORT_API_KEY: apiKey },
  stderr: 'pipe' as const,
});
const requestInit = ({ key: apiKey }: Endpoint) => ({ headers: { authorization: `Bearer ${apiKey}` } });
const texts = z.looseObject({ content: z.array(z.looseObject({ text: z.string() })) });

async function legacyCell(transport: Transport): Promise<Cell> {
  const client = new Client(info, { capabilities: { elicitation: {} } });
  client.setRequestHandler(ElicitRequestSchema, () => answer);
  await client.connect(transport);
  let told = 0;
  const deliver = transport.onmessage;
  transport.onmessage = (message, extra) => {
    if ('method' in message && message.method === 'notifications/progress') told += 1;
    deliver?.(message, extra);
  };
  return cellOf({
    names: async () => (await client.listTools()).tools.map(({ name }) => name),
    call: (name) =>
      client.callTool({ name, arguments: { message: 'Who?' } }, undefined, { onprogress: () => undefined }),
    told: () => told,
    close: () => client.close(),
  });
}

async function modernCell(transport: ModernTransport | ModernStdioTransport): Promise<Cell> {
  const client = new ModernClient(info, {
    capabilities: { elicitation: {} },
    versionNegotiation: { mode: 'auto' },
  });
  client.setRequestHandler('elicitation/create', () => answer);
  await client.connect(transport);
  expect(client.getNegotiatedProtocolVersion()).toBe('2026-07-28');
  let told = 0;
  return cellOf({
    names: async () => (await client.listTools()).tools.map(({ name }) => name),
    call: (name) => client.callTool({ name, arguments: { message: 'Who?' } }, { onprogress: () => void (told += 1) }),
    told: () => told,
    close: () => client.close(),
  });
}

function cellOf(client: {
  names(): Promise<readonly string[]>;
  call(name: string): Promise<unknown>;
  told(): number;
  close(): Promise<void>;
}): Cell {
  return {
    used: async ({ simple, asking, telling }) => {
      try {
        expect(await client.names()).toEqual(expect.arrayContaining([simple, asking, telling]));
        expect(texts.parse(await client.call(simple)).content).toHaveLength(1);
        const asked = texts.parse(await client.call(asking)).content[0]?.text ?? '';
        await client.call(telling);
        if (telling !== simple) expect(client.told()).toBeGreaterThan(0);
        await expect(client.call('test_image_content')).rejects.toThrow('Unknown tool');
        return asked;
      } finally {
        await client.close();
      }
    },
  };
}

const overHttpSse = (to: Endpoint): Promise<Cell> =>
  legacyCell(new SSEClientTransport(new URL(to.url), { requestInit: requestInit(to) }) as Transport);
const clients = [
  ['2026-07-28', (to: Endpoint) => modernCell(new ModernTransport(new URL(to.url), { requestInit: requestInit(to) }))],
  [
    '2025-11-25 over Streamable HTTP',
    (to: Endpoint) =>
      legacyCell(new StreamableHTTPClientTransport(new URL(to.url), { requestInit: requestInit(to) }) as Transport),
  ],
  ['HTTP+SSE', overHttpSse],
  ['2026-07-28 over stdio', (to: Endpoint) => modernCell(new ModernStdioTransport(connector(to)))],
  ['2025-11-25 over stdio', (to: Endpoint) => legacyCell(new StdioClientTransport(connector(to)) as Transport)],
] as const;

describe.each(servers)('a server of %s', (_server, slug, tools) => {
  test.each(clients)('serves a client of %s', async (_client, connect) => {
    const cell = await connect(harness.endpoint(slug, key));
    expect(await cell.used(tools)).toContain('accept');
  });
});

test('the server of HTTP+SSE has the tools that the catalog was told', () => {
  expect(httpSseTools).toEqual(expect.arrayContaining(Object.values(oldTools)));
});
