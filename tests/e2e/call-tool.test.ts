import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Harness, startHarness } from '../kit/harness.ts';
import { connectInspector, connectSdkV1, connectSdkV2, type Endpoint } from '../kit/mcp-clients.ts';
import { askModern, openLegacySession } from '../kit/raw-mcp.ts';
import { type ReferenceServer, startReferenceServer } from '../kit/reference-server.ts';

const granted = ['test_multiple_content_types', 'test_simple_text'];
let reference: ReferenceServer;
let harness: Harness;
let endpoint: Endpoint;

beforeAll(async () => {
  reference = await startReferenceServer();
  harness = await startHarness({ upstreams: [reference.url] });
  const { administrator } = harness;
  const server = await administrator.registerServer('reference', reference.url);
  const client = await administrator.createClient('caller');
  const subject = { kind: 'SERVICE_ACCOUNT', id: client.principalId } as const;
  await administrator.grant({ serverId: server.id, subject, tools: granted });
  await administrator.converged();
  endpoint = harness.endpoint('reference', client.key);
});
afterAll(async () => {
  await harness.stop();
  await reference.stop();
});

describe.each([
  ['the official SDK, v1', connectSdkV1],
  ['the official SDK, v2', connectSdkV2],
  ['the MCP Inspector', connectInspector],
])('%s', (_name, connect) => {
  test('lists exactly the granted tools', async () => {
    const client = await connect(endpoint);
    expect([...(await client.toolNames())].sort()).toEqual(granted);
    await client.close();
  });

  test("gets the upstream's own answer from a granted tool", async () => {
    const client = await connect(endpoint);
    const direct = await connect({ url: reference.url, key: 'none' });
    for (const name of granted) expect(await client.callTool(name)).toEqual(await direct.callTool(name));
    await client.close();
    await direct.close();
  });

  test('cannot call a tool that was not granted', async () => {
    const client = await connect(endpoint);
    // The Inspector looks into the list first and says so itself.
    await expect(client.callTool('test_image_content')).rejects.toThrow(/Unknown tool|not found on server/);
    await client.close();
  });
});

describe('a tool that was not granted cannot be told from one that does not exist [P51]', () => {
  const call = (name: string) => ({ method: 'tools/call', params: { name, arguments: {} } });

  test('by a request of 2026-07-28', async () => {
    const notGranted = await askModern(endpoint, call('test_image_content'));
    expect(notGranted).toEqual(await askModern(endpoint, call('test_no_such_tool')));
    expect(notGranted.body).toContain('-32602');
  });

  test('in a session of 2025-11-25', async () => {
    const ask = await openLegacySession(endpoint);
    const notGranted = await ask(call('test_image_content'));
    expect(notGranted).toEqual(await ask(call('test_no_such_tool')));
    expect(notGranted.body).toContain('-32602');
  });
});

test('a server without a grant cannot be told from one that does not exist', async () => {
  const { key } = await harness.administrator.createClient('stranger');
  await harness.administrator.converged();
  const request = { method: 'tools/list' };
  const notGranted = await askModern(harness.endpoint('reference', key), request);
  expect(notGranted).toEqual(await askModern(harness.endpoint('no-such-server', key), request));
  expect(notGranted.status).toBe(404);
});

test('without a valid key nothing is answered', async () => {
  const answer = await askModern({ ...endpoint, key: 'sp_wrong' }, { method: 'tools/list' });
  expect(answer.status).toBe(401);
});
