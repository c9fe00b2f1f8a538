import {
  AuthorizationServers,
  type ConnectionRow,
  CredentialVault,
  createKeyProvider,
  openDatabase,
  RefreshService,
} from '@sallyport/control-plane/credentials';
import { AppError } from '@sallyport/schema';
import { type Clock, createEgress, parseEgressAllowList, systemClock, uuidv7 } from '@sallyport/schema/platform';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { createMigratedDatabase } from '../kit/postgres.ts';
import { keyFile } from './credential-kit.ts';
import { FakeAuthorizationServer } from './fake-authorization-server.ts';
import { log, replica, resource, storeConnection } from './refresh-kit.ts';

const replicasMax = 3;

let offsetMs = 0;
const clock: Clock = { ...systemClock, now: () => systemClock.now() + offsetMs };
const egress = createEgress({ allow: parseEgressAllowList('127.0.0.0/8:1-65535').allow });
const as = new FakeAuthorizationServer();
const databases: ReturnType<typeof openDatabase>[] = [];
let sql: ReturnType<typeof openDatabase>['raw'];
let vault: CredentialVault;
let replicas: RefreshService[];

beforeAll(async () => {
  await as.start();
  as.resource = resource;
  const { url } = await createMigratedDatabase();
  const file = keyFile();
  vault = new CredentialVault(createKeyProvider({ file }, clock));
  for (let at = 0; at < replicasMax; at++) databases.push(openDatabase({ url, connectionsMax: 3 }));
  const [first] = databases;
  if (first !== undefined) sql = first.raw;
});
afterAll(async () => {
  for (const database of databases) await database.close();
  await egress.close();
  await as.stop();
});
beforeEach(() => {
  as.onToken = undefined;
  as.requests.length = 0;
  replicas = databases.map((database) => replica(database, egress, { vault, clock }));
});

function connect(): Promise<string> {
  const [database] = databases;
  if (database === undefined) throw new Error('no database');
  return storeConnection(database, as, { vault, clock });
}

async function stateOf(id: string): Promise<Pick<ConnectionRow, 'status' | 'reason' | 'tokenRevision'>> {
  const rows = await sql`
    select status, reason, token_revision as "tokenRevision" from connections where id = ${id}`;
  return rows[0] as Pick<ConnectionRow, 'status' | 'reason' | 'tokenRevision'>;
}

function set(id: string, what: 'leased' | 'sent'): Promise<unknown> {
  const until = new Date(clock.now() + 20_000);
  const sent = what === 'sent' ? new Date(clock.now()) : null;
  return sql`update connections set refresh_id = ${uuidv7(clock.now())}, refresh_lease_until = ${until},
    refresh_sent_at = ${sent} where id = ${id}`;
}

async function codeOf(work: Promise<unknown> | undefined): Promise<string> {
  return (work ?? Promise.reject(new Error('nothing'))).then(
    () => 'renewed',
    (error: unknown) => (error instanceof AppError ? error.code : String(error)),
  );
}

test('a holder that died before the request left costs the others its lease, and no error', async () => {
  const id = await connect();
  await set(id, 'leased');
  const waiting = replicas.map((one) => one.renew(id, 1));
  offsetMs += 21_000;
  const opened = await Promise.all(waiting);
  expect(new Set(opened.map(({ tokens }) => tokens.accessToken)).size).toBe(1);
  expect(as.asked('/token')).toBe(1);
});

test('a refresh of which nobody knows what came is never sent again, and costs that connection alone', async () => {
  const [id, other] = [await connect(), await connect()];
  await set(id, 'sent');
  offsetMs += 21_000;
  expect(await Promise.all(replicas.map((one) => codeOf(one.renew(id, 1))))).toEqual(
    replicas.map(() => 'CONNECTION_NEEDED'),
  );
  expect(as.asked('/token')).toBe(0);
  expect(await stateOf(id)).toMatchObject({ status: 'reauthRequired', reason: 'refreshOutcomeUnknown' });
  expect(await codeOf(replicas[0]?.renew(other, 1))).toBe('renewed');
});

test('an answer that is cut off after the token was used is such a refresh', async () => {
  const before = as.familiesRevoked;
  const id = await connect();
  as.onToken = () => 'cut';
  expect(await codeOf(replicas[0]?.renew(id, 1))).toBe('CONNECTION_NEEDED');
  as.onToken = undefined;
  expect(await codeOf(replicas[1]?.renew(id, 1))).toBe('CONNECTION_NEEDED');
  expect(as.asked('/token')).toBe(1);
  expect(as.familiesRevoked).toBe(before);
});

test('after the commit a holder may die: the others find what it wrote', async () => {
  const id = await connect();
  await replicas[0]?.renew(id, 1);
  expect(await codeOf(replicas[1]?.renew(id, 1))).toBe('renewed');
  expect(as.asked('/token')).toBe(1);
});

