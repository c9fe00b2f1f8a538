import { AuthorizationServers } from '@sallyport/control-plane/credentials';
import { createEgress, parseEgressAllowList, systemClock } from '@sallyport/schema/platform';
import postgres from 'postgres';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { Administrator } from '../kit/administrator.ts';
import { waitFor } from '../kit/condition.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { dump } from '../kit/postgres.ts';
import { Browser } from '../oauth/browser.ts';
import { answerFor, connect, linkOf, open, press, type Somebody, somebody } from './connecting-kit.ts';
import { credential, credentialFields, identified, keyFile } from './credential-kit.ts';
import { FakeAuthorizationServer } from './fake-authorization-server.ts';

const as = new FakeAuthorizationServer();
let upstream: FakeUpstream;
let elsewhere: FakeUpstream;
let harness: Harness;
let serverId: string;
let ada: Somebody;
let bob: Somebody;

beforeAll(async () => {
  await as.start();
  upstream = await startFakeUpstream({ tools: ['look'] });
  elsewhere = await startFakeUpstream({ tools: ['look'] });
  as.resource = upstream.url;
  const bearer = (header: string | undefined): string => header?.slice('Bearer '.length) ?? '';
  upstream.guard(
    ({ headers }) => as.live.has(bearer(headers.authorization)),
    `Bearer resource_metadata="${as.url}/prm"`,
  );
  harness = await startHarness({
    upstreams: [upstream.url, elsewhere.url, as.url],
    environment: { SALLYPORT_CREDENTIAL_KEY_FILE: keyFile() },
    authorizationServer: true,
  });
  [ada, bob] = [await somebody(harness, 'Ada'), await somebody(harness, 'Bob')];
  const { administrator } = harness;
  const role = { principalId: ada.id, role: 'ADMIN' };
  await administrator.mutate('assignRole', role, '__typename', z.unknown());
  const asAda = new Administrator(ada.api, 2);
  serverId = (await asAda.mutate('createServer', { slug: 'own', url: upstream.url }, 'id', identified)).id;
  await asAda.mutate('setServerCredential', { serverId, userOAuth: {} }, credentialFields, credential);
}, 60_000);
afterAll(async () => {
  await harness.stop();
  await upstream.stop();
  await elsewhere.stop();
  await as.stop();
});

/** A call on each node: what comes of it, with whatever capabilities the client declares. */
async function call(who: Somebody, capabilities: object = {}, more: object = {}): Promise<z.infer<typeof answered>[]> {
  const found: z.infer<typeof answered>[] = [];
  for (const { url } of harness.nodes) {
    const meta = {
      'io.modelcontextprotocol/protocolVersion': '2026-07-28',
      'io.modelcontextprotocol/clientInfo': { name: 'raw', version: '1.0.0' },
      'io.modelcontextprotocol/clientCapabilities': capabilities,
    };
    const params = { name: 'look', arguments: { id: 'x' }, ...more, _meta: meta };
    const response = await fetch(`${url}/mcp/own`, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        accept: 'application/json, text/event-stream',
        authorization: `Bearer ${who.key}`,
        'mcp-protocol-version': '2026-07-28',
        'mcp-method': 'tools/call',
        'mcp-name': 'look',
      },
      body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/call', params }),
    });
    found.push({ ...answered.parse(await response.json()), status: response.status });
  }
  return found;
}
const answered = z.looseObject({
  status: z.number().optional(),
  error: z.looseObject({ code: z.number(), data: z.unknown().optional() }).optional(),
  result: z
    .looseObject({
      resultType: z.string(),
      isError: z.boolean().optional(),
      content: z.array(z.object({ text: z.string() })).optional(),
      inputRequests: z.record(z.string(), z.looseObject({ params: z.looseObject({ url: z.string() }) })).optional(),
    })
    .optional(),
});
const ok = (one: z.infer<typeof answered>): boolean =>
  one.result?.resultType === 'complete' && one.result.isError !== true;

async function events(action: string): Promise<number> {
  const sql = postgres(harness.databaseUrl);
  const rows = await sql`select 1 from audit_events where action = ${action}`;
  await sql.end();
  return rows.length;
}

