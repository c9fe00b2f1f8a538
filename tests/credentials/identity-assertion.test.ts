import { CredentialVault, createKeyProvider, LoginTokens, openDatabase } from '@sallyport/control-plane/credentials';
import { createLog, systemClock } from '@sallyport/schema/platform';
import { decodeJwt } from 'jose';
import postgres from 'postgres';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { Administrator } from '../kit/administrator.ts';
import { waitFor } from '../kit/condition.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { askModern } from '../kit/raw-mcp.ts';
import { Browser, formOf } from '../oauth/browser.ts';
import { type FakeIdentityProvider, startFakeIdentityProvider } from '../oauth/fake-identity-provider.ts';
import { connectUsers, endSessionAt, type FederatedUsers } from '../oauth/federation-kit.ts';
import { federated, logIn, type Somebody } from './connecting-kit.ts';
import { credential, credentialFields, identified, keyFile } from './credential-kit.ts';
import { FakeAuthorizationServer } from './fake-authorization-server.ts';

const as = new FakeAuthorizationServer();
let upstream: FakeUpstream;
let idp: FakeIdentityProvider;
let harness: Harness;
let users: FederatedUsers;
let serverId: string;
/** The one user there is. */
let ada: Somebody;
let asAda: Administrator;

const bearer = (header: string | undefined): string => header?.slice('Bearer '.length) ?? '';

beforeAll(async () => {
  await as.start();
  upstream = await startFakeUpstream({ tools: ['look'] });
  as.resource = upstream.url;
  upstream.guard(
    ({ headers }) => as.live.has(bearer(headers.authorization)),
    `Bearer resource_metadata="${as.url}/prm"`,
  );
  idp = await startFakeIdentityProvider('http://127.0.0.1');
  harness = await startHarness({
    upstreams: [upstream.url, as.url, idp.issuer],
    environment: { SALLYPORT_CREDENTIAL_KEY_FILE: keyFile() },
    authorizationServer: true,
  });
  const { administrator, controlPlane } = harness;
  const issuer = new URL(controlPlane.graphqlUrl ?? '').origin;
  users = await connectUsers(administrator, idp, issuer);
  idp.claims = { sid: 'first' };
  ada = await federated(harness, users);
  await administrator.mutate('assignRole', { principalId: ada.id, role: 'ADMIN' }, '__typename', z.unknown());
  asAda = new Administrator(ada.api, 2);
  serverId = (await asAda.mutate('createServer', { slug: 'own', url: upstream.url }, 'id', identified)).id;
}, 60_000);
afterEach(() => {
  idp.assertion = {};
  idp.givesRefreshTokens = false;
  idp.withholdsKeys = false;
});
afterAll(async () => {
  await harness.stop();
  await idp.stop();
  await upstream.stop();
  await as.stop();
});

async function rows<Row extends object>(query: string): Promise<Row[]> {
  const sql = postgres(harness.databaseUrl, { max: 1 });
  const found = await sql.unsafe<Row[]>(query);
  await sql.end();
  return [...found];
}
/** What of it is of use: whoever ended the sessions of a user raised his epoch. */
const kept = async (): Promise<number> =>
  (await rows('select 1 from login_tokens l join principals p on p.id = l.principal_id and p.epoch = l.epoch')).length;
const events = (action: string) => rows(`select 1 from audit_events where action = '${action}'`);

async function call(): Promise<{ readonly status: number; readonly body: string }[]> {
  const message = { method: 'tools/call', params: { name: 'look', arguments: { id: 'x' } } };
  const asked = harness.nodes.map(({ url }) => askModern({ url: `${url}/mcp/own`, key: ada.key }, message));
  return Promise.all(asked);
}
const isGood = (answers: readonly { readonly body: string }[]): boolean =>
  answers.every(({ body }) => body.includes('"complete"') && !body.includes('isError":true'));

test('what an identity provider gives is kept only while some server is called with it', async () => {
  expect(await kept()).toBe(0);
  const identityAssertion = { clientId: 'gateway', issuer: as.url, secret: 'canary-of-a-client-secret' };
  const input = { serverId, identityAssertion };
  await asAda.mutate('setServerCredential', input, credentialFields, credential);
  await logIn(new Browser(), `${users.issuer}/oauth/account`);
  expect(await kept()).toBe(1);
  const text = JSON.stringify(await rows('select * from login_tokens'));
  expect(text).not.toContain('eyJ');
});

