/** The key-encryption key is rotated while nodes call with what is sealed under it. */
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { createKeyProvider, CredentialVault, openDatabase, RewrapService } from '@sallyport/control-plane/credentials';
import { createLog, systemClock } from '@sallyport/schema/platform';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { Administrator } from '../kit/administrator.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { dump } from '../kit/postgres.ts';
import { askModern } from '../kit/raw-mcp.ts';
import { connect, type Somebody, somebody } from './connecting-kit.ts';
import { credential, credentialFields, keyFile, keyLine, registerWith, withHeader } from './credential-kit.ts';
import { FakeAuthorizationServer } from './fake-authorization-server.ts';

const log = createLog({ name: 'rotation', level: 'silent' });
const file = keyFile();
const as = new FakeAuthorizationServer();
const secrets = ['canary-of-the-service-credential-0'];
let own: FakeUpstream;
let service: FakeUpstream;
let harness: Harness;
let users: Somebody[];
let serviceId: string;
let database: ReturnType<typeof openDatabase>;

/** In one step, so that nobody reads a half of it. */
function replaceFile(text: string): void {
  writeFileSync(`${file}.next`, text);
  renameSync(`${file}.next`, file);
}

beforeAll(async () => {
  await as.start();
  own = await startFakeUpstream({ tools: ['look'] });
  service = await startFakeUpstream({ tools: ['look'] });
  as.resource = own.url;
  own.guard(
    ({ headers }) => as.live.has(headers.authorization?.slice('Bearer '.length) ?? ''),
    `Bearer resource_metadata="${as.url}/prm"`,
  );
  service.guard(({ headers }) => secrets.includes(String(headers['x-service-key'])));
  harness = await startHarness({
    upstreams: [own.url, service.url, as.url],
    environment: { SALLYPORT_CREDENTIAL_KEY_FILE: file },
    authorizationServer: true,
  });
  database = openDatabase({ url: harness.databaseUrl, connectionsMax: 4 });
  const { administrator } = harness;
  users = await Promise.all(['Ada', 'Bob', 'Carol', 'Dan'].map((name) => somebody(harness, name)));
  const [ada] = users as [Somebody];
  await administrator.mutate('assignRole', { principalId: ada.id, role: 'ADMIN' }, '__typename', z.unknown());
  const asAda = new Administrator(ada.api, 2);
  const connected = async (user: Somebody, serverId: string): Promise<void> =>
    expect((await connect(harness, user, serverId)).status).toBe(200);
  const userOAuth = { userOAuth: {} };
  const ownId = await registerWith(asAda, { slug: 'own', url: own.url }, userOAuth, (id) => connected(ada, id));
  const server = { slug: 'service', url: service.url };
  serviceId = await registerWith(administrator, server, withHeader(secrets[0] ?? ''));
  for (const serverId of [ownId, serviceId]) await administrator.grant({ serverId, tools: ['*'] });
  await administrator.converged();
  for (const user of users.slice(1)) await connected(user, ownId);
}, 60_000);
afterAll(async () => {
  await database.close();
  await harness.stop();
  await Promise.all([own.stop(), service.stop(), as.stop()]);
});

const answered = z.object({ result: z.looseObject({ isError: z.boolean().optional() }).optional() });

/** What became of a call by way of a node: `ok`, or the answer. */
async function call(slug: string, user: Somebody | undefined, node: number): Promise<string> {
  const at = { url: `${harness.nodes[node % harness.nodes.length]?.url}/mcp/${slug}`, key: user?.key ?? '' };
  const { body } = await askModern(at, { method: 'tools/call', params: { name: 'look', arguments: { id: 'x' } } });
  const { result } = answered.parse(JSON.parse(body));
  return result !== undefined && result.isError !== true ? 'ok' : body;
}

/**
 * Every token has ended, so that the call opens a refresh token and seals the next one. Each user calls by one node: another
 * would be lent what the first one brought, which has ended, too.
 */
async function callAsUser(round: number): Promise<string> {
  as.live.clear();
  return await call('own', users[round % users.length], round % users.length);
}

/** The secret is another one by each call. */
async function callWithSecret(round: number): Promise<string> {
  const value = `canary-of-the-service-credential-${secrets.length}`;
  secrets.push(value);
  const input = { serverId: serviceId, ...withHeader(value) };
  await harness.administrator.mutate('rotateServerCredential', input, credentialFields, credential);
  await harness.administrator.converged();
  return await call('service', users[0], round);
}

const usedKeys = () => database.raw<{ key_id: string }[]>`
  select distinct key_id from (select key_id from connections union all select key_id from server_credentials
    union all select key_id from upstream_clients) used where key_id is not null`;

test('no call fails while the key-encryption key is rotated, nor once the old ones are gone, and none of it is in a dump', async () => {
  const outcomes: string[] = [];
  let isDone = false;
  const loads = [callAsUser, callWithSecret].map(async (work) => {
    // Each account is renewed twice at most: more refusals in a row are waited out.
    for (let round = 0; !isDone && round < 2 * users.length; round++) outcomes.push(await work(round));
  });
  const vault = () => new CredentialVault(createKeyProvider({ file }, systemClock));
  const rewrap = () => new RewrapService({ database, vault: vault(), log });
  try {
    for (const id of ['second', 'third', 'fourth']) {
      replaceFile(`${keyLine(id)}${readFileSync(file, 'utf8')}`);
      // Two processes of the control plane find it due at once.
      await Promise.all([rewrap().run(), rewrap().run()]);
    }
  } finally {
    isDone = true;
  }
  await Promise.all(loads);
  expect(outcomes.length).toBeGreaterThan(3);
  expect(new Set(outcomes)).toEqual(new Set(['ok']));

  await rewrap().run();
  expect((await usedKeys()).map(({ key_id: id }) => id)).toEqual(['file:fourth']);
  replaceFile(`${readFileSync(file, 'utf8').split('\n')[0]}\n`);
  expect(await callAsUser(0)).toBe('ok');
  expect(await callWithSecret(0)).toBe('ok');

  const text = await dump(harness.databaseUrl);
  expect(text).not.toMatch(/[ra]t_[0-9a-f]{8}-[0-9a-f-]{27}/);
  expect(text).not.toContain('canary-of-the-service');
}, 120_000);
