/** Owner, auditor and what has their permissions: given, and owner taken away, by two people where there are two owners. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { issueOperatorKey } from '@sallyport/control-plane';
import postgres from 'postgres';
import { afterEach, beforeEach, expect, test } from 'vitest';
import {
  type GraphqlAnswer,
  startTestControlPlane,
  type TestControlPlane,
  testSecretKey,
} from '../kit/control-plane.ts';

let aheadMs = 0;
const clock = { now: () => Date.now() + aheadMs, monotonic: () => performance.now() };
const hourMs = 3_600_000;
const inDays = (days: number): string => new Date(clock.now() + days * 24 * hourMs).toISOString();

interface Person {
  readonly id: string;
  /** One that the first owner made for him. */
  readonly givenKey: string;
  /** One that no user has seen but himself. */
  readonly key: string;
}

let plane: TestControlPlane;
let sql: postgres.Sql;
let second: Person;
beforeEach(async () => {
  aheadMs = 0;
  plane = await startTestControlPlane({ clock });
  sql = postgres(plane.databaseUrl);
  second = await person('second owner');
  const { errors } = await assign({ principalId: second.id, role: 'OWNER' });
  if (errors.length > 0) throw new Error(`no second owner: ${JSON.stringify(errors)}`);
});
afterEach(async () => {
  await sql.end();
  await plane.stop();
});

function run(name: string, type: string, input: object, key?: string, fields = 'id'): Promise<GraphqlAnswer> {
  return plane.ask(`mutation ($input: ${type}!) { done: ${name}(input: $input) { ${fields} } }`, { input }, key);
}
async function done(name: string, type: string, input: object, key?: string): Promise<string> {
  const answer = await run(name, type, input, key);
  expect(answer.errors).toEqual([]);
  return answer.data.done.id;
}
const codeOf = (answer: GraphqlAnswer): string | undefined => answer.errors[0]?.extensions.code;
const messageOf = (answer: GraphqlAnswer): string | undefined =>
  answer.errors[0]?.extensions.violations?.[0]?.message ?? answer.errors[0]?.message;

async function keyOf(principalId: string, by?: string): Promise<string> {
  const input = { principalId, name: 'test', scopes: ['API'], expiresAt: inDays(30) };
  const answer = await run('createApiKey', 'CreateApiKeyInput', input, by, 'secret');
  expect(answer.errors).toEqual([]);
  return answer.data.done.secret;
}
const operatorKey = (principalId: string): Promise<string> =>
  issueOperatorKey(plane.databaseUrl, { principalId, name: 'from an operator', lifetimeMs: 30 * 24 * hourMs });
async function person(name: string): Promise<Person> {
  const id = await done('createUser', 'CreateUserInput', { name });
  return { id, givenKey: await keyOf(id), key: await operatorKey(id) };
}
const assign = (input: object, key?: string): Promise<GraphqlAnswer> => run('assignRole', 'RoleInput', input, key);
const remove = (input: object, key?: string): Promise<GraphqlAnswer> => run('removeRole', 'RoleInput', input, key);
const propose = (input: object, key?: string): Promise<GraphqlAnswer> =>
  run('proposeRole', 'ProposeRoleInput', input, key);
const proposed = (input: object, key?: string): Promise<string> => done('proposeRole', 'ProposeRoleInput', input, key);
const confirm = (id: string, key?: string): Promise<GraphqlAnswer> =>
  run('confirmRole', 'RoleProposalInput', { id }, key);
const updateUser = (input: object, key?: string): Promise<GraphqlAnswer> =>
  run('updateUser', 'UpdateUserInput', input, key);
const updateAccount = (input: object, key?: string): Promise<GraphqlAnswer> =>
  run('updateServiceAccount', 'UpdateServiceAccountInput', input, key);
const role = (name: string, permissions: readonly string[]): Promise<string> =>
  done('createRole', 'CreateRoleInput', { name, permissions });
const ownerCount = async (): Promise<number> =>
  Number((await sql`select count(*) from role_bindings where role = 'owner'`)[0]?.['count']);

test('one owner does not take away another: not his role, not him, not his account, not by its expiry or its owner', async () => {
  const account = { name: 'bot of the second', ownerId: second.id, expiresAt: inDays(30) };
  const bot = await done('createServiceAccount', 'CreateServiceAccountInput', account);
  await sql`insert into role_bindings (id, principal_id, role) values (${crypto.randomUUID()}, ${bot}, 'owner')`;
  const third = await person('bystander');
  const attempts = [
    remove({ principalId: second.id, role: 'OWNER' }),
    remove({ principalId: bot, role: 'OWNER' }),
    updateUser({ id: second.id, status: 'DISABLED' }),
    updateAccount({ id: bot, status: 'DISABLED' }),
    updateAccount({ id: bot, expiresAt: new Date(clock.now() + 60_000) }),
    updateAccount({ id: bot, ownerId: plane.userId }),
    updateAccount({ id: bot, ownerId: third.id }),
  ];
  for (const answer of await Promise.all(attempts)) {
    expect(codeOf(answer)).toBe('FORBIDDEN');
    expect(messageOf(answer)).toContain('proposeRole');
  }
  for (const id of [bot]) {
    expect(codeOf(await run('deleteServiceAccount', 'DeleteServiceAccountInput', { id }))).toBe('FORBIDDEN');
  }
  expect(await ownerCount()).toBe(3);
  // What ends nobody is as it was.
  expect((await updateUser({ id: second.id, description: 'Second' })).errors).toEqual([]);
  expect((await updateAccount({ id: bot, ownerId: second.id.toUpperCase() })).errors).toEqual([]);
});

