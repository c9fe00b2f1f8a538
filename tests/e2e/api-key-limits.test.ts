import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { waitFor } from '../kit/condition.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { askModern, type RawAnswer } from '../kit/raw-mcp.ts';

let upstream: FakeUpstream;
let harness: Harness;
const serverIds = { crm: '', bank: '' };
type Slug = keyof typeof serverIds;

const identified = z.object({ id: z.string() });
const inDays = (days: number): string => new Date(Date.now() + days * 86_400_000).toISOString();

beforeAll(async () => {
  upstream = await startFakeUpstream();
  harness = await startHarness({ upstreams: [upstream.url], nodes: 1 });
  const { administrator } = harness;
  for (const slug of ['crm', 'bank'] as const) {
    serverIds[slug] = (await administrator.registerServer(slug, upstream.url)).id;
    await administrator.grant({ serverId: serverIds[slug], tools: ['*'] });
  }
  const labels = [{ key: 'team', value: 'crm' }];
  await administrator.mutate('updateServer', { id: serverIds.crm, labels }, 'id', identified);
});
afterAll(async () => {
  await harness.stop();
  await upstream.stop();
});

interface Key {
  readonly id: string;
  readonly key: string;
  readonly principalId: string;
}

async function issue(more: object, principalId?: string): Promise<Key> {
  const { administrator } = harness;
  const account = { name: 'bot', expiresAt: inDays(2) };
  const holder = principalId ?? (await administrator.mutate('createServiceAccount', account, 'id', identified)).id;
  const { apiKey, secret } = await administrator.mutate(
    'createApiKey',
    { principalId: holder, name: 'key', scopes: ['MCP'], expiresAt: inDays(1), ...more },
    'secret apiKey { id }',
    z.object({ secret: z.string(), apiKey: identified }),
  );
  await administrator.converged();
  return { id: apiKey.id, key: secret, principalId: holder };
}
const call = (slug: string, { key }: Key): Promise<RawAnswer> =>
  askModern(harness.endpoint(slug, key), { method: 'tools/call', params: { name: 'count', arguments: { id: 'x' } } });
async function reach(key: Key): Promise<Record<Slug, number>> {
  return { crm: (await call('crm', key)).status, bank: (await call('bank', key)).status };
}
async function explain(slug: Slug, { id, principalId }: Key, address?: string): Promise<unknown> {
  const input = { principalId, apiKeyId: id, serverId: serverIds[slug], kind: 'TOOL', name: 'count' };
  const client = address === undefined ? {} : { client: { address } };
  const { explainAccess } = await harness.administrator.api.ask(
    'query ($input: ExplainAccessInput!) { explainAccess(input: $input) { effect reason } }',
    { input: { ...input, ...client } },
    z.object({ explainAccess: z.object({ effect: z.string(), reason: z.string() }) }),
  );
  return explainAccess;
}

test('a key opens the servers it names or that carry its labels, and hides the others as unknown ones', async () => {
  const named = await issue({ serverIds: [serverIds.bank] });
  expect(await reach(named)).toEqual({ crm: 404, bank: 200 });
  expect(await call('crm', named)).toEqual(await call('nowhere', named));
  const labelled = await issue({ serverLabels: [{ key: 'team', value: 'crm' }] });
  expect(await reach(labelled)).toEqual({ crm: 200, bank: 404 });
  expect(await reach(await issue({}))).toEqual({ crm: 200, bank: 200 });
  expect(await explain('crm', named)).toEqual({ effect: 'DENY', reason: 'KEY_NOT_FOR_SERVER' });
  expect(await explain('bank', named)).toEqual({ effect: 'ALLOW', reason: 'GRANTED' });
});

test('a key that opens a server gives nothing that its holder has no grant for', async () => {
  const tool = { name: 'no-such-tool', arguments: {} };
  const key = await issue({ serverIds: [serverIds.bank] });
  const answer = await askModern(harness.endpoint('bank', key.key), { method: 'tools/call', params: tool });
  expect(JSON.parse(answer.body)).toHaveProperty('error');
});

test('a key is refused on a node from elsewhere than its networks', async () => {
  const here = await issue({ networks: ['127.0.0.0/8'] });
  const office = await issue({ networks: ['203.0.113.0/24'] });
  expect(await reach(here)).toEqual({ crm: 200, bank: 200 });
  expect(await reach(office)).toEqual({ crm: 401, bank: 401 });
  expect(await explain('crm', office, '203.0.113.9')).toEqual({ effect: 'ALLOW', reason: 'GRANTED' });
  expect(await explain('crm', office, '10.0.0.1')).toEqual({ effect: 'DENY', reason: 'KEY_NETWORK' });
});

test('a key without the scope for tools opens no server, whatever its holder may do at the API', async () => {
  const key = await issue({ scopes: ['API'] });
  expect(await reach(key)).toEqual({ crm: 401, bank: 401 });
  expect(await explain('crm', key)).toEqual({ effect: 'DENY', reason: 'KEY_SCOPE' });
});

test('the key of an account ends on nodes with the user who answers for it', async () => {
  const { administrator } = harness;
  const user = await administrator.mutate('createUser', { name: 'responsible' }, 'id', identified);
  const account = { name: 'bot', ownerId: user.id, expiresAt: inDays(2) };
  const { id } = await administrator.mutate('createServiceAccount', account, 'id', identified);
  const key = await issue({}, id);
  expect((await call('crm', key)).status).toBe(200);
  await administrator.mutate('updateUser', { id: user.id, status: 'DISABLED' }, 'id', identified);
  await administrator.converged();
  expect((await call('crm', key)).status).toBe(401);
  expect(await explain('crm', key)).toEqual({ effect: 'DENY', reason: 'PRINCIPAL_DISABLED' });
});

test('the use of a key on a node is shown as its last use', async () => {
  const key = await issue({});
  const query = 'query ($id: ID!) { apiKey(id: $id) { lastUsedAt } }';
  const answer = z.object({ apiKey: z.object({ lastUsedAt: z.string().nullable() }) });
  const lastUse = async (): Promise<string | null> =>
    (await harness.administrator.api.ask(query, { id: key.id }, answer)).apiKey.lastUsedAt;
  expect(await lastUse()).toBeNull();
  const before = Date.now();
  await call('crm', key);
  const at = await waitFor('the last use is known', async () => (await lastUse()) ?? undefined, { deadlineMs: 20_000 });
  expect(Date.parse(at)).toBeGreaterThanOrEqual(before - 1_000);
});