test('the account of the admin who set it up is what the server is discovered with', async () => {
  expect((await connect(harness, ada, serverId)).status).toBe(200);
  const asAda = new Administrator(ada.api, 2);
  const discover = 'mutation ($input: ServerInput!) { discoverServer(input: $input) { discoveryProblem { code } } }';
  const answer = z.object({ discoverServer: z.object({ discoveryProblem: z.unknown() }) });
  const { discoverServer } = await ada.api.ask(discover, { input: { id: serverId } }, answer);
  expect(discoverServer.discoveryProblem).toBeNull();
  await asAda.mutate('approveServer', { id: serverId }, 'id', identified);
  await harness.administrator.grant({ serverId, tools: ['*'] });
  await harness.administrator.converged();
  expect((await call(ada)).map(ok)).toEqual([true, true]);
});

test('whoever has no account is asked to connect it, in his client’s own way and never by a 401', async () => {
  const asked = await call(bob, { elicitation: { url: {} } });
  for (const { status, result } of asked) {
    const url = Object.values(result?.inputRequests ?? {})[0]?.params.url;
    expect([status, result?.resultType]).toEqual([200, 'input_required']);
    expect(url).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/oauth\/connect\//);
  }
  // Whoever would not open the page is told, and not asked for as long as his client goes on.
  const declined = { inputResponses: { 'sallyport.connect': { action: 'decline' } } };
  for (const { result } of await call(bob, { elicitation: { url: {} } }, declined)) {
    expect(result).toMatchObject({ isError: true, content: [{ text: expect.stringContaining('/oauth/connect/') }] });
  }
  const [told] = await call(bob);
  expect(told?.result).toMatchObject({ isError: true });
  expect(told?.result?.content?.[0]?.text).toContain('/oauth/connect/');
  const initialize = {
    jsonrpc: '2.0',
    id: 0,
    method: 'initialize',
    params: { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'raw', version: '1' } },
  };
  const response = await fetch(harness.endpoint('own', bob.key).url, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      accept: 'application/json, text/event-stream',
      authorization: `Bearer ${bob.key}`,
    },
    body: JSON.stringify(initialize),
  });
  const { error } = answered.parse(await response.json());
  expect([response.status, error?.code]).toEqual([200, -32042]);
  expect(JSON.stringify(error?.data)).toContain('/oauth/connect/');
});

test('another user who opens a link, or brings an answer, gets nothing, and that is on record', async () => {
  const link = await linkOf(bob, serverId);
  const foreign = await open(harness, new Browser(), link, ada);
  expect([foreign.status, foreign.text.includes('somebody else')]).toEqual([403, true]);
  const bobs = new Browser();
  const answer = await answerFor(harness, bobs, link, bob);
  const adas = new Browser();
  await open(harness, adas, `${new URL(link).origin}/oauth/account`, ada);
  expect((await adas.request(answer)).status).toBe(403);
  // Used up by that, for the one who began it too.
  expect((await bobs.request(answer)).status).toBe(403);
  expect(await events('connection.foreignLink')).toBe(1);
  expect(await events('connection.foreignAnswer')).toBe(1);
  expect((await call(bob)).map(ok)).toEqual([false, false]);
});

test('an answer of another issuer, or without one, causes no request for tokens', async () => {
  for (const iss of ['https://attacker.example', null]) {
    as.iss = iss;
    const before = as.asked('/token');
    const shown = await connect(harness, bob, serverId);
    expect(shown.status).toBe(403);
    expect(as.asked('/token')).toBe(before);
  }
  as.iss = undefined;
});

test('a server without PKCE, and one whose metadata is another’s, is not used', async () => {
  for (const metadata of [{ code_challenge_methods_supported: undefined }, { issuer: 'https://attacker.example' }]) {
    as.metadata = metadata;
    const egress = createEgress({ allow: parseEgressAllowList('127.0.0.0/8:1-65535').allow });
    const servers = new AuthorizationServers(egress, systemClock);
    const client = { clientId: 'x', secret: null, authentication: 'none' } as const;
    const request = {
      redirectUri: 'http://127.0.0.1/cb',
      scopes: [],
      resource: as.resource,
      state: 's',
      verifier: 'v',
      hosts: [],
    };
    await expect(servers.authorizationUrl(as.url, client, request)).rejects.toThrow(/PKCE|another issuer/);
    await egress.close();
  }
  as.metadata = {};
});