test('a holder that was held up past its lease does not send any more', async () => {
  const id = await connect();
  const held = Promise.withResolvers<{ clientId: string; secret: null; authentication: 'none' }>();
  const [database] = databases;
  if (database === undefined) throw new Error('no database');
  const servers = new AuthorizationServers(egress, clock);
  const forgetClient = () => Promise.resolve(false);
  const parts = { database, vault, servers, clientOf: () => held.promise, forgetClient, clock, log };
  const late = new RefreshService(parts).renew(id, 1);
  const isLeased = async () =>
    (await sql`select 1 from connections where id = ${id} and refresh_id is not null`).length;
  await expect.poll(isLeased, { timeout: 10_000 }).toBe(1);
  offsetMs += 21_000;
  expect(await codeOf(replicas[1]?.renew(id, 1))).toBe('renewed');
  held.resolve({ clientId: 'gateway', secret: null, authentication: 'none' });
  expect(await codeOf(late)).toBe('CREDENTIAL_UNAVAILABLE');
  expect(as.asked('/token')).toBe(1);
});

test('an authorization server that says that it did not begin leaves everything as it was', async () => {
  const id = await connect();
  as.onToken = (response) => {
    response.writeHead(429).end();
    return 'answered';
  };
  expect(await codeOf(replicas[0]?.renew(id, 1))).toBe('CREDENTIAL_UNAVAILABLE');
  offsetMs += 6_000;
  expect(await codeOf(replicas[1]?.renew(id, 1))).toBe('CREDENTIAL_UNAVAILABLE');
  as.onToken = undefined;
  expect(await codeOf(replicas[0]?.renew(id, 1))).toBe('CREDENTIAL_UNAVAILABLE');
  offsetMs += 6_000;
  expect(await codeOf(replicas[1]?.renew(id, 1))).toBe('renewed');
  // The outage is on record once, whoever met with it.
  const events = await sql`select action, after_json from audit_events where object_id = ${id} order by id`;
  expect(events.map(({ action }): unknown => action)).toEqual(['connection.refreshDelay', 'connection.refresh']);
  expect(events[0]?.['after_json']).toContain('"reason":"refreshNotSent"');
});

test('what was asked for and not given is remembered where a refresh names scopes', async () => {
  const id = await connect();
  await sql`update connections set scopes = '{read,asked}' where id = ${id}`;
  as.refreshedScope = 'read write';
  expect(await codeOf(replicas[0]?.renew(id, 1))).toBe('renewed');
  as.refreshedScope = null;
  const [row] = await sql`select scopes from connections where id = ${id}`;
  expect(row?.['scopes']).toEqual(['read', 'asked', 'write']);
});

test('an authorization server that names scopes without end makes no row grow, and the refresh goes on', async () => {
  const id = await connect();
  await sql`update connections set scopes = '{read}' where id = ${id}`;
  for (let round = 1; round <= 3; round++) {
    const names = Array.from({ length: 5_000 }, (_, at) => `r${round}-${at}`);
    as.refreshedScope = [`${round}`.repeat(1_000), ...names].join(' ');
    expect(await codeOf(replicas[0]?.renew(id, round))).toBe('renewed');
  }
  as.refreshedScope = null;
  const [row] = await sql`select cardinality(scopes) as count, scopes[1] as first,
    (select max(length(one)) from unnest(scopes) one) as longest from connections where id = ${id}`;
  expect(row).toMatchObject({ count: 256, first: 'read' });
  expect(row?.['longest']).toBeLessThan(256);
});

test('a refresh that was answered 503 may have happened: the token is not sent again', async () => {
  const id = await connect();
  as.onToken = (response) => {
    response.writeHead(503).end();
    return 'answered';
  };
  expect(await codeOf(replicas[0]?.renew(id, 1))).toBe('CONNECTION_NEEDED');
  offsetMs += 6_000;
  expect(await codeOf(replicas[1]?.renew(id, 1))).toBe('CONNECTION_NEEDED');
  expect(as.asked('/token')).toBe(1);
  expect(await stateOf(id)).toMatchObject({ status: 'reauthRequired', reason: 'refreshOutcomeUnknown' });
});

test('a refusal ends that connection with its reason', async () => {
  const id = await connect();
  as.onToken = (response) => {
    response.writeHead(400, { 'content-type': 'application/json' }).end('{"error":"invalid_grant"}');
    return 'answered';
  };
  expect(await codeOf(replicas[0]?.renew(id, 1))).toBe('CONNECTION_NEEDED');
  expect(await stateOf(id)).toMatchObject({ status: 'reauthRequired', reason: 'refreshRefused' });
});
