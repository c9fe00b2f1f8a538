/** Ways around the rule that nobody comes by more than he has: each was open once. */
import { issueOperatorKey } from '@sallyport/control-plane';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type GraphqlAnswer, startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';

const inDays = (days: number): string => new Date(Date.now() + days * 86_400_000).toISOString();

let plane: TestControlPlane;
beforeAll(async () => {
  plane = await startTestControlPlane();
});
afterAll(() => plane.stop());

function run(name: string, type: string, input: object, key?: string, fields = 'id'): Promise<GraphqlAnswer> {
  return plane.ask(`mutation ($input: ${type}!) { done: ${name}(input: $input) { ${fields} } }`, { input }, key);
}
async function done(name: string, type: string, input: object, key?: string): Promise<string> {
  const answer = await run(name, type, input, key);
  expect(answer.errors).toEqual([]);
  return answer.data.done.id;
}
const codeOf = (answer: GraphqlAnswer): string | undefined => answer.errors[0]?.extensions.code;

async function keyOf(principalId: string, by?: string, more: object = {}): Promise<string> {
  const input = { principalId, name: 'test', scopes: ['API'], expiresAt: inDays(1), ...more };
  const answer = await run('createApiKey', 'CreateApiKeyInput', input, by, 'secret');
  expect(answer.errors).toEqual([]);
  return answer.data.done.secret;
}
interface Person {
  readonly id: string;
  readonly key: string;
}
let roleNumber = 0;
/** A user with a custom role of these permissions, where there are any. */
async function person(name: string, permissions: readonly string[] = []): Promise<Person> {
  const id = await done('createUser', 'CreateUserInput', { name });
  if (permissions.length > 0) {
    roleNumber += 1;
    const roleId = await done('createRole', 'CreateRoleInput', { name: `role ${roleNumber}`, permissions });
    await done('assignRole', 'RoleInput', { principalId: id, roleId });
  }
  return { id, key: await keyOf(id) };
}
const group = (name: string): Promise<string> => done('createGroup', 'CreateGroupInput', { name });
const account = (name: string, ownerId: string): Promise<string> =>
  done('createServiceAccount', 'CreateServiceAccountInput', { name, ownerId, expiresAt: inDays(1) });

describe('rules of identity providers', () => {
  const provider = (name: string, more: object, key?: string): Promise<GraphqlAnswer> => {
    const input = { name, issuer: `https://${name}.example`, clientId: 'x', groupsClaim: 'groups', ...more };
    return run('createIdentityProvider', 'CreateIdentityProviderInput', input, key);
  };
  const change = (input: object, key: string): Promise<GraphqlAnswer> =>
    run('updateIdentityProvider', 'UpdateIdentityProviderInput', input, key);

  test('who fills a group with a role may not say anew who comes into it without having as much', async () => {
    const groupId = await group('admins');
    await done('assignRole', 'RoleInput', { groupId, role: 'ADMIN' });
    const made = await provider('one', { groupRules: [{ value: 'admins', groupId }] });
    const { id } = made.data.done;
    const attacker = await person('keeps providers', [
      'identityProvider:read',
      'identityProvider:write',
      'grant:write',
    ]);
    const attempts = [
      { groupRules: [{ value: 'everybody', groupId }] },
      { groupsClaim: 'nickname' },
      { subjectClaim: 'nickname' },
      { groupsUrl: 'https://attacker.example/{subject}' },
      { clientId: 'his-own' },
    ];
    for (const attempt of attempts) {
      expect([attempt, codeOf(await change({ id, ...attempt }, attacker.key))]).toEqual([attempt, 'FORBIDDEN']);
    }
    expect((await change({ id, name: 'Another name' }, attacker.key)).errors).toEqual([]);
  });

  test('who cannot grant does not come by grants through a rule', async () => {
    const groupId = await group('with grants');
    const attacker = await person('provides', ['identityProvider:read', 'identityProvider:write']);
    const groupRules = [{ value: 'everybody', groupId }];
    expect(codeOf(await provider('two', { groupRules }, attacker.key))).toBe('FORBIDDEN');
    expect((await provider('three', {}, attacker.key)).errors).toEqual([]);
    expect((await provider('four', { groupRules })).errors).toEqual([]);
  });
});

