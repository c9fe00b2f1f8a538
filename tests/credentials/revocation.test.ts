/** That authorization servers are told of connections that ended: how often, for how long, and what is on record of it. */
import {
  AuthorizationServers,
  createKeyProvider,
  CredentialVault,
  openDatabase,
  RevocationService,
} from '@sallyport/control-plane/credentials';
import { createEgress, parseEgressAllowList, systemClock } from '@sallyport/schema/platform';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import { startTestControlPlane } from '../kit/control-plane.ts';
import { createMigratedDatabase } from '../kit/postgres.ts';
import { keyFile } from './credential-kit.ts';
import { FakeAuthorizationServer } from './fake-authorization-server.ts';
import { log, replica, resource, storeConnection } from './refresh-kit.ts';

const file = keyFile();
let movedMs = 0;
const clock = { ...systemClock, now: () => systemClock.now() + movedMs };
const vault = new CredentialVault(createKeyProvider({ file }, clock));
const egress = createEgress({ allow: parseEgressAllowList('127.0.0.1/32:1-65535').allow });
let as: FakeAuthorizationServer;
let databaseUrl: string;
let database: ReturnType<typeof openDatabase>;

beforeAll(async () => {
  databaseUrl = (await createMigratedDatabase()).url;
  database = openDatabase({ url: databaseUrl, connectionsMax: 4 });
});
beforeEach(async () => {
  movedMs = 0;
  as = await startServer();
});
afterAll(async () => {
  for (const one of servers) await one.stop();
  await egress.close();
  await database.close();
});

const servers: FakeAuthorizationServer[] = [];
async function startServer(): Promise<FakeAuthorizationServer> {
  const one = await new FakeAuthorizationServer().start();
  one.resource = resource;
  servers.push(one);
  return one;
}

/** As a process does that was just started. */
function runOnce(): Promise<void> {
  const parts = { vault, clock };
  const clientOf = () => Promise.resolve({ clientId: 'gateway', secret: null, authentication: 'none' as const });
  return new RevocationService({
    database,
    refreshes: replica(database, egress, parts),
    servers: new AuthorizationServers(egress, clock),
    clientOf,
    unusable: () => Promise.resolve([]),
    clock,
    log,
  }).run();
}

/** A connection that has just ended. */
async function endedAt(server: FakeAuthorizationServer): Promise<string> {
  const id = await storeConnection(database, server, { vault, clock });
  await database.raw`update connections set status = 'ended', revoke_not_before = ${new Date(clock.now())} where id = ${id}`;
  return id;
}

const isLeft = async (id: string): Promise<boolean> =>
  (await database.raw`select 1 from connections where id = ${id}`).length > 0;

/** What is on record of the end of its tokens. */
async function destroyed(id: string): Promise<{ isRevoked: boolean; attempts: number }[]> {
  const rows = await database.raw<{ after: string }[]>`select after_json as after from audit_events
    where action = 'connection.destroy' and object_id = ${id}`;
  return rows.map(({ after }) => JSON.parse(after) as { isRevoked: boolean; attempts: number });
}

const told = (): number => as.asked('/revoke');

test('what an authorization server was not told it is told again, later each time, by whichever process is there', async () => {
  const id = await endedAt(as);
  as.revocationStatus = 503;
  await runOnce();
  await runOnce();
  expect([told(), await isLeft(id)]).toEqual([1, true]);
  movedMs += 31_000;
  await runOnce();
  movedMs += 31_000;
  // Twice as long after the second time.
  await runOnce();
  expect(told()).toBe(2);
  as.revocationStatus = 200;
  movedMs += 30_000;
  await runOnce();
  expect([told(), as.familiesRevoked, await isLeft(id)]).toEqual([3, 1, false]);
  expect(await destroyed(id)).toMatchObject([{ isRevoked: true, attempts: 3 }]);
});

test('one that never answers is asked six times within twenty minutes; then the tokens are destroyed, and that is on record', async () => {
  const id = await endedAt(as);
  as.revocationStatus = 500;
  for (let minute = 0; minute <= 20; minute++) {
    await runOnce();
    movedMs += 60_000;
  }
  expect([told(), as.familiesRevoked, await isLeft(id)]).toEqual([6, 0, false]);
  expect(await destroyed(id)).toMatchObject([{ isRevoked: false, attempts: 6 }]);
});

test('one that takes no revocations is asked nothing, and the tokens are destroyed at once', async () => {
  as.metadata = { revocation_endpoint: undefined };
  const id = await endedAt(as);
  await runOnce();
  expect([told(), await isLeft(id)]).toEqual([0, false]);
  expect(await destroyed(id)).toMatchObject([{ isRevoked: false, attempts: 1 }]);
});

test('one that does not answer keeps no other waiting', async () => {
  const { promise, resolve } = Promise.withResolvers<undefined>();
  as.beforeRevocation = promise;
  const [late, quick] = [await endedAt(as), await endedAt(await startServer())];
  const running = runOnce();
  await waitFor('the other one is told', async () => !(await isLeft(quick)));
  expect(await isLeft(late)).toBe(true);
  resolve(undefined);
  await running;
  expect(await isLeft(late)).toBe(false);
});

test('a control plane that was stopped in between tells it once it is back', async () => {
  const id = await endedAt(as);
  as.revocationStatus = 503;
  const environment = {
    SALLYPORT_CREDENTIAL_KEY_FILE: file,
    SALLYPORT_EGRESS_ALLOW: `127.0.0.1/32:${new URL(as.url).port}`,
  };
  const first = await startTestControlPlane({ databaseUrl, environment, clock });
  await waitFor('an attempt', () => told() > 0);
  await first.stop();
  as.revocationStatus = 200;
  movedMs += 31_000;
  const second = await startTestControlPlane({ databaseUrl, environment, clock, bootstrap: false });
  await waitFor('the end of the tokens', async () => !(await isLeft(id)));
  await second.stop();
  expect([told(), as.familiesRevoked]).toEqual([2, 1]);
  expect(await destroyed(id)).toMatchObject([{ isRevoked: true, attempts: 2 }]);
});
