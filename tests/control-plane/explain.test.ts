import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';

let plane: TestControlPlane;
let sql: postgres.Sql;
let groupId: string;
let adaId: string;
let bobId: string;

const serverIds = { jira: '01890000-0000-7000-8000-000000000001', bank: '01890000-0000-7000-8000-000000000002' };
const unknownId = '01890000-0000-7000-8000-0000000000ff';

async function make(query: string, variables: Record<string, unknown> = {}): Promise<string> {
  const answer = await plane.ask(query, variables);
  expect(answer.errors).toEqual([]);
  return Object.values<{ id: string }>(answer.data)[0]?.id ?? '';
}

async function createGrant(more: Record<string, unknown>): Promise<string> {
  const input = { name: 'test', subject: { kind: 'EVERYONE' }, effect: 'ALLOW', ...more };
  return make('mutation ($input: CreateGrantInput!) { createGrant(input: $input) { id } }', { input });
}

async function tryGrant(more: Record<string, unknown>): Promise<AccessChange[] | null> {
  const input = { name: 'test', subject: { kind: 'EVERYONE' }, effect: 'ALLOW', dryRun: true, ...more };
  const answer = await plane.ask(
    `mutation ($input: CreateGrantInput!) { createGrant(input: $input) { accessChanges ${changeFields} } }`,
    { input },
  );
  expect(answer.errors).toEqual([]);
  return answer.data.createGrant.accessChanges;
}

interface AccessChange {
  readonly summary: string;
  readonly slug: string;
  readonly gained: readonly { readonly name: string; readonly isConditional: boolean }[];
  readonly lost: readonly { readonly name: string }[];
}
const changeFields = '{ summary slug gained { name isConditional } lost { name } changed { name effect } }';

async function explain(more: Record<string, unknown>): Promise<Record<string, unknown>> {
  const input = { principalId: adaId, serverId: serverIds.jira, kind: 'TOOL', name: 'search', ...more };
  const answer = await plane.ask(
    `query ($input: ExplainAccessInput!) { explainAccess(input: $input) {
      effect reason grantIds shadow { effect grantIds } omitted
      grants { grantId match failed grant { name } } } }`,
    { input },
  );
  expect(answer.errors).toEqual([]);
  return answer.data.explainAccess;
}

/** All pages of a list, each of `first` entries. */
async function pages<T>(field: string, args: string, fields: string, first = 3): Promise<T[]> {
  const found: T[] = [];
  let after: string | null = null;
  for (;;) {
    const query: string = `query ($after: String) { list: ${field}(${args}, first: ${first}, after: $after) {
      edges { node { ${fields} } } pageInfo { hasNextPage endCursor } } }`;
    const answer = await plane.ask(query, { after });
    expect(answer.errors).toEqual([]);
    const { edges, pageInfo } = answer.data.list;
    expect(edges.length).toBeLessThanOrEqual(first);
    found.push(...edges.map((edge: { node: T }) => edge.node));
    if (pageInfo.hasNextPage !== true) return found;
    after = pageInfo.endCursor;
  }
}

