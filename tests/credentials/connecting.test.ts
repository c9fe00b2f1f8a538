import { Client as ModernClient, StreamableHTTPClientTransport as ModernTransport } from '@modelcontextprotocol/client';
import { Client as ClientV1 } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport as TransportV1 } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js';
import postgres from 'postgres';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { Administrator } from '../kit/administrator.ts';
import { waitFor } from '../kit/condition.ts';
import { describeTool, type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { askModern } from '../kit/raw-mcp.ts';
import { Browser, type Shown } from '../oauth/browser.ts';
import {
  answerAt,
  answerFor,
  connect,
  hidden,
  linkOf,
  open,
  press,
  somebody,
  type Somebody,
} from './connecting-kit.ts';
import { credential, credentialFields, identified, keyFile } from './credential-kit.ts';
import { FakeAuthorizationServer } from './fake-authorization-server.ts';

const as = new FakeAuthorizationServer();
const info = { name: 'sdk', version: '1.0.0' };
const redirectUri = 'http://127.0.0.1:9/callback';
const secret = 'theSecretOfTheRegisteredClient';
let upstream: FakeUpstream;
let harness: Harness;
let sql: postgres.Sql;
let asAda: Administrator;
let serverId: string;
let grantId: string;
let ada: Somebody;
let bob: Somebody;
let carol: Somebody;

beforeAll(async () => {
  await as.start();
  upstream = await startFakeUpstream({ tools: ['look'] });
  as.resource = upstream.url;
  const bearer = (header: string | undefined): string => header?.slice('Bearer '.length) ?? '';
  upstream.guard(
    ({ headers }) => as.live.has(bearer(headers.authorization)),
    `Bearer resource_metadata="${as.url}/prm"`,
  );
  harness = await startHarness({
    upstreams: [upstream.url, as.url],
    environment: { SALLYPORT_CREDENTIAL_KEY_FILE: keyFile() },
    authorizationServer: true,
  });
  sql = postgres(harness.databaseUrl, { max: 2 });
  [ada, bob, carol] = [
    await somebody(harness, 'Ada'),
    await somebody(harness, 'Bob'),
    await somebody(harness, 'Carol'),
  ];
  const { administrator } = harness;
  await administrator.mutate('assignRole', { principalId: ada.id, role: 'ADMIN' }, '__typename', z.unknown());
  asAda = new Administrator(ada.api, 2);
  serverId = (await asAda.mutate('createServer', { slug: 'own', url: upstream.url }, 'id', identified)).id;
  await setCredential({});
  await connect(harness, ada, serverId);
  await discover();
  await asAda.mutate('approveServer', { id: serverId }, 'id', identified);
  await administrator.converged();
}, 60_000);
afterAll(async () => {
  await sql.end();
  await harness.stop();
  await upstream.stop();
  await as.stop();
});

function setCredential(userOAuth: Readonly<Record<string, unknown>>): Promise<unknown> {
  return asAda.mutate('setServerCredential', { serverId, userOAuth }, credentialFields, credential);
}

async function discover(): Promise<void> {
  const mutation = 'mutation ($input: ServerInput!) { discoverServer(input: $input) { discoveryProblem { code } } }';
  const answer = z.object({ discoverServer: z.object({ discoveryProblem: z.null() }) });
  await ada.api.ask(mutation, { input: { id: serverId } }, answer);
}

async function events(action: string, principalId: string): Promise<number> {
  const rows = await sql`select 1 from audit_events where action = ${action} and principal_id = ${principalId}`;
  return rows.length;
}

/** The live connection of somebody. */
async function accountOf({ id }: Somebody): Promise<{ readonly id: string; readonly status: string } | undefined> {
  const rows = await sql<{ id: string; status: string }[]>`
    select id, status from connections where principal_id = ${id} and status <> 'ended'`;
  return rows[0];
}

async function look({ key }: Somebody): Promise<string> {
  return (await askModern(harness.endpoint('own', key), { method: 'tools/call', params: { name: 'look' } })).body;
}

const accountUrl = (): URL => new URL('/oauth/account', harness.controlPlane.graphqlUrl);

test('whoever may use nothing of a server connects nothing to it, by a link of earlier either', async () => {
  await expect(linkOf(bob, serverId)).rejects.toThrow('There is no such object');
  grantId = await harness.administrator.grant({ serverId, tools: ['*'] });
  const link = await linkOf(bob, serverId);
  expect((await open(harness, new Browser(), link, bob)).status).toBe(200);
  await harness.administrator.mutate('deleteGrant', { id: grantId }, 'id', identified);
  const late = await open(harness, new Browser(), link, bob);
  expect([late.status, late.text.includes('not good any longer')]).toEqual([403, true]);
  grantId = await harness.administrator.grant({ serverId, tools: ['*'] });
  await harness.administrator.converged();
});

test('an SDK client of 2026-07-28 begins without an account, is asked to open the page, and its call goes on', async () => {
  const asked: string[] = [];
  const client = new ModernClient(info, {
    capabilities: { elicitation: { url: {} } },
    versionNegotiation: { mode: 'auto' },
  });
  client.setRequestHandler('elicitation/create', async ({ params }) => {
    asked.push(String((params as { url?: string }).url));
    const browser = new Browser();
    const shown = await browser.request(await answerFor(harness, browser, asked.at(-1) ?? '', bob));
    return { action: shown.status === 200 ? 'accept' : 'cancel' };
  });
  const { url, key } = harness.endpoint('own', bob.key);
  const requestInit = { headers: { authorization: `Bearer ${key}` } };
  await client.connect(new ModernTransport(new URL(url), { requestInit }));
  expect(client.getNegotiatedProtocolVersion()).toBe('2026-07-28');
  await expect(client.listTools()).rejects.toThrow('/oauth/connect/');
  const result = await client.callTool({ name: 'look', arguments: {} });
  expect(result.isError).not.toBe(true);
  expect(asked).toHaveLength(1);
  await client.close();
});

test('an SDK client of 2025-11-25 gets -32042 with the page, and an older one a failed tool with it', async () => {
  const client = new ClientV1(info);
  const { url, key } = harness.endpoint('own', carol.key);
  const requestInit = { headers: { authorization: `Bearer ${key}` } };
  const connecting = client.connect(new TransportV1(new URL(url), { requestInit }) as Transport);
  await expect(connecting).rejects.toMatchObject({
    code: -32042,
    data: { elicitations: [{ mode: 'url', url: expect.stringContaining('/oauth/connect/') as string }] },
  });
  // Those whose sessions are from before their user disconnected.
  await connect(harness, carol, serverId);
  const older = await Promise.all(['2025-06-18', '2025-03-26'].map((revision) => connectOlder(revision, carol)));
  for (const one of older) expect((await one.callTool({ name: 'look' })).isError).not.toBe(true);
  const account = await accountOf(carol);
  const mutation = 'mutation ($input: DisconnectInput!) { disconnect(input: $input) { status } }';
  await carol.api.ask(mutation, { input: { accountId: account?.id } }, z.unknown());
  for (const one of older) {
    const told = await waitFor('the end of the account on the nodes', async () => {
      const result = await one.callTool({ name: 'look' });
      return result.isError === true ? result : undefined;
    });
    expect(told.content).toEqual([{ type: 'text', text: expect.stringContaining('/oauth/connect/') as string }]);
    await one.close();
  }
});

/** An SDK client that knows one revision, and is connected. */
async function connectOlder(revision: string, { key }: Somebody): Promise<ModernClient> {
  const client = new ModernClient(info, {
    supportedProtocolVersions: [revision],
    versionNegotiation: { mode: 'legacy' },
  });
  const requestInit = { headers: { authorization: `Bearer ${key}` } };
  await client.connect(new ModernTransport(new URL(harness.endpoint('own', key).url), { requestInit }));
  expect(client.getNegotiatedProtocolVersion()).toBe(revision);
  return client;
}

test('what another user’s list has besides enters as pending, and is not listed', async () => {
  const definition = describeTool('only-bobs');
  const tokens = await sql<{ n: number }[]>`select count(*)::int as n from connections where status = 'active'`;
  expect(tokens[0]?.n).toBe(2);
  upstream.intercept(({ body }, response) => {
    const { id, method } = JSON.parse(body) as { id: number; method: string };
    if (method !== 'tools/list') return false;
    const result = {
      resultType: 'complete',
      tools: [describeTool('look'), definition],
      ttlMs: 0,
      cacheScope: 'private',
    };
    response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({ jsonrpc: '2.0', id, result }));
    return true;
  });
  const listed = await askModern(harness.endpoint('own', bob.key), { method: 'tools/list' });
  upstream.intercept(() => false);
  expect(listed.body).toContain('"look"');
  expect(listed.body).not.toContain('only-bobs');
  const state = await waitFor('the definition', async () => {
    const rows = await sql`select state from definitions where server_id = ${serverId} and name = 'only-bobs'`;
    return rows[0]?.['state'] as string | undefined;
  });
  expect(state).toBe('pending');
});