test('a call carries a token that the user’s identity provider vouched for, without anybody having been asked', async () => {
  const discover = 'mutation ($input: ServerInput!) { discoverServer(input: $input) { discoveryProblem { code } } }';
  const answer = z.object({ discoverServer: z.object({ discoveryProblem: z.unknown() }) });
  const { discoverServer } = await ada.api.ask(discover, { input: { id: serverId } }, answer);
  expect(discoverServer.discoveryProblem).toBeNull();
  await asAda.mutate('approveServer', { id: serverId }, 'id', identified);
  await harness.administrator.grant({ serverId, tools: ['*'] });
  await harness.administrator.converged();
  expect(isGood(await call())).toBe(true);
  expect(idp.assertionRequests.at(-1)).toMatchObject({
    requested_token_type: 'urn:ietf:params:oauth:token-type:id-jag',
    subject_token_type: 'urn:ietf:params:oauth:token-type:id_token',
    audience: as.url,
    resource: upstream.url,
    scope: 'tools',
  });
  const granted = as.requests.filter(({ form }) => form.get('grant_type')?.endsWith(':jwt-bearer') === true);
  const assertion = decodeJwt(granted.at(-1)?.form.get('assertion') ?? '');
  expect(assertion).toMatchObject({ sub: 'ada', aud: as.url, client_id: 'gateway', resource: upstream.url });
  // The identity token goes to who issued it, and to nobody else.
  const idToken = String(idp.assertionRequests.at(-1)?.['subject_token']);
  expect(JSON.stringify(as.requests.map(({ form }) => form.toString()))).not.toContain(idToken);
  expect(JSON.stringify(upstream.requests)).not.toContain(idToken);
  expect(new Set(upstream.requests.map(({ headers }) => bearer(headers.authorization).slice(0, 3)))).toContain('ja_');
});

test('an assertion for another authorization server, client or resource is sent nowhere', async () => {
  for (const [claims, reason] of [
    [{ aud: 'https://attacker.example' }, 'aud of the assertion'],
    [{ client_id: 'somebody-else' }, 'client_id of the assertion'],
    [{ resource: 'https://other.example' }, 'resource of the assertion'],
    [{ iss: 'https://attacker.example' }, 'iss of the assertion'],
  ] as const) {
    idp.assertion = claims;
    as.live.clear();
    const before = as.asked('/token');
    expect((await call()).map(({ status }) => status)).toEqual([503, 503]);
    expect(as.asked('/token')).toBe(before);
    const [event] = await rows<{ after: string }>(
      "select after_json as after from audit_events where action = 'credential.fail' order by time desc limit 1",
    );
    expect(event?.after).toContain(reason);
  }
});

test('logging out at the provider ends what was kept, and the user is led to log in again', async () => {
  expect(isGood(await call())).toBe(true);
  await endSessionAt(users, 'first');
  expect(await kept()).toBe(0);
  expect(await events('loginTokens.end')).not.toHaveLength(0);
  const asked = await waitFor('nodes let go of the token', async () => {
    const answers = await call();
    return answers.every(({ body }) => body.includes('/oauth/connect/')) ? answers : undefined;
  });
  const link = /http:\/\/127\.0\.0\.1:\d+\/oauth\/connect\/[\w.-]+/.exec(asked[0]?.body ?? '')?.[0] ?? '';
  const browser = new Browser();
  idp.claims = { sid: 'second' };
  const led = await logIn(browser, link);
  expect(led.text).toContain('The gateway can call');
  expect(isGood(await call())).toBe(true);
});

