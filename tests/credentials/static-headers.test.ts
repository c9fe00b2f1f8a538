import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import type { ClientAccount } from '../kit/administrator.ts';
import { waitFor } from '../kit/condition.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { dump } from '../kit/postgres.ts';
import { askModern, openLegacySession } from '../kit/raw-mcp.ts';
import {
  credential,
  credentialFields,
  filesUnder,
  identified,
  keyFile,
  registerWith,
  withHeader,
} from './credential-kit.ts';

const firstSecret = 'canary-of-the-first-service-credential-0123456789';
const secondSecret = 'canary-of-the-second-service-credential-9876543210';

let upstream: FakeUpstream;
let other: FakeUpstream;
let harness: Harness;
let serverId: string;
let client: ClientAccount;
let expected = firstSecret;

beforeAll(async () => {
  upstream = await startFakeUpstream({ tools: ['look'] });
  other = await startFakeUpstream({ tools: ['look'] });
  upstream.guard((request) => request.headers['x-service-key'] === expected);
  const environment = { SALLYPORT_CREDENTIAL_KEY_FILE: keyFile() };
  harness = await startHarness({ upstreams: [upstream.url, other.url], environment });
  const { administrator } = harness;
  serverId = await registerWith(administrator, { slug: 'guarded', url: upstream.url }, withHeader(firstSecret));
  client = await administrator.createClient('caller');
  await administrator.grant({ serverId, tools: ['*'] });
  await administrator.converged();
});
afterAll(async () => {
  await harness.stop();
  await upstream.stop();
  await other.stop();
});

const call = { method: 'tools/call', params: { name: 'look', arguments: { id: 'x' } } };
const answered = z.object({ error: z.object({ code: z.number(), message: z.string() }).optional() });

/** The status and what a call came to, asked of each node: `ok` or the code of the error. */
async function outcomes(slug = 'guarded'): Promise<unknown[]> {
  const found: unknown[] = [];
  for (const { url } of harness.nodes) {
    const answer = await askModern({ url: `${url}/mcp/${slug}`, key: client.key }, call);
    const { error } = answered.parse(JSON.parse(answer.body));
    found.push(error === undefined ? 'ok' : [answer.status, error.code]);
  }
  return found;
}

const put = (name: string, value: string, more: Record<string, unknown> = {}) =>
  harness.administrator.mutate(name, { serverId, ...withHeader(value), ...more }, credentialFields, credential);

test('a server behind a header is discovered and called with it by every node, in both eras', async () => {
  expect(await outcomes()).toEqual(['ok', 'ok']);
  const ask = await openLegacySession(harness.endpoint('guarded', client.key));
  expect(answered.parse(JSON.parse((await ask(call)).body)).error).toBeUndefined();
  const sent = upstream.requests.filter(({ headers }) => headers['x-service-key'] === firstSecret);
  expect(sent.length).toBeGreaterThan(3);
  expect(JSON.stringify(upstream.requests.map(({ rawHeaders }) => rawHeaders))).not.toContain(client.key);
});

test('a node discovers with the credential what only nodes reach', async () => {
  const input = { slug: 'inner', url: upstream.url, discoveredBy: 'NODE' };
  const id = await registerWith(harness.administrator, input, withHeader(firstSecret));
  const query = 'query ($id: ID!) { server(id: $id) { lifecycle protocolRevisions } }';
  const read = await harness.administrator.api.ask(query, { id }, z.object({ server: z.unknown() }));
  expect(read.server).toMatchObject({
    lifecycle: 'APPROVED',
    protocolRevisions: expect.arrayContaining(['2026-07-28']),
  });
});

test('a rotated secret is the only one that is sent once it is live', async () => {
  expected = secondSecret;
  const rotated = await put('rotateServerCredential', secondSecret);
  await harness.administrator.converged();
  expect(await outcomes()).toEqual(['ok', 'ok']);
  expect(rotated).toMatchObject({ mode: 'STATIC_HEADERS', isComplete: true });
  const before = upstream.requests.length;
  await outcomes();
  expect(upstream.requests.slice(before).map(({ headers }) => headers['x-service-key'])).toEqual([
    secondSecret,
    secondSecret,
  ]);
});