/** Begins a login of a client at the server's endpoint; the page that the user sees after he allowed it. */
async function logIn(browser: Browser, who: Somebody, more: Readonly<Record<string, string>> = {}): Promise<Shown> {
  const url = new URL('/oauth/authorize', harness.controlPlane.graphqlUrl);
  const parameters = {
    response_type: 'code',
    client_id: clientId,
    redirect_uri: redirectUri,
    code_challenge: 'E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM',
    code_challenge_method: 'S256',
    state: 'x',
    resource: `${harness.entryOrigin}/mcp/own`,
    scope: 'mcp:tools',
    ...more,
  };
  for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value);
  const shown = await open(harness, browser, url, who);
  return shown.text.includes('name="decision"') ? press(browser, shown, { decision: 'allow' }) : shown;
}
let clientId = '';

const codeIn = ({ location }: Shown): string | null | undefined => location?.searchParams.get('code');

test('a server that is required at login is connected before the client gets its code', async () => {
  const input = { name: 'App', authentication: 'NONE', redirectUris: [redirectUri] };
  const made = await harness.administrator.mutate(
    'createOAuthClient',
    input,
    'client { id }',
    z.object({ client: identified }),
  );
  clientId = made.client.id;
  expect(codeIn(await logIn(new Browser(), carol))).toBeTruthy();
  await setCredential({ requiredAtLogin: true });
  const browser = new Browser();
  const due = await logIn(browser, carol);
  expect([due.status, due.text.includes('Connect your accounts')]).toEqual([200, true]);
  const sent = await press(browser, due, { connect: serverId });
  // Denied there: he comes back to a page from which he can go on.
  const denied = await answerAt(sent.location);
  for (const name of ['code', 'iss']) denied.searchParams.delete(name);
  denied.searchParams.set('error', 'access_denied');
  const refused = await browser.follow(denied);
  expect([refused.status, /class="button" href="(\/oauth\/interaction\/[^"]+)"/.test(refused.text)]).toEqual([
    403,
    true,
  ]);
  const again = await press(browser, due, { connect: serverId });
  const answer = await answerAt(again.location);
  const done = await browser.follow(answer);
  expect(codeIn(done)).toBeTruthy();
  expect((await accountOf(carol))?.status).toBe('active');
  // Connected: nothing is asked the next time.
  expect(codeIn(await logIn(new Browser(), carol))).toBeTruthy();
});