test('two people take an owner away, and who is left does not act alone before others had time to notice', async () => {
  const third = await person('third owner');
  expect(codeOf(await assign({ principalId: third.id, role: 'OWNER' }))).toBe('FORBIDDEN');
  const giving = await proposed({ principalId: third.id, role: 'OWNER' });
  expect((await confirm(giving, second.key)).errors).toEqual([]);
  const taking = { principalId: third.id, role: 'OWNER', change: 'TAKE' };
  const id = await proposed(taking);
  expect(codeOf(await propose(taking))).toBe('CONFLICT');
  expect(codeOf(await confirm(id))).toBe('FORBIDDEN');
  expect((await confirm(id, second.key)).errors).toEqual([]);
  // Whom it is about may be the second person: he agrees.
  const agreed = await proposed({ principalId: second.id, role: 'OWNER', change: 'TAKE' });
  expect((await confirm(agreed, second.key)).errors).toEqual([]);
  expect(await ownerCount()).toBe(1);
  const candidate = await person('candidate');
  for (const given of ['OWNER', 'AUDITOR']) {
    expect(codeOf(await assign({ principalId: candidate.id, role: given }))).toBe('FORBIDDEN');
  }
  aheadMs = 71 * hourMs;
  expect(codeOf(await assign({ principalId: candidate.id, role: 'AUDITOR' }))).toBe('FORBIDDEN');
  aheadMs = 73 * hourMs;
  expect((await assign({ principalId: candidate.id, role: 'AUDITOR' })).errors).toEqual([]);
});

test('an owner steps down alone by a key that only he knows, and by no other', async () => {
  const own = { principalId: second.id, role: 'OWNER' };
  expect(codeOf(await remove(own, second.givenKey))).toBe('FORBIDDEN');
  expect(codeOf(await remove(own, await keyOf(second.id, second.givenKey)))).toBe('FORBIDDEN');
  expect((await remove(own, await keyOf(second.id, second.key))).errors).toEqual([]);
  expect(await ownerCount()).toBe(1);
});

test('an owner whom his directory deactivates is gone at once, and still counts for a while', async () => {
  const made = await run(
    'createScimDirectory',
    'CreateScimDirectoryInput',
    { name: 'corp', issuer: 'https://idp.example' },
    undefined,
    'id',
  );
  const input = { directoryId: made.data.done.id, name: 'token', expiresAt: inDays(10) };
  const token = (await run('createScimToken', 'CreateScimTokenInput', input, undefined, 'secret')).data.done.secret;
  const scim = (method: string, path: string, body: object): Promise<Response> =>
    fetch(plane.graphqlUrl.replace(/graphql$/, `scim/v2${path}`), {
      method,
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/scim+json' },
      body: JSON.stringify(body),
    });
  const user = { schemas: ['urn:ietf:params:scim:schemas:core:2.0:User'], userName: 'ada', active: true };
  const { id } = (await (await scim('POST', '/Users', user)).json()) as { id: string };
  const giving = await proposed({ principalId: id, role: 'OWNER' });
  expect((await confirm(giving, second.key)).errors).toEqual([]);
  expect((await remove({ principalId: second.id, role: 'OWNER' }, second.key)).errors).toEqual([]);
  aheadMs = 73 * hourMs;
  const key = await operatorKey(id);
  expect((await plane.ask('{ me { id } }', {}, key)).status).toBe(200);
  const schemas = ['urn:ietf:params:scim:api:messages:2.0:PatchOp'];
  const off = { schemas, Operations: [{ op: 'replace', path: 'active', value: false }] };
  expect((await scim('PATCH', `/Users/${id}`, off)).status).toBe(200);
  expect((await plane.ask('{ me { id } }', {}, key)).status).toBe(401);
  const candidate = await person('candidate');
  expect(codeOf(await assign({ principalId: candidate.id, role: 'AUDITOR' }))).toBe('FORBIDDEN');
  await sql`update principals set updated_at = ${new Date(clock.now() - 73 * hourMs)} where id = ${id}`;
  expect((await assign({ principalId: candidate.id, role: 'AUDITOR' })).errors).toEqual([]);
});

test('an owner whose account expires still counts for a while', async () => {
  const account = { name: 'short', ownerId: second.id, expiresAt: inDays(10) };
  const bot = await done('createServiceAccount', 'CreateServiceAccountInput', account);
  await sql`update role_bindings set principal_id = ${bot} where principal_id = ${second.id}`;
  const candidate = await person('candidate');
  aheadMs = 11 * 24 * hourMs;
  expect(codeOf(await assign({ principalId: candidate.id, role: 'AUDITOR' }))).toBe('FORBIDDEN');
  aheadMs = 14 * 24 * hourMs;
  expect((await assign({ principalId: candidate.id, role: 'AUDITOR' })).errors).toEqual([]);
});