test('an authorization server that breaks off, or has no page, is a refusal on the page, and on record', async () => {
  const egress = createEgress({ allow: parseEgressAllowList('127.0.0.0/8:1-65535').allow });
  as.metadata = { authorization_endpoint: undefined };
  const request = {
    redirectUri: 'http://127.0.0.1/cb',
    scopes: [],
    resource: '',
    state: 's',
    verifier: 'v',
    hosts: [],
  };
  const client = { clientId: 'x', secret: null, authentication: 'none' } as const;
  const url = new AuthorizationServers(egress, systemClock).authorizationUrl(as.url, client, request);
  await expect(url).rejects.toMatchObject({ code: 'UPSTREAM_PROTOCOL' });
  as.metadata = {};
  await egress.close();
  const asAda = new Administrator(ada.api, 2);
  const { id } = await asAda.mutate('createServer', { slug: 'cut', url: elsewhere.url }, 'id', identified);
  const set = { serverId: id, userOAuth: { issuer: `${as.url}/cut` } };
  await asAda.mutate('setServerCredential', set, credentialFields, credential);
  const before = await events('connection.fail');
  const browser = new Browser();
  const shown = await press(browser, await open(harness, browser, await linkOf(ada, id), ada), { connect: 'yes' });
  expect([shown.status, shown.text]).toEqual([403, expect.stringContaining('cannot be used just now')]);
  expect(await events('connection.fail')).toBe(before + 1);
});

test('each calls with his own token, and with nobody else’s', async () => {
  expect((await connect(harness, bob, serverId)).status).toBe(200);
  const tokenOf = async (who: Somebody): Promise<Set<string | undefined>> => {
    const before = upstream.requests.length;
    expect((await call(who, {}, { inputResponses: { 'sallyport.connect': { action: 'accept' } } })).map(ok)).toEqual([
      true,
      true,
    ]);
    const sent = upstream.requests.slice(before);
    expect(JSON.stringify(sent.map(({ body }) => body))).not.toContain('sallyport.connect');
    return new Set(sent.map(({ headers }) => headers.authorization));
  };
  const [adas, bobs] = [await tokenOf(ada), await tokenOf(bob)];
  expect([adas.size, bobs.size]).toEqual([1, 1]);
  expect(adas).not.toEqual(bobs);
  const sql = postgres(harness.databaseUrl);
  const named =
    () => sql`select distinct on (principal_id) principal_id, credential_id, credential_mode, credential_issuer
    from audit_events where method = 'tools/call' and outcome = 'success' order by principal_id, time desc`;
  const accounts = await sql`select principal_id, id as credential_id from connections where status = 'active'`;
  const expected = accounts.map((row) => ({ ...row, credential_mode: 'userOAuth', credential_issuer: as.url }));
  expect(expected).toHaveLength(2);
  await waitFor('the records of the calls', async () => (await named()).length === 2);
  expect(new Set((await named()).map((row) => JSON.stringify(row)))).toEqual(
    new Set(expected.map((row) => JSON.stringify(row))),
  );
  await sql.end();
});

test('a token that the upstream does not take any more is renewed once, and the call goes on', async () => {
  const before = as.asked('/token', 'refresh_token');
  for (const token of [...as.live]) as.live.delete(token);
  expect((await call(bob)).map(ok)).toEqual([true, true]);
  expect(as.asked('/token', 'refresh_token') - before).toBe(1);
  expect(as.familiesRevoked).toBe(0);
});

