import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { type Harness, startHarness } from '../kit/harness.ts';
import { connectSdkV2 } from '../kit/mcp-clients.ts';
import { type ReferenceServer, startReferenceServer } from '../kit/reference-server.ts';

let harness: Harness;
let reference: ReferenceServer;

beforeAll(async () => {
  reference = await startReferenceServer();
  harness = await startHarness({ upstreams: [reference.url], controlPlaneReaches: false });
});
afterAll(async () => {
  await harness.stop();
  await reference.stop();
});

const server = z.object({
  id: z.string(),
  discoveredBy: z.literal('NODE'),
  protocolRevisions: z.array(z.string()),
});

test('a server that only nodes reach is refused with the mend, unless nodes are to discover it', async () => {
  const input = { slug: 'near', title: 'Near', url: reference.url };
  await expect(harness.administrator.mutate('createServer', input, 'id', z.unknown())).rejects.toThrow(/valid/);
});

test('a server that only nodes reach is discovered by one of them, approved and served', async () => {
  const { administrator } = harness;
  const input = { slug: 'far', title: 'Far', url: reference.url, discoveredBy: 'NODE' };
  const { id } = await administrator.mutate('createServer', input, 'id', server.pick({ id: true }));
  const found = await administrator.api.ask(
    'mutation ($id: ID!) { discoverServer(input: { id: $id }) { id discoveredBy protocolRevisions } }',
    { id },
    z.object({ discoverServer: server }),
  );
  expect(found.discoverServer.protocolRevisions).toContain('2026-07-28');
  await administrator.mutate('approveServer', { id }, 'id', server.pick({ id: true }));
  const client = await administrator.createClient('far client');
  const subject = { kind: 'SERVICE_ACCOUNT', id: client.principalId } as const;
  await administrator.grant({ serverId: id, subject, tools: ['test_simple_text'] });
  await administrator.converged();
  const mcp = await connectSdkV2(harness.endpoint('far', client.key));
  expect(await mcp.toolNames()).toEqual(['test_simple_text']);
  await mcp.close();
});
