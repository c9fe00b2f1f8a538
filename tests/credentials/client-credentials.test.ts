import { createPublicKey, generateKeyPairSync, verify } from 'node:crypto';
import postgres from 'postgres';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { ClientAccount } from '../kit/administrator.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { askModern } from '../kit/raw-mcp.ts';
import { keyFile, registerWith } from './credential-kit.ts';
import { FakeAuthorizationServer } from './fake-authorization-server.ts';

const as = new FakeAuthorizationServer();
/** Of somebody who writes to the database. */
const rogue = new FakeAuthorizationServer();
let upstream: FakeUpstream;
let harness: Harness;
let client: ClientAccount;

beforeAll(async () => {
  await as.start();
  await rogue.start();
  upstream = await startFakeUpstream({ tools: ['look'] });
  as.resource = upstream.url;
  upstream.guard(({ headers }) => as.live.has(headers.authorization?.slice('Bearer '.length) ?? ''));
  const environment = { SALLYPORT_CREDENTIAL_KEY_FILE: keyFile() };
  harness = await startHarness({ upstreams: [upstream.url, as.url, rogue.url], environment });
  client = await harness.administrator.createClient('caller');
}, 60_000);
afterAll(async () => {
  await harness.stop();
  await upstream.stop();
  await as.stop();
  await rogue.stop();
});

/** The status of calls made at once on both nodes. */
async function calls(slug: string, count: number): Promise<number[]> {
  const call = { method: 'tools/call', params: { name: 'look', arguments: { id: 'x' } } };
  const urls = Array.from({ length: count }, (_, at) => harness.nodes[at % harness.nodes.length]?.url ?? '');
  const answers = await Promise.all(urls.map((url) => askModern({ url: `${url}/mcp/${slug}`, key: client.key }, call)));
  return answers.map(({ status }) => status);
}

test('calls carry a token that the gateway got for itself, once for many calls, and anew when it is refused', async () => {
  const clientCredentials = {
    issuer: as.url,
    clientId: 'gateway',
    secret: 'canary-of-a-client-secret',
    authentication: 'CLIENT_SECRET_POST',
    scopes: ['tools'],
  };
  const id = await registerWith(harness.administrator, { slug: 'service', url: upstream.url }, { clientCredentials });
  await harness.administrator.grant({ serverId: id, tools: ['*'] });
  await harness.administrator.converged();
  expect(new Set(await calls('service', 20))).toEqual(new Set([200]));
  const asked = as.requests.filter(({ path }) => path === '/token').map(({ form }) => Object.fromEntries(form));
  expect(asked).toEqual([
    {
      grant_type: 'client_credentials',
      client_id: 'gateway',
      client_secret: 'canary-of-a-client-secret',
      resource: upstream.url,
      scope: 'tools',
    },
  ]);
  as.live.clear();
  expect(new Set(await calls('service', 20))).toEqual(new Set([200]));
  expect(as.asked('/token')).toBe(2);
  expect(JSON.stringify(upstream.requests)).not.toContain('canary-of-a-client-secret');
});

test('a look at a server is on record as a lending is, and an outage once, not for each call', async () => {
  const sql = postgres(harness.databaseUrl, { max: 1 });
  const events = async (action: string) =>
    (await sql`select after_json from audit_events where action = ${action}`).map(({ after_json }): unknown =>
      JSON.parse(String(after_json)),
    );
  expect(await events('credential.lend')).toContainEqual(
    expect.objectContaining({ nodeId: null, mode: 'clientCredentials', issuer: as.url }),
  );
  as.live.clear();
  as.onToken = (response) => {
    response.writeHead(429).end();
    return 'answered';
  };
  const asked = as.asked('/token');
  for (let round = 0; round < 3; round++) expect(new Set(await calls('service', 4))).toEqual(new Set([503]));
  expect(as.asked('/token') - asked).toBeGreaterThan(1);
  as.onToken = undefined;
  const failures = (await events('credential.fail')).filter((event) => JSON.stringify(event).includes('notSent'));
  const use = { issuer: as.url, resource: upstream.url, scopes: ['tools'] };
  expect(failures).toEqual([
    { id: expect.any(String), mode: 'clientCredentials', principalId: null, ...use, reason: 'notSent' },
  ]);
  expect(JSON.stringify(failures)).not.toContain('canary');
  await sql.end();
});

test('a client proves itself by a signature that is for the authorization server alone', async () => {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const secret = JSON.stringify({ ...privateKey.export({ format: 'jwk' }), kid: 'k1' });
  const clientCredentials = { issuer: as.url, clientId: 'signer', secret, authentication: 'PRIVATE_KEY_JWT' };
  await registerWith(harness.administrator, { slug: 'signed', url: upstream.url }, { clientCredentials });
  const assertion = as.requests.map(({ form }) => form.get('client_assertion')).find((text) => text !== null) ?? '';
  const [header = '', payload = '', signature = ''] = assertion.split('.');
  const claims: unknown = JSON.parse(Buffer.from(payload, 'base64url').toString());
  expect(claims).toMatchObject({ iss: 'signer', sub: 'signer', aud: as.url });
  const key = {
    key: createPublicKey(publicKey.export({ format: 'pem', type: 'spki' })),
    dsaEncoding: 'ieee-p1363',
  } as const;
  expect(verify('sha256', Buffer.from(`${header}.${payload}`), key, Buffer.from(signature, 'base64url'))).toBe(true);
});

test('a secret goes to no issuer, and for no client, but those that it was set for, whatever the database says by then', async () => {
  rogue.resource = upstream.url;
  const sql = postgres(harness.databaseUrl, { max: 1 });
  try {
    const clientCredentials = { issuer: as.url, clientId: 'bound', secret: 'canary-of-a-bound-secret' };
    const id = await registerWith(harness.administrator, { slug: 'bound', url: upstream.url }, { clientCredentials });
    await harness.administrator.grant({ serverId: id, tools: ['*'] });
    await harness.administrator.converged();
    expect(await calls('bound', 2)).toEqual([200, 200]);
    const before = as.asked('/token');
    const issuer = JSON.stringify(rogue.url);
    for (const [path, value] of [
      ['{issuer}', issuer],
      ['{clientId}', '"another"'],
    ] as const) {
      const [row] = await sql`select settings from server_credentials where server_id = ${id}`;
      for (const sealedWith of [2, 1]) {
        await sql`update server_credentials set sealed_with = ${sealedWith},
          settings = jsonb_set(settings, ${path}::text[], ${value}::text::jsonb) where server_id = ${id}`;
        as.live.clear();
        expect(await calls('bound', 2)).toEqual([503, 503]);
      }
      await sql`update server_credentials set settings = ${sql.json(row?.['settings'])}, sealed_with = 2 where server_id = ${id}`;
    }
    expect(rogue.requests).toEqual([]);
    expect(as.asked('/token')).toBe(before);
  } finally {
    await sql.end();
  }
});
