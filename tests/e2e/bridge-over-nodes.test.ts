import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { eventsOf, modern, modernParams, send } from '../data-plane/requests.ts';
import { type AskingUpstream, startAskingUpstream } from '../kit/asking-upstream.ts';
import { waitFor } from '../kit/condition.ts';
import { type Harness, startHarness } from '../kit/harness.ts';

let upstream: AskingUpstream;
let harness: Harness;
let url: string;
let authorization: string;

beforeAll(async () => {
  upstream = await startAskingUpstream({ era: 'legacy' });
  harness = await startHarness({ upstreams: [upstream.url], nodes: 3 });
  const { administrator } = harness;
  const server = await administrator.registerServer('asking', upstream.url);
  const { key } = await administrator.createClient('modern client');
  await administrator.grant({ serverId: server.id, tools: ['*'] });
  await administrator.converged();
  authorization = `Bearer ${key}`;
  url = `${harness.entryOrigin}/mcp/asking`;
});
afterAll(async () => {
  await harness.stop();
  await upstream.stop();
});

// oxlint-disable-next-line typescript/no-explicit-any -- tests look into what came
async function ask(more: object = {}): Promise<any> {
  const params = { name: 'ask', arguments: {}, ...more };
  const body = { jsonrpc: '2.0', id: 1, method: 'tools/call', params: modernParams(params, { elicitation: {} }) };
  const headers = { ...modern('tools/call', params).headers, authorization };
  const answer = await send(url, { headers, body: JSON.stringify(body) });
  return answer.json ?? eventsOf(answer.text).at(-1);
}

test('nodes that the control plane names to each other serve one call together, and execute it once [P71]', async () => {
  const answers = { action: 'accept', content: { name: 'Ada' } };
  const before = upstream.executions.get('ask') ?? 0;
  let calls = 0;
  const throughAll = async (): Promise<boolean> => {
    // The entry goes round: a call and its return never meet the same node of three.
    const { result } = await ask();
    calls += 1;
    const inputResponses = Object.fromEntries(Object.keys(result.inputRequests).map((key) => [key, answers]));
    const returned = await ask({ requestState: result.requestState, inputResponses });
    if (returned.error !== undefined) return false;
    return returned.result.resultType === 'complete' && calls >= 3;
  };
  await waitFor('three calls over all nodes', throughAll);
  expect(upstream.toldOf('tools/call')).toHaveLength(calls);
  expect((upstream.executions.get('ask') ?? 0) - before).toBeGreaterThanOrEqual(3);
});

test('the audit tells of each exchange what it caused upstream', async () => {
  const nodeSchema = z.object({ method: z.string().nullable(), upstreamRequests: z.array(z.string()).nullable() });
  const answer = z.object({
    auditEvents: z.object({ edges: z.array(z.object({ node: nodeSchema })) }),
  });
  const document = '{ auditEvents(first: 50, kind: EXCHANGE) { edges { node { method upstreamRequests } } } }';
  const causing = async (): Promise<boolean> => {
    const { auditEvents } = await harness.administrator.api.ask(document, {}, answer);
    return auditEvents.edges.some(
      ({ node: { method, upstreamRequests } }) => method === 'tools/call' && upstreamRequests?.at(-1) === 'tools/call',
    );
  };
  expect(await waitFor('a call in the audit, with what it caused', causing)).toBe(true);
});
