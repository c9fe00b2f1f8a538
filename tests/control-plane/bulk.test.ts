import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';

let plane: TestControlPlane;
let sql: postgres.Sql;

const unknownId = '01890000-0000-7000-8000-000000000000';

beforeAll(async () => {
  plane = await startTestControlPlane();
  sql = postgres(plane.databaseUrl);
});
afterAll(async () => {
  await sql.end();
  await plane.stop();
});

/** What must be as it was when a mutation is refused or only tried. */
async function state(): Promise<unknown> {
  const [row] = await sql`select
    (select generation from config_generation) as generation,
    (select count(*) from audit_events) as events,
    (select json_agg(s order by s.id) from (select id, title, lifecycle, labels, revision, deleted_at from servers) s) as servers,
    (select json_agg(g order by g.id) from grants g) as grants,
    (select json_agg(g order by g.id) from groups g) as groups,
    (select json_agg(m order by m.group_id, m.principal_id) from group_members m) as members,
    (select count(*) from idempotency_keys) as idempotency`;
  return row;
}

/** Of mutations whose input is not named after them. */
const inputTypes = new Map([
  ...['submit', 'approve', 'deprecate', 'disable', 'delete'].map((verb) => [`${verb}Servers`, 'ServersInput'] as const),
  ['returnServersToDraft', 'ServersInput'],
  ['addGroupMembers', 'GroupMembersInput'],
]);

async function run(name: string, input: Record<string, unknown>, fields = 'id revision') {
  const type = inputTypes.get(name) ?? `${name.charAt(0).toUpperCase()}${name.slice(1)}Input`;
  const answer = await plane.ask(`mutation ($input: ${type}!) { answer: ${name}(input: $input) { ${fields} } }`, {
    input,
  });
  return { rows: answer.data?.answer, failure: answer.errors[0]?.extensions };
}

async function made(name: string, input: Record<string, unknown>, fields?: string) {
  const { rows, failure } = await run(name, input, fields);
  expect(failure).toBeUndefined();
  return rows;
}

const pathsOf = (failure: { violations?: readonly { path: string }[] } | undefined): string[] =>
  (failure?.violations ?? []).map(({ path }) => path);

const url = 'https://mcp.example.org/mcp';
const newServers = (...slugs: string[]) => slugs.map((slug) => ({ slug, url }));

