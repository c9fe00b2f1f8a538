import postgres from 'postgres';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';
import { createDirectory, enterpriseSchema, type ScimClient, userSchema } from './scim-kit.ts';

const issuer = 'https://login.example/tenant/v2.0';
let plane: TestControlPlane;
let sql: postgres.Sql;
let directoryId: string;
let scim: ScimClient;

beforeAll(async () => {
  plane = await startTestControlPlane();
  sql = postgres(plane.databaseUrl);
  const made = await createDirectory(plane, 'entra', issuer);
  directoryId = made.id;
  scim = made.client;
});
afterAll(async () => {
  await sql.end();
  await plane.stop();
});

const userFields = 'id name email status issuer subject directoryId revision';
const localUser = async (id: string) =>
  (await plane.ask(`query ($id: ID!) { user(id: $id) { ${userFields} } }`, { id })).data.user;
const epochOf = async (id: string): Promise<number> =>
  (await sql`select epoch from principals where id = ${id}`)[0]?.['epoch'] as number;

test('a user that a directory creates is a principal who logs in by its externalId', async () => {
  const answer = await scim.post('/Users', {
    schemas: [userSchema, enterpriseSchema],
    userName: 'ada@example.com',
    externalId: 'oid-ada',
    name: { givenName: 'Ada', familyName: 'Lovelace' },
    emails: [
      { value: 'home@example.com', type: 'home' },
      { value: 'ada@example.com', type: 'work', primary: true },
    ],
    [enterpriseSchema]: { department: 'Engines' },
    password: 'never kept',
  });
  expect(answer.status).toBe(201);
  expect(answer.headers.get('content-type')).toBe('application/scim+json');
  const { id, meta } = answer.body;
  expect(answer.headers.get('location')).toBe(meta.location);
  expect(answer.headers.get('etag')).toBe(meta.version);
  expect(answer.body).toMatchObject({
    active: true,
    externalId: 'oid-ada',
    [enterpriseSchema]: { department: 'Engines' },
  });
  expect(answer.body.password).toBeUndefined();
  expect(await localUser(id)).toMatchObject({
    name: 'Ada Lovelace',
    email: 'ada@example.com',
    status: 'ACTIVE',
    issuer,
    subject: 'oid-ada',
    directoryId,
  });
  const rows = await sql`select scim_users::text as text from scim_users where principal_id = ${id}`;
  expect(rows[0]?.['text']).not.toContain('never kept');
});

test('a name or identity in use is a conflict, whatever its case, and names which', async () => {
  await scim.createUser('Grace@example.com', { externalId: 'oid-grace' });
  const name = await scim.post('/Users', { schemas: [userSchema], userName: 'grace@EXAMPLE.com' });
  expect([name.status, name.body.scimType, name.body.status]).toEqual([409, 'uniqueness', '409']);
  expect(name.body.detail).toContain('userName');
  const identity = await scim.post('/Users', { schemas: [userSchema], userName: 'other', externalId: 'oid-grace' });
  expect([identity.status, identity.body.scimType]).toEqual([409, 'uniqueness']);
  expect(identity.body.detail).toContain('externalId');
});

test('of creates that race for one name, one wins and the others are conflicts', async () => {
  const racing = Array.from({ length: 5 }, () => scim.post('/Users', { schemas: [userSchema], userName: 'racer' }));
  const answers = await Promise.all(racing);
  expect(answers.map(({ status }) => String(status)).sort()).toEqual(['201', '409', '409', '409', '409']);
  expect(answers.filter(({ status }) => status === 409).every(({ body }) => body.scimType === 'uniqueness')).toBe(true);
});

test('a user who logged in before the directory named it is taken over, not doubled', async () => {
  const id = crypto.randomUUID();
  await sql`insert into principals (id, kind, name, issuer, subject) values (${id}, 'user', 'Early', ${issuer}, 'oid-early')`;
  const user = await scim.createUser('early@example.com', { externalId: 'oid-early', displayName: 'Early Bird' });
  expect(user.id).toBe(id);
  expect(await localUser(id)).toMatchObject({ name: 'Early Bird', directoryId });
});

