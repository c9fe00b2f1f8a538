import { issueOperatorKey } from '@sallyport/control-plane';
import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';

let plane: TestControlPlane;
let sql: postgres.Sql;
let serverId: string;

const inDays = (days: number): string => new Date(Date.now() + days * 86_400_000).toISOString();
const unknownId = '01890000-0000-7000-8000-000000000000';

/** What must be as it was when a mutation is refused or only tried. */
async function state(): Promise<unknown> {
  const [row] = await sql`select
    (select generation from config_generation) as generation,
    (select count(*) from audit_events) as events,
    (select count(*) from grants) as grants,
    (select count(*) from groups) as groups,
    (select count(*) from principals) as principals,
    (select count(*) from api_keys) as keys,
    (select count(*) from idempotency_keys) as idempotency`;
  return row;
}

async function make(query: string, variables: Record<string, unknown> = {}, key?: string): Promise<string> {
  const answer = await plane.ask(query, variables, key);
  expect(answer.errors).toEqual([]);
  return Object.values<{ id: string }>(answer.data)[0]?.id ?? '';
}

const createGroup = (name: string): Promise<string> =>
  make('mutation ($name: String!) { createGroup(input: { name: $name }) { id } }', { name });
const createUser = (name: string): Promise<string> =>
  make('mutation ($name: String!) { createUser(input: { name: $name }) { id } }', { name });

/** A user with a role, and a key to act as it. */
async function actor(role: string | null): Promise<{ id: string; key: string }> {
  const id = await createUser(`user ${role}`);
  if (role !== null) {
    await make('mutation ($id: ID!, $role: Role!) { assignRole(input: { principalId: $id, role: $role }) { id } }', {
      id,
      role,
    });
  }
  const answer = await plane.ask(createKey, { id, expiresAt: inDays(1) });
  return { id, key: answer.data.createApiKey.secret };
}
const createKey = `mutation ($id: ID!, $expiresAt: DateTimeISO!) {
  createApiKey(input: { principalId: $id, name: "test", scopes: [API], expiresAt: $expiresAt }) { secret apiKey { id } }
}`;

const createGrant = 'mutation ($input: CreateGrantInput!) { createGrant(input: $input) { id revision } }';
const grantInput = (more: object = {}): Record<string, unknown> => ({
  name: 'a grant',
  subject: { kind: 'EVERYONE' },
  serverId,
  effect: 'ALLOW',
  tools: ['echo'],
  ...more,
});

beforeAll(async () => {
  plane = await startTestControlPlane();
  sql = postgres(plane.databaseUrl);
  serverId = '01890000-0000-7000-8000-000000000001';
  await sql`insert into servers (id, slug, slug_key, title, url, discovery_attempted_at, created_at, updated_at)
    values (${serverId}, 'demo', 'demo', 'Demo', 'https://mcp.example.org/mcp', now(), now(), now())`;
});
afterAll(async () => {
  await sql.end();
  await plane.stop();
});

