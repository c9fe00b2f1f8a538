import { createServer } from 'node:http';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client as ModernClient, StreamableHTTPClientTransport as ModernTransport } from '@modelcontextprotocol/client';
import { toNodeHandler } from '@modelcontextprotocol/node';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import { ElicitRequestSchema } from '@modelcontextprotocol/sdk/types.js';
import { createMcpHandler, inputRequired, inputResponse, McpServer } from '@modelcontextprotocol/server';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { configurationOf, discover } from '../conformance/matrix.ts';
import { type FleetOfNodes, startFleetOfNodes } from '../data-plane/fleet-of-nodes.ts';
import { testKey } from '../data-plane/pipeline-node.ts';
import { interopServers } from './servers.ts';

/** A user is sent to a page, by a server of either era, through a client of the other; over three nodes. */
const page = 'https://pay.example/order/7';
/** Where server-everything sends people by an error, whatever page it was called with. */
const errorPage = 'https://modelcontextprotocol.io';
const elicitationHosts = [errorPage, page].map((url) => new URL(url).host);
const info = { name: 'url-elicitation', version: '1.0.0' };
const requestInit = { headers: { authorization: `Bearer ${testKey}` } };
const stops: (() => Promise<unknown>)[] = [];
afterAll(async () => {
  for (const stop of stops.reverse()) await stop();
});

interface Asked {
  readonly mode?: unknown;
  readonly url?: unknown;
  readonly message?: unknown;
  readonly elicitationId?: unknown;
}

async function fleetBefore(url: string): Promise<FleetOfNodes> {
  const configuration = configurationOf(url, await discover(url));
  const servers = configuration.servers.map((server) => ({
    ...server,
    asks: { elicitationHosts },
  }));
  const fleet = await startFleetOfNodes(3, { ...configuration, servers });
  stops.push(() => fleet.stop());
  return fleet;
}

/** Sends each request to the next node. */
function roundRobin(fleet: FleetOfNodes): typeof fetch {
  return (_url, init) => fetch(fleet.next('reference'), init);
}

async function modernClient(fleet: FleetOfNodes, asked: Asked[], action: 'accept' | 'decline'): Promise<ModernClient> {
  const client = new ModernClient(info, {
    capabilities: { elicitation: { url: {} } },
    versionNegotiation: { mode: 'auto' },
  });
  client.setRequestHandler('elicitation/create', ({ params }) => {
    asked.push(params);
    return { action };
  });
  await client.connect(
    new ModernTransport(new URL(fleet.next('reference')), { requestInit, fetch: roundRobin(fleet) }),
  );
  expect(client.getNegotiatedProtocolVersion()).toBe('2026-07-28');
  stops.push(() => client.close());
  return client;
}

async function legacyClient(fleet: FleetOfNodes, asked: Asked[], elicitation: Record<string, object>): Promise<Client> {
  const client = new Client(info, { capabilities: { elicitation } });
  client.setRequestHandler(ElicitRequestSchema, ({ params }) => {
    asked.push(params);
    return { action: 'accept' };
  });
  const transport = new StreamableHTTPClientTransport(new URL(fleet.next('reference')), {
    requestInit,
    fetch: roundRobin(fleet),
  });
  await client.connect(transport as Transport);
  stops.push(() => client.close());
  return client;
}

describe('a modern client at a legacy server', () => {
  const name = 'trigger-url-elicitation';
  let fleet: FleetOfNodes;
  beforeAll(async () => {
    const home = mkdtempSync(join(tmpdir(), 'sallyport-url-'));
    stops.push(async () => rmSync(home, { recursive: true, force: true }));
    const server = await interopServers.find(({ slug }) => slug === 'everything')?.start(home);
    if (server === undefined) throw new Error('the server is gone');
    stops.push(() => server.stop());
    fleet = await fleetBefore(server.tap.url);
  });

  test('is sent to the page that the server asks for in the call, without an id that its revision does not have', async () => {
    const asked: Asked[] = [];
    const client = await modernClient(fleet, asked, 'accept');
    const result = await client.callTool({ name, arguments: { url: page, message: 'Pay first.' } });
    expect(JSON.stringify(result.content)).toContain('User completed the URL elicitation flow');
    expect(asked).toEqual([expect.objectContaining({ mode: 'url', url: page, message: 'Pay first.' })]);
    expect(asked[0]).not.toHaveProperty('elicitationId');
  });

  test('that declines is known to have declined', async () => {
    const client = await modernClient(fleet, [], 'decline');
    const result = await client.callTool({ name, arguments: { url: page } });
    expect(JSON.stringify(result.content)).toContain('User declined to open the URL');
  });

  test('is sent to the page that stands in an error of the server, and the call made again', async () => {
    const asked: Asked[] = [];
    const client = await modernClient(fleet, asked, 'accept');
    const result = await client.callTool({ name, arguments: { url: page, elicitationId: 'e1', errorPath: true } });
    expect(JSON.stringify(result.content)).toContain('User completed the URL elicitation flow');
    // This server remembers in its session that it asked, and each node has one of its own: it may ask at each of them.
    const first = asked.slice(0, -1).map(({ url }) => url);
    expect(first.length).toBeLessThanOrEqual(fleet.nodes.length);
    expect(new Set(first)).toEqual(new Set([errorPage]));
    expect(asked.at(-1)?.url).toBe(page);
  });
});

describe('a legacy client at a modern server', () => {
  let fleet: FleetOfNodes;
  beforeAll(async () => {
    const handler = createMcpHandler(
      () => {
        const server = new McpServer({ name: 'shop', version: '1.0.0' });
        server.registerTool('pay', { description: 'Sends its user to a page' }, (ctx) => {
          const answer = inputResponse(ctx.mcpReq.inputResponses, 'payment');
          if (answer.kind !== 'elicit') {
            const payment = inputRequired.elicitUrl({ url: page, message: 'Pay first.' });
            return inputRequired({ inputRequests: { payment } });
          }
          return { content: [{ type: 'text', text: `paid: ${answer.action}` }] };
        });
        return server;
      },
      { legacy: 'reject' },
    );
    const handle = toNodeHandler(handler);
    const http = createServer((request, response) => void handle(request as never, response));
    await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
    stops.push(async () => {
      await handler.close();
      http.closeAllConnections();
      http.close();
    });
    const address = http.address();
    fleet = await fleetBefore(
      `http://127.0.0.1:${typeof address === 'object' && address !== null ? address.port : 0}/mcp`,
    );
  });

  test('that can open pages is sent to the one the server asks for, with an id as its revision has it', async () => {
    const asked: Asked[] = [];
    const client = await legacyClient(fleet, asked, { url: {} });
    const result = await client.callTool({ name: 'pay' });
    expect(result.content).toEqual([{ type: 'text', text: 'paid: accept' }]);
    expect(asked).toEqual([
      expect.objectContaining({ mode: 'url', url: page, message: 'Pay first.', elicitationId: expect.any(String) }),
    ]);
  });

  test('that can fill in forms alone is not asked, and told of an error [P67]', async () => {
    const asked: Asked[] = [];
    const client = await legacyClient(fleet, asked, { form: {} });
    await expect(client.callTool({ name: 'pay' })).rejects.toThrow('-32603');
    expect(asked).toEqual([]);
  });
});
