import { issueOperatorKey } from '@sallyport/control-plane';
import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type GraphqlAnswer, startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';

let aheadMs = 0;
const clock = { now: () => Date.now() + aheadMs, monotonic: () => performance.now() };
const dayMs = 86_400_000;
const inDays = (days: number): string => new Date(clock.now() + days * dayMs).toISOString();

let plane: TestControlPlane;
let sql: postgres.Sql;

beforeAll(async () => {
  plane = await startTestControlPlane({ clock });
  sql = postgres(plane.databaseUrl);
});
afterAll(async () => {
  await sql.end();
  await plane.stop();
});

interface Person {
  readonly id: string;
  readonly key: string;
}

async function run(
  name: string,
  inputType: string,
  input: object,
  key?: string,
  fields = 'id',
): Promise<GraphqlAnswer> {
  return plane.ask(`mutation ($input: ${inputType}!) { done: ${name}(input: $input) { ${fields} } }`, { input }, key);
}
async function done(name: string, inputType: string, input: object, key?: string): Promise<string> {
  const answer = await run(name, inputType, input, key);
  expect(answer.errors).toEqual([]);
  return answer.data.done.id;
}
const codeOf = (answer: GraphqlAnswer): string | undefined => answer.errors[0]?.extensions.code;

async function keyOf(principalId: string, by?: string): Promise<string> {
  const input = { principalId, name: 'test', scopes: ['API'], expiresAt: inDays(1) };
  const answer = await run('createApiKey', 'CreateApiKeyInput', input, by, 'secret');
  expect(answer.errors).toEqual([]);
  return answer.data.done.secret;
}
/** One that no other user has seen. */
const operatorKey = (principalId: string): Promise<string> =>
  issueOperatorKey(plane.databaseUrl, { principalId, name: 'own', lifetimeMs: dayMs });
async function person(name: string): Promise<Person> {
  const id = await done('createUser', 'CreateUserInput', { name });
  return { id, key: await keyOf(id) };
}
const role = (name: string, permissions: readonly string[], key?: string): Promise<string> =>
  done('createRole', 'CreateRoleInput', { name, permissions }, key);
const assign = (input: object, key?: string): Promise<GraphqlAnswer> => run('assignRole', 'RoleInput', input, key);
const group = (name: string): Promise<string> => done('createGroup', 'CreateGroupInput', { name });
const join = (id: string, principalId: string, key?: string): Promise<GraphqlAnswer> =>
  run('addGroupMembers', 'GroupMembersInput', { id, principalIds: [principalId] }, key);
async function mayDo(key: string): Promise<string[]> {
  return (await plane.ask('{ me { permissions } }', {}, key)).data.me.permissions;
}

let serverNumber = 0;
async function server(labels: Record<string, string>, ownerGroupId: string | null = null): Promise<string> {
  serverNumber += 1;
  const id = `01890000-0000-7000-8000-${String(serverNumber).padStart(12, '0')}`;
  const slug = `server-${serverNumber}`;
  await sql`insert into servers (id, slug, slug_key, title, url, labels, owner_group_id, discovery_attempted_at)
    values (${id}, ${slug}, ${slug}, ${slug}, 'https://mcp.example.org/mcp', ${sql.json(labels)}, ${ownerGroupId}, now())`;
  return id;
}
const seen = async (key: string): Promise<string[]> => {
  const answer = await plane.ask('{ servers(first: 200) { edges { node { id } } } }', {}, key);
  return answer.data.servers.edges.map((edge: { node: { id: string } }) => edge.node.id);
};
const retitle = (id: string, key: string, more: object = {}): Promise<GraphqlAnswer> =>
  run('updateServer', 'UpdateServerInput', { id, title: 'New', ...more }, key);

