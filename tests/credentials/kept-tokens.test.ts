/** What an authorization server gives for something that is good once is kept, or given back, or not asked for at all. */
import { readFileSync, writeFileSync } from 'node:fs';
import { createGraphqlClient } from '@sallyport/cli';
import { createKeyProvider, CredentialVault, openDatabase } from '@sallyport/control-plane/credentials';
import { AppError } from '@sallyport/schema';
import { createEgress, parseEgressAllowList, systemClock } from '@sallyport/schema/platform';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { z } from 'zod';
import { Administrator } from '../kit/administrator.ts';
import { waitFor } from '../kit/condition.ts';
import { Browser, type Shown } from '../oauth/browser.ts';
import { type OAuthPlane, startOAuthPlane } from '../oauth/oauth-kit.ts';
import { answerFor, connect, type ConnectingPlane, linkOf, somebody, type Somebody } from './connecting-kit.ts';
import { identified, keyFile } from './credential-kit.ts';
import { FakeAuthorizationServer } from './fake-authorization-server.ts';
import { replica, resource, storeConnection } from './refresh-kit.ts';

const file = keyFile();
const as = new FakeAuthorizationServer();
let plane: OAuthPlane;
let connecting: ConnectingPlane;
let database: ReturnType<typeof openDatabase>;
let ada: Somebody;
let asAda: Administrator;
let servers = 0;
let serverId: string;

beforeAll(async () => {
  await as.start();
  plane = await startOAuthPlane({
    environment: {
      SALLYPORT_EGRESS_ALLOW: `127.0.0.1/32:${new URL(as.url).port}`,
      SALLYPORT_CREDENTIAL_KEY_FILE: file,
    },
  });
  database = openDatabase({ url: plane.databaseUrl, connectionsMax: 3 });
  const administrator = new Administrator(createGraphqlClient(plane.graphqlUrl, plane.ownerKey), 0);
  connecting = { administrator, controlPlane: plane };
  ada = await somebody(connecting, 'Ada');
  await administrator.mutate('assignRole', { principalId: ada.id, role: 'ADMIN' }, '__typename', z.unknown());
  asAda = new Administrator(ada.api, 0);
}, 60_000);
beforeEach(async () => {
  // Nothing answers there: what it is called with is all that is looked at.
  as.resource = `${as.url}/mcp`;
  as.revocationStatus = 200;
  as.keepsOneGrant = false;
  as.requests.length = 0;
  as.families.clear();
  const server = { slug: `server-${++servers}`, url: as.resource };
  serverId = (await asAda.mutate('createServer', server, 'id', identified)).id;
  const userOAuth = { issuer: as.url, clientId: 'gateway' };
  await asAda.mutate('setServerCredential', { serverId, userOAuth }, 'mode', z.unknown());
});
afterAll(async () => {
  await database.close();
  await plane.stop();
  await as.stop();
});

/** What is on record of accounts that were not connected. */
async function failures(): Promise<unknown[]> {
  const rows = await database.raw<{ after: string }[]>`select after_json as after from audit_events
    where action = 'connection.fail' and object_id = ${serverId}`;
  return rows.map(({ after }) => JSON.parse(after) as unknown);
}

async function statuses(): Promise<string[]> {
  const rows = await database.raw<{ status: string }[]>`select status from connections where server_id = ${serverId}`;
  return rows.map(({ status }) => status);
}

/** The browser is back while the authorization server takes its time over the tokens; `meanwhile` something changes. */
async function connectWhile(meanwhile: () => Promise<unknown>): Promise<Shown> {
  const browser = new Browser();
  const answer = await answerFor(connecting, browser, await linkOf(ada, serverId), ada);
  const { promise, resolve } = Promise.withResolvers<undefined>();
  as.beforeAnswer = promise;
  const shown = browser.request(answer);
  await waitFor('the code is redeemed', () => as.families.size === 1);
  await meanwhile();
  as.beforeAnswer = undefined;
  resolve(undefined);
  return shown;
}

const elsewhere = () => asAda.mutate('deleteServerCredential', { serverId }, 'mode', z.unknown());

test('where nothing can be sealed the code is not spent; the user is told, it is on record, and later he connects', async () => {
  const browser = new Browser();
  const answer = await answerFor(connecting, browser, await linkOf(ada, serverId), ada);
  const keys = readFileSync(file);
  writeFileSync(file, 'no key at all');
  const shown = await browser.request(answer);
  writeFileSync(file, keys);
  expect([shown.status, shown.text.includes('Begin anew in a while')]).toEqual([403, true]);
  expect([as.asked('/token'), as.families.size, await statuses()]).toEqual([0, 0, []]);
  expect(await failures()).toEqual([{ reason: 'keyUnavailable' }]);
  expect((await connect(connecting, ada, serverId)).status).toBe(200);
  expect(await statuses()).toEqual(['active']);
});

