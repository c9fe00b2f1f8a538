import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import type { Endpoint } from '../kit/mcp-clients.ts';
import { askModern, openLegacySession } from '../kit/raw-mcp.ts';

let upstream: FakeUpstream;
let harness: Harness;
let serverId: string;

beforeAll(async () => {
  upstream = await startFakeUpstream();
  harness = await startHarness({ upstreams: [upstream.url] });
  serverId = (await harness.administrator.registerServer('counter', upstream.url)).id;
});
afterAll(async () => {
  await harness.stop();
  await upstream.stop();
});

const identified = z.object({ id: z.string() });

interface Caller {
  readonly endpoint: Endpoint;
  readonly principalId: string;
  readonly keyId: string;
  readonly grantId: string;
}

async function createCaller(): Promise<Caller> {
  const { administrator } = harness;
  const { key, keyId, principalId } = await administrator.createClient('caller');
  const subject = { kind: 'SERVICE_ACCOUNT', id: principalId } as const;
  const grantId = await administrator.grant({ serverId, subject, tools: ['count'] });
  await administrator.converged();
  return { endpoint: harness.endpoint('counter', key), keyId, principalId, grantId };
}

const count = (id: string) => ({ method: 'tools/call', params: { name: 'count', arguments: { id } } });

/** The revision each node runs, as the API shows it. */
async function appliedRevisions(): Promise<readonly number[]> {
  const node = z.object({ appliedRevision: z.number(), problems: z.array(z.unknown()) });
  const { nodes } = await harness.administrator.api.ask(
    '{ nodes(first: 10) { edges { node { appliedRevision problems { message } } } } }',
    {},
    z.object({ nodes: z.object({ edges: z.array(z.object({ node })) }) }),
  );
  return nodes.edges.map((edge) => edge.node.appliedRevision);
}

describe('after a revocation that both nodes acknowledged', () => {
  test('a call under the revoked grant is refused by either node', async () => {
    const caller = await createCaller();
    expect((await askModern(caller.endpoint, count('granted'))).status).toBe(200);
    await harness.administrator.mutate('deleteGrant', { id: caller.grantId }, 'id', identified);
    const configRevision = await harness.administrator.converged();
    expect(await appliedRevisions()).toEqual([configRevision, configRevision]);
    // Two calls in a row meet two nodes.
    for (const _node of harness.nodes) {
      expect((await askModern(caller.endpoint, count('revoked'))).status).not.toBe(200);
    }
    expect(upstream.executions.get('granted')).toBe(1);
    expect(upstream.executions.has('revoked')).toBe(false);
  });

  test('a session that was open stays without the revoked tool', async () => {
    const caller = await createCaller();
    const ask = await openLegacySession(caller.endpoint);
    expect((await ask(count('in-session'))).body).toContain('executed in-session');
    await harness.administrator.mutate('deleteGrant', { id: caller.grantId }, 'id', identified);
    await harness.administrator.converged();
    for (const _node of harness.nodes) expect((await ask(count('after'))).body).not.toContain('executed');
    expect(upstream.executions.has('after')).toBe(false);
  });

  test('a revoked key opens nothing, in open sessions neither', async () => {
    const caller = await createCaller();
    const ask = await openLegacySession(caller.endpoint);
    await harness.administrator.mutate('revokeApiKey', { id: caller.keyId }, 'id', identified);
    await harness.administrator.converged();
    for (const _node of harness.nodes) {
      expect((await askModern(caller.endpoint, count('revoked-key'))).status).toBe(401);
      expect((await ask(count('revoked-key'))).status).toBe(401);
    }
    expect(upstream.executions.has('revoked-key')).toBe(false);
  });

  test('a disabled principal may do nothing', async () => {
    const caller = await createCaller();
    const disable = { id: caller.principalId, status: 'DISABLED' };
    await harness.administrator.mutate('updateServiceAccount', disable, 'id', identified);
    await harness.administrator.converged();
    for (const _node of harness.nodes) {
      expect((await askModern(caller.endpoint, count('disabled'))).status).toBe(401);
    }
  });
});