test('a key stays known to who gave it, whatever was made by means of it, and whoever answers for its account', async () => {
  const candidate = await person('candidate');
  const wanted = { principalId: candidate.id, role: 'AUDITOR' };
  const id = await proposed(wanted);
  let key = second.givenKey;
  for (let step = 0; step < 3; step += 1) {
    expect([step, codeOf(await confirm(id, key))]).toEqual([step, 'FORBIDDEN']);
    key = await keyOf(second.id, key);
  }
  const rotated = await plane.ask('{ apiKeys(first: 50) { edges { node { id } } } }', {}, key);
  expect(rotated.errors).toEqual([]);
  // An account of the first owner, with his key, that the second answers for now.
  const account = { name: 'handed over', ownerId: plane.userId, expiresAt: inDays(30) };
  const bot = await done('createServiceAccount', 'CreateServiceAccountInput', account);
  const botKey = await operatorKey(bot);
  await sql`insert into role_bindings (id, principal_id, role) values (${crypto.randomUUID()}, ${bot}, 'owner')`;
  expect((await updateAccount({ id: bot, ownerId: second.id })).errors).toEqual([]);
  expect(codeOf(await confirm(id, botKey))).toBe('FORBIDDEN');
  expect((await confirm(id, await keyOf(second.id, second.key))).errors).toEqual([]);
});

test('a role of ones own with what only auditors read is given by two people, to no group, and not by widening one', async () => {
  const candidate = await person('candidate');
  const auditing = await role('reads the trail', ['audit:read', 'user:read']);
  expect(codeOf(await assign({ principalId: candidate.id, roleId: auditing }))).toBe('FORBIDDEN');
  const id = await proposed({ principalId: candidate.id, roleId: auditing });
  expect(codeOf(await confirm(id))).toBe('FORBIDDEN');
  expect((await confirm(id, second.key)).errors).toEqual([]);
  const me = await plane.ask('{ me { permissions } }', {}, candidate.key);
  expect(me.data.me.permissions).toEqual(['audit:read', 'user:read']);

  const plain = await role('reads users', ['user:read']);
  const reader = await person('reader');
  expect(messageOf(await propose({ principalId: reader.id, roleId: plain }))).toContain('assignRole');
  expect((await assign({ principalId: reader.id, roleId: plain })).errors).toEqual([]);
  const widened = await run('updateRole', 'UpdateRoleInput', { id: plain, permissions: ['user:read', 'audit:read'] });
  expect([codeOf(widened), messageOf(widened)]).toEqual(['FORBIDDEN', expect.stringContaining('proposeRole')]);

  const groupId = await done('createGroup', 'CreateGroupInput', { name: 'auditors' });
  expect(messageOf(await assign({ groupId, roleId: auditing }))).toContain('not to groups');
  // One that was bound to a group by an older release gives nothing of it.
  await sql`insert into role_bindings (id, group_id, role_id) values (${crypto.randomUUID()}, ${groupId}, ${auditing})`;
  await done('addGroupMembers', 'GroupMembersInput', { id: groupId, principalIds: [reader.id] });
  expect((await plane.ask('{ me { permissions } }', {}, reader.key)).data.me.permissions).toEqual(['user:read']);
  expect((await remove({ groupId, roleId: auditing })).errors).toEqual([]);
});

test('whoever operates the database makes a key that goes back to nobody, and the trail tells of it', async () => {
  const main = fileURLToPath(new URL('../../cli/src/main.ts', import.meta.url));
  const environment = { DATABASE_URL: plane.databaseUrl, SALLYPORT_SECRET_KEY: testSecretKey };
  const admin = (...options: string[]) =>
    promisify(execFile)(process.execPath, [main, 'admin', 'issue-key', ...options], { env: environment });
  const { stdout } = await admin('--principal', second.id, '--days', '2');
  expect((await plane.ask('{ me { id } }', {}, stdout.trim())).data.me.id).toBe(second.id);
  const [event] = await sql`select principal_kind, principal_name from audit_events
    where action = 'apiKey.create' order by time desc, id desc limit 1`;
  expect(event).toEqual({ principal_kind: 'system', principal_name: 'operator' });
  await expect(admin()).rejects.toMatchObject({ code: 2, stderr: expect.stringContaining('--principal') });
  await expect(admin('--principal', crypto.randomUUID())).rejects.toMatchObject({ code: 1 });
});

test('what is confirmed is the role as it was proposed', async () => {
  const candidate = await person('candidate');
  const roleId = await role('small', ['audit:read']);
  const id = await proposed({ principalId: candidate.id, roleId });
  await done('updateRole', 'UpdateRoleInput', {
    id: roleId,
    permissions: ['audit:read', 'apiKey:read', 'apiKey:write'],
  });
  expect(messageOf(await confirm(id, second.key))).toContain('changed since');
  expect((await plane.ask('{ me { permissions } }', {}, candidate.key)).data.me.permissions).toEqual([]);
});