describe('custom roles', () => {
  test('a custom role gives its permissions, changed ones at once, to a principal and through a group', async () => {
    const id = await role('grant reader', ['grant:read', 'user:read']);
    const direct = await person('direct');
    const member = await person('member');
    const keepers = await group('keepers');
    expect((await assign({ principalId: direct.id, roleId: id })).errors).toEqual([]);
    expect((await assign({ groupId: keepers, roleId: id })).errors).toEqual([]);
    expect((await join(keepers, member.id)).errors).toEqual([]);
    for (const { key } of [direct, member]) expect(await mayDo(key)).toEqual(['grant:read', 'user:read']);
    await done('updateRole', 'UpdateRoleInput', { id, permissions: ['user:read'] });
    for (const { key } of [direct, member]) expect(await mayDo(key)).toEqual(['user:read']);
    await done('removeGroupMembers', 'GroupMembersInput', { id: keepers, principalIds: [member.id] });
    expect(await mayDo(member.key)).toEqual([]);
    const held = await run('deleteRole', 'DeleteRoleInput', { id });
    expect(held.errors[0]?.extensions.violations?.[0]?.message).toContain('removeRole');
  });

  test('built-in roles are read-only, and all that is wrong with a custom one is told at once', async () => {
    expect(codeOf(await run('updateRole', 'UpdateRoleInput', { id: 'admin', permissions: ['user:read'] }))).toBe(
      'INVALID_INPUT',
    );
    const bad = { name: 'Admin', permissions: ['role:assign', 'server:fly', 'user:read', 'user:read'] };
    const answer = await run('createRole', 'CreateRoleInput', bad);
    expect(answer.errors[0]?.extensions.violations?.map(({ path }) => path)).toEqual([
      'input.permissions[0]',
      'input.permissions[1]',
      'input.permissions[3]',
    ]);
    expect(codeOf(await run('createRole', 'CreateRoleInput', { name: 'Admin', permissions: ['user:read'] }))).toBe(
      'INVALID_INPUT',
    );
  });

  test('a dry run of a role and of a binding changes nothing', async () => {
    const count = async (): Promise<unknown> =>
      (
        await sql`select (select count(*) from roles) as roles, (select count(*) from role_bindings) as bindings,
        (select count(*) from audit_events) as events`
      )[0];
    const someone = await person('tried');
    const before = await count();
    const tried = { name: 'tried', permissions: ['user:read'], dryRun: true };
    expect((await run('createRole', 'CreateRoleInput', tried)).errors).toEqual([]);
    expect((await assign({ principalId: someone.id, role: 'VIEWER', dryRun: true })).errors).toEqual([]);
    expect(await count()).toEqual(before);
  });
});

