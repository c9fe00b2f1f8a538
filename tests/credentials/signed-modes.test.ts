import { createRemoteJWKSet, decodeJwt, decodeProtectedHeader, jwtVerify } from 'jose';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { Administrator, type ClientAccount } from '../kit/administrator.ts';
import { startTestControlPlane } from '../kit/control-plane.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { askModern } from '../kit/raw-mcp.ts';
import { somebody } from './connecting-kit.ts';
import { credential, credentialFields, identified, keyFile, registerWith } from './credential-kit.ts';
import { FakeAuthorizationServer } from './fake-authorization-server.ts';

const exchangeGrant = 'urn:ietf:params:oauth:grant-type:token-exchange';
const as = new FakeAuthorizationServer();
/** What the tokens that were exchanged are good for. */
const scopesOf = new Map<string, string>();
let exchanging: FakeUpstream;
let own: FakeUpstream;
let harness: Harness;
let publicUrl: string;
let ada: ClientAccount;
let bob: ClientAccount;

const bearer = (header: string | undefined): string => header?.slice('Bearer '.length) ?? '';
const givesAccessToken = as.onExchange;

beforeAll(async () => {
  await as.start();
  exchanging = await startFakeUpstream({ tools: ['look'] });
  own = await startFakeUpstream({ tools: ['look'] });
  exchanging.guard(({ headers }) => as.live.has(bearer(headers.authorization)));
  own.guard(({ headers }) => bearer(headers.authorization).split('.').length === 3);
  harness = await startHarness({
    upstreams: [exchanging.url, own.url, as.url],
    environment: { SALLYPORT_CREDENTIAL_KEY_FILE: keyFile() },
    authorizationServer: true,
  });
  publicUrl = new URL(harness.controlPlane.graphqlUrl ?? '').origin;
  const { administrator } = harness;
  [ada, bob] = [await administrator.createClient('Ada'), await administrator.createClient('Bob')];
  const group = await administrator.mutate('createGroup', { name: 'Readers' }, 'id', identified);
  const members = { id: group.id, principalIds: [ada.principalId] };
  await administrator.mutate('addGroupMembers', members, '__typename', z.unknown());
  const tokenExchange = {
    issuer: as.url,
    clientId: 'gateway',
    secret: 'canary-of-a-client-secret',
    audience: 'the-server',
    namesActor: true,
  };
  const identityToken = { lifetimeSeconds: 60, claims: ['NAME', 'GROUPS'] };
  for (const [slug, upstream, mode] of [
    ['exchanged', exchanging, { tokenExchange }],
    ['own', own, { identityToken }],
  ] as const) {
    const id = await registerWith(administrator, { slug, url: upstream.url }, mode);
    await administrator.grant({ serverId: id, tools: ['*'] });
  }
  await administrator.converged();
}, 60_000);
afterEach(() => {
  as.onExchange = givesAccessToken;
});
afterAll(async () => {
  await harness.stop();
  await exchanging.stop();
  await own.stop();
  await as.stop();
});

async function call(slug: string, { key }: ClientAccount): Promise<number[]> {
  const message = { method: 'tools/call', params: { name: 'look', arguments: { id: 'x' } } };
  const asked = harness.nodes.map(({ url }) => askModern({ url: `${url}/mcp/${slug}`, key }, message));
  return (await Promise.all(asked)).map(({ status }) => status);
}

/** What an upstream was sent since. */
const sentTo = (upstream: FakeUpstream, since: number): Set<string> =>
  new Set(upstream.requests.slice(since).map(({ headers }) => bearer(headers.authorization)));

const exchanges = () => as.requests.filter(({ form }) => form.get('grant_type') === exchangeGrant);

/** Verifies as an upstream or an authorization server would: with what is published, and nothing else. */
async function verified(token: string, audience: string, typ: string) {
  const metadata = z.object({ issuer: z.string(), jwks_uri: z.string() });
  const issuer = `${publicUrl}/oauth/upstream`;
  const found = metadata.parse(await (await fetch(`${issuer}/.well-known/openid-configuration`)).json());
  expect(found.issuer).toBe(issuer);
  const keys = createRemoteJWKSet(new URL(found.jwks_uri));
  return (await jwtVerify(token, keys, { issuer, audience, typ, algorithms: ['ES256'], maxTokenAge: 300 })).payload;
}

