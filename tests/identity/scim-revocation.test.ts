import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { waitFor } from '../kit/condition.ts';
import { type EchoUpstream, startEchoUpstream } from '../kit/echo-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { connectSdkV2 } from '../kit/mcp-clients.ts';
import { ScimClient } from './scim-kit.ts';

let upstream: EchoUpstream;
let harness: Harness;
let scim: ScimClient;

beforeAll(async () => {
  upstream = await startEchoUpstream();
  harness = await startHarness({ upstreams: [upstream.url], nodes: 1 });
  const { administrator, controlPlane } = harness;
  const input = { name: 'entra', issuer: 'https://login.example/v2.0' };
  const { id } = await administrator.mutate('createScimDirectory', input, 'id', z.object({ id: z.string() }));
  const expiresAt = new Date(Date.now() + 3_600_000).toISOString();
  const token = { directoryId: id, name: 'push', expiresAt };
  const { secret } = await administrator.mutate('createScimToken', token, 'secret', z.object({ secret: z.string() }));
  scim = new ScimClient(new URL(controlPlane.graphqlUrl ?? '').origin, secret);
});
afterAll(async () => {
  await harness?.stop();
  await upstream?.stop();
});

test('membership and activation that a directory pushes decide on the nodes: given, taken, and ended', async () => {
  const { administrator } = harness;
  const server = await administrator.registerServer('echo', upstream.url);
  const user = await scim.createUser('ada@example.com', { externalId: 'ada' });
  const group = await scim.createGroup('Engineers');
  const subject = { kind: 'GROUP', id: group.id } as const;
  await administrator.grant({ serverId: server.id, subject, tools: ['*'] });
  const expiresAt = new Date(Date.now() + 3_600_000).toISOString();
  const { secret } = await administrator.mutate(
    'createApiKey',
    { principalId: user.id, name: 'k', scopes: ['MCP'], expiresAt },
    'secret',
    z.object({ secret: z.string() }),
  );
  const statusOf = async (): Promise<number> => {
    const response = await fetch(`${harness.entryOrigin}/mcp/echo`, {
      method: 'POST',
      headers: {
        authorization: `Bearer ${secret}`,
        'content-type': 'application/json',
        accept: 'application/json, text/event-stream',
        'mcp-protocol-version': '2025-06-18',
      },
      body: '{"jsonrpc":"2.0","id":1,"method":"tools/list"}',
    });
    await response.text();
    return response.status;
  };
  await administrator.converged();
  expect(await statusOf()).toBe(404);
  await scim.patch(`/Groups/${group.id}`, [{ op: 'Add', path: 'members', value: [{ value: user.id }] }]);
  await administrator.converged();
  const client = await connectSdkV2(harness.endpoint('echo', secret));
  expect((await client.toolNames()).length).toBeGreaterThan(0);
  await client.close();
  await scim.patch(`/Users/${user.id}`, [{ op: 'Replace', path: 'active', value: 'False' }]);
  await waitFor('the node refuses the user', async () => (await statusOf()) === 401);
});
