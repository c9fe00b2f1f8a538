import { systemClock } from '@sallyport/schema/platform';
import { decodeJwt } from 'jose';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { waitFor } from '../kit/condition.ts';
import { type EchoUpstream, startEchoUpstream } from '../kit/echo-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { type FakeIdentityProvider, startFakeIdentityProvider } from './fake-identity-provider.ts';
import { connectUsers, tokenOf } from './federation-kit.ts';

const identified = z.object({ id: z.string() });
let upstream: EchoUpstream;
let harness: Harness;
let idp: FakeIdentityProvider;
let echoId: string;
let client: { readonly id: string; readonly secret: string };
let accountId: string;

beforeAll(async () => {
  upstream = await startEchoUpstream();
  idp = await startFakeIdentityProvider('http://127.0.0.1');
  harness = await startHarness({ upstreams: [upstream.url, idp.issuer], nodes: 1, authorizationServer: true });
  const { administrator } = harness;
  const servers = [await administrator.registerServer('echo', upstream.url)];
  echoId = servers[0]?.id ?? '';
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
  await idp?.stop();
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

async function answerTo(slug: string, token: string, method: string): Promise<Response> {
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
  return response;
}

const statusOf = async (slug: string, token: string, method: string): Promise<number> =>
  (await answerTo(slug, token, method)).status;

test('a login that is demanded of an endpoint reaches the node: people step up, programs go on', async () => {
  const { administrator } = harness;
  const users = await connectUsers(administrator, idp, new URL(harness.controlPlane.graphqlUrl ?? '').origin);
  const demand = (stepUp: readonly object[]) =>
    administrator.mutate('updateAuthorizationServer', { stepUp }, 'issuer', z.unknown());
  const logIn = (acr: string): Promise<string> => {
    idp.claims = { name: 'Ada', acr, auth_time: Math.floor(systemClock.now() / 1000) };
    return tokenOf(users, `${harness.entryOrigin}/mcp/echo`);
  };
  const weak = await logIn('pwd');
  const subject = { kind: 'USER', id: decodeJwt(weak).sub ?? '' } as const;
  await administrator.grant({ serverId: echoId, subject, tools: ['*'] });
  await waitFor('the node lets her in', async () => (await statusOf('echo', weak, 'tools/list')) === 200);
  await demand([{ serverId: echoId, acrValues: ['mfa'], maxAgeSeconds: 900 }]);
  await waitFor('the node asks for more', async () => (await statusOf('echo', weak, 'tools/list')) === 401);
  const challenge = (await answerTo('echo', weak, 'tools/list')).headers.get('www-authenticate');
  expect(challenge).toContain('error="insufficient_user_authentication"');
  expect(challenge).toContain('acr_values="mfa"');
  expect(challenge).toContain('max_age="900"');
  expect(await statusOf('echo', await logIn('mfa'), 'tools/list')).toBe(200);
  expect(await statusOf('echo', await tokenFor('echo', 'mcp:tools'), 'tools/list')).toBe(200);
  await demand([]);
  await waitFor('it asks no longer', async () => (await statusOf('echo', weak, 'tools/list')) === 200);
});

test('a program gets a token for one endpoint and its scopes, which ends with its service account', async () => {
  const token = await tokenFor('echo', 'mcp:tools');
  expect(await statusOf('echo', token, 'tools/list')).toBe(200);
  expect(await statusOf('echo', token, 'prompts/list')).toBe(403);
  // As the guide has it for a CI job, which opens no session and names no revision.
  const asked = await fetch(`${harness.entryOrigin}/mcp/echo`, {
    method: 'POST',
    headers: {
      authorization: `Bearer ${token}`,
      'content-type': 'application/json',
      accept: 'application/json, text/event-stream',
    },
    body: '{"jsonrpc":"2.0","id":1,"method":"tools/list"}',
  });
  expect(await asked.text()).toContain('"tools"');
  expect(await statusOf('sibling', token, 'tools/list')).toBe(401);
  expect(await statusOf('sibling', await tokenFor('sibling', 'mcp'), 'tools/list')).toBe(200);
  const disabled = { id: accountId, status: 'DISABLED' };
  await harness.administrator.mutate('updateServiceAccount', disabled, 'id', identified);
  await waitFor('the node refuses the token', async () => (await statusOf('echo', token, 'tools/list')) === 401);
});