test("Entra's patches are understood: capitalised operations, texts for booleans, filters in paths, dotted keys", async () => {
  const { id } = await scim.createUser('entra@example.com', { externalId: 'oid-entra', active: 'True' });
  const answer = await scim.patch(`/Users/${id}`, [
    { op: 'Add', path: 'emails[type eq "work"].value', value: 'entra@example.com' },
    { op: 'Replace', path: 'displayName', value: 'Entra Person' },
    { op: 'Add', path: `${enterpriseSchema}:department`, value: 'Identity' },
    { op: 'Add', path: `${enterpriseSchema}:manager`, value: 'manager-1' },
    { op: 'Add', path: 'roles[primary eq "True"].value', value: 'admin' },
    { op: 'Replace', value: { 'name.familyName': 'Person', [`${enterpriseSchema}:costCenter`]: '42', title: 'Dr' } },
    { op: 'Replace', path: 'active', value: 'False' },
  ]);
  expect(answer.status).toBe(200);
  expect(answer.body).toMatchObject({
    active: false,
    displayName: 'Entra Person',
    title: 'Dr',
    name: { familyName: 'Person' },
    emails: [{ type: 'work', value: 'entra@example.com' }],
    roles: [{ primary: true, value: 'admin' }],
    [enterpriseSchema]: { department: 'Identity', costCenter: '42', manager: { value: 'manager-1' } },
  });
  const replaced = await scim.patch(`/Users/${id}`, [
    { op: 'Replace', path: 'emails[type eq "work"].value', value: 'new@example.com' },
    { op: 'Replace', path: 'emails[type eq "home"].value', value: 'home@example.com' },
    { op: 'Remove', path: 'title' },
    { op: 'Remove', path: `${enterpriseSchema}:manager` },
  ]);
  expect(replaced.body.emails).toEqual([
    { type: 'work', value: 'new@example.com' },
    { type: 'home', value: 'home@example.com' },
  ]);
  expect(replaced.body.title).toBeUndefined();
  expect(replaced.body[enterpriseSchema].manager).toBeUndefined();
  expect(await localUser(id)).toMatchObject({ status: 'DISABLED', name: 'Entra Person', email: 'new@example.com' });
});

test("Okta's deactivation, a replace without a path, raises the epoch: sessions and tokens end for good", async () => {
  const { id } = await scim.createUser('okta@example.com');
  const before = await epochOf(id);
  const answer = await scim.patch(`/Users/${id}`, [{ op: 'replace', value: { active: false } }]);
  expect(answer.body.active).toBe(false);
  expect(await epochOf(id)).toBe(before + 1);
  await scim.patch(`/Users/${id}`, [{ op: 'replace', value: { active: true } }]);
  expect(await localUser(id)).toMatchObject({ status: 'ACTIVE' });
  expect(await epochOf(id)).toBe(before + 1);
});

test('a PUT replaces: what it does not name is gone, but nobody is activated by an omission', async () => {
  const { id } = await scim.createUser('put@example.com', { displayName: 'Put', title: 'Ms', active: false });
  const answer = await scim.put(`/Users/${id}`, { schemas: [userSchema], userName: 'put@example.com', nickName: 'P' });
  expect(answer.status).toBe(200);
  expect(answer.body).toMatchObject({ nickName: 'P', active: false });
  expect(answer.body.title).toBeUndefined();
  expect(answer.body.displayName).toBeUndefined();
});

test('a user disabled by an administrator stays so, however often the directory says that it is active', async () => {
  const { id } = await scim.createUser('held@example.com');
  await plane.ask('mutation ($id: ID!) { updateUser(input: { id: $id, status: DISABLED }) { id } }', { id });
  await scim.put(`/Users/${id}`, { schemas: [userSchema], userName: 'held@example.com', active: true, title: 'x' });
  expect(await localUser(id)).toMatchObject({ status: 'DISABLED' });
});