test('who is logged in and has nothing that is of use is sent to the provider, and not round in circles', async () => {
  const browser = new Browser();
  await logIn(browser, `${users.issuer}/oauth/account`);
  await endSessionAt(users, 'second');
  const query = 'query ($id: ID!) { connectLink(serverId: $id) }';
  const shape = z.object({ connectLink: z.string() });
  const { connectLink } = await ada.api.ask(query, { id: serverId }, shape);
  const code = z.object({ code: z.string() });
  const page = await browser.follow(connectLink);
  const { action, fields } = formOf(page.text);
  // The session ended with the login: with a code he is in, and has nothing from the provider.
  const issued = await harness.administrator.mutate('createLoginCode', { userId: ada.id }, 'code', code);
  const again = await browser.follow(new URL(action, page.url), { ...fields, code: issued.code });
  expect(again.text).toContain('Log in again');
  const form = formOf(again.text);
  const sent = await browser.request(new URL(form.action, again.url), form.fields);
  expect(sent.location?.searchParams.get('prompt')).toBe('login');
  expect((await logIn(browser, sent.location?.href ?? '')).text).toContain('The gateway can call');
});

test('a login whose ID token ends is renewed once for all who call, and its refresh token is used once [P63]', async () => {
  idp.givesRefreshTokens = true;
  await harness.administrator.mutate('endSessions', { principalId: ada.id }, '__typename', z.unknown());
  idp.claims = { exp: Math.floor(Date.now() / 1000) + 20, sid: 'third' };
  await logIn(new Browser(), `${users.issuer}/oauth/account`);
  idp.claims = { sid: 'third' };
  const before = idp.tokenRequests;
  as.live.clear();
  await harness.administrator.converged();
  const answers = await Promise.all([call(), call(), call()]);
  expect(answers.every(isGood)).toBe(true);
  // One for the ID token, and one for the assertion.
  expect(idp.tokenRequests - before).toBe(2);
  expect(await events('loginTokens.refresh')).toHaveLength(1);
});

test('a provider that says that the login is over is asked no more, and the user logs in again', async () => {
  as.live.clear();
  idp.assertion = null;
  const answers = await call();
  expect(answers.every(({ body }) => body.includes('/oauth/connect/'))).toBe(true);
  expect(await kept()).toBe(0);
  expect(await events('loginTokens.fail')).not.toHaveLength(0);
});

test('a refresh token whose answer could not be verified is spent: it is not sent again [P63]', async () => {
  idp.givesRefreshTokens = true;
  await harness.administrator.mutate('endSessions', { principalId: ada.id }, '__typename', z.unknown());
  idp.claims = { exp: Math.floor(Date.now() / 1000) + 20, sid: 'fourth' };
  await logIn(new Browser(), `${users.issuer}/oauth/account`);
  await harness.administrator.converged();
  as.live.clear();
  idp.withholdsKeys = true;
  const before = { tokens: idp.tokenRequests, keys: idp.keyRequests };
  await call();
  const answers = await call();
  expect(answers.every(({ body }) => body.includes('/oauth/connect/'))).toBe(true);
  expect(idp.keyRequests).toBeGreaterThan(before.keys);
  expect(idp.tokenRequests - before.tokens).toBe(1);
});

test('what has ended is dropped with an event', async () => {
  await logIn(new Browser(), `${users.issuer}/oauth/account`);
  await rows("update login_tokens set ends_at = now() - interval '1 hour'");
  const database = openDatabase({ url: harness.databaseUrl, connectionsMax: 1 });
  await new LoginTokens({
    database,
    vault: new CredentialVault(createKeyProvider({ file: keyFile() }, systemClock)),
    providers: { usableById: () => Promise.reject(new Error('nobody is asked')) },
    idp: { renew: () => Promise.reject(new Error('nothing is renewed')) },
    clock: systemClock,
    log: createLog({ name: 'logins', level: 'silent' }),
  }).forget();
  await database.close();
  expect(await rows('select 1 from login_tokens')).toHaveLength(0);
  const ended =
    'select 1 from audit_events where action = \'loginTokens.end\' and after_json like \'%"reason":"over"%\'';
  expect(await rows(ended)).not.toHaveLength(0);
});

test('logging out of the gateway’s own page ends what was kept', async () => {
  const browser = new Browser();
  const shown = await logIn(browser, `${users.issuer}/oauth/account`);
  expect(await kept()).toBe(1);
  const { action, fields } = formOf(shown.text);
  await browser.request(new URL(action, shown.url), { csrf: fields['csrf'] ?? '', logout: 'yes' });
  expect(await kept()).toBe(0);
});
