import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type PipelineNode, startPipelineNode, testKey } from '../data-plane/pipeline-node.ts';
import { type AuthorizationShim, startAuthorizationShim } from '../kit/authorization-shim.ts';
import { type ReferenceServer, startReferenceServer } from '../kit/reference-server.ts';
import { runSuite, type SuiteResult } from './run-suite.ts';

let reference: ReferenceServer;
let node: PipelineNode;
let shim: AuthorizationShim;

async function definitionsOf(url: string): Promise<{ tools: string[]; prompts: string[] }> {
  const tools = new Set<string>();
  const prompts = new Set<string>();
  for (const mode of ['auto', 'legacy'] as const) {
    const client = new Client({ name: 'lister', version: '1' }, { versionNegotiation: { mode } });
    await client.connect(new StreamableHTTPClientTransport(new URL(url)));
    for (const tool of (await client.listTools()).tools) tools.add(tool.name);
    for (const prompt of (await client.listPrompts()).prompts) prompts.add(prompt.name);
    await client.close();
  }
  return { tools: [...tools], prompts: [...prompts] };
}

/** The suite quotes an error's text where a check fails; ours says "Unknown tool" without the name. */
function verdicts(result: SuiteResult): unknown {
  return Object.fromEntries(
    [...result].map(([scenario, checks]) => [scenario, checks.map(({ id, name, status }) => ({ id, name, status }))]),
  );
}

beforeAll(async () => {
  reference = await startReferenceServer();
  const definitions = await definitionsOf(reference.url);
  node = await startPipelineNode({
    servers: [{ slug: 'reference', url: reference.url, ...definitions }],
    grants: [{ server: 'reference', tools: ['*'], prompts: ['*'], resources: ['*'] }],
  });
  shim = await startAuthorizationShim({ target: new URL(node.url('reference')), bearer: testKey });
});
afterAll(async () => {
  await shim.stop();
  await node.stop();
  await reference.stop();
});

describe.each(['2025-11-25', '2026-07-28'] as const)('the reference server through a node, by %s', (revision) => {
  test('scores check by check as it does directly', async () => {
    const direct = await runSuite({ url: reference.url, revision, label: 'direct-for-node' });
    const through = await runSuite({ url: `${shim.origin}/mcp/reference`, revision, label: 'through-node' });
    expect(verdicts(through)).toEqual(verdicts(direct));
  });
});

test.each(['http-header-validation', 'http-custom-header-server-validation'])('%s equals direct', async (scenario) => {
  const revision = '2026-07-28';
  const direct = await runSuite({ url: reference.url, revision, label: 'direct-for-node', scenario });
  const through = await runSuite({ url: `${shim.origin}/mcp/reference`, revision, label: 'through-node', scenario });
  expect(verdicts(through)).toEqual(verdicts(direct));
});