test('it may be put off, which is on record, and stands in the way of no silent login and of no API key', async () => {
  await sql`update connections set status = 'reauthRequired' where principal_id = ${bob.id} and status = 'active'`;
  const browser = new Browser();
  const due = await logIn(browser, bob);
  expect(due.text).toContain('Connect your accounts');
  const forged = await browser.request(new URL(/action="([^"]+)"/.exec(due.text)?.[1] ?? '', due.url), {
    later: 'yes',
  });
  expect(forged.status).toBe(403);
  expect(codeIn(await press(browser, due, { later: 'yes' }))).toBeTruthy();
  expect(await events('connection.postpone', bob.id)).toBe(1);
  expect((await logIn(browser, bob, { prompt: 'none' })).text).not.toContain('Connect your accounts');
  expect(await look(bob)).toContain('/oauth/connect/');
});

test('no more servers are required at login than people are led through', async () => {
  for (let at = 0; at < 9; at++) {
    const slug = `required-${at}`;
    const { id } = await asAda.mutate('createServer', { slug, url: upstream.url }, 'id', identified);
    const input = { serverId: id, userOAuth: { requiredAtLogin: true } };
    await asAda.mutate('setServerCredential', input, credentialFields, credential);
  }
  const { id } = await asAda.mutate('createServer', { slug: 'one-more', url: upstream.url }, 'id', identified);
  const input = { serverId: id, userOAuth: { requiredAtLogin: true } };
  const setting = asAda.mutate('setServerCredential', input, credentialFields, credential);
  await expect(setting).rejects.toThrow('requiredAtLogin');
  // Of servers that he may not use nobody is asked to connect an account.
  expect(codeIn(await logIn(new Browser(), carol))).toBeTruthy();
});

