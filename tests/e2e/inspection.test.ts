import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { modern, send } from '../data-plane/requests.ts';
import { waitFor } from '../kit/condition.ts';
import { type FakeUpstream, fakeTools, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';

// Composed here, so that no scanner takes this file for a leak.
const token = ['ghp', 'q7Rk2mVx9Tz4Lp8Wc3Yh6Nb1Jd5Gf0Sa2E4u'].join('_');
const policy = z.object({ id: z.string(), revision: z.number() });

let upstream: FakeUpstream;
let harness: Harness;
let url: string;
let authorization: string;

beforeAll(async () => {
  upstream = await startFakeUpstream();
  harness = await startHarness({ upstreams: [upstream.url], nodes: 2 });
  const { administrator } = harness;
  const server = await administrator.registerServer('inspected', upstream.url);
  const { key } = await administrator.createClient('client');
  await administrator.grant({ serverId: server.id, tools: fakeTools });
  await administrator.converged();
  authorization = `Bearer ${key}`;
  url = `${harness.entryOrigin}/mcp/inspected`;
});
afterAll(async () => {
  await harness.stop();
  await upstream.stop();
});

function call() {
  const { body, headers } = modern('tools/call', { name: 'count', arguments: { id: 'one', note: token } });
  return send(url, { body, headers: { ...headers, authorization } });
}

test('a policy holds on every node once it converged, tells the audit trail, and is gone with its deletion', async () => {
  const { administrator } = harness;
  const rules = [{ detector: 'SECRET', action: 'BLOCK' }];
  const made = await administrator.mutate('createPolicy', { name: 'p', rules, mode: 'ENFORCE' }, 'id revision', policy);
  await administrator.converged();
  // Round robin: both nodes.
  for (const answer of [await call(), await call()]) expect(answer.json.error).toMatchObject({ code: 1023 });
  expect(JSON.stringify(upstream.requests)).not.toContain(token);
  const node = z.object({ verdicts: z.array(z.record(z.string(), z.unknown())).nullable() });
  const document = `{ auditEvents(first: 20, kind: EXCHANGE) { edges { node {
    verdicts { policyId mode detector decision reason places { path } } } } } }`;
  const answer = z.object({ auditEvents: z.object({ edges: z.array(z.object({ node })) }) });
  const verdicts = await waitFor('the verdicts of both calls', async () => {
    const { auditEvents } = await administrator.api.ask(document, {}, answer);
    const found = auditEvents.edges.flatMap((edge) => edge.node.verdicts ?? []);
    return found.length >= 2 ? found : undefined;
  });
  expect(verdicts[0]).toEqual({
    policyId: made.id,
    mode: 'ENFORCE',
    detector: 'secret',
    decision: 'BLOCK',
    reason: 'githubToken',
    places: [{ path: '/params/arguments/note' }],
  });
  await administrator.mutate('deletePolicy', { id: made.id, expectedRevision: made.revision }, 'id revision', policy);
  await administrator.converged();
  for (const passed of [await call(), await call()]) expect(passed.json.result).toBeDefined();
});