describe('nobody can raise himself', () => {
  test('directly, by a role with permissions he lacks, or as a member of the group that gets it', async () => {
    expect(codeOf(await assign({ principalId: plane.ownerId, role: 'ADMIN' }))).toBe('FORBIDDEN');
    expect(codeOf(await assign({ principalId: plane.ownerId.toUpperCase(), role: 'ADMIN' }))).toBe('FORBIDDEN');
    const own = await group('of the owner');
    expect((await join(own, plane.ownerId)).errors).toEqual([]);
    expect(codeOf(await assign({ groupId: own, role: 'ADMIN' }))).toBe('FORBIDDEN');
    const admin = await person('an admin');
    await assign({ principalId: admin.id, role: 'ADMIN' });
    for (const [name, type, input] of [
      ['createRole', 'CreateRoleInput', { name: 'mine', permissions: ['user:read'] }],
      ['assignRole', 'RoleInput', { principalId: admin.id, role: 'OWNER' }],
    ] as const) {
      expect(codeOf(await run(name, type, input, admin.key))).toBe('FORBIDDEN');
    }
  });

  test('by joining a group that gives more than he has, or that owns servers, or has grants', async () => {
    const clerk = await role('clerk', ['group:read', 'group:write', 'user:read']);
    const someone = await person('clerk');
    await assign({ principalId: someone.id, roleId: clerk });
    const strong = await group('strong');
    await assign({ groupId: strong, role: 'ADMIN' });
    const owning = await group('owning');
    await server({}, owning);
    const other = await person('a friend');
    for (const id of [strong, owning]) {
      expect(codeOf(await join(id, someone.id, someone.key))).toBe('FORBIDDEN');
      expect(codeOf(await join(id, other.id, someone.key))).toBe('FORBIDDEN');
    }
    const plain = await group('plain');
    expect((await join(plain, other.id, someone.key)).errors).toEqual([]);
    expect(codeOf(await join(plain, someone.id, someone.key))).toBe('FORBIDDEN');
    const remove = { id: strong, principalIds: [other.id] };
    expect(codeOf(await run('removeGroupMembers', 'GroupMembersInput', remove, someone.key))).toBe('FORBIDDEN');
    expect(codeOf(await run('deleteGroup', 'DeleteGroupInput', { id: strong }, someone.key))).toBe('FORBIDDEN');
  });

  test('by a key or the account of a stronger principal, or by widening a role he holds', async () => {
    const keys = await role('keys', ['apiKey:read', 'apiKey:write', 'serviceAccount:read', 'serviceAccount:write']);
    const someone = await person('key maker');
    await assign({ principalId: someone.id, roleId: keys });
    const strong = await person('strong');
    await assign({ principalId: strong.id, role: 'EDITOR' });
    const input = { principalId: strong.id, name: 'x', scopes: ['API'], expiresAt: inDays(1) };
    expect(codeOf(await run('createApiKey', 'CreateApiKeyInput', input, someone.key, 'secret'))).toBe('FORBIDDEN');
    const take = { id: plane.ownerId, ownerId: someone.id };
    expect(codeOf(await run('updateServiceAccount', 'UpdateServiceAccountInput', take, someone.key))).toBe('FORBIDDEN');
    const byGroup = await group('by group');
    await assign({ groupId: byGroup, role: 'EDITOR' });
    const viaGroup = await person('strong by group');
    await join(byGroup, viaGroup.id);
    const second = { ...input, principalId: viaGroup.id };
    expect(codeOf(await run('createApiKey', 'CreateApiKeyInput', second, someone.key, 'secret'))).toBe('FORBIDDEN');
    const held = await role('held by the owner', ['user:read']);
    await sql`insert into role_bindings (id, principal_id, role_id)
      values ('01890000-0000-7000-8000-00000000aaaa', ${plane.ownerId}, ${held})`;
    const widen = { id: held, permissions: ['user:read', 'user:write'] };
    expect(codeOf(await run('updateRole', 'UpdateRoleInput', widen))).toBe('FORBIDDEN');
  });

  test('by the user who answers for an owner: whoever may not touch the account may not end it through him', async () => {
    const admin = await person('another admin');
    await assign({ principalId: admin.id, role: 'ADMIN' });
    const input = { id: plane.userId, status: 'DISABLED' };
    expect(codeOf(await run('updateUser', 'UpdateUserInput', input, admin.key))).toBe('FORBIDDEN');
    const last = await run('updateUser', 'UpdateUserInput', input);
    expect(last.errors[0]?.extensions.violations?.[0]?.message).toContain('without an owner');
  });
});