test('a user sees his accounts on his page, connects them again, and ends them by its own form alone', async () => {
  const browser = new Browser();
  const page = await open(harness, browser, accountUrl(), bob);
  const own = await accountOf(bob);
  expect(page.text).toContain('has to be connected again');
  const again = /class="button" href="([^"]*\/oauth\/connect\/[^"]+)"/.exec(page.text)?.[1] ?? '';
  expect((await browser.request(await answerFor(harness, browser, again, bob))).status).toBe(200);
  const shown = await browser.follow(accountUrl());
  expect(shown.text).not.toContain('has to be connected again');
  const fresh = await accountOf(bob);
  expect(fresh?.id).not.toBe(own?.id);
  const csrf = hidden(shown.text, 'csrf');
  const disconnect = fresh?.id ?? '';
  const form = { csrf, disconnect };
  expect((await browser.request(accountUrl(), { disconnect })).status).toBe(403);
  expect((await browser.request(accountUrl(), form, { origin: 'https://attacker.example' })).status).toBe(403);
  expect((await browser.request(accountUrl(), form, { 'sec-fetch-site': 'cross-site' })).status).toBe(403);
  const carols = new Browser();
  const hers = await open(harness, carols, accountUrl(), carol);
  const stolen = await press(carols, hers, { disconnect });
  expect([stolen.status, (await accountOf(bob))?.id]).toEqual([404, disconnect]);
  expect((await browser.request(accountUrl(), form)).status).toBe(303);
  expect(await accountOf(bob)).toBeUndefined();
  expect(await events('connection.end', bob.id)).toBe(1);
});

test('what a refresh brings while its account is disconnected is what is revoked', async () => {
  await connect(harness, bob, serverId);
  // What ended in the tests before may still be on its way to the authorization server.
  await waitFor('the end of what was ended', async () => {
    return (await sql`select 1 from connections where status = 'ended'`).length === 0;
  });
  const before = as.familiesRevoked;
  for (const token of [...as.live]) as.live.delete(token);
  const { promise, resolve } = Promise.withResolvers<undefined>();
  as.beforeAnswer = promise;
  const refreshes = as.asked('/token', 'refresh_token');
  const calling = look(bob);
  await waitFor('the refresh', () => as.asked('/token', 'refresh_token') > refreshes);
  const mutation = 'mutation ($input: DisconnectInput!) { disconnect(input: $input) { status } }';
  await bob.api.ask(mutation, { input: { accountId: (await accountOf(bob))?.id } }, z.unknown());
  as.beforeAnswer = undefined;
  resolve(undefined);
  expect(await calling).toContain('/oauth/connect/');
  await waitFor('the revocation', () => as.familiesRevoked > before);
  expect(as.familiesRevoked).toBe(before + 1);
});

test('tokens of a server that is removed are revoked by the client they were given to, whose secret then goes', async () => {
  await setCredential({ issuer: as.url, clientId: 'registered', secret });
  expect((await connect(harness, carol, serverId)).status).toBe(200);
  const remove = 'mutation ($input: ServerInput!) { deleteServer(input: $input) { id } }';
  await ada.api.ask(remove, { input: { id: serverId } }, z.unknown());
  const revocation = await waitFor('the revocation', () =>
    as.requests.find(({ path, authorization }) => path === '/revoke' && authorization !== undefined),
  );
  expect(revocation.authorization).toBe(`Basic ${btoa(`registered:${secret}`)}`);
  const left = async (): Promise<number> =>
    (await sql`select 1 from retired_credentials union all select 1 from connections where server_id = ${serverId}`)
      .length;
  await waitFor('the end of the secret', async () => (await left()) === 0);
});