test('a call carries a token that was exchanged for one of the very caller, made for the authorization server alone', async () => {
  const before = exchanging.requests.length;
  expect(await call('exchanged', ada)).toEqual([200, 200]);
  const form = exchanges().at(-1)?.form;
  expect(Object.fromEntries(form ?? [])).toMatchObject({
    subject_token_type: 'urn:ietf:params:oauth:token-type:jwt',
    requested_token_type: 'urn:ietf:params:oauth:token-type:access_token',
    actor_token_type: 'urn:ietf:params:oauth:token-type:jwt',
    resource: exchanging.url,
    audience: 'the-server',
  });
  const subject = await verified(form?.get('subject_token') ?? '', as.url, 'JWT');
  expect(subject).toMatchObject({ sub: ada.principalId, aud: as.url, principal_kind: 'serviceAccount' });
  const actor = await verified(form?.get('actor_token') ?? '', as.url, 'JWT');
  expect(actor.sub).toBe('gateway');
  const sent = sentTo(exchanging, before);
  expect([...sent].every((token) => token.startsWith('tx_'))).toBe(true);
  expect(form?.get('subject_token')).not.toContain(ada.key);
});

test('nobody calls with the token of another, and what was exchanged is used for many calls', async () => {
  const [before, asked] = [exchanging.requests.length, exchanges().length];
  expect(await call('exchanged', bob)).toEqual([200, 200]);
  expect(await call('exchanged', bob)).toEqual([200, 200]);
  expect(exchanges().length - asked).toBe(1);
  const bobs = sentTo(exchanging, before);
  const since = exchanging.requests.length;
  expect(await call('exchanged', ada)).toEqual([200, 200]);
  const adas = sentTo(exchanging, since);
  expect([bobs.size, adas.size, [...bobs].filter((token) => adas.has(token))]).toEqual([1, 1, []]);
});

test('a token that the upstream does not take any more is exchanged anew once, and the call goes on', async () => {
  const asked = exchanges().length;
  as.live.clear();
  expect(await call('exchanged', bob)).toEqual([200, 200]);
  expect(exchanges().length - asked).toBe(1);
});

test('a server that wants more gets what was asked for before and that, and is not asked without end', async () => {
  expect(await call('exchanged', ada)).toEqual([200, 200]);
  as.onExchange = (form) => {
    queueMicrotask(() => scopesOf.set([...as.live].at(-1) ?? '', form.get('scope') ?? ''));
    return givesAccessToken(form);
  };
  const wants = (scopes: readonly string[]): void =>
    exchanging.intercept(({ headers }, response) => {
      const had = (scopesOf.get(bearer(headers.authorization)) ?? '').split(' ');
      if (scopes.every((scope) => had.includes(scope))) return false;
      const challenge = `Bearer error="insufficient_scope", scope="${scopes.join(' ')}"`;
      response.writeHead(403, { 'www-authenticate': challenge }).end();
      return true;
    });
  wants(['files:read']);
  expect(await call('exchanged', ada)).toEqual([200, 200]);
  wants(['files:read', 'files:write']);
  expect(await call('exchanged', ada)).toEqual([200, 200]);
  expect(exchanges().at(-1)?.form.get('scope')).toBe('files:read files:write');
  // Given, and the server still refuses: nobody is asked for the same a second time.
  const asked = exchanges().length;
  exchanging.intercept((_request, response) => {
    const challenge = 'Bearer error="insufficient_scope", scope="files:write"';
    response.writeHead(403, { 'www-authenticate': challenge }).end();
    return true;
  });
  expect(await call('exchanged', ada)).toEqual([503, 503]);
  expect(await call('exchanged', ada)).toEqual([503, 503]);
  expect(exchanges().length).toBe(asked);
  exchanging.intercept(() => false);
});

test('a token of another kind, and a refusal, are no credential, and nothing stands in for them', async () => {
  for (const [answer, reason] of [
    [{ issued_token_type: 'urn:ietf:params:oauth:token-type:refresh_token' }, 'issued_token_type'],
    [{ error: 'invalid_target' }, 'invalid_target'],
  ] as const) {
    const client = await harness.administrator.createClient(`Refused ${reason}`);
    await harness.administrator.converged();
    as.onExchange = () => answer;
    const before = exchanging.requests.length;
    expect(await call('exchanged', client)).toEqual([503, 503]);
    expect(exchanging.requests.length).toBe(before);
    const query = '{ auditEvents(first: 5, action: "credential.fail") { edges { node { after } } } }';
    const events = JSON.stringify(await harness.administrator.api.ask(query, {}, z.unknown()));
    expect(events).toContain(reason);
    expect(events).not.toContain('tx_');
  }
});