describe('tokens of a directory', () => {
  const token = (directoryId: string, key?: string): Promise<GraphqlAnswer> => {
    const input = { directoryId, name: 'token', expiresAt: inDays(1) };
    return run('createScimToken', 'CreateScimTokenInput', input, key, 'secret scimToken { id }');
  };

  test('are not made by who has less than the groups of the directory', async () => {
    const input = { name: 'corp', issuer: 'https://directory.example' };
    const id = await done('createScimDirectory', 'CreateScimDirectoryInput', input);
    const attacker = await person('keeps settings', ['settings:read', 'settings:write']);
    expect((await token(id, attacker.key)).errors).toEqual([]);
    const made = (await token(id)).data.done;
    const response = await fetch(`${plane.graphqlUrl.replace(/graphql$/, 'scim/v2/Groups')}`, {
      method: 'POST',
      headers: { authorization: `Bearer ${made.secret}`, 'content-type': 'application/scim+json' },
      body: JSON.stringify({ schemas: ['urn:ietf:params:scim:schemas:core:2.0:Group'], displayName: 'admins of corp' }),
    });
    const { id: groupId } = (await response.json()) as { id: string };
    await done('assignRole', 'RoleInput', { groupId, role: 'ADMIN' });
    expect(codeOf(await token(id, attacker.key))).toBe('FORBIDDEN');
    const rotation = { id: made.scimToken.id, expiresAt: inDays(1) };
    const rotated = await run('rotateScimToken', 'RotateScimTokenInput', rotation, attacker.key, 'secret');
    expect(codeOf(rotated)).toBe('FORBIDDEN');
    expect((await token(id)).errors).toEqual([]);
  });
});

describe('who cannot grant does not come by the tools of another', () => {
  test('by a login code', async () => {
    const victim = await person('victim');
    const attacker = await person('makes keys', ['apiKey:write']);
    const code = (userId: string, key: string): Promise<GraphqlAnswer> =>
      run('createLoginCode', 'CreateLoginCodeInput', { userId }, key, 'code');
    expect(codeOf(await code(victim.id, attacker.key))).toBe('FORBIDDEN');
    // Nor by a key of his own that opens no server, or that is bound to networks.
    expect(codeOf(await code(attacker.id, attacker.key))).toBe('FORBIDDEN');
    const networks = ['127.0.0.0/8', '::/0'];
    const bound = await keyOf(attacker.id, undefined, { scopes: ['API', 'MCP'], networks });
    expect(codeOf(await code(attacker.id, bound))).toBe('FORBIDDEN');
    const whole = await keyOf(attacker.id, undefined, { scopes: ['API', 'MCP'] });
    expect((await code(attacker.id, whole)).errors).toEqual([]);
    expect((await code(victim.id, plane.ownerKey)).errors).toEqual([]);
  });

  test('by an OAuth client that acts as an account', async () => {
    const serviceAccountId = await account('bot', plane.userId);
    const attacker = await person('makes clients', ['oauthClient:read', 'oauthClient:write']);
    const input = { name: 'client', authentication: 'SECRET', serviceAccountId };
    const create = (key: string): Promise<GraphqlAnswer> =>
      run('createOAuthClient', 'CreateOAuthClientInput', input, key, 'client { id }');
    expect(codeOf(await create(attacker.key))).toBe('FORBIDDEN');
    const made = await create(plane.ownerKey);
    expect(made.errors).toEqual([]);
    const { id } = made.data.done.client;
    const rotated = await run(
      'rotateOAuthClientSecret',
      'RotateOAuthClientSecretInput',
      { id },
      attacker.key,
      'secret',
    );
    expect(codeOf(rotated)).toBe('FORBIDDEN');
  });

  test('by another name for a group he belongs to, which conditions go by', async () => {
    const attacker = await person('keeps groups', ['group:read', 'group:write']);
    const id = await group('contractors');
    const rename = (name: string): Promise<GraphqlAnswer> =>
      run('updateGroup', 'UpdateGroupInput', { id, name }, attacker.key);
    expect((await rename('visitors')).errors).toEqual([]);
    await done('addGroupMembers', 'GroupMembersInput', { id, principalIds: [attacker.id] });
    expect(codeOf(await rename('eng-payments'))).toBe('FORBIDDEN');
  });

  test('by becoming the one who answers for an account', async () => {
    const attacker = await person('keeps accounts', ['serviceAccount:read', 'serviceAccount:write', 'apiKey:write']);
    const id = await account('of another', plane.userId);
    const taking = await run(
      'updateServiceAccount',
      'UpdateServiceAccountInput',
      { id, ownerId: attacker.id },
      attacker.key,
    );
    expect(codeOf(taking)).toBe('FORBIDDEN');
    const renamed = await run(
      'updateServiceAccount',
      'UpdateServiceAccountInput',
      { id, name: 'renamed' },
      attacker.key,
    );
    expect(renamed.errors).toEqual([]);
    const own = await account('his own', attacker.id);
    const given = { id: own, ownerId: plane.userId };
    expect((await run('updateServiceAccount', 'UpdateServiceAccountInput', given, attacker.key)).errors).toEqual([]);
  });
});

