import { systemClock } from '@sallyport/schema/platform';
import postgres from 'postgres';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Browser } from './browser.ts';
import {
  asked,
  authorizationRequest,
  authorize,
  createClient,
  createUser,
  exchange,
  type OAuthPlane,
  refresh,
  startOAuthPlane,
  tokensFor,
} from './oauth-kit.ts';

let offsetMs = 0;
const clock = { ...systemClock, now: () => systemClock.now() + offsetMs };
let plane: OAuthPlane;
let replica: OAuthPlane;
let sql: postgres.Sql;
let client: string;
let user: string;

beforeAll(async () => {
  plane = await startOAuthPlane({ clock });
  const { databaseUrl, issuer } = plane;
  replica = await startOAuthPlane({ clock, databaseUrl, issuer, bootstrap: false });
  sql = postgres(databaseUrl, { max: 1 });
  client = (await createClient(plane)).id;
  user = await createUser(plane, 'Ada');
});
afterAll(async () => {
  await sql.end();
  await replica.stop();
  await plane.stop();
});

/** The replica answers at its own port, under the issuer of both. */
function atReplica(): OAuthPlane {
  return { ...replica, issuer: new URL(replica.graphqlUrl).origin };
}

async function isRevoked(family: unknown): Promise<boolean> {
  return (await sql`select 1 from oauth_revoked_families where family = ${String(family)}`).length === 1;
}

test('a refresh token gives new tokens and a successor, and the family lives on', async () => {
  const tokens = await tokensFor(plane, client, user);
  const { status, body } = await refresh(plane, client, tokens.refresh);
  expect(status).toBe(200);
  expect(body.refresh_token).not.toBe(tokens.refresh);
  expect((await refresh(plane, client, body.refresh_token)).status).toBe(200);
  expect(await isRevoked(tokens.claims['family'])).toBe(false);
});

test('a repeated request gets the same successor, from any replica, also when many race', async () => {
  const tokens = await tokensFor(plane, client, user);
  const planes = [plane, atReplica()];
  const answers = await Promise.all(
    Array.from({ length: 12 }, (_, index) => refresh(planes[index % 2] ?? plane, client, tokens.refresh)),
  );
  expect(answers.map(({ status }) => status)).toEqual(Array(12).fill(200));
  expect(new Set(answers.map(({ body }) => body.refresh_token)).size).toBe(1);
  expect((await refresh(plane, client, answers[0]?.body.refresh_token)).status).toBe(200);
  expect(await isRevoked(tokens.claims['family'])).toBe(false);
});

test('a refresh token used again after half a minute voids its family, on the nodes too', async () => {
  const tokens = await tokensFor(plane, client, user);
  const next = await refresh(plane, client, tokens.refresh);
  offsetMs += 31_000;
  expect((await refresh(plane, client, tokens.refresh)).body.error).toBe('invalid_grant');
  expect((await refresh(plane, client, next.body.refresh_token)).body.error).toBe('invalid_grant');
  expect(await isRevoked(tokens.claims['family'])).toBe(true);
});

test('a refresh token of one client is nothing in the hands of another', async () => {
  const tokens = await tokensFor(plane, client, user);
  const other = (await createClient(plane)).id;
  expect((await refresh(plane, other, tokens.refresh)).body.error).toBe('invalid_grant');
  expect((await refresh(plane, client, tokens.refresh)).status).toBe(200);
});

test('revoking a refresh token (RFC 7009) voids its family; a foreign one stays', async () => {
  const tokens = await tokensFor(plane, client, user);
  const other = (await createClient(plane)).id;
  const revoke = (clientId: string) =>
    fetch(`${plane.issuer}/oauth/revoke`, {
      method: 'POST',
      body: new URLSearchParams({ client_id: clientId, token: tokens.refresh }),
    });
  expect((await revoke(other)).status).toBe(200);
  expect(await isRevoked(tokens.claims['family'])).toBe(false);
  expect((await revoke(client)).status).toBe(200);
  expect(await isRevoked(tokens.claims['family'])).toBe(true);
  expect((await refresh(plane, client, tokens.refresh)).body.error).toBe('invalid_grant');
});

test('one family ends without the others of the same client and user', async () => {
  const browser = new Browser();
  const [first, second] = [
    await tokensFor(plane, client, user, browser),
    await tokensFor(plane, client, user, browser),
  ];
  expect(first.claims['family']).not.toBe(second.claims['family']);
  await refresh(plane, client, first.refresh);
  offsetMs += 31_000;
  await refresh(plane, client, first.refresh);
  expect((await refresh(plane, client, second.refresh)).status).toBe(200);
});

test('a user who is disabled can neither refresh nor redeem, nor after being enabled again', async () => {
  const name = await createUser(plane, 'Eve');
  const browser = new Browser();
  const tokens = await tokensFor(plane, client, name, browser);
  const request = authorizationRequest(plane, client);
  const redirect = await authorize(plane, browser, request, name);
  const set = (status: string) =>
    asked(plane, `mutation ($id: ID!) { updateUser(input: { id: $id, status: ${status} }) { id } }`, { id: name });
  await set('DISABLED');
  expect((await refresh(plane, client, tokens.refresh)).body.error).toBe('invalid_grant');
  await set('ACTIVE');
  expect((await refresh(plane, client, tokens.refresh)).body.error).toBe('invalid_grant');
  expect((await exchange(plane, client, request, redirect)).body.error).toBe('invalid_grant');
  const asking = await browser.follow(authorizationRequest(plane, client).url);
  expect(asking.text).toContain('name="code"');
});

test('ending a user’s sessions ends browser sessions and tokens', async () => {
  const browser = new Browser();
  const tokens = await tokensFor(plane, client, user, browser);
  const query = 'mutation ($id: ID!) { endSessions(input: { principalId: $id }) { authorizations } }';
  expect((await asked(plane, query, { id: user })).endSessions.authorizations).toBeGreaterThan(0);
  expect((await refresh(plane, client, tokens.refresh)).body.error).toBe('invalid_grant');
  expect(await isRevoked(tokens.claims['family'])).toBe(true);
  expect((await browser.follow(authorizationRequest(plane, client).url)).text).toContain('name="code"');
});

test('a browser session ends when it is idle for an hour', async () => {
  const browser = new Browser();
  await tokensFor(plane, client, user, browser);
  expect((await browser.follow(authorizationRequest(plane, client).url)).location).not.toBeNull();
  offsetMs += 61 * 60_000;
  expect((await browser.follow(authorizationRequest(plane, client).url)).text).toContain('name="code"');
});

test('a login begun at one replica goes on at another', async () => {
  const browser = new Browser();
  const request = authorizationRequest(plane, client);
  const shown = await browser.request(request.url);
  const interaction = await browser.request(new URL(shown.location?.pathname ?? '', atReplica().issuer));
  expect({ status: interaction.status, text: interaction.text }).toMatchObject({ status: 200 });
  expect(interaction.text).toContain('name="code"');
});