test('what an authorization server says instead of a word is not on record, and is one failure however it is put', async () => {
  const client = await harness.administrator.createClient('Repeated');
  await harness.administrator.converged();
  const said: string[] = [];
  as.onExchange = (form) => {
    said.push(form.get('subject_token') ?? '');
    return { error: `${said.at(-1)} is not taken` };
  };
  for (let time = 0; time < 2; time++) expect(await call('exchanged', client)).toEqual([503, 503]);
  as.onExchange = givesAccessToken;
  const query = '{ auditEvents(first: 50, action: "credential.fail") { edges { node { after } } } }';
  const after = z.looseObject({ reason: z.string(), principalId: z.string().nullable() });
  const edges = z.array(z.object({ node: z.object({ after }) }));
  const answer = z.object({ auditEvents: z.object({ edges }) });
  const { auditEvents } = await harness.administrator.api.ask(query, {}, answer);
  const failures = auditEvents.edges.map(({ node }) => node.after);
  const ofClient = failures.filter(({ principalId }) => principalId === client.principalId);
  expect(ofClient.map(({ reason }) => reason)).toEqual(['other']);
  expect(said.length).toBeGreaterThan(1);
  for (const token of said) expect(JSON.stringify(failures)).not.toContain(token);
});

test('a server of one’s own is told who calls by a short token for it alone, which it verifies by what is published', async () => {
  const before = own.requests.length;
  expect(await call('own', ada)).toEqual([200, 200]);
  for (const token of sentTo(own, before)) {
    const claims = await verified(token, own.url, 'sallyport-identity+jwt');
    expect(claims).toMatchObject({ sub: ada.principalId, aud: own.url, name: 'Ada', groups: ['Readers'] });
    expect((claims.exp ?? 0) - (claims.iat ?? 0)).toBe(60);
    expect(claims.jti).toMatch(/^[0-9a-f-]{36}$/);
    expect(claims['email']).toBeUndefined();
    // At no other server, and of no other issuer.
    await expect(verified(token, exchanging.url, 'sallyport-identity+jwt')).rejects.toThrow('aud');
    const keysOfNodes = createRemoteJWKSet(new URL(`${publicUrl}/oauth/jwks`));
    await expect(jwtVerify(token, keysOfNodes)).rejects.toThrow('no applicable key');
    // Nor is it a token for a node.
    const asToken = { url: `${harness.nodes[0]?.url ?? ''}/mcp/own`, key: token };
    expect((await askModern(asToken, { method: 'tools/list', params: {} })).status).toBe(401);
  }
});

test('a client without a key of its own proves itself with the gateway’s, for the authorization server alone', async () => {
  const tokenExchange = { issuer: as.url, clientId: 'by-signature', authentication: 'PRIVATE_KEY_JWT' };
  await registerWith(harness.administrator, { slug: 'signing', url: exchanging.url }, { tokenExchange });
  const assertion = exchanges().at(-1)?.form.get('client_assertion') ?? '';
  const keys = createRemoteJWKSet(new URL(`${publicUrl}/oauth/upstream/jwks`));
  const { payload } = await jwtVerify(assertion, keys, { issuer: 'by-signature', audience: as.url });
  expect(payload.sub).toBe('by-signature');
});

test('who administers some servers alone cannot have signed for them what is good for others', async () => {
  const { administrator } = harness;
  const lee = await somebody(harness, 'Lee');
  const labels = [{ key: 'team', value: 'one' }];
  const role = { principalId: lee.id, role: 'ADMIN', serverLabels: labels };
  await administrator.mutate('assignRole', role, '__typename', z.unknown());
  const server = { slug: 'of-one-team', url: own.url, labels };
  const { id } = await administrator.mutate('createServer', server, 'id', identified);
  const set = (by: Administrator, mode: object) =>
    by.mutate('setServerCredential', { serverId: id, ...mode }, credentialFields, credential);
  const asLee = new Administrator(lee.api, 2);
  const client = { issuer: as.url, clientId: 'by-signature', authentication: 'PRIVATE_KEY_JWT' };
  for (const mode of [
    { identityToken: { audience: exchanging.url } },
    { tokenExchange: { ...client, audience: 'another' } },
    { clientCredentials: client },
    { identityAssertion: client },
    { userOAuth: client },
  ]) {
    await expect(set(asLee, mode)).rejects.toThrow('credential:write on all servers');
    expect((await set(administrator, mode)).isComplete).toBe(true);
  }
  for (const mode of [
    { identityToken: {} },
    { identityToken: { audience: own.url } },
    { clientCredentials: { issuer: as.url, clientId: 'his', secret: 'his own' } },
  ]) {
    expect((await set(asLee, mode)).isComplete).toBe(true);
  }
});