test('a credential that the upstream refuses is an error of the upstream, never a 401 to the client', async () => {
  expected = 'something else by now';
  expect(await outcomes()).toEqual([
    [502, 1035],
    [502, 1035],
  ]);
  expected = secondSecret;
  expect(await outcomes()).toEqual(['ok', 'ok']);
});

test('the secret is in no file of a node, no row, no event and no answer', async () => {
  const files = harness.dataDirectories.flatMap(filesUnder);
  expect(files.length).toBeGreaterThan(0);
  const text = [...files, await dump(harness.databaseUrl)].join('\n');
  for (const secret of [firstSecret, secondSecret]) {
    expect(text).not.toContain(secret);
    expect(text).not.toContain(Buffer.from(secret).toString('base64').slice(0, 40));
  }
  expect(text).toContain('credential.lend');
  expect(text).toContain('credential.rotate');
});

test('a server that moves to another origin loses its secret, which is sent nowhere else', async () => {
  const { administrator } = harness;
  await administrator.mutate('updateServer', { id: serverId, url: other.url }, 'id', identified);
  await administrator.converged();
  expect(await outcomes()).toEqual([
    [502, 1036],
    [502, 1036],
  ]);
  expect(JSON.stringify(other.requests.map(({ rawHeaders }) => rawHeaders))).not.toContain(secondSecret);
  const query = `query ($id: ID!) { serverCredential(serverId: $id) { ${credentialFields} } }`;
  const read = await administrator.api.ask(query, { id: serverId }, z.object({ serverCredential: credential }));
  expect(read.serverCredential).toMatchObject({ mode: 'STATIC_HEADERS', isComplete: false });
  await administrator.mutate('updateServer', { id: serverId, url: upstream.url }, 'id', identified);
  await put('setServerCredential', secondSecret);
  await administrator.converged();
  expect(await outcomes()).toEqual(['ok', 'ok']);
});

test('a dry run and a lost race change nothing', async () => {
  const before = await put('setServerCredential', firstSecret, { dryRun: true });
  expect(await outcomes()).toEqual(['ok', 'ok']);
  await expect(put('setServerCredential', firstSecret, { expectedRevision: before.revision })).rejects.toThrow(
    /changed/,
  );
});

test('a repetition is of the same secret: another one under its key is refused, and not taken for set', async () => {
  const once = { idempotencyKey: 'once' };
  const { revision } = await put('setServerCredential', firstSecret, once);
  expect((await put('setServerCredential', firstSecret, once)).revision).toBe(revision);
  await expect(put('setServerCredential', secondSecret, once)).rejects.toThrow('used before with another input');
  // Of what was replaced since nothing is left to compare it with.
  await put('setServerCredential', secondSecret);
  expect((await put('setServerCredential', firstSecret, once)).revision).toBe(revision + 1);
});

test.each([
  'Host',
  'Mcp-Session-Id',
  'Content-Type',
  'Transfer-Encoding',
  'Proxy-Authorization',
  'X-Forwarded-For',
  'a b',
])('the header %s is refused as a credential', async (name) => {
  const input = { serverId, staticHeaders: { headers: [{ name, value: 'x' }] } };
  const refused = harness.administrator.mutate('setServerCredential', input, credentialFields, credential);
  await expect(refused).rejects.toThrow(/not valid|header/);
});

test('a deleted credential is sent no more', async () => {
  const { administrator } = harness;
  await administrator.mutate('deleteServerCredential', { serverId }, credentialFields, credential);
  await administrator.converged();
  const left = await waitFor('the header is gone', async () => {
    const before = upstream.requests.length;
    await outcomes();
    const sent = upstream.requests.slice(before).map(({ headers }) => headers['x-service-key']);
    return sent.every((value) => value === undefined) ? sent.length : undefined;
  });
  expect(left).toBe(2);
});