test('what a directory says cannot be changed by others: name, address, activation, deletion', async () => {
  const { id } = await scim.createUser('fixed@example.com', { displayName: 'Fixed', active: false });
  const refused = async (mutation: string): Promise<string | undefined> =>
    (await plane.ask(mutation, { id })).errors[0]?.extensions.violations?.[0]?.path;
  expect(await refused('mutation ($id: ID!) { updateUser(input: { id: $id, name: "Mine" }) { id } }')).toBe(
    'input.name',
  );
  expect(await refused('mutation ($id: ID!) { updateUser(input: { id: $id, email: "a@b.c" }) { id } }')).toBe(
    'input.email',
  );
  expect(await refused('mutation ($id: ID!) { updateUser(input: { id: $id, status: ACTIVE }) { id } }')).toBe(
    'input.status',
  );
  expect(await refused('mutation ($id: ID!) { deleteUser(input: { id: $id }) { id } }')).toBe('input.id');
});

test('the identity by which a user logs in is set once', async () => {
  const { id } = await scim.createUser('once@example.com');
  const set = await scim.patch(`/Users/${id}`, [{ op: 'add', path: 'externalId', value: 'oid-once' }]);
  expect(set.body.externalId).toBe('oid-once');
  expect(await localUser(id)).toMatchObject({ subject: 'oid-once' });
  const changed = await scim.patch(`/Users/${id}`, [{ op: 'replace', path: 'externalId', value: 'oid-other' }]);
  expect([changed.status, changed.body.scimType]).toEqual([400, 'mutability']);
  expect(await localUser(id)).toMatchObject({ subject: 'oid-once' });
});

test('a deleted user is gone for the directory, its keys with it, and the same person can be made anew', async () => {
  const { id } = await scim.createUser('gone@example.com', { externalId: 'oid-gone' });
  const expiresAt = new Date(Date.now() + 3_600_000).toISOString();
  const input = { principalId: id, name: 'k', scopes: ['MCP'], expiresAt };
  await plane.ask('mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { secret } }', { input });
  expect((await scim.delete(`/Users/${id}`)).status).toBe(204);
  expect((await scim.get(`/Users/${id}`)).status).toBe(404);
  expect((await scim.delete(`/Users/${id}`)).status).toBe(404);
  const keys = await sql`select revoked_at from api_keys where principal_id = ${id}`;
  expect(keys).toHaveLength(1);
  expect(keys[0]?.['revoked_at']).not.toBeNull();
  const again = await scim.createUser('gone@example.com', { externalId: 'oid-gone' });
  expect(again.id).not.toBe(id);
});

test('the only owner is not taken away: the directory is told why', async () => {
  const { id } = await scim.createUser('owner@example.com');
  await plane.ask('mutation ($id: ID!) { assignRole(input: { principalId: $id, role: OWNER }) { id } }', { id });
  await sql`delete from role_bindings where principal_id <> ${id}`;
  const answer = await scim.patch(`/Users/${id}`, [{ op: 'replace', path: 'active', value: false }]);
  expect([answer.status, answer.body.detail]).toEqual([400, 'input would leave the organization without an owner']);
  await sql`insert into role_bindings (id, principal_id, role) values (${crypto.randomUUID()}, ${plane.ownerId}, 'owner')`;
  expect((await scim.patch(`/Users/${id}`, [{ op: 'replace', path: 'active', value: false }])).status).toBe(200);
});

test('a change over a version that was read before another change is refused', async () => {
  const { id, meta } = await scim.createUser('etag@example.com');
  expect((await scim.get(`/Users/${id}`, { 'if-none-match': meta.version })).status).toBe(304);
  const first = await scim.patch(`/Users/${id}`, [{ op: 'add', path: 'title', value: 'A' }], {
    'if-match': meta.version,
  });
  expect(first.status).toBe(200);
  expect(first.headers.get('etag')).not.toBe(meta.version);
  const late = await scim.put(`/Users/${id}`, { schemas: [userSchema], userName: 'x' }, { 'if-match': meta.version });
  expect(late.status).toBe(412);
  expect((await scim.get(`/Users/${id}`)).body.userName).toBe('etag@example.com');
});

