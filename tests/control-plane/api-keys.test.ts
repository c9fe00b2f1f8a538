import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import { startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';

/** Ahead of the real time by what a test says. */
let aheadMs = 0;
const clock = { now: () => Date.now() + aheadMs, monotonic: () => performance.now() };
const dayMs = 86_400_000;

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

const create = `mutation ($input: CreateApiKeyInput!) {
  createApiKey(input: $input) { secret apiKey { id hint expiresAt principal { id } } }
}`;
const keyInput = (more: object = {}): { input: Record<string, unknown> } => ({
  input: {
    principalId: plane.ownerId,
    name: 'a key',
    scopes: ['API'],
    expiresAt: new Date(clock.now() + dayMs).toISOString(),
    ...more,
  },
});
const issue = async (more: object = {}): Promise<{ id: string; secret: string }> => {
  const answer = await plane.ask(create, keyInput(more));
  expect(answer.errors).toEqual([]);
  return { id: answer.data.createApiKey.apiKey.id, secret: answer.data.createApiKey.secret };
};
const opens = async (secret: string): Promise<boolean> => (await plane.ask('{ me { id } }', {}, secret)).status === 200;

test('a key is shown once, kept as its digest, and absent from the audit trail', async () => {
  const { id, secret } = await issue();
  expect(secret).toMatch(/^sp_[A-Za-z0-9_-]{43}$/);
  const rows = await sql`select api_keys::text as text from api_keys where id = ${id}
    union all select audit_events::text from audit_events where object_id = ${id}
    union all select audit_unchained::text from audit_unchained`;
  expect(rows.length).toBeGreaterThan(2);
  for (const row of rows) expect(row['text']).not.toContain(secret.slice(9));
  const hashes = await sql`select hash from api_keys where id = ${id}`;
  const events = await sql`select audit_events::text as text from audit_events where object_id = ${id}`;
  expect(events[0]?.['text']).not.toContain(hashes[0]?.['hash']);
});

test('a key needs an expiry within a year, a name, a scope and a holder, all told at once', async () => {
  const expiresAt = new Date(clock.now() + 400 * dayMs).toISOString();
  const bad = { principalId: 'nobody', name: ' ', scopes: [], expiresAt };
  const answer = await plane.ask(create, keyInput(bad));
  expect(answer.errors[0]?.extensions.violations?.map((violation) => violation.path).sort()).toEqual([
    'input.expiresAt',
    'input.name',
    'input.principalId',
    'input.scopes',
  ]);
  const absent = await plane.ask(create, keyInput({ expiresAt: null }));
  expect(absent.errors[0]?.extensions.code).toBe('INVALID_INPUT');
});

test('a create that is repeated answers with the same key, without showing it again', async () => {
  const input = keyInput({ idempotencyKey: 'k' });
  const first = await plane.ask(create, input);
  const second = await plane.ask(create, input);
  expect(second.data.createApiKey.apiKey.id).toBe(first.data.createApiKey.apiKey.id);
  expect(first.data.createApiKey.secret).not.toBeNull();
  expect(second.data.createApiKey.secret).toBeNull();
});

test('a dry run shows no key', async () => {
  const answer = await plane.ask(create, keyInput({ dryRun: true }));
  expect(answer.data.createApiKey.secret).toBeNull();
});

test('a revoked key is refused at once', async () => {
  const { id, secret } = await issue();
  expect(await opens(secret)).toBe(true);
  await plane.ask('mutation ($id: ID!) { revokeApiKey(input: { id: $id }) { revokedAt } }', { id });
  expect(await opens(secret)).toBe(false);
});

test('a key for tools alone does not open the API', async () => {
  const { secret } = await issue({ scopes: ['MCP'] });
  expect(await opens(secret)).toBe(false);
});

test('a rotated key works beside its successor for the overlap, and no longer', async () => {
  const { id, secret } = await issue({ expiresAt: new Date(clock.now() + 9 * dayMs).toISOString() });
  const rotate = `mutation ($id: ID!, $expiresAt: DateTimeISO!) {
    rotateApiKey(input: { id: $id, expiresAt: $expiresAt, overlapSeconds: 60 }) { secret apiKey { successorOf } }
  }`;
  const answer = await plane.ask(rotate, { id, expiresAt: new Date(clock.now() + 9 * dayMs).toISOString() });
  expect(answer.errors).toEqual([]);
  const successor: string = answer.data.rotateApiKey.secret;
  expect(answer.data.rotateApiKey.apiKey.successorOf).toBe(id);
  expect(await opens(secret)).toBe(true);
  expect(await opens(successor)).toBe(true);
  aheadMs += 61_000;
  expect(await opens(secret)).toBe(false);
  expect(await opens(successor)).toBe(true);
});

test('the last use is written, at most once a minute', async () => {
  const { id, secret } = await issue();
  const lastUsed = async (): Promise<string> => {
    const [row] = await sql`select last_used_at::text as at from api_keys where id = ${id}`;
    return row?.['at'] ?? '';
  };
  await opens(secret);
  await waitFor('the first use', async () => (await lastUsed()) !== '');
  const first = await lastUsed();
  aheadMs += 30_000;
  await opens(secret);
  await opens(secret);
  expect(await lastUsed()).toBe(first);
  aheadMs += 31_000;
  await opens(secret);
  await waitFor('a later use', async () => (await lastUsed()) !== first);
});

test('a service account needs an owner who is an active user, and an expiry', async () => {
  const query = `mutation ($ownerId: ID, $expiresAt: DateTimeISO!) {
    createServiceAccount(input: { name: "bot", ownerId: $ownerId, expiresAt: $expiresAt }) { id ownerId owner { id } }
  }`;
  const expiresAt = new Date(clock.now() + dayMs).toISOString();
  const refused = await plane.ask(query, { ownerId: plane.ownerId, expiresAt: new Date(0).toISOString() });
  expect(refused.errors[0]?.extensions.violations?.map((violation) => violation.path).sort()).toEqual([
    'input.expiresAt',
    'input.ownerId',
  ]);
  const answer = await plane.ask(query, { expiresAt });
  expect(answer.data.createServiceAccount.owner.id).toBe(plane.userId);
});

test('an account that has expired or is disabled opens nothing with its keys', async () => {
  const account = async (): Promise<{ id: string; secret: string }> => {
    const query = `mutation ($expiresAt: DateTimeISO!) {
      createServiceAccount(input: { name: "bot", expiresAt: $expiresAt }) { id }
    }`;
    const answer = await plane.ask(query, { expiresAt: new Date(clock.now() + 3_600_000).toISOString() });
    const { id } = answer.data.createServiceAccount;
    return { id, secret: (await issue({ principalId: id })).secret };
  };
  const disabled = await account();
  const expired = await account();
  expect([await opens(disabled.secret), await opens(expired.secret)]).toEqual([true, true]);
  const disable = 'mutation ($id: ID!) { updateServiceAccount(input: { id: $id, status: DISABLED }) { status } }';
  expect((await plane.ask(disable, { id: disabled.id })).errors).toEqual([]);
  expect(await opens(disabled.secret)).toBe(false);
  aheadMs += 3_601_000;
  expect(await opens(expired.secret)).toBe(false);
});

describe('a key that opens less than its holder may do', () => {
  const permissionsOf = async (secret: string): Promise<string[]> =>
    (await plane.ask('{ me { permissions } }', {}, secret)).data.me.permissions;

  test('looks only, by the scope API_READ, and is forbidden every mutation', async () => {
    const { secret } = await issue({ scopes: ['API_READ'] });
    const held = await permissionsOf(secret);
    expect(held.length).toBeGreaterThan(5);
    expect(held.filter((permission) => !permission.endsWith(':read'))).toEqual([]);
    const made = await plane.ask('mutation { createGroup(input: { name: "no" }) { id } }', {}, secret);
    expect(made.errors[0]?.extensions.code).toBe('FORBIDDEN');
  });

  test('opens the named permissions alone, and loses with its holder what the holder loses', async () => {
    const user = await plane.ask('mutation { createUser(input: { name: "holder" }) { id } }');
    const principalId: string = user.data.createUser.id;
    const assign = 'mutation ($id: ID!) { assignRole(input: { principalId: $id, role: VIEWER }) { id } }';
    await plane.ask(assign, { id: principalId });
    const { secret } = await issue({ principalId, permissions: ['grant:read', 'grant:write', 'user:read'] });
    expect(await permissionsOf(secret)).toEqual(['grant:read', 'user:read']);
    await plane.ask(assign.replace('assignRole', 'removeRole'), { id: principalId });
    expect(await permissionsOf(secret)).toEqual([]);
  });

  test('makes no key that opens more', async () => {
    const { secret } = await issue({ permissions: ['apiKey:read', 'apiKey:write'] });
    const wider = await plane.ask(create, keyInput(), secret);
    expect(wider.errors[0]?.extensions.code).toBe('FORBIDDEN');
    const bound = await issue({ networks: ['127.0.0.0/8', '::1/128'] });
    expect((await plane.ask(create, keyInput(), bound.secret)).errors[0]?.extensions.code).toBe('FORBIDDEN');
    expect((await plane.ask(create, keyInput({ networks: ['127.0.0.0/16'] }), bound.secret)).errors).toEqual([]);
  });

  test('is refused from elsewhere than its networks, a forwarded address counting behind trusted proxies alone', async () => {
    const here = await issue({ networks: ['127.0.0.0/8', '::1/128'] });
    const office = await issue({ networks: ['203.0.113.0/24'] });
    expect([await opens(here.secret), await opens(office.secret)]).toEqual([true, false]);
    const claim = (url: string, secret: string): Promise<Response> =>
      fetch(url, {
        method: 'POST',
        headers: {
          'content-type': 'application/json',
          authorization: `Bearer ${secret}`,
          'x-forwarded-for': '203.0.113.9',
        },
        body: JSON.stringify({ query: '{ me { id } }' }),
      });
    expect((await claim(plane.graphqlUrl, office.secret)).status).toBe(401);
    const behind = await startTestControlPlane({
      databaseUrl: plane.databaseUrl,
      clock,
      bootstrap: false,
      environment: { SALLYPORT_TRUSTED_PROXIES: '127.0.0.1,::1' },
    });
    expect((await claim(behind.graphqlUrl, office.secret)).status).toBe(200);
    expect((await claim(behind.graphqlUrl, here.secret)).status).toBe(401);
    await behind.stop();
  });

  test('all that is wrong with its limits is told at once', async () => {
    const bad = {
      scopes: ['MCP', 'API_READ'],
      permissions: ['grant:write', 'fly'],
      serverIds: ['no id'],
      serverLabels: [{ key: 'team', value: 'a' }],
      networks: ['10.0.0.0', '10.0.0.0/8'],
    };
    const answer = await plane.ask(create, keyInput(bad));
    expect(answer.errors[0]?.extensions.violations?.map((violation) => violation.path).sort()).toEqual([
      'input.networks[0]',
      'input.permissions[0]',
      'input.permissions[1]',
      'input.serverIds',
      'input.serverIds[0]',
      'input.serverLabels',
    ]);
  });

  test('a list of too many servers is refused as a whole, and what is beyond the limit is not looked up', async () => {
    const serverIds = Array.from({ length: 202 }, () => crypto.randomUUID());
    const answer = await plane.ask(create, keyInput({ scopes: ['MCP'], serverIds }));
    const paths = answer.errors[0]?.extensions.violations?.map((violation) => violation.path) ?? [];
    expect(paths).toContain('input.serverIds');
    expect(paths).not.toContain('input.serverIds[200]');
    expect(paths).not.toContain('input.serverIds[201]');
  });

  test('keeps its limits when it is rotated', async () => {
    const limits = { scopes: ['MCP'], serverLabels: [{ key: 'team', value: 'a' }], networks: ['10.0.0.0/8'] };
    const { id } = await issue(limits);
    const rotate = `mutation ($id: ID!, $expiresAt: DateTimeISO!) { rotateApiKey(input: { id: $id, expiresAt: $expiresAt }) {
      apiKey { scopes networks serverLabels { key value } issuedBy } } }`;
    const answer = await plane.ask(rotate, { id, expiresAt: new Date(clock.now() + dayMs).toISOString() });
    expect(answer.errors).toEqual([]);
    expect(answer.data.rotateApiKey.apiKey).toEqual({ ...limits, issuedBy: plane.ownerId });
  });
});

test('whoever may make keys but not grants makes none that opens the tools of another', async () => {
  const role = 'mutation { createRole(input: { name: "keys", permissions: ["apiKey:read", "apiKey:write"] }) { id } }';
  const roleId: string = (await plane.ask(role)).data.createRole.id;
  const user = async (name: string): Promise<string> =>
    (await plane.ask('mutation ($name: String!) { createUser(input: { name: $name }) { id } }', { name })).data
      .createUser.id;
  const [maker, other] = [await user('maker'), await user('other')];
  await plane.ask(
    'mutation ($id: ID!, $roleId: ID!) { assignRole(input: { principalId: $id, roleId: $roleId }) { id } }',
    {
      id: maker,
      roleId,
    },
  );
  const api = await issue({ principalId: maker });
  const both = await issue({ principalId: maker, scopes: ['API', 'MCP'] });
  const ask = async (principalId: string, secret: string): Promise<string | undefined> =>
    (await plane.ask(create, keyInput({ principalId, scopes: ['MCP'] }), secret)).errors[0]?.extensions.code;
  expect(await ask(other, both.secret)).toBe('FORBIDDEN');
  expect(await ask(maker, api.secret)).toBe('FORBIDDEN');
  expect(await ask(maker, both.secret)).toBeUndefined();
});