beforeAll(async () => {
  plane = await startTestControlPlane();
  sql = postgres(plane.databaseUrl);
  for (const [slug, id] of Object.entries(serverIds)) {
    await sql`insert into servers (id, slug, slug_key, title, url, lifecycle, labels, protocol_revisions,
        discovery_attempted_at, created_at, updated_at)
      values (${id}, ${slug}, ${slug}, ${slug}, ${`https://${slug}.example.org/mcp`}, 'approved',
        ${sql.json({ team: slug })}, '{2026-07-28}', now(), now(), now())`;
    for (const name of ['search', 'create', 'update', 'remove', 'pay']) {
      await sql`insert into definitions (id, server_id, kind, name, digests, state, approved_digests, first_seen_at, last_seen_at)
        values (gen_random_uuid(), ${id}, 'tool', ${name}, '{d}', 'approved', '{d}', now(), now())`;
    }
  }
  groupId = await make('mutation { createGroup(input: { name: "analysts" }) { id } }');
  adaId = await make('mutation { createUser(input: { name: "Ada" }) { id } }');
  bobId = await make('mutation { createUser(input: { name: "Bob" }) { id } }');
  await make('mutation ($id: ID!, $ids: [ID!]!) { addGroupMembers(input: { id: $id, principalIds: $ids }) { id } }', {
    id: groupId,
    ids: [adaId],
  });
});
afterAll(async () => {
  await sql.end();
  await plane.stop();
});

async function withGrants(grants: readonly Record<string, unknown>[], body: (ids: string[]) => Promise<void>) {
  const ids: string[] = [];
  for (const more of grants) ids.push(await createGrant(more));
  try {
    await body(ids);
  } finally {
    const items = ids.map((id) => ({ id }));
    await plane.ask('mutation ($items: [GrantReferenceInput!]!) { deleteGrants(input: { items: $items }) { id } }', {
      items,
    });
  }
}

const analysts = () => ({ subject: { kind: 'GROUP', id: groupId }, serverId: serverIds.jira });

describe('explainAccess', () => {
  test('names the grants that decide, and of each other the part that failed', async () => {
    const past = new Date(Date.now() - 86_400_000).toISOString();
    await withGrants(
      [
        { ...analysts(), tools: ['sea*'] },
        { ...analysts(), tools: ['search'], subject: { kind: 'USER', id: bobId } },
        { ...analysts(), tools: ['pay'] },
        { ...analysts(), tools: ['*'], notAfter: new Date(Date.now() + 60_000).toISOString() },
        { ...analysts(), tools: ['*'], limits: { readOnly: true } },
        { ...analysts(), tools: ['*'], when: 'client.address.inNetwork("10.0.0.0/8")' },
        { ...analysts(), tools: ['*'], whenArguments: 'arguments.n <= 5' },
        { serverLabels: [{ key: 'team', value: 'jira' }], tools: ['search'], mode: 'SHADOW', effect: 'DENY' },
      ],
      async (ids) => {
        await sql`update grants set not_after = ${past} where id = ${ids[3] ?? ''}`;
        const client = { address: '192.0.2.1' };
        const explained = await explain({ client, arguments: { n: 7 } });
        const parts = new Map(
          (explained['grants'] as { grantId: string; match: string; failed: string | null }[]).map((grant) => [
            ids.indexOf(grant.grantId),
            `${grant.match} ${grant.failed}`,
          ]),
        );
        expect(Object.fromEntries(parts)).toEqual({
          0: 'YES null',
          1: 'NO SUBJECT',
          2: 'NO SELECTOR',
          3: 'NO WINDOW',
          4: 'UNKNOWN LIMITS',
          5: 'NO WHEN',
          6: 'NO WHEN_ARGUMENTS',
          7: 'YES null',
        });
        const shadow = { effect: 'DENY', grantIds: [ids[7]] };
        expect(explained).toMatchObject({ effect: 'ALLOW', reason: 'GRANTED', grantIds: [ids[0]], shadow, omitted: 0 });
        const other = await explain({ client: { address: '10.1.1.1' }, arguments: { n: 1 } });
        expect(new Set(other['grantIds'] as string[])).toEqual(new Set([ids[0], ids[5], ids[6]]));
      },
    );
  });

  test('says why nothing is decided for somebody who may not act, a tool that is not approved, a server not served', async () => {
    await withGrants([{ ...analysts(), tools: ['*'] }], async () => {
      expect(await explain({ name: 'unknown' })).toMatchObject({ effect: 'DENY', reason: 'DEFINITION_NOT_APPROVED' });
      expect(await explain({ principalId: bobId })).toMatchObject({ effect: 'DENY', reason: 'NO_GRANT' });
      await sql`update principals set status = 'disabled' where id = ${adaId}`;
      expect(await explain({})).toMatchObject({ effect: 'DENY', reason: 'PRINCIPAL_DISABLED' });
      await sql`update principals set status = 'active' where id = ${adaId}`;
      await sql`update servers set lifecycle = 'disabled' where id = ${serverIds.jira}`;
      expect(await explain({})).toMatchObject({ effect: 'DENY', reason: 'SERVER_NOT_SERVED' });
      await sql`update servers set lifecycle = 'approved' where id = ${serverIds.jira}`;
    });
  });

  test('answers for an object that does not exist as for one that may not be seen', async () => {
    for (const missing of [{ principalId: unknownId }, { serverId: unknownId }, { serverId: 'no id' }]) {
      const input = { principalId: adaId, serverId: serverIds.jira, kind: 'TOOL', name: 'x', ...missing };
      const query = 'query ($input: ExplainAccessInput!) { explainAccess(input: $input) { effect } }';
      const answer = await plane.ask(query, { input });
      expect(answer.errors[0]?.extensions.code).toBe('NOT_FOUND');
    }
  });
});

describe('effective access', () => {
  test('lists what a principal may use, over all servers and in pages', async () => {
    await withGrants(
      [
        { ...analysts(), tools: ['*'] },
        { ...analysts(), tools: ['remove'], effect: 'DENY' },
        { ...analysts(), tools: ['pay'], effect: 'REQUIRE_APPROVAL' },
        { ...analysts(), tools: ['update'], effect: 'DENY', whenArguments: 'arguments.force' },
        { serverLabels: [{ key: 'team', value: 'bank' }], tools: ['pay'], when: 'client.name == "agent"' },
      ].map((grant) => ('whenArguments' in grant ? { ...grant, whenArguments: 'arguments.force == true' } : grant)),
      async () => {
        const fields = 'slug name effect isConditional';
        const usable = await pages('effectiveAccess', `principalId: "${adaId}"`, fields, 2);
        expect(usable).toEqual([
          { slug: 'bank', name: 'pay', effect: 'ALLOW', isConditional: true },
          { slug: 'jira', name: 'create', effect: 'ALLOW', isConditional: false },
          { slug: 'jira', name: 'pay', effect: 'REQUIRE_APPROVAL', isConditional: false },
          { slug: 'jira', name: 'search', effect: 'ALLOW', isConditional: false },
          { slug: 'jira', name: 'update', effect: 'ALLOW', isConditional: true },
        ]);
        const onBank = await pages('effectiveAccess', `principalId: "${adaId}", serverId: "${serverIds.bank}"`, fields);
        expect(onBank).toEqual(usable.slice(0, 1));
      },
    );
  });

  test('lists who may use a tool, and by which grants', async () => {
    await withGrants(
      [
        { ...analysts(), tools: ['search'] },
        { ...analysts(), tools: ['search'], subject: { kind: 'USER', id: bobId }, name: 'for Bob' },
      ],
      async (ids) => {
        const args = `serverId: "${serverIds.jira}", kind: TOOL, name: "search"`;
        const users = await pages(
          'targetAccess',
          args,
          'principal { name } effect grants { id name subject { kind } }',
          1,
        );
        expect(users).toEqual([
          {
            principal: { name: 'Ada' },
            effect: 'ALLOW',
            grants: [{ id: ids[0], name: 'test', subject: { kind: 'GROUP' } }],
          },
          {
            principal: { name: 'Bob' },
            effect: 'ALLOW',
            grants: [{ id: ids[1], name: 'for Bob', subject: { kind: 'USER' } }],
          },
        ]);
        expect(await pages('targetAccess', args.replace('search', 'pay'), 'principal { name }')).toEqual([]);
      },
    );
  });
});

describe('a dry run', () => {
  test('tells what a grant would open or close, and changes nothing', async () => {
    await withGrants([{ ...analysts(), tools: ['search'] }], async ([id]) => {
      const gains = await tryGrant({ ...analysts(), tools: ['*'] });
      expect(gains?.map(({ summary }) => summary)).toEqual(['group analysts gains 4 tools on jira']);
      const onLabels = { serverLabels: [{ key: 'team', value: 'bank' }], tools: ['pay'] };
      const conditional = await tryGrant({ ...onLabels, when: 'client.name == "agent"' });
      expect(conditional).toMatchObject([{ slug: 'bank', gained: [{ name: 'pay', isConditional: true }] }]);
      const denies = await tryGrant({ ...analysts(), tools: ['*'], effect: 'DENY' });
      expect(denies?.map(({ summary }) => summary)).toEqual(['group analysts loses 1 tool on jira']);
      expect(await tryGrant({ ...analysts(), tools: ['search'], mode: 'SHADOW' })).toEqual([]);
      const change = `mutation ($input: UpdateGrantInput!) { updateGrant(input: $input) { accessChanges ${changeFields} } }`;
      const input = { id, tools: ['create', 'update'], dryRun: true };
      const changed = await plane.ask(change, { input });
      expect(changed.data.updateGrant.accessChanges[0].summary).toBe(
        'group analysts gains 2 tools on jira, loses 1 tool',
      );
      const ended = await plane.ask(
        `mutation ($id: ID!) { endGrant(input: { id: $id, dryRun: true }) { accessChanges ${changeFields} } }`,
        { id },
      );
      expect(ended.data.endGrant.accessChanges[0].lost).toEqual([{ name: 'search' }]);
      const real = await plane.ask(
        'mutation ($id: ID!) { updateGrant(input: { id: $id, reason: "why" }) { accessChanges { slug } tools } }',
        { id },
      );
      expect(real.data.updateGrant).toEqual({ accessChanges: null, tools: ['search'] });
    });
  });

  test('tells what a membership would open or close', async () => {
    await withGrants([{ ...analysts(), tools: ['search', 'create'] }], async () => {
      const mutation = (name: string) =>
        `mutation ($id: ID!, $ids: [ID!]!) { answer: ${name}(input: { id: $id, principalIds: $ids, dryRun: true }) {
          accessChanges { summary } } }`;
      const joining = await plane.ask(mutation('addGroupMembers'), { id: groupId, ids: [bobId, adaId] });
      expect(joining.data.answer.accessChanges).toEqual([{ summary: 'user Bob gains 2 tools on jira' }]);
      const leaving = await plane.ask(mutation('removeGroupMembers'), { id: groupId, ids: [adaId] });
      expect(leaving.data.answer.accessChanges).toEqual([{ summary: 'user Ada loses 2 tools on jira' }]);
    });
  });

  test('of several grants tells what they change together and what each changes alone, many at a time too', async () => {
    await withGrants(
      [
        { ...analysts(), tools: ['search'] },
        { ...analysts(), tools: ['create'] },
      ],
      async ([id, other]) => {
        const fields = `{ id all: accessChanges { summary } alone: accessChanges(alone: true) { summary } }`;
        const item = { ...analysts(), name: 'test', effect: 'ALLOW' };
        const made = await plane.ask(
          `mutation ($input: CreateGrantsInput!) { answer: createGrants(input: $input) ${fields} }`,
          {
            input: {
              dryRun: true,
              items: [
                { ...item, tools: ['update'] },
                { ...item, tools: ['search', 'remove'] },
              ],
            },
          },
        );
        const each = {
          all: [{ summary: 'group analysts gains 2 tools on jira' }],
          alone: [{ summary: 'group analysts gains 1 tool on jira' }],
        };
        expect(made.data.answer).toMatchObject([each, each]);
        const dropped = `mutation ($input: DeleteGrantsInput!) { answer: deleteGrants(input: $input) ${fields} }`;
        // More than there are connections to the database: none waits for another that it holds up itself.
        const answers = await Promise.all(
          Array.from({ length: 30 }, () =>
            plane.ask(dropped, { input: { dryRun: true, items: [{ id }, { id: other }] } }),
          ),
        );
        for (const { data } of answers) {
          expect(data.answer).toEqual(
            [id, other].map((each) => ({
              id: each,
              all: [{ summary: 'group analysts loses 2 tools on jira' }],
              alone: [{ summary: 'group analysts loses 1 tool on jira' }],
            })),
          );
        }
      },
    );
  });

  test('of the end of a group tells what its members lose', async () => {
    await withGrants([{ ...analysts(), tools: ['search', 'create'] }], async () => {
      const answer = await plane.ask(
        'mutation ($id: ID!) { deleteGroup(input: { id: $id, dryRun: true }) { accessChanges { summary } } }',
        { id: groupId },
      );
      expect(answer.data.deleteGroup.accessChanges).toEqual([{ summary: 'group analysts loses 2 tools on jira' }]);
    });
  });

  /** Summaries of what a mutation that is only tried would change. */
  async function tried(mutation: string, type: string, input: Record<string, unknown>): Promise<string[]> {
    const answer = await plane.ask(
      `mutation ($input: ${type}!) { answer: ${mutation}(input: $input) { accessChanges { summary } } }`,
      { input: { ...input, dryRun: true } },
    );
    expect(answer.errors).toEqual([]);
    return [answer.data.answer]
      .flat()
      .flatMap(({ accessChanges }: { accessChanges: { summary: string }[] }) => accessChanges)
      .map(({ summary }: { summary: string }) => summary)
      .sort();
  }

  test('tells what becomes of access when something it rests on changes or goes', async () => {
    const onLabels = { serverLabels: [{ key: 'team', value: 'bank' }], tools: ['pay'] };
    const ada = { subject: { kind: 'USER', id: adaId }, serverId: serverIds.bank, tools: ['search'] };
    await withGrants([{ ...analysts(), tools: ['search', 'create'] }, onLabels, ada], async () => {
      const { jira, bank } = serverIds;
      const labels = (value: string) => [{ key: 'team', value }];
      const lost = [
        'everyone loses 1 tool on bank',
        // Who has a grant of its own has what everyone has besides.
        'user Ada loses 1 tool on bank',
      ];
      expect(await tried('updateServer', 'UpdateServerInput', { id: bank, labels: labels('other') })).toEqual(lost);
      expect(await tried('updateServer', 'UpdateServerInput', { id: jira, labels: labels('bank') })).toEqual([
        'everyone gains 1 tool on jira',
        'group analysts gains 1 tool on jira',
      ]);
      expect(await tried('updateServer', 'UpdateServerInput', { id: jira, title: 'Jira' })).toEqual([]);
      expect(await tried('disableServer', 'ServerInput', { id: jira })).toEqual([
        'group analysts loses 2 tools on jira',
      ]);
      for (const mutation of ['disableServers', 'deleteServers']) {
        expect(await tried(mutation, 'ServersInput', { items: [{ id: jira }, { id: bank }] })).toEqual([
          'everyone loses 1 tool on bank',
          'group analysts loses 1 tool on bank',
          'group analysts loses 2 tools on jira',
          'user Ada loses 2 tools on bank',
          'user Ada loses 2 tools on jira',
        ]);
      }
      expect(await tried('deleteGroup', 'DeleteGroupInput', { id: groupId })).toEqual([
        'group analysts loses 2 tools on jira',
      ]);
      const everything = ['user Ada loses 2 tools on bank', 'user Ada loses 2 tools on jira'];
      expect(await tried('updateUser', 'UpdateUserInput', { id: adaId, status: 'DISABLED' })).toEqual(everything);
      expect(await tried('deleteUser', 'DeleteUserInput', { id: adaId })).toEqual(everything);
      expect(await tried('updateUser', 'UpdateUserInput', { id: adaId, description: 'x' })).toEqual([]);
      const [pay] = await sql`select id from definitions where server_id = ${bank} and name = 'pay'`;
      const definitionIds = [pay?.['id']];
      expect(await tried('quarantineDefinitions', 'QuarantineDefinitionsInput', { id: bank, definitionIds })).toEqual(
        lost,
      );
      expect(
        await tried('labelDefinitions', 'LabelDefinitionsInput', { id: bank, definitionIds, labels: { risk: 'HIGH' } }),
      ).toEqual([]);
    });
    const [row] = await sql`select count(*) filter (where lifecycle = 'approved') as served,
      (select count(*) from definitions where state = 'approved') as approved from servers`;
    expect(row).toEqual({ served: '2', approved: '10' });
  });

  test('that is refused tells what is wrong, as the real run would', async () => {
    const input = { ...analysts(), name: '', effect: 'ALLOW', tools: ['*'], dryRun: true };
    const answer = await plane.ask('mutation ($input: CreateGrantInput!) { createGrant(input: $input) { id } }', {
      input,
    });
    expect(answer.errors[0]?.extensions.violations?.map(({ path }) => path)).toEqual(['input.name']);
  });
});

test('grants and members are found by their ids, many at once', async () => {
  await withGrants(
    [
      { ...analysts(), tools: ['search'] },
      { ...analysts(), tools: ['create'] },
    ],
    async ([first]) => {
      const asked = await plane.ask('query ($ids: [ID!]!) { grants(ids: $ids) { edges { node { id } } } }', {
        ids: [first, unknownId, 'no id'],
      });
      expect(asked.data.grants.edges).toEqual([{ node: { id: first } }]);
      const none = await plane.ask('{ grants(ids: []) { edges { node { id } } } }');
      expect(none.data.grants.edges).toEqual([]);
    },
  );
  const members = await plane.ask(
    'query ($id: ID!, $ids: [ID!]!) { group(id: $id) { members(ids: $ids) { edges { node { name } } } } }',
    { id: groupId, ids: [adaId, bobId, unknownId] },
  );
  expect(members.data.group.members.edges).toEqual([{ node: { name: 'Ada' } }]);
});