describe('servers', () => {
  test('servers are registered together, once for one key', async () => {
    const input = { items: newServers('one', 'two', 'three'), idempotencyKey: 'import' };
    const rows = await made('createServers', input, 'id slug lifecycle');
    expect(rows.map(({ slug, lifecycle }: { slug: string; lifecycle: string }) => [slug, lifecycle])).toEqual([
      ['one', 'DRAFT'],
      ['two', 'DRAFT'],
      ['three', 'DRAFT'],
    ]);
    expect(await made('createServers', input, 'id slug lifecycle')).toEqual(rows);
    const other = await run('createServers', { ...input, items: newServers('one', 'two') });
    expect(pathsOf(other.failure)).toEqual(['input.idempotencyKey']);
  });

  test('one bad server keeps all from being registered, and each wrong is told at its item', async () => {
    const before = await state();
    const { failure } = await run('createServers', {
      items: [
        { slug: 'good', url },
        { slug: 'Not A Slug', url },
        { slug: 'g00d', url },
        { slug: 'one', url },
        { slug: 'four', url: 'ftp://example.org', title: ' ' },
        { slug: 'five', url: 'http://127.0.0.1:1/mcp', labels: [{ key: '!', value: 'x' }] },
      ],
    });
    expect(failure?.code).toBe('INVALID_INPUT');
    expect(pathsOf(failure).sort()).toEqual([
      'input.items[1].slug',
      'input.items[2].slug',
      'input.items[3].slug',
      'input.items[4].title',
      'input.items[4].url',
      'input.items[5].labels[0].key',
      'input.items[5].url',
    ]);
    expect(await state()).toEqual(before);
  });

  test('none, and more than 200, are refused', async () => {
    const many = newServers(...Array.from({ length: 201 }, (_, index) => `s${index}`));
    for (const items of [[], many]) {
      expect(pathsOf((await run('createServers', { items })).failure)).toEqual(['input.items']);
    }
  });

  test('servers are changed together, or none where one is unknown, doubled or wrong', async () => {
    const rows: { id: string; revision: number }[] = await made('createServers', { items: newServers('c1', 'c2') });
    const [one, two] = rows;
    const before = await state();
    const refused = await run('updateServers', {
      items: [
        { id: one?.id, title: 'First' },
        { id: unknownId, title: 'x' },
        { id: two?.id, title: '' },
        { id: one?.id, title: 'Again' },
      ],
    });
    expect(pathsOf(refused.failure).sort()).toEqual(['input.items[1].id', 'input.items[2].title', 'input.items[3].id']);
    expect(await state()).toEqual(before);
    const changed = await made(
      'updateServers',
      {
        items: [
          { id: two?.id, title: 'Second' },
          { id: one?.id, labels: [{ key: 'team', value: 'crm' }] },
        ],
      },
      'id title labels { key value } revision',
    );
    expect(changed).toEqual([
      { id: two?.id, title: 'Second', labels: [], revision: 2 },
      { id: one?.id, title: 'c1', labels: [{ key: 'team', value: 'crm' }], revision: 2 },
    ]);
  });

  test('what somebody else changed meanwhile is named, and nothing is done', async () => {
    const rows: { id: string }[] = await made('createServers', { items: newServers('r1', 'r2', 'r3') });
    await made('updateServers', {
      items: [
        { id: rows[1]?.id, title: 'other' },
        { id: rows[2]?.id, title: 'other' },
      ],
    });
    const before = await state();
    const items = rows.map(({ id }) => ({ id, expectedRevision: 1 }));
    const { failure } = await run('submitServers', { items });
    expect([failure?.code, pathsOf(failure)]).toEqual([
      'CONFLICT',
      ['input.items[1].expectedRevision', 'input.items[2].expectedRevision'],
    ]);
    expect(await state()).toEqual(before);
  });

  test('servers go through their lifecycle together; one that cannot keeps the others back', async () => {
    const rows: { id: string }[] = await made('createServers', { items: newServers('l1', 'l2') });
    const items = rows.map(({ id }) => ({ id }));
    const undiscovered = await run('approveServers', { items });
    expect(pathsOf(undiscovered.failure)).toEqual(['input.items[0].id', 'input.items[1].id']);
    await sql`update servers set discovered_at = now(), discovery_problem = null where id in ${sql(rows.map(({ id }) => id))}`;
    const lifecycles = async (name: string): Promise<string[]> =>
      (await made(name, { items }, 'lifecycle')).map(({ lifecycle }: { lifecycle: string }) => lifecycle);
    expect(await lifecycles('submitServers')).toEqual(['PENDING', 'PENDING']);
    expect(await lifecycles('returnServersToDraft')).toEqual(['DRAFT', 'DRAFT']);
    expect(await lifecycles('approveServers')).toEqual(['APPROVED', 'APPROVED']);
    expect(await lifecycles('deprecateServers')).toEqual(['DEPRECATED', 'DEPRECATED']);
    await made('disableServers', { items: items.slice(1) });
    const before = await state();
    expect(pathsOf((await run('disableServers', { items })).failure)).toEqual(['input.items[1].id']);
    expect(await state()).toEqual(before);
    await made('deleteServers', { items });
    const left = await sql`select 1 from servers where deleted_at is null and id in ${sql(rows.map(({ id }) => id))}`;
    expect(left).toHaveLength(0);
  });

  test('a dry run of many answers as the real one and leaves nothing', async () => {
    const before = await state();
    expect(await made('createServers', { items: newServers('d1', 'd2'), dryRun: true }, 'slug')).toEqual([
      { slug: 'd1' },
      { slug: 'd2' },
    ]);
    expect(await state()).toEqual(before);
  });

  test('the labels of a server in service are changed only by who may approve it', async () => {
    const rows: { id: string }[] = await made('createServers', { items: newServers('served') });
    const id = rows[0]?.id ?? '';
    await sql`update servers set lifecycle = 'approved', labels = '{"team":"crm"}' where id = ${id}`;
    const user = await plane.ask('mutation { createUser(input: { name: "an editor" }) { id } }');
    const principalId = user.data.createUser.id;
    await plane.ask('mutation ($id: ID!) { assignRole(input: { principalId: $id, role: EDITOR }) { id } }', {
      id: principalId,
    });
    // An editor writes the servers of his groups.
    const { id: ownerGroup } = await made('createGroup', { name: 'owners' }, 'id');
    await made('addGroupMembers', { id: ownerGroup, principalIds: [principalId] });
    await sql`update servers set owner_group_id = ${ownerGroup} where id = ${id}`;
    const issued = await plane.ask('mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { secret } }', {
      input: { principalId, name: 'k', scopes: ['API'], expiresAt: new Date(Date.now() + 3_600_000).toISOString() },
    });
    const key = issued.data.createApiKey.secret;
    const update = 'mutation ($input: UpdateServerInput!) { updateServer(input: $input) { title } }';
    const same = { id, title: 'New title', labels: [{ key: 'team', value: 'crm' }] };
    expect((await plane.ask(update, { input: same }, key)).errors).toEqual([]);
    const other = { id, labels: [{ key: 'team', value: 'money' }] };
    expect((await plane.ask(update, { input: other }, key)).errors[0]?.extensions.code).toBe('FORBIDDEN');
    expect((await plane.ask(update, { input: other })).errors).toEqual([]);
  });
});