describe('who cannot grant does not change what he may use', () => {
  const groupWork = ['group:read', 'group:write'];
  const accountWork = [...groupWork, 'serviceAccount:read', 'serviceAccount:write'];
  const change = (name: string, id: string, principalIds: readonly string[], key: string): Promise<GraphqlAnswer> =>
    run(name, 'GroupMembersInput', { id, principalIds }, key);

  test('by leaving a group to which something is denied, nor by ending it', async () => {
    const attacker = await person('leaves groups', groupWork);
    const other = await person('another member');
    const id = await group('restricted');
    await done('addGroupMembers', 'GroupMembersInput', { id, principalIds: [attacker.id, other.id] });
    expect(codeOf(await change('removeGroupMembers', id, [other.id, attacker.id], attacker.key))).toBe('FORBIDDEN');
    const items = [{ id, remove: [attacker.id.toUpperCase()] }];
    const many = await run('changeGroupMembers', 'ChangeGroupMembersInput', { items }, attacker.key);
    expect(codeOf(many)).toBe('FORBIDDEN');
    expect(codeOf(await run('deleteGroup', 'DeleteGroupInput', { id }, attacker.key))).toBe('FORBIDDEN');
    expect((await change('removeGroupMembers', id, [other.id], attacker.key)).errors).toEqual([]);
    // To be passed over is no change.
    const elsewhere = await group('not his');
    expect((await change('removeGroupMembers', elsewhere, [attacker.id], attacker.key)).errors).toEqual([]);
    expect((await run('deleteGroup', 'DeleteGroupInput', { id: elsewhere }, attacker.key)).errors).toEqual([]);
  });

  test('by an account of his, which adds him or another of his accounts', async () => {
    const attacker = await person('answers for accounts');
    const [acting, sibling] = [await account('acts', attacker.id), await account('sibling', attacker.id)];
    roleNumber += 1;
    const roleId = await done('createRole', 'CreateRoleInput', { name: `role ${roleNumber}`, permissions: groupWork });
    await done('assignRole', 'RoleInput', { principalId: acting, roleId });
    const key = await keyOf(acting);
    const id = await group('with tools');
    for (const principalId of [attacker.id, sibling, acting]) {
      expect([principalId, codeOf(await change('addGroupMembers', id, [principalId], key))]).toEqual([
        principalId,
        'FORBIDDEN',
      ]);
    }
    await done('addGroupMembers', 'GroupMembersInput', { id, principalIds: [attacker.id] });
    expect(codeOf(await run('updateGroup', 'UpdateGroupInput', { id, name: 'finance' }, key))).toBe('FORBIDDEN');
  });

  test('by a key for the API that he made in the name of somebody else', async () => {
    const attacker = await person('makes keys of others', [...accountWork, 'apiKey:write']);
    const bob = await person('has his name used', accountWork);
    const key = await keyOf(bob.id, attacker.key);
    const id = await group('with others');
    expect(codeOf(await change('addGroupMembers', id, [attacker.id], key))).toBe('FORBIDDEN');
    // Who made the key that makes keys may grant: it is no way round for him.
    expect((await change('addGroupMembers', id, [plane.userId], bob.key)).errors).toEqual([]);
    const ofBob = await account('an account of his', bob.id);
    const taking = { id: ofBob, ownerId: attacker.id };
    expect(codeOf(await run('updateServiceAccount', 'UpdateServiceAccountInput', taking, key))).toBe('FORBIDDEN');
  });

  test('by an account that he gave away after he made a key for it', async () => {
    const permissions = [...accountWork, 'apiKey:write'];
    const attacker = await person('gives accounts away', permissions);
    const victim = await person('gets an account');
    const whole = await keyOf(attacker.id, undefined, { scopes: ['API', 'MCP'] });
    const gift = await account('gift', attacker.id);
    await keyOf(gift, whole, { scopes: ['MCP'] });
    const given = { id: gift, ownerId: victim.id };
    expect((await run('updateServiceAccount', 'UpdateServiceAccountInput', given, whole)).errors).toEqual([]);
    const id = await group('with more tools');
    expect(codeOf(await change('addGroupMembers', id, [gift], whole))).toBe('FORBIDDEN');
    expect((await change('addGroupMembers', id, [victim.id], whole)).errors).toEqual([]);
  });

  test('by an account that he gave away with a client that acts as it', async () => {
    const permissions = [...accountWork, 'apiKey:write', 'oauthClient:read', 'oauthClient:write'];
    const attacker = await person('gives clients away', permissions);
    const whole = await keyOf(attacker.id, undefined, { scopes: ['API', 'MCP'] });
    const serviceAccountId = await account('gift with a client', attacker.id);
    const input = { name: 'client', authentication: 'SECRET', serviceAccountId };
    const made = await run('createOAuthClient', 'CreateOAuthClientInput', input, whole, 'client { id }');
    expect(made.errors).toEqual([]);
    const given = { id: serviceAccountId, ownerId: plane.userId };
    const giving = (key?: string): Promise<GraphqlAnswer> =>
      run('updateServiceAccount', 'UpdateServiceAccountInput', given, key);
    expect((await giving(whole)).errors[0]?.extensions.violations?.[0]?.path).toBe('input.ownerId');
    const { id } = made.data.done.client;
    expect((await run('deleteOAuthClient', 'DeleteOAuthClientInput', { id }, whole)).errors).toEqual([]);
    expect((await giving(whole)).errors).toEqual([]);
  });
});