test('what a directory repeats changes nothing: no version, no audit event', async () => {
  const { id, meta } = await scim.createUser('same@example.com', { title: 'Same' });
  const events = async () => (await sql`select count(*)::int as n from audit_events where object_id = ${id}`)[0]?.['n'];
  const before = await events();
  const again = await scim.patch(`/Users/${id}`, [{ op: 'Replace', path: 'title', value: 'Same' }]);
  expect(again.body.meta.version).toBe(meta.version);
  expect(await events()).toBe(before);
});

test('each change is an audit event that names the directory and its token, and never the token itself', async () => {
  const { client, secret, tokenId } = await createDirectory(plane, 'audited');
  const { id } = await client.createUser('audited@example.com');
  await client.patch(`/Users/${id}`, [{ op: 'replace', path: 'active', value: false }]);
  await client.delete(`/Users/${id}`);
  const events = await sql`select action, principal_name, key_id, audit_events::text as text from audit_events
    where object_id = ${id} order by time, id`;
  expect(events.map((event) => event['action'])).toEqual(['user.create', 'user.update', 'user.delete']);
  for (const event of events) {
    expect(event['principal_name']).toBe('SCIM directory audited');
    expect(event['key_id']).toBe(tokenId);
    expect(event['text']).not.toContain(secret.slice(7));
  }
});

test.each([
  ['no userName', { schemas: [userSchema] }, 'invalidValue'],
  ['a blank userName', { schemas: [userSchema], userName: ' ' }, 'invalidValue'],
  ['another schema', { schemas: ['urn:x'], userName: 'a' }, 'invalidSyntax'],
  ['no boolean', { schemas: [userSchema], userName: 'a', active: 'perhaps' }, 'invalidValue'],
  ['a list', [1], 'invalidSyntax'],
  ['text that cannot be stored', { schemas: [userSchema], userName: 'a\u0000' }, 'invalidValue'],
  ['no JSON', '{', 'invalidSyntax'],
  ['a name of the language', '{"userName":"a","__proto__":{"active":true}}', 'invalidSyntax'],
  ['attributes without end', { schemas: [userSchema], userName: 'a', title: 'x'.repeat(40_000) }, 'invalidValue'],
])('a body with %s is refused in the words of SCIM', async (_what, body, scimType) => {
  const answer = await scim.post('/Users', body);
  expect([answer.status, answer.body.scimType]).toEqual([400, scimType]);
  expect(answer.body.schemas).toEqual(['urn:ietf:params:scim:api:messages:2.0:Error']);
});

test.each([
  ['an unknown op', { op: 'move', path: 'title', value: 1 }, 'invalidSyntax'],
  ['a remove without a path', { op: 'remove' }, 'noTarget'],
  ['a read-only attribute', { op: 'replace', path: 'id', value: 'x' }, 'mutability'],
  ['a path into the language', { op: 'add', path: '__proto__.polluted', value: true }, 'invalidPath'],
  ['a path that cannot be read', { op: 'replace', path: 'emails[type eq', value: 'x' }, 'invalidSyntax'],
  ['a path that does not fit', { op: 'replace', path: 'userName.first.second', value: 'x' }, 'invalidPath'],
])('a patch with %s changes nothing', async (what, operation, scimType) => {
  const { id, meta } = await scim.createUser(`patch ${what}`);
  const answer = await scim.patch(`/Users/${id}`, [{ op: 'add', path: 'title', value: 'half' }, operation]);
  expect([answer.status, answer.body.scimType]).toEqual([400, scimType]);
  expect((await scim.get(`/Users/${id}`)).body).toMatchObject({ meta: { version: meta.version } });
  expect(({} as Record<string, unknown>)['polluted']).toBeUndefined();
});