describe('memberships', () => {
  const group = async (name: string): Promise<string> => (await made('createGroup', { name }, 'id')).id;
  const user = async (name: string): Promise<string> => (await made('createUser', { name }, 'id')).id;
  const members = async (id: string): Promise<string[]> =>
    (await sql`select principal_id from group_members where group_id = ${id} order by 1`).map(
      (row) => row['principal_id'],
    );

  test('members of several groups are changed together', async () => {
    const [ada, bo, cy] = [await user('ada'), await user('bo'), await user('cy')];
    const [analysts, interns] = [await group('analysts'), await group('interns')];
    await made('addGroupMembers', { id: interns, principalIds: [ada, bo] });
    const rows = await made('changeGroupMembers', {
      items: [
        { id: analysts, expectedRevision: 1, add: [ada, bo, cy] },
        { id: interns, add: [cy], remove: [ada, bo] },
      ],
    });
    expect(rows.map(({ id }: { id: string }) => id)).toEqual([analysts, interns]);
    expect(await members(analysts)).toEqual([ada, bo, cy].sort());
    expect(await members(interns)).toEqual([cy]);
    const events = await sql`select action from audit_events where object_id = ${interns} order by id`;
    expect(events.map((row) => row['action'])).toEqual([
      'group.create',
      'group.addMembers',
      'group.addMembers',
      'group.removeMembers',
    ]);
  });

  test('one wrong member, group or revision keeps all as they were', async () => {
    const [dora, eli] = [await user('dora'), await user('eli')];
    const [left, right] = [await group('left'), await group('right')];
    const before = await state();
    const wrong = await run('changeGroupMembers', {
      items: [
        { id: left, add: [dora, unknownId, 'no id'] },
        { id: unknownId, add: [dora] },
        { id: right, add: [dora], remove: [eli, dora] },
        { id: left, remove: [dora] },
      ],
    });
    expect(pathsOf(wrong.failure).sort()).toEqual([
      'input.items[0].add[1]',
      'input.items[0].add[2]',
      'input.items[1].id',
      'input.items[2].remove[1]',
      'input.items[3].id',
    ]);
    const nothing = await run('changeGroupMembers', { items: [{ id: left, add: [dora] }, { id: right }] });
    expect(pathsOf(nothing.failure)).toEqual(['input.items[1].add']);
    const changed = await run('changeGroupMembers', {
      items: [
        { id: left, add: [dora] },
        { id: right, expectedRevision: 7, add: [dora] },
      ],
    });
    expect([changed.failure?.code, pathsOf(changed.failure)]).toEqual([
      'CONFLICT',
      ['input.items[1].expectedRevision'],
    ]);
    const tooMany = Array.from({ length: 501 }, () => dora);
    expect(pathsOf((await run('changeGroupMembers', { items: [{ id: left, add: tooMany }] })).failure)).toEqual([
      'input.items',
    ]);
    await made('changeGroupMembers', { items: [{ id: left, add: [dora] }], dryRun: true });
    expect(await state()).toEqual(before);
  });
});

describe('grants', () => {
  const grant = (name: string, more: object = {}) => ({
    name,
    subject: { kind: 'EVERYONE' },
    serverLabels: [{ key: 'team', value: 'crm' }],
    effect: 'ALLOW',
    tools: ['*'],
    ...more,
  });

  test('grants are changed together, or none where one is unknown, doubled, wrong or changed meanwhile', async () => {
    const rows: { id: string }[] = await made('createGrants', { items: [grant('a'), grant('b'), grant('c')] });
    const [a, b, c] = rows.map(({ id }) => id);
    const before = await state();
    const wrong = await run('updateGrants', {
      items: [
        { id: a, name: 'A' },
        { id: b, when: 'principal.nam == "x"' },
        { id: unknownId, name: 'x' },
        { id: a, name: 'twice' },
      ],
    });
    expect(pathsOf(wrong.failure).sort()).toEqual(['input.items[1].when', 'input.items[2].id', 'input.items[3].id']);
    const late = await run('updateGrants', {
      items: [
        { id: a, name: 'A' },
        { id: c, expectedRevision: 4, name: 'C' },
      ],
    });
    expect([late.failure?.code, pathsOf(late.failure)]).toEqual(['CONFLICT', ['input.items[1].expectedRevision']]);
    expect(pathsOf((await run('deleteGrants', { items: [{ id: a }, { id: unknownId }] })).failure)).toEqual([
      'input.items[1].id',
    ]);
    expect(pathsOf((await run('deleteGrants', { items: [{ id: unknownId }] })).failure)).toEqual(['input.items[0].id']);
    expect(await state()).toEqual(before);
    expect(
      await made(
        'updateGrants',
        {
          items: [
            { id: c, name: 'C' },
            { id: a, mode: 'SHADOW' },
          ],
        },
        'name mode',
      ),
    ).toEqual([
      { name: 'C', mode: 'ENFORCE' },
      { name: 'a', mode: 'SHADOW' },
    ]);
  });
});