describe('two people for a guarded role', () => {
  test('are not one who proposes with a key that he made for another, and not keys without the role', async () => {
    const lifetimeMs = 3_600_000;
    const second = await person('second');
    await done('assignRole', 'RoleInput', { principalId: second.id, role: 'OWNER' });
    const candidate = await person('candidate');
    const wanted = { principalId: candidate.id, role: 'OWNER' };
    const confirm = (id: string, key?: string): Promise<GraphqlAnswer> =>
      run('confirmRole', 'RoleProposalInput', { id }, key);
    // The first owner made the key of the second: it may be him who proposes with it.
    const id = await done('proposeRole', 'ProposeRoleInput', wanted, second.key);
    expect(codeOf(await confirm(id))).toBe('FORBIDDEN');
    await done('cancelRoleProposal', 'RoleProposalInput', { id });
    const own = await issueOperatorKey(plane.databaseUrl, { principalId: second.id, name: 'own', lifetimeMs });
    const narrow = await keyOf(second.id, own, { permissions: ['role:assign'] });
    expect(codeOf(await run('proposeRole', 'ProposeRoleInput', wanted, narrow))).toBe('FORBIDDEN');
    const proposed = await done('proposeRole', 'ProposeRoleInput', wanted);
    expect(codeOf(await confirm(proposed, narrow))).toBe('FORBIDDEN');
    expect((await confirm(proposed, await keyOf(second.id, own))).errors).toEqual([]);
  });
});
