import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { waitFor } from '../kit/condition.ts';
import { type EchoUpstream, startEchoUpstream } from '../kit/echo-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';

const identified = z.object({ id: z.string() });
let upstream: EchoUpstream;
let harness: Harness;
let client: { readonly id: string; readonly secret: string };
let accountId: string;

beforeAll(async () => {
  upstream = await startEchoUpstream();
  harness = await startHarness({ upstreams: [upstream.url], nodes: 1, authorizationServer: true });
  const { administrator } = harness;
  const servers = [await administrator.registerServer('echo', upstream.url)];
  servers.push(await administrator.registerServer('sibling', upstream.url));
  accountId = (await administrator.createClient('pipeline')).principalId;
  const subject = { kind: 'SERVICE_ACCOUNT', id: accountId } as const;
  for (const { id } of servers) await administrator.grant({ serverId: id, subject, tools: ['*'] });
  const input = { name: 'pipeline', authentication: 'SECRET', serviceAccountId: accountId };
  const made = await administrator.mutate(
    'createOAuthClient',
    input,
    'client { id } secret',
    z.object({ client: identified, secret: z.string() }),
  );
  client = { id: made.client.id, secret: made.secret };
  await administrator.converged();
});
afterAll(async () => {
  await harness?.stop();
  await upstream?.stop();
});

async function tokenFor(slug: string, scope: string): Promise<string> {
  const issuer = new URL(harness.controlPlane.graphqlUrl ?? '').origin;
  const response = await fetch(`${issuer}/oauth/token`, {
    method: 'POST',
    headers: { authorization: `Basic ${btoa(`${client.id}:${client.secret}`)}` },
    body: new URLSearchParams({
      grant_type: 'client_credentials',
      resource: `${harness.entryOrigin}/mcp/${slug}`,
      scope,
    }),
  });
  return z.object({ access_token: z.string() }).parse(await response.json()).access_token;
}

async function statusOf(slug: string, token: string, method: string): Promise<number> {
  const response = await fetch(`${harness.entryOrigin}/mcp/${slug}`, {
    method: 'POST',
    headers: {
      authorization: `Bearer ${token}`,
      'content-type': 'application/json',
      accept: 'application/json, text/event-stream',
      'mcp-protocol-version': '2025-06-18',
    },
    body: JSON.stringify({ jsonrpc: '2.0', id: 1, method, params: {} }),
  });
  await response.text();
  return response.status;
}

test('a program gets a token for one endpoint and its scopes, which ends with its service account', async () => {
  const token = await tokenFor('echo', 'mcp:tools');
  expect(await statusOf('echo', token, 'tools/list')).toBe(200);
  expect(await statusOf('echo', token, 'prompts/list')).toBe(403);
  expect(await statusOf('sibling', token, 'tools/list')).toBe(401);
  expect(await statusOf('sibling', await tokenFor('sibling', 'mcp'), 'tools/list')).toBe(200);
  const disabled = { id: accountId, status: 'DISABLED' };
  await harness.administrator.mutate('updateServiceAccount', disabled, 'id', identified);
  await waitFor('the node refuses the token', async () => (await statusOf('echo', token, 'tools/list')) === 401);
});