test('a new key is published before it signs, the old one stays for what it signed, and two rotations do not mix', async () => {
  const query = '{ upstreamSigningKeys { id use } }';
  const shape = z.object({ upstreamSigningKeys: z.array(z.object({ id: z.string(), use: z.string() })) });
  const { administrator } = harness;
  const [signs] = (await administrator.api.ask(query, {}, shape)).upstreamSigningKeys;
  const made = await administrator.mutate('rotateUpstreamSigningKey', {}, 'id use', identified);
  await expect(administrator.mutate('rotateUpstreamSigningKey', {}, 'id', identified)).rejects.toThrow('under way');
  const jwks = z.object({ keys: z.array(z.looseObject({ kid: z.string() })) });
  const { keys } = jwks.parse(await (await fetch(`${publicUrl}/oauth/upstream/jwks`)).json());
  expect(keys.map(({ kid }) => kid)).toEqual([signs?.id, made.id]);
  expect(JSON.stringify(keys)).not.toContain('"d"');
  const carol = await administrator.createClient('Carol');
  await administrator.converged();
  const before = own.requests.length;
  expect(await call('own', carol)).toEqual([200, 200]);
  for (const token of sentTo(own, before)) expect(decodeProtectedHeader(token).kid).toBe(signs?.id);
});

test('who is disabled is told of nowhere any longer', async () => {
  const dave = await harness.administrator.createClient('Dave');
  await harness.administrator.converged();
  expect(await call('own', dave)).toEqual([200, 200]);
  const input = { id: dave.principalId, status: 'DISABLED' };
  await harness.administrator.mutate('updateServiceAccount', input, 'id', identified);
  await harness.administrator.converged();
  const before = own.requests.length;
  expect(await call('own', dave)).not.toContain(200);
  const told = [...sentTo(own, before)].map((token) => decodeJwt(token).sub);
  expect(told).not.toContain(dave.principalId);
});

test('all that is wrong with a mode is said at once, and without a public URL or a key nothing is signed or kept', async () => {
  const { administrator } = harness;
  const { id } = await administrator.mutate('createServer', { slug: 'wrong', url: own.url }, 'id', identified);
  const set = (mode: object) =>
    administrator.mutate('setServerCredential', { serverId: id, ...mode }, 'mode isComplete revision', credential);
  const tokenExchange = { issuer: 'nonsense', clientId: '', authentication: 'NONE', scopes: ['a b'] };
  const refused = await set({ tokenExchange }).catch(String);
  for (const part of ['issuer', 'clientId', 'authentication', 'scopes[0]']) expect(refused).toContain(part);
  await expect(set({ identityToken: { lifetimeSeconds: 3_600 } })).rejects.toThrow('lifetimeSeconds');
  await expect(set({ identityToken: {}, tokenExchange })).rejects.toThrow('exactly one of');
  for (const [environment, code] of [
    [{}, 'CREDENTIAL_KEY_MISSING'],
    [{ SALLYPORT_CREDENTIAL_KEY_FILE: keyFile() }, 'INVALID_INPUT'],
  ] as const) {
    const plane = await startTestControlPlane({ environment });
    const create = 'mutation ($input: CreateServerInput!) { createServer(input: $input) { id } }';
    const { data } = await plane.ask(create, { input: { slug: 'one', url: 'https://mcp.example/mcp' } });
    const mutation = 'mutation ($input: SetServerCredentialInput!) { setServerCredential(input: $input) { mode } }';
    const { errors } = await plane.ask(mutation, { input: { serverId: data.createServer.id, identityToken: {} } });
    expect(errors[0]?.extensions.code).toBe(code);
    // What users connect has to be kept as well.
    const users = await plane.ask(mutation, { input: { serverId: data.createServer.id, userOAuth: {} } });
    expect(users.errors[0]?.extensions.code).toBe(code === 'CREDENTIAL_KEY_MISSING' ? code : undefined);
    await plane.stop();
  }
});
