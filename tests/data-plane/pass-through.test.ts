import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { Client as LegacyClient } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport as LegacyTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type ReferenceServer, startReferenceServer } from '../kit/reference-server.ts';
import { approvedBy, type PipelineNode, startPipelineNode, testKey } from './pipeline-node.ts';

let upstream: ReferenceServer;
let node: PipelineNode;
const granted = ['test_simple_text', 'test_tool_with_progress'];

beforeAll(async () => {
  upstream = await startReferenceServer();
  node = await startPipelineNode({
    servers: [
      {
        slug: 'reference',
        url: upstream.url,
        definitions: await approvedBy(upstream.url, [...granted, 'test_image_content']),
      },
    ],
    grants: [{ server: 'reference', tools: granted, resources: ['test://static-text'] }],
  });
});
afterAll(async () => {
  await node.stop();
  await upstream.stop();
});

const requestInit = { headers: { authorization: `Bearer ${testKey}` } };

test('a modern client lists what is granted and gets the upstream’s own answer', async () => {
  const client = new Client({ name: 'modern', version: '1' }, { versionNegotiation: { mode: 'auto' } });
  await client.connect(new StreamableHTTPClientTransport(new URL(node.url('reference')), { requestInit }));
  const { tools } = await client.listTools();
  expect(tools.map((tool) => tool.name)).toEqual(granted);
  expect(await client.callTool({ name: 'test_simple_text', arguments: {} })).toMatchObject({
    content: [{ type: 'text' }],
  });
  await expect(client.callTool({ name: 'test_image_content', arguments: {} })).rejects.toMatchObject({ code: -32602 });
  await client.close();
});

test('a legacy client lists what is granted and gets the upstream’s own answer', async () => {
  const client = new LegacyClient({ name: 'legacy', version: '1' });
  await client.connect(new LegacyTransport(new URL(node.url('reference')), { requestInit }) as never);
  const { tools } = await client.listTools();
  expect(tools.map((tool) => tool.name)).toEqual(granted);
  expect(await client.callTool({ name: 'test_simple_text', arguments: {} })).toMatchObject({
    content: [{ type: 'text' }],
  });
  await expect(client.callTool({ name: 'test_image_content', arguments: {} })).rejects.toMatchObject({ code: -32602 });
  await client.close();
});