describe('grants', () => {
  test('all that is wrong with a grant is told at once', async () => {
    const before = await state();
    const answer = await plane.ask(createGrant, {
      input: {
        name: '',
        subject: { kind: 'GROUP', id: unknownId },
        serverId: 'not even an id',
        effect: 'ALLOW',
        tools: ['echo', '', '*'.repeat(20)],
        notBefore: inDays(2),
        notAfter: inDays(1),
      },
    });
    const [failure] = answer.errors;
    expect(failure?.extensions.code).toBe('INVALID_INPUT');
    expect(failure?.extensions.violations?.map((violation) => violation.path).sort()).toEqual([
      'input.name',
      'input.notAfter',
      'input.serverId',
      'input.subject.id',
      'input.tools[1]',
      'input.tools[2]',
    ]);
    expect(await state()).toEqual(before);
  });

  test('a grant that selects nothing is refused', async () => {
    const answer = await plane.ask(createGrant, { input: grantInput({ tools: [] }) });
    expect(answer.errors[0]?.extensions.violations).toHaveLength(1);
  });

  test('a user cannot be named as a service account', async () => {
    const id = await createUser('not an account');
    const answer = await plane.ask(createGrant, { input: grantInput({ subject: { kind: 'SERVICE_ACCOUNT', id } }) });
    expect(answer.errors[0]?.extensions.violations?.[0]?.path).toBe('input.subject.id');
  });

  test('a dry run answers as the real one and leaves nothing', async () => {
    const before = await state();
    const answer = await plane.ask(createGrant, { input: grantInput({ dryRun: true, idempotencyKey: 'dry' }) });
    expect(answer.errors).toEqual([]);
    expect(answer.data.createGrant.revision).toBe(1);
    expect(await state()).toEqual(before);
  });

  test('a create that is repeated with its key answers with the same grant, and other input is refused', async () => {
    const input = grantInput({ idempotencyKey: 'once', notAfter: inDays(3) });
    const answers = await Promise.all([1, 2, 3].map(() => plane.ask(createGrant, { input })));
    expect(answers.flatMap((answer) => answer.errors)).toEqual([]);
    expect(new Set(answers.map((answer) => answer.data.createGrant.id)).size).toBe(1);
    const other = await plane.ask(createGrant, { input: { ...input, name: 'another' } });
    expect(other.errors[0]?.extensions.violations?.[0]?.path).toBe('input.idempotencyKey');
  });

  test('a change on top of a state that has passed is a conflict', async () => {
    const id = await make(createGrant, { input: grantInput() });
    const update = `mutation ($id: ID!, $name: String!) {
      updateGrant(input: { id: $id, name: $name, expectedRevision: 1 }) { id revision name tools }
    }`;
    const first = await plane.ask(update, { id, name: 'first' });
    expect(first.data.updateGrant).toEqual({ id, revision: 2, name: 'first', tools: ['echo'] });
    const before = await state();
    const second = await plane.ask(update, { id, name: 'second' });
    expect(second.errors[0]?.extensions.code).toBe('CONFLICT');
    expect(await state()).toEqual(before);
  });

  test('ending a grant closes its window now and keeps it listed', async () => {
    const id = await make(createGrant, { input: grantInput({ notAfter: inDays(9) }) });
    const answer = await plane.ask('mutation ($id: ID!) { endGrant(input: { id: $id }) { notAfter } }', { id });
    expect(new Date(answer.data.endGrant.notAfter).getTime()).toBeLessThanOrEqual(Date.now());
    expect((await plane.ask('query ($id: ID!) { grant(id: $id) { id } }', { id })).data.grant.id).toBe(id);
  });

  test('a deleted grant is gone from the API and stays in the database', async () => {
    const id = await make(createGrant, { input: grantInput() });
    await make('mutation ($id: ID!) { deleteGrant(input: { id: $id }) { id } }', { id });
    const answer = await plane.ask('query ($id: ID!) { grant(id: $id) { id } }', { id });
    expect(answer.errors[0]?.extensions.code).toBe('NOT_FOUND');
    expect(await sql`select 1 from grants where id = ${id} and deleted_at is not null`).toHaveLength(1);
  });

  test('deleting a group takes the grants that name it', async () => {
    const group = await createGroup('short-lived');
    const id = await make(createGrant, { input: grantInput({ subject: { kind: 'GROUP', id: group } }) });
    await make('mutation ($id: ID!) { deleteGroup(input: { id: $id }) { id } }', { id: group });
    expect(await sql`select 1 from grants where id = ${id} and deleted_at is null`).toHaveLength(0);
  });

  test('paging shows every grant once, also while others are made and removed', async () => {
    const expected = await sql`select id from grants where deleted_at is null order by id`;
    const query = `query ($after: String) {
      grants(first: 2, after: $after) { edges { node { id } } pageInfo { hasNextPage endCursor } }
    }`;
    const seen: string[] = [];
    let after: string | null = null;
    for (;;) {
      const answer: Awaited<ReturnType<typeof plane.ask>> = await plane.ask(query, { after });
      const { grants } = answer.data;
      seen.push(...grants.edges.map((edge: { node: { id: string } }) => edge.node.id));
      if (seen.length === 2) await make(createGrant, { input: grantInput({ name: 'made meanwhile' }) });
      if (seen.length === 4) await sql`update grants set deleted_at = now() where id = ${seen[0] ?? ''}`;
      if (!grants.pageInfo.hasNextPage) break;
      after = grants.pageInfo.endCursor;
    }
    expect(seen.slice(0, expected.length)).toEqual(expected.map((row) => row['id']));
    expect(new Set(seen).size).toBe(seen.length);
  });

  test('a page that is too large and a cursor that is none are refused together', async () => {
    const answer = await plane.ask('{ grants(first: 201, after: "nonsense") { edges { cursor } } }');
    expect(answer.errors[0]?.extensions.violations?.map((violation) => violation.path)).toEqual(['first', 'after']);
  });
});