test('a token that cannot be renewed is used to its end, and until it is refused where none is said', async () => {
  as.givesRefreshTokens = false;
  const [carol, dora] = [await somebody(harness, 'Carol'), await somebody(harness, 'Dora')];
  await harness.administrator.converged();
  expect((await connect(harness, carol, serverId)).status).toBe(200);
  as.expiresIn = undefined;
  expect((await connect(harness, dora, serverId)).status).toBe(200);
  as.givesRefreshTokens = true;
  as.expiresIn = 3_600;
  const sql = postgres(harness.databaseUrl);
  await sql`update connections set access_issued_at = now() - interval '55 minutes',
    access_expires_at = now() + interval '5 minutes' where principal_id = ${carol.id}`;
  expect((await call(carol)).map(ok)).toEqual([true, true]);
  const [kept] = await sql`select access_expires_at > now() + interval '90 days' as kept from connections
    where principal_id = ${dora.id}`;
  expect(kept?.['kept']).toBe(true);
  expect((await call(dora)).map(ok)).toEqual([true, true]);
  for (const token of [...as.live]) as.live.delete(token);
  expect((await call(dora)).map(ok)).toEqual([false, false]);
  const rows = await sql`select status, reason from connections where principal_id in ${sql([carol.id, dora.id])}
    order by status`;
  expect([...rows]).toEqual([
    { status: 'active', reason: null },
    { status: 'reauthRequired', reason: 'accessTokenEnded' },
  ]);
  await sql.end();
});

test('no token is in a row, a file of a node, or an answer of the API', async () => {
  const text = await dump(harness.databaseUrl);
  for (const token of as.live) expect(text).not.toContain(token);
  expect(text).not.toMatch(/rt_[0-9a-f-]{36}/);
});

test('a user sees his connections alone, and what he ends is revoked, destroyed and sent no more', async () => {
  const query = '{ upstreamAccounts { edges { node { id principalId status } } } }';
  const edges = z.object({
    upstreamAccounts: z.object({
      edges: z.array(z.object({ node: z.object({ id: z.string(), principalId: z.string() }) })),
    }),
  });
  const { upstreamAccounts } = await bob.api.ask(query, {}, edges);
  expect(upstreamAccounts.edges.map(({ node }) => node.principalId)).toEqual([bob.id]);
  const id = upstreamAccounts.edges[0]?.node.id;
  const mutation = 'mutation ($input: DisconnectInput!) { disconnect(input: $input) { status } }';
  await bob.api.ask(mutation, { input: { accountId: id } }, z.unknown());
  await waitFor('nodes let go of the token', async () => ((await call(bob)).some(ok) ? undefined : true));
  await waitFor('the authorization server was told', () => (as.familiesRevoked === 1 ? true : undefined));
  const sql = postgres(harness.databaseUrl);
  await waitFor('the row is destroyed', async () =>
    (await sql`select 1 from connections where id = ${id ?? ''}`).length === 0 ? true : undefined,
  );
  await sql.end();
  expect((await call(ada)).map(ok)).toEqual([true, true]);
});

test('where the authorization server forgot the client that the gateway registered, users connect by another one', async () => {
  const erin = await somebody(harness, 'Erin');
  await harness.administrator.converged();
  expect((await connect(harness, erin, serverId)).status).toBe(200);
  const told = as.familiesRevoked;
  const sql = postgres(harness.databaseUrl);
  const clients = () => sql`select client_id from upstream_clients where issuer = ${as.url}`;
  const [before] = await clients();
  await sql`update connections set access_issued_at = now() - interval '2 hours',
    access_expires_at = now() - interval '1 hour' where principal_id = ${erin.id}`;
  as.onToken = (response) => {
    response.writeHead(401, { 'content-type': 'application/json', 'www-authenticate': 'Basic realm="as"' });
    response.end(JSON.stringify({ error: 'invalid_client' }));
    return 'answered';
  };
  expect((await call(erin)).map(ok)).toEqual([false, false]);
  as.onToken = undefined;
  expect([...(await sql`select status, reason from connections where principal_id = ${erin.id}`)]).toEqual([
    { status: 'reauthRequired', reason: 'clientForgotten' },
  ]);
  expect((await connect(harness, erin, serverId)).status).toBe(200);
  const [after] = await clients();
  expect(after?.['client_id']).not.toBe(before?.['client_id']);
  expect((await call(erin)).map(ok)).toEqual([true, true]);
  await waitFor('what the old client was given is revoked', () => (as.familiesRevoked > told ? true : undefined));
  await sql.end();
});