describe('roles limited to servers', () => {
  test('an editor of a label writes those servers, sees no others, and may nothing else', async () => {
    const editor = await person('editor of payments');
    const labels = [{ key: 'team', value: 'payments' }];
    expect((await assign({ principalId: editor.id, role: 'EDITOR', serverLabels: labels })).errors).toEqual([]);
    const mine = await server({ team: 'payments', tier: 'one' });
    const other = await server({ team: 'crm' });
    expect(await seen(editor.key)).toEqual([mine]);
    expect((await retitle(mine, editor.key)).errors).toEqual([]);
    const hidden = await retitle(other, editor.key);
    expect(hidden).toEqual(await retitle('01890000-0000-7000-8000-0000000fffff', editor.key));
    expect(codeOf(hidden)).toBe('NOT_FOUND');
    const query = 'query ($id: ID!) { server(id: $id) { id } definitions(serverId: $id) { edges { node { id } } } }';
    expect(codeOf(await plane.ask(query, { id: other }, editor.key))).toBe('NOT_FOUND');
    expect(codeOf(await plane.ask('{ users { edges { node { id } } } }', {}, editor.key))).toBe('FORBIDDEN');
    const approve = await run('approveServer', 'ServerInput', { id: mine }, editor.key);
    expect(codeOf(approve)).toBe('NOT_FOUND');
    const away = await retitle(mine, editor.key, { labels: [{ key: 'team', value: 'crm' }] });
    expect(away.errors[0]?.extensions.violations?.[0]?.message).toContain('team=payments');
    const create = { slug: 'made-by-editor', url: 'https://mcp.example.org/mcp', dryRun: true };
    expect(codeOf(await run('createServer', 'CreateServerInput', create, editor.key))).toBe('INVALID_INPUT');
    expect((await run('createServer', 'CreateServerInput', { ...create, labels }, editor.key)).errors).toEqual([]);
    const me = await plane.ask(
      '{ me { permissions limitedPermissions { permissions serverLabels { key value } } } }',
      {},
      editor.key,
    );
    expect(me.data.me.permissions).toEqual([]);
    expect(me.data.me.limitedPermissions).toEqual([
      { permissions: ['server:read', 'server:writeOwn'], serverLabels: labels },
    ]);
  });

  test('an editor writes the servers of his groups, and reads all', async () => {
    const editor = await person('editor');
    await assign({ principalId: editor.id, role: 'EDITOR' });
    const team = await group('the team of the editor');
    await join(team, editor.id);
    const mine = await server({}, team);
    const other = await server({}, null);
    expect(await seen(editor.key)).toEqual(expect.arrayContaining([mine, other]));
    expect((await retitle(mine, editor.key)).errors).toEqual([]);
    expect(codeOf(await retitle(other, editor.key))).toBe('FORBIDDEN');
    expect(codeOf(await retitle(mine, editor.key, { ownerGroupId: null }))).toBe('INVALID_INPUT');
    expect(
      (await run('deleteGroup', 'DeleteGroupInput', { id: team })).errors[0]?.extensions.violations?.[0]?.message,
    ).toContain('1 server');
    await run('removeGroupMembers', 'GroupMembersInput', { id: team, principalIds: [editor.id] });
    expect(codeOf(await retitle(mine, editor.key))).toBe('FORBIDDEN');
  });

  test('nobody brings a server into service, or keeps it there, by way of labels with which he may approve it', async () => {
    const editor = await person('approves sandboxes');
    await assign({ principalId: editor.id, role: 'EDITOR' });
    const roleId = await role('approves', ['server:approve']);
    const sandbox = [{ key: 'env', value: 'sandbox' }];
    expect((await assign({ principalId: editor.id, roleId, serverLabels: sandbox })).errors).toEqual([]);
    const team = await group('the team of the sandbox');
    await join(team, editor.id);
    const id = await server({ env: 'sandbox' }, team);
    await sql`update servers set lifecycle = 'approved', protocol_revisions = '{2025-11-25}' where id = ${id}`;
    const more = [...sandbox, { key: 'tier', value: 'one' }];
    expect((await retitle(id, editor.key, { labels: more })).errors).toEqual([]);
    const production = [{ key: 'env', value: 'production' }];
    expect(codeOf(await retitle(id, editor.key, { labels: production }))).toBe('FORBIDDEN');
    // Nor what is to be approved by itself once somebody else brings it into service.
    const draft = await server({ env: 'sandbox' }, team);
    expect((await retitle(draft, editor.key, { autoApproval: 'REVIEW' })).errors).toEqual([]);
    expect(codeOf(await retitle(draft, editor.key, { labels: production }))).toBe('FORBIDDEN');
    expect((await retitle(draft, editor.key, { autoApproval: 'NONE' })).errors).toEqual([]);
    expect((await retitle(draft, editor.key, { labels: production })).errors).toEqual([]);
    const both = { labels: sandbox, autoApproval: 'REVIEW' };
    expect(codeOf(await retitle(draft, editor.key, both))).toBe('FORBIDDEN');
  });

  test('a role that gives nothing any more within its labels can be taken away', async () => {
    const someone = await person('holds what is no more');
    const roleId = await role('emptied', ['server:read']);
    const binding = { principalId: someone.id, roleId, serverLabels: [{ key: 'team', value: 'emptied' }] };
    expect((await assign(binding)).errors).toEqual([]);
    await run('updateRole', 'UpdateRoleInput', { id: roleId, permissions: ['node:read'] });
    expect(codeOf(await assign(binding))).toBe('INVALID_INPUT');
    expect((await run('removeRole', 'RoleInput', binding)).errors).toEqual([]);
  });

  test('labels of a server in service are changed by those who may approve it', async () => {
    const editor = await person('an editor by label');
    const labels = [{ key: 'team', value: 'served' }];
    await assign({ principalId: editor.id, role: 'EDITOR', serverLabels: labels });
    const id = await server({ team: 'served' });
    await sql`update servers set lifecycle = 'approved', protocol_revisions = '{2025-11-25}' where id = ${id}`;
    const more = { labels: [...labels, { key: 'tier', value: 'one' }] };
    expect(codeOf(await retitle(id, editor.key, more))).toBe('FORBIDDEN');
    expect((await retitle(id, plane.ownerKey, more)).errors).toEqual([]);
  });

  test('what is on record of a server in service, and how long it does without the control plane, is loosened by those who may approve it', async () => {
    const editor = await person('an editor of a strict server');
    await assign({ principalId: editor.id, role: 'EDITOR', serverLabels: [{ key: 'team', value: 'strict' }] });
    const id = await server({ team: 'strict' });
    await sql`update servers set lifecycle = 'approved', protocol_revisions = '{2025-11-25}', audit_mode = 'strict',
      config_staleness_max_ms = 10000 where id = ${id}`;
    const loosened = [{ auditMode: 'BUFFERED' }, { configStalenessMaxMs: 10_001 }, { configStalenessMaxMs: null }];
    for (const change of loosened) expect(codeOf(await retitle(id, editor.key, change))).toBe('FORBIDDEN');
    expect((await retitle(id, editor.key, { configStalenessMaxMs: 9_999 })).errors).toEqual([]);
    for (const change of loosened) expect((await retitle(id, plane.ownerKey, change)).errors).toEqual([]);
    await sql`update servers set lifecycle = 'disabled' where id = ${id}`;
    const redraft = { id };
    expect(codeOf(await run('returnServerToDraft', 'ServerInput', redraft, editor.key))).toBe('FORBIDDEN');
    expect(codeOf(await run('deleteServer', 'ServerInput', redraft, editor.key))).toBe('FORBIDDEN');
  });

  test('a role without permissions about servers cannot be limited to some, nor owner and auditor at all', async () => {
    const someone = await person('limited');
    const serverLabels = [{ key: 'team', value: 'a' }];
    for (const given of ['MEMBER', 'OWNER', 'AUDITOR']) {
      const answer = await assign({ principalId: someone.id, role: given, serverLabels });
      expect(codeOf(answer)).toBe('INVALID_INPUT');
    }
    const some = await group('no auditors');
    expect(codeOf(await assign({ groupId: some, role: 'AUDITOR' }))).toBe('INVALID_INPUT');
  });
});