describe('audit and configuration', () => {
  test('each mutation leaves one event with its actor, and a new generation', async () => {
    const [before] = await sql`select generation from config_generation`;
    const id = await createGroup('audited');
    const events =
      await sql`select action, principal_id, object_id, after_json from audit_events where object_id = ${id}`;
    expect(events).toHaveLength(1);
    expect(events[0]).toMatchObject({ action: 'group.create', principal_id: plane.ownerId });
    const [after] = await sql`select generation from config_generation`;
    expect(Number(after?.['generation'])).toBe(Number(before?.['generation']) + 1);
  });

  test('no event and no row remains of a mutation that fails at its end', async () => {
    const before = await state();
    await sql.unsafe(`create function fail() returns trigger language plpgsql as $$ begin raise 'broken'; end $$;
      create trigger fail before update on config_generation execute function fail()`);
    const answer = await plane.ask('mutation { createGroup(input: { name: "never" }) { id } }');
    await sql.unsafe('drop trigger fail on config_generation; drop function fail');
    expect(answer.errors[0]?.extensions.code).toBe('INTERNAL');
    expect(answer.errors[0]?.message).not.toContain('broken');
    expect(await state()).toEqual(before);
  });
});

describe('roles', () => {
  const assign = 'mutation ($id: ID!, $role: Role!) { assignRole(input: { principalId: $id, role: $role }) { role } }';
  const remove = 'mutation ($id: ID!, $role: Role!) { removeRole(input: { principalId: $id, role: $role }) { role } }';

  test('nobody gives himself a role', async () => {
    const answer = await plane.ask(assign, { id: plane.ownerId, role: 'AUDITOR' });
    expect(answer.errors[0]?.extensions.code).toBe('FORBIDDEN');
  });

  test('an admin gives no roles, and gets no key of an owner', async () => {
    const admin = await actor('ADMIN');
    const given = await plane.ask(assign, { id: admin.id, role: 'OWNER' }, admin.key);
    expect(given.errors[0]?.extensions.code).toBe('FORBIDDEN');
    const key = await plane.ask(createKey, { id: plane.ownerId, expiresAt: inDays(1) }, admin.key);
    expect(key.errors[0]?.extensions.code).toBe('FORBIDDEN');
    const own = await plane.ask(createKey, { id: admin.id, expiresAt: inDays(1) }, admin.key);
    expect(own.errors).toEqual([]);
  });

  test('an admin does not disable an owner', async () => {
    const admin = await actor('ADMIN');
    const disable = 'mutation ($id: ID!) { updateServiceAccount(input: { id: $id, status: DISABLED }) { id } }';
    expect((await plane.ask(disable, { id: plane.ownerId }, admin.key)).errors[0]?.extensions.code).toBe('FORBIDDEN');
  });

  test('the last owner keeps his role, and is neither disabled nor deleted', async () => {
    const id = plane.ownerId;
    const changes = [
      plane.ask(remove, { id, role: 'OWNER' }),
      plane.ask('mutation ($id: ID!) { updateServiceAccount(input: { id: $id, status: DISABLED }) { id } }', { id }),
      plane.ask('mutation ($id: ID!) { deleteServiceAccount(input: { id: $id }) { id } }', { id }),
    ];
    for (const answer of await Promise.all(changes)) {
      expect(answer.errors[0]?.extensions.violations?.[0]?.message).toContain('without an owner');
    }
  });

  test('two owners who step down at once leave one', async () => {
    const other = await actor('OWNER');
    const lifetimeMs = 3_600_000;
    const key = await issueOperatorKey(plane.databaseUrl, { principalId: other.id, name: 'own', lifetimeMs });
    await Promise.all([
      plane.ask(remove, { id: other.id, role: 'OWNER' }, key),
      plane.ask(remove, { id: plane.ownerId, role: 'OWNER' }),
    ]);
    const owners = await sql`select principal_id from role_bindings where role = 'owner'`;
    expect(owners).toHaveLength(1);
    if (owners[0]?.['principal_id'] === other.id) {
      await sql`update role_bindings set principal_id = ${plane.ownerId} where role = 'owner'`;
    }
  });

  test('a viewer reads and changes nothing', async () => {
    const viewer = await actor('VIEWER');
    const before = await state();
    expect((await plane.ask('{ groups { edges { node { name } } } }', {}, viewer.key)).errors).toEqual([]);
    const changed = await plane.ask('mutation { createGroup(input: { name: "no" }) { id } }', {}, viewer.key);
    expect(changed.errors[0]?.extensions.code).toBe('FORBIDDEN');
    expect(await state()).toEqual(before);
  });

  test('unknown and forbidden look alike', async () => {
    const member = await actor(null);
    const id = await createGroup('hidden');
    const query = 'query ($id: ID!) { group(id: $id) { name } }';
    const hidden = await plane.ask(query, { id }, member.key);
    const unknown = await plane.ask(query, { id: unknownId }, member.key);
    const malformed = await plane.ask(query, { id: 'x' }, member.key);
    expect(hidden).toEqual(unknown);
    expect(hidden).toEqual(malformed);
    expect(hidden.errors[0]?.extensions.code).toBe('NOT_FOUND');
  });
});
