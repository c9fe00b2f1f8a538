/** Whom an identity provider vouches to for a user: whom the MCP server names (RFC 9728), or an administrator. */
import { createGraphqlClient } from '@sallyport/cli';
import { decodeJwt } from 'jose';
import postgres from 'postgres';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { z } from 'zod';
import { Administrator } from '../kit/administrator.ts';
import { startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { Browser } from '../oauth/browser.ts';
import { type FakeIdentityProvider, startFakeIdentityProvider } from '../oauth/fake-identity-provider.ts';
import { connectUsers } from '../oauth/federation-kit.ts';
import { nodesUrl, startOAuthPlane } from '../oauth/oauth-kit.ts';
import { logIn } from './connecting-kit.ts';
import { identified, keyFile } from './credential-kit.ts';
import { FakeAuthorizationServer } from './fake-authorization-server.ts';

/** Where authorization servers read what client the gateway is: they want https. */
const publicUrl = 'https://gateway.example';
const clientId = `${publicUrl}/oauth/upstream-client/signed`;
/** One that the MCP server names at first, one that it may name, and one that takes no client by document. */
const [as, other, plain] = [1, 2, 3].map(() => new FakeAuthorizationServer()) as [
  FakeAuthorizationServer,
  FakeAuthorizationServer,
  FakeAuthorizationServer,
];
const all = [as, other, plain];
let upstream: FakeUpstream;
let idp: FakeIdentityProvider;
let plane: TestControlPlane;
let asAda: Administrator;
let adasKey: string;
/** Of the MCP server of a test: each has its own, since the control plane looks at servers by itself, too. */
let url: string;
let servers = 0;

beforeAll(async () => {
  for (const one of all) await one.start();
  upstream = await startFakeUpstream({ tools: ['look'] });
  upstream.guard(({ headers }) => {
    const token = headers.authorization?.slice('Bearer '.length) ?? '';
    return all.some(({ live }) => live.has(token));
  }, `Bearer resource_metadata="${as.url}/prm"`);
  idp = await startFakeIdentityProvider('http://127.0.0.1');
  const dialled = [upstream.url, idp.issuer, ...all.map(({ url }) => url)];
  const environment = {
    SALLYPORT_CREDENTIAL_KEY_FILE: keyFile(),
    SALLYPORT_EGRESS_ALLOW: dialled.map((url) => `127.0.0.1/32:${new URL(url).port}`).join(','),
  };
  const databaseUrl = await prepare(environment);
  const publicly = { ...environment, SALLYPORT_PUBLIC_URL: publicUrl, SALLYPORT_NODES_URL: nodesUrl };
  plane = await startTestControlPlane({ databaseUrl, environment: publicly, bootstrap: false });
  asAda = new Administrator(createGraphqlClient(plane.graphqlUrl, adasKey), 0);
}, 120_000);
beforeEach(() => {
  url = `${upstream.url}/${++servers}`;
  idp.assertion = { client_id: clientId };
  for (const one of all) one.resource = url;
  as.named = undefined;
  const isKnown = { client_id_metadata_document_supported: true };
  as.metadata = other.metadata = { ...isKnown, token_endpoint_auth_methods_supported: ['private_key_jwt'] };
});
afterAll(async () => {
  await plane.stop();
  await idp.stop();
  await upstream.stop();
  for (const one of all) await one.stop();
});

/** Ada, an administrator, logs in with her identity provider, over a plane that is stopped then. */
async function prepare(environment: Readonly<Record<string, string>>): Promise<string> {
  const local = await startOAuthPlane({ environment });
  const owner = new Administrator(createGraphqlClient(local.graphqlUrl, local.ownerKey), 0);
  await connectUsers(owner, idp, local.issuer);
  idp.subject = 'ada';
  // Longer than any run of these tests takes.
  idp.claims = { exp: Math.floor(Date.now() / 1000) + 3_600, sid: 'ada' };
  const account = `${local.issuer}/oauth/account`;
  await logIn(new Browser(), account);
  const sql = postgres(local.databaseUrl, { max: 1 });
  const [row] = await sql<{ id: string }[]>`select id from principals where subject = 'ada'`;
  await sql.end();
  const principalId = row?.id ?? '';
  await owner.mutate('assignRole', { principalId, role: 'ADMIN' }, '__typename', z.unknown());
  const key = { principalId, name: 'Ada', scopes: ['API'], expiresAt: new Date(Date.now() + 86_400_000).toISOString() };
  adasKey = (await owner.mutate('createApiKey', key, 'secret', z.object({ secret: z.string() }))).secret;
  asAda = new Administrator(createGraphqlClient(local.graphqlUrl, adasKey), 0);
  // What the provider gives is kept once a server is called with it.
  url = upstream.url;
  await register({});
  await logIn(new Browser(), account);
  await local.stop();
  return local.databaseUrl;
}

/** @returns the id of a server that is called by the word of the provider */
async function register(identityAssertion: Readonly<Record<string, unknown>>): Promise<string> {
  const { id } = await asAda.mutate('createServer', { slug: `server-${servers}`, url }, 'id', identified);
  await asAda.mutate('setServerCredential', { serverId: id, identityAssertion }, 'mode', z.unknown());
  return id;
}

/** Registers the server of a test, and looks at it with Ada's login; null where that went well. */
async function look(identityAssertion: Readonly<Record<string, unknown>> = {}): Promise<string | null> {
  const id = await register(identityAssertion);
  const problem = z.object({ discoveryProblem: z.object({ code: z.string() }).nullable() });
  const fields = 'discoveryProblem { code }';
  return (await asAda.mutate('discoverServer', { id }, fields, problem)).discoveryProblem?.code ?? null;
}

/** Requests for tokens for the server at one of the authorization servers. */
const asked = (one: FakeAuthorizationServer): URLSearchParams[] =>
  one.requests.filter(({ path, form }) => path === '/token' && form.get('resource') === url).map(({ form }) => form);

/** To which authorization servers the provider vouched for this server. */
const vouched = (): ReadonlySet<unknown> =>
  new Set(idp.assertionRequests.filter(({ resource }) => resource === url).map(({ audience }) => audience));

test('without an issuer the provider vouches to whom the MCP server names, by the client that the gateway publishes', async () => {
  expect(await look()).toBeNull();
  expect(vouched()).toEqual(new Set([as.url]));
  const [form] = asked(as);
  expect(decodeJwt(form?.get('client_assertion') ?? '')).toMatchObject({ sub: clientId, aud: as.url });
  const assertion = decodeJwt(form?.get('assertion') ?? '');
  expect(assertion).toMatchObject({ aud: as.url, resource: url, client_id: clientId });
});

test('a server that names another authorization server has it vouched to for this one server, and told nothing else', async () => {
  as.named = other.url;
  expect(await look()).toBeNull();
  expect(vouched()).toEqual(new Set([other.url]));
  expect(asked(as)).toEqual([]);
  const [form] = asked(other);
  expect(decodeJwt(form?.get('assertion') ?? '')).toMatchObject({ aud: other.url, resource: url });
  expect(decodeJwt(form?.get('client_assertion') ?? '')).toMatchObject({ aud: other.url });
  // The proof of the login is for the provider alone.
  const idToken = String(idp.assertionRequests[0]?.['subject_token']);
  expect(JSON.stringify(asked(other).map(String))).not.toContain(idToken);
});

test('a server that says to be another one is vouched for nowhere, by neither name', async () => {
  const own = url;
  const another = 'https://payroll.example/mcp';
  as.resource = another;
  expect(await look()).not.toBeNull();
  const resources = idp.assertionRequests.map(({ resource }) => resource);
  for (const resource of [own, another]) expect(resources).not.toContain(resource);
});

test('an authorization server that takes no client by document is told nothing, since nothing else is known to it', async () => {
  as.named = plain.url;
  expect(await look()).toBe('CREDENTIAL_MISSING');
  expect([vouched(), asked(plain)]).toEqual([new Set(), []]);
});

test('an issuer that an administrator named is the one, whatever the server says', async () => {
  as.named = other.url;
  idp.assertion = {};
  expect(await look({ issuer: as.url, clientId: 'gateway', secret: 'secret of a client' })).toBeNull();
  expect(vouched()).toEqual(new Set([as.url]));
  expect([asked(as).length > 0, asked(other)]).toEqual([true, []]);
});