test('an account acts only while the user who answers for it may act', async () => {
  const user = await person('responsible');
  const account = { name: 'bot', ownerId: user.id, expiresAt: inDays(1) };
  const id = await done('createServiceAccount', 'CreateServiceAccountInput', account);
  const key = await keyOf(id);
  expect((await plane.ask('{ me { id } }', {}, key)).status).toBe(200);
  await done('updateUser', 'UpdateUserInput', { id: user.id, status: 'DISABLED' });
  expect((await plane.ask('{ me { id } }', {}, key)).status).toBe(401);
  await done('updateUser', 'UpdateUserInput', { id: user.id, status: 'ACTIVE' });
  expect((await plane.ask('{ me { id } }', {}, key)).status).toBe(200);
});

describe('owner and auditor', () => {
  const propose = (principalId: string, key?: string, more: object = {}): Promise<GraphqlAnswer> =>
    run('proposeRole', 'ProposeRoleInput', { principalId, role: 'AUDITOR', ...more }, key);
  const confirm = (id: string, key?: string): Promise<GraphqlAnswer> =>
    run('confirmRole', 'RoleProposalInput', { id }, key);

  test('are given by two people as soon as there is more than one owner, by neither to himself', async () => {
    const second = await person('second owner');
    expect((await assign({ principalId: second.id, role: 'OWNER' })).errors).toEqual([]);
    const candidate = await person('candidate');
    const alone = await assign({ principalId: candidate.id, role: 'AUDITOR' });
    expect(alone.errors[0]).toMatchObject({ extensions: { code: 'FORBIDDEN' } });
    expect(alone.errors[0]?.message).toContain('proposeRole');
    const proposed = await propose(candidate.id);
    expect(proposed.errors).toEqual([]);
    const { id } = proposed.data.done;
    expect(codeOf(await propose(candidate.id))).toBe('CONFLICT');
    expect(codeOf(await confirm(id))).toBe('FORBIDDEN');
    // The first owner made the key of the second, so it may be him who uses it.
    expect(codeOf(await confirm(id, second.key))).toBe('FORBIDDEN');
    // Nor is it another for being made by means of that one.
    expect(codeOf(await confirm(id, await keyOf(second.id, second.key)))).toBe('FORBIDDEN');
    const ownKey = await operatorKey(second.id);
    expect(codeOf(await propose(second.id, ownKey))).toBe('FORBIDDEN');
    expect(codeOf(await propose(plane.userId))).toBe('FORBIDDEN');
    expect(await mayDo(candidate.key)).toEqual([]);
    expect((await confirm(id, ownKey)).errors).toEqual([]);
    expect(await mayDo(candidate.key)).toContain('audit:read');
    const again = await confirm(id, ownKey);
    expect(again.errors[0]?.extensions.violations?.[0]?.message).toContain('confirmed');
    const events = await sql`select action, principal_id from audit_events
      where action like 'role.%' and object_id in (${id}, ${candidate.id}) order by id`;
    expect(events.map((event) => [event['action'], event['principal_id']])).toEqual([
      ['role.propose', plane.ownerId],
      ['role.confirm', second.id],
      ['role.assign', second.id],
    ]);
  });

  test('what was proposed is seen, can be cancelled, expires, and falls with the right of who proposed it', async () => {
    const second = await person('another owner');
    const owners = await sql`select principal_id from role_bindings where role = 'owner'`;
    expect(owners.length).toBeGreaterThan(1);
    await sql`insert into role_bindings (id, principal_id, role)
      values ('01890000-0000-7000-8000-00000000bbbb', ${second.id}, 'owner')`;
    const secondKey = await operatorKey(second.id);
    const candidate = await person('waiting');
    const first = (await propose(candidate.id, secondKey, { reason: 'audit season' })).data.done.id;
    const list =
      'query ($state: RoleProposalState) { roleProposals(state: $state) { edges { node { id state reason } } } }';
    const inState = async (state: string): Promise<string[]> =>
      (await plane.ask(list, { state })).data.roleProposals.edges.map((edge: { node: { id: string } }) => edge.node.id);
    expect(await inState('OPEN')).toEqual([first]);
    expect((await run('cancelRoleProposal', 'RoleProposalInput', { id: first })).errors).toEqual([]);
    expect(await inState('OPEN')).toEqual([]);
    expect(codeOf(await confirm(first))).toBe('INVALID_INPUT');
    const expiring = (await propose(candidate.id, secondKey, { expiresAt: new Date(clock.now() + 60_000) })).data.done
      .id;
    aheadMs += 61_000;
    expect(await inState('EXPIRED')).toEqual([expiring]);
    expect(codeOf(await confirm(expiring))).toBe('INVALID_INPUT');
    const fallen = (await propose(candidate.id, secondKey)).data.done.id;
    const stepsDown = await run('removeRole', 'RoleInput', { principalId: second.id, role: 'OWNER' }, secondKey);
    expect(stepsDown.errors).toEqual([]);
    const late = await confirm(fallen);
    expect(late.errors[0]?.extensions.violations?.[0]?.message).toContain('may not give roles any more');
  });
});