test('tokens that come after their server was changed are kept by nobody: revoked at once, told, and on record', async () => {
  const shown = await connectWhile(elsewhere);
  expect([shown.status, shown.text.includes('could not be kept')]).toEqual([403, true]);
  expect([as.familiesRevoked, await statuses()]).toEqual([1, []]);
  expect(await failures()).toEqual([{ reason: 'notKept', isRevoked: true }]);
});

test('where their authorization server does not answer then, they wait for it as those of any that ended', async () => {
  as.revocationStatus = 503;
  expect((await connectWhile(elsewhere)).status).toBe(403);
  expect([as.familiesRevoked, await statuses()]).toEqual([0, ['ended']]);
  expect(await failures()).toEqual([{ reason: 'notKept', isRevoked: false }]);
  as.revocationStatus = 200;
  await waitFor('the revocation', async () => {
    await database.raw`update connections set revoke_not_before = now() where server_id = ${serverId}`;
    return as.familiesRevoked === 1 && (await statuses()).length === 0;
  });
});

/** What is on record of the end of tokens that were connected to the server. */
async function destroyed(): Promise<unknown[]> {
  const rows = await database.raw<{ after: string }[]>`select after_json as after from audit_events
    where action = 'connection.destroy' and after_json like ${`%${serverId}%`}`;
  return rows.map(({ after }) => JSON.parse(after) as unknown);
}

async function destroyedOnce(): Promise<unknown> {
  return waitFor('the end of the earlier tokens', async () => (await destroyed())[0]);
}

test('an account that is connected again stays connected where all consents of a user are one grant', async () => {
  as.keepsOneGrant = true;
  for (let time = 0; time < 2; time++) expect((await connect(connecting, ada, serverId)).status).toBe(200);
  expect(await destroyedOnce()).toMatchObject({ principalId: ada.id, isRevoked: false, reason: 'replaced' });
  expect([as.families.size, as.familiesRevoked, await statuses()]).toEqual([2, 0, ['active']]);
});

test('what another client was given is revoked when the account is connected again', async () => {
  await asAda.mutate('setServerCredential', { serverId, userOAuth: { issuer: as.url } }, 'mode', z.unknown());
  for (let time = 0; time < 2; time++) {
    expect((await connect(connecting, ada, serverId)).status).toBe(200);
    await database.raw`delete from upstream_clients`;
  }
  expect(await destroyedOnce()).toMatchObject({ principalId: ada.id, isRevoked: true });
  expect([as.families.size, as.familiesRevoked, await statuses()]).toEqual([2, 1, ['active']]);
});

test('an answer to what was begun at an authorization server that is the server’s no more connects nothing', async () => {
  const set = (issuer: string) =>
    asAda.mutate('setServerCredential', { serverId, userOAuth: { issuer } }, 'mode', z.unknown());
  await set(as.url);
  const browser = new Browser();
  const answer = await answerFor(connecting, browser, await linkOf(ada, serverId), ada);
  await set('https://another.example');
  const shown = await browser.request(answer);
  expect([shown.status, as.asked('/token'), await statuses()]).toEqual([403, 0, []]);
});

test('a refresh token is not spent where nothing of what it brings could be sealed', async () => {
  const { keys } = new CredentialVault(createKeyProvider({ file }, systemClock));
  if (keys === undefined) throw new Error('no keys');
  let wraps = true;
  const failing: typeof keys = {
    name: keys.name,
    currentKeyId: () => keys.currentKeyId(),
    wrap: (dataKey) => (wraps ? keys.wrap(dataKey) : Promise.reject(new AppError('CREDENTIAL_UNAVAILABLE'))),
    unwrap: (wrapped) => keys.unwrap(wrapped),
    rewrap: (wrapped) => keys.rewrap(wrapped),
  };
  const clock = { ...systemClock, movedMs: 0, now: () => systemClock.now() + clock.movedMs };
  const parts = { vault: new CredentialVault(failing), clock };
  const egress = createEgress({ allow: parseEgressAllowList('127.0.0.1/32:1-65535').allow });
  as.resource = resource;
  const id = await storeConnection(database, as, parts);
  const refreshes = replica(database, egress, parts);
  wraps = false;
  await expect(refreshes.renew(id, 1)).rejects.toMatchObject({ code: 'CREDENTIAL_UNAVAILABLE' });
  expect(as.asked('/token')).toBe(0);
  wraps = true;
  clock.movedMs += 5_001;
  expect((await refreshes.renew(id, 1)).row).toMatchObject({ status: 'active', tokenRevision: 2 });
  expect([as.asked('/token'), as.familiesRevoked]).toEqual([1, 0]);
  await egress.close();
});
