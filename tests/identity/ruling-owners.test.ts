import postgres from 'postgres';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';
import { createDirectory, ScimClient } from './scim-kit.ts';

const issuer = 'https://login.example/owners';
const tomorrow = (): string => new Date(Date.now() + 86_400_000).toISOString();
let plane: TestControlPlane;
let sql: postgres.Sql;
let adminKey: string;
let owners: ScimClient;
let admins: ScimClient;
let directoryId: string;

async function data(query: string, variables: Record<string, unknown> = {}, key?: string) {
  const answer = await plane.ask(query, variables, key);
  if (answer.errors.length > 0) throw new Error(JSON.stringify(answer.errors));
  return answer.data;
}

async function keyFor(principalId: string, more: Record<string, unknown> = {}): Promise<string> {
  const input = { principalId, name: 'k', scopes: ['API'], expiresAt: tomorrow(), ...more };
  const query = 'mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { secret } }';
  return (await data(query, { input })).createApiKey.secret;
}

/** By a token of the directory that the holder of the key made. */
async function clientOf(key: string): Promise<ScimClient> {
  const query = 'mutation ($input: CreateScimTokenInput!) { createScimToken(input: $input) { secret } }';
  const { secret } = (await data(query, { input: { directoryId, name: 'push', expiresAt: tomorrow() } }, key))
    .createScimToken;
  return new ScimClient(new URL(plane.graphqlUrl).origin, secret);
}

beforeAll(async () => {
  plane = await startTestControlPlane();
  sql = postgres(plane.databaseUrl);
  const account = `mutation ($expiresAt: DateTimeISO!) {
    createServiceAccount(input: { name: "administrator", expiresAt: $expiresAt }) { id }
  }`;
  const { id } = (await data(account, { expiresAt: tomorrow() })).createServiceAccount;
  await data('mutation ($id: ID!) { assignRole(input: { principalId: $id, role: ADMIN }) { id } }', { id });
  adminKey = await keyFor(id);
  const directory = await createDirectory(plane, 'owners', issuer);
  directoryId = directory.id;
  owners = directory.client;
  admins = await clientOf(adminKey);
});
afterAll(async () => {
  await sql.end();
  await plane.stop();
});

async function createOwner(name: string): Promise<string> {
  const { id } = await admins.createUser(`${name}@example.com`, { externalId: name });
  await sql`insert into role_bindings (id, principal_id, role) values (${crypto.randomUUID()}, ${id}, 'owner')`;
  return id;
}

test('a SCIM token that an administrator made cannot change, deactivate or delete an owner, but others', async () => {
  const owner = await createOwner('olga');
  const { id: other } = await admins.createUser('norman@example.com', { externalId: 'norman' });
  const deactivate = [{ op: 'replace', path: 'active', value: false }];
  const refused = await admins.patch(`/Users/${owner}`, deactivate);
  expect([refused.status, refused.body.detail]).toEqual([403, expect.stringContaining('rotates it')]);
  expect((await admins.delete(`/Users/${owner}`)).status).toBe(403);
  expect((await admins.patch(`/Users/${other}`, deactivate)).status).toBe(200);
  // An owner's token deactivates owners, as offboarding must.
  expect((await owners.patch(`/Users/${owner}`, deactivate)).status).toBe(200);
});

test('an owner who logged in before is not taken over by an administrator’s directory', async () => {
  const id = crypto.randomUUID();
  await sql`insert into principals (id, kind, name, issuer, subject, created_at, updated_at)
    values (${id}, 'user', 'Olaf', ${issuer}, 'olaf', now(), now())`;
  await sql`insert into role_bindings (id, principal_id, role) values (${crypto.randomUUID()}, ${id}, 'owner')`;
  const body = { schemas: ['urn:ietf:params:scim:schemas:core:2.0:User'], userName: 'olaf', externalId: 'olaf' };
  expect((await admins.post('/Users', body)).status).toBe(403);
  expect((await sql`select directory_id from principals where id = ${id}`)[0]?.['directory_id']).toBeNull();
});

test('a group that was given more than the token’s maker may do is filled by no such token', async () => {
  const { id: member } = await admins.createUser('mia@example.com', { externalId: 'mia' });
  const { id: group } = await admins.createGroup('raised');
  const settler = await clientOf(await keyFor(plane.ownerId, { permissions: ['settings:write'] }));
  const join = (value: string) => [{ op: 'add', path: 'members', value: [{ value }] }];
  expect((await settler.patch(`/Groups/${group}`, join(member))).status).toBe(204);
  await data('mutation ($id: ID!) { assignRole(input: { groupId: $id, role: EDITOR }) { id } }', { id: group });
  const { id: another } = await admins.createUser('moe@example.com', { externalId: 'moe' });
  expect((await settler.patch(`/Groups/${group}`, join(another))).status).toBe(403);
  expect((await settler.delete(`/Groups/${group}`)).status).toBe(403);
  expect((await owners.patch(`/Groups/${group}`, join(another))).status).toBe(204);
});

test('only who may do all that a provider’s users may do says how they are told apart', async () => {
  const create = 'mutation ($input: CreateIdentityProviderInput!) { createIdentityProvider(input: $input) { id } }';
  const input = { name: 'Owners', issuer, clientId: 'sallyport' };
  expect((await plane.ask(create, { input }, adminKey)).errors[0]?.extensions.code).toBe('FORBIDDEN');
  const { id } = (await data(create, { input })).createIdentityProvider;
  const update = 'mutation ($input: UpdateIdentityProviderInput!) { updateIdentityProvider(input: $input) { id } }';
  const changes = [
    { subjectClaim: 'nickname' },
    { clientId: 'mine', clientSecret: 'known to me' },
    { requiredClaims: [{ name: 'hd', value: 'mine.example' }] },
    { acrValues: ['none'] },
    { groupsClaim: 'groups' },
    { acceptsAssertions: true },
    { enabled: false },
  ];
  const before = await sql`select revision from identity_providers where id = ${id}`;
  for (const change of changes) {
    const answer = await plane.ask(update, { input: { id, ...change } }, adminKey);
    expect([Object.keys(change), answer.errors[0]?.extensions.code]).toEqual([Object.keys(change), 'FORBIDDEN']);
  }
  const remove = 'mutation ($id: ID!) { deleteIdentityProvider(input: { id: $id }) { id } }';
  expect((await plane.ask(remove, { id }, adminKey)).errors[0]?.extensions.code).toBe('FORBIDDEN');
  expect(await sql`select revision from identity_providers where id = ${id}`).toEqual(before);
  // What people call it decides nothing, and another issuer's users are other users.
  await data(update, { input: { id, name: 'Renamed' } }, adminKey);
  await data(create, { input: { ...input, name: 'Others', issuer: 'https://others.example' } }, adminKey);
});

test('a provider is made once under a key of idempotency, with one secret', async () => {
  const create = 'mutation ($input: CreateIdentityProviderInput!) { createIdentityProvider(input: $input) { id } }';
  const settings = { name: 'Once', issuer: 'https://once.example', clientId: 'sallyport', idempotencyKey: 'once' };
  const made = await data(create, { input: { ...settings, clientSecret: 'first' } });
  expect(await data(create, { input: { ...settings, clientSecret: 'first' } })).toEqual(made);
  for (const clientSecret of ['second', null]) {
    const { errors } = await plane.ask(create, { input: { ...settings, clientSecret } });
    expect(errors[0]?.extensions).toMatchObject({
      code: 'INVALID_INPUT',
      violations: [{ path: 'input.idempotencyKey', message: 'was used before with another input' }],
    });
  }
});