test('the tokens of a user who may not act any more are revoked and destroyed, and those of others stay', async () => {
  expect((await connect(harness, bob, serverId)).status).toBe(200);
  const told = as.familiesRevoked;
  await harness.administrator.mutate('updateUser', { id: bob.id, status: 'DISABLED' }, 'id', identified);
  await waitFor('the authorization server was told', () => (as.familiesRevoked > told ? true : undefined));
  const sql = postgres(harness.databaseUrl);
  await waitFor('the row is destroyed', async () =>
    (await sql`select 1 from connections where principal_id = ${bob.id}`).length === 0 ? true : undefined,
  );
  await sql.end();
  expect(as.familiesRevoked).toBe(told + 1);
  expect((await call(ada)).map(ok)).toEqual([true, true]);
});

test('scopes that a user did not give are asked for once a day, whatever scopes a refresh names', async () => {
  const fay = await somebody(harness, 'Fay');
  await harness.administrator.converged();
  expect((await connect(harness, fay, serverId)).status).toBe(200);
  const sql = postgres(harness.databaseUrl);
  const scopes = async (): Promise<unknown> =>
    (await sql`select scopes from connections where principal_id = ${fay.id} and status = 'active'`)[0]?.['scopes'];
  /** Whether he is asked, of a call that the server wants another scope for. */
  const asks = async (): Promise<boolean> => {
    upstream.intercept((_, response) => {
      const challenge = 'Bearer error="insufficient_scope", scope="tools more"';
      response.writeHead(403, { 'www-authenticate': challenge }).end();
      return true;
    });
    const answers = await call(fay);
    upstream.intercept(() => false);
    expect(answers.map(ok)).toEqual([false, false]);
    const links = answers.map((one) => JSON.stringify(one).includes('/oauth/connect/'));
    expect(new Set(links).size).toBe(1);
    return links[0] === true;
  };
  expect(await scopes()).toEqual(['tools']);
  expect(await asks()).toBe(true);
  expect((await connect(harness, fay, serverId)).status).toBe(200);
  expect(await scopes()).toEqual(['tools', 'more']);
  expect(await asks()).toBe(false);
  as.refreshedScope = 'tools';
  for (const token of [...as.live]) as.live.delete(token);
  expect((await call(fay)).map(ok)).toEqual([true, true]);
  as.refreshedScope = null;
  expect(await scopes()).toEqual(['tools', 'more']);
  expect(await asks()).toBe(false);
  await sql`update connections set created_at = created_at - interval '1 day' where principal_id = ${fay.id}`;
  expect(await asks()).toBe(true);
  expect((await call(fay)).map(ok)).toEqual([true, true]);
  // A server that wants another one each time does not have him asked without end.
  await sql`update connections set wanted_scopes = '{}',
    scopes = array(select 'scope-' || n from generate_series(1, 256) n) where principal_id = ${fay.id}`;
  expect(await asks()).toBe(false);
  await sql.end();
});

test('a server that moves to where a token is not for gets none, at the same origin either', async () => {
  expect((await call(ada)).map(ok)).toEqual([true, true]);
  const before = upstream.requests.length;
  const asAda = new Administrator(ada.api, 2);
  await asAda.mutate('updateServer', { id: serverId, url: `${upstream.url}-of-another-tenant` }, 'id', identified);
  await harness.administrator.converged();
  expect((await call(ada)).map(ok)).toEqual([false, false]);
  const sent = JSON.stringify(upstream.requests.slice(before).map(({ rawHeaders }) => rawHeaders));
  for (const token of as.live) expect(sent).not.toContain(token);
});

test('a server that moves to another origin asks everybody anew, and no token goes there', async () => {
  const asAda = new Administrator(ada.api, 2);
  await asAda.mutate('updateServer', { id: serverId, url: elsewhere.url }, 'id', identified);
  await harness.administrator.converged();
  expect((await call(ada)).map(ok)).toEqual([false, false]);
  const sent = JSON.stringify(elsewhere.requests.map(({ rawHeaders }) => rawHeaders));
  for (const token of as.live) expect(sent).not.toContain(token);
});
