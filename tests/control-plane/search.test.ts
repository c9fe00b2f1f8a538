import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';

let plane: TestControlPlane;
let sql: postgres.Sql;
const ids: Record<string, string> = {};

async function made(mutation: string): Promise<string> {
  const answer = await plane.ask(`mutation { made: ${mutation} { id } }`);
  expect(answer.errors).toEqual([]);
  return answer.data.made.id;
}

beforeAll(async () => {
  plane = await startTestControlPlane();
  sql = postgres(plane.databaseUrl);
  const server = (slug: string, more: string): Promise<string> =>
    made(`createServer(input: { slug: "${slug}", url: "https://mcp.example.org/mcp", ${more} })`);
  ids['jira'] = await server(
    'jira',
    'title: "Issues", description: "Tickets of CRM and Ops", labels: [{ key: "team", value: "crm" }, { key: "stage", value: "test" }]',
  );
  ids['bank'] = await server('bank', 'title: "100% of the Ledger", labels: [{ key: "team", value: "crm" }]');
  await server('wiki', 'title: "Straße"');
  ids['ada'] = await made('createUser(input: { name: "Ada Lovelace", email: "ada@example.com" })');
  ids['bo'] = await made('createUser(input: { name: "Bo", description: "stands in for Ada" })');
  await made(`updateUser(input: { id: "${ids['bo']}", status: DISABLED })`);
  ids['group'] = await made('createGroup(input: { name: "analysts", description: "who read the ledger" })');
  await made('createGroup(input: { name: "analysts of old" })');
  const account = (name: string, owner: string): Promise<string> =>
    made(
      `createServiceAccount(input: { name: "${name}", ownerId: "${owner}", expiresAt: "${new Date(Date.now() + 86_400_000).toISOString()}" })`,
    );
  await account('nightly build', ids['ada'] ?? '');
  await account('nightly report', plane.userId);
  const grant = (name: string, subject: string, more: string): Promise<string> =>
    made(
      `createGrant(input: { name: "${name}", subject: ${subject}, serverId: "${ids['jira']}", tools: ["*"], ${more} })`,
    );
  await grant('analysts read', `{ kind: GROUP, id: "${ids['group']}" }`, 'effect: ALLOW, reason: "Ticket OPS-12"');
  await grant('no_writes', '{ kind: EVERYONE }', 'effect: DENY, source: TERRAFORM');
  await grant(
    'for a while',
    `{ kind: USER, id: "${ids['ada']}" }`,
    'effect: ALLOW, notBefore: "2030-01-01T00:00:00Z", notAfter: "2030-02-01T00:00:00Z"',
  );
});
afterAll(async () => {
  await sql.end();
  await plane.stop();
});

const found = async (list: string, args: string, field = 'name'): Promise<string[]> => {
  const answer = await plane.ask(`{ list: ${list}(${args}) { edges { node { ${field} } } } }`);
  expect(answer.errors).toEqual([]);
  return answer.data.list.edges.map(({ node }: { node: Record<string, string> }) => node[field]);
};

describe('search', () => {
  test.each([
    ['servers', 'search: "ISSUES"', 'slug', ['jira']],
    ['servers', 'search: "ops  tickets"', 'slug', ['jira']],
    ['servers', 'search: "tickets ledger"', 'slug', []],
    ['servers', 'search: "0% of"', 'slug', ['bank']],
    ['servers', 'search: "%"', 'slug', ['bank']],
    ['servers', 'search: "straße"', 'slug', ['wiki']],
    ['servers', 'search: " "', 'slug', ['jira', 'bank', 'wiki']],
    ['servers', 'labels: [{ key: "team", value: "crm" }]', 'slug', ['jira', 'bank']],
    ['servers', 'labels: [{ key: "team", value: "crm" }, { key: "stage", value: "test" }]', 'slug', ['jira']],
    ['servers', 'labels: [{ key: "team", value: "money" }], search: "issues"', 'slug', []],
    ['servers', 'slug: "bank", lifecycle: DRAFT', 'slug', ['bank']],
    ['servers', 'lifecycle: APPROVED', 'slug', []],
    ['users', 'search: "lovelace"', 'name', ['Ada Lovelace']],
    ['users', 'search: "ada@EXAMPLE"', 'name', ['Ada Lovelace']],
    ['users', 'search: "ada"', 'name', ['Ada Lovelace', 'Bo']],
    ['users', 'search: "ada", status: DISABLED', 'name', ['Bo']],
    ['serviceAccounts', 'search: "nightly"', 'name', ['nightly build', 'nightly report']],
    ['groups', 'search: "ledger"', 'name', ['analysts']],
    ['groups', 'name: "analysts"', 'name', ['analysts']],
    ['grants', 'search: "ops-12"', 'name', ['analysts read']],
    ['grants', 'search: "no_writes"', 'name', ['no_writes']],
    ['grants', 'search: "o_w"', 'name', ['no_writes']],
    ['grants', 'search: "n__writes"', 'name', []],
    ['grants', 'effect: DENY', 'name', ['no_writes']],
    ['grants', 'source: TERRAFORM', 'name', ['no_writes']],
    ['grants', 'subjectKind: GROUP', 'name', ['analysts read']],
    ['grants', 'validAt: "2030-01-15T00:00:00Z"', 'name', ['analysts read', 'no_writes', 'for a while']],
    ['grants', 'validAt: "2030-02-01T00:00:00Z"', 'name', ['analysts read', 'no_writes']],
  ])('%s(%s)', async (list, args, field, expected) => {
    expect(await found(list, args, field)).toEqual(expected);
  });

  test('service accounts are found by who answers for them', async () => {
    expect(await found('serviceAccounts', `ownerId: "${ids['ada']}"`)).toEqual(['nightly build']);
    expect(await found('serviceAccounts', 'ownerId: "nobody"')).toEqual([]);
  });

  test('what is found comes in pages, each once', async () => {
    const query =
      'query ($after: String) { servers(search: "crm", first: 1, after: $after) { edges { node { slug } } pageInfo { endCursor hasNextPage } } }';
    await made('createServer(input: { slug: "mail", url: "https://mcp.example.org/mcp", description: "crm mail" })');
    const seen: string[] = [];
    let after: string | null = null;
    for (;;) {
      const { data } = await plane.ask(query, { after });
      seen.push(...data.servers.edges.map(({ node }: { node: { slug: string } }) => node.slug));
      if (data.servers.pageInfo.hasNextPage !== true) break;
      after = data.servers.pageInfo.endCursor;
    }
    expect(seen).toEqual(['jira', 'mail']);
  });

  test('a search that cannot be made says what is wrong with it', async () => {
    for (const search of ['x'.repeat(129), 'a b c d e f g h i', '\\u0000']) {
      const answer = await plane.ask(`{ grants(search: "${search}") { edges { cursor } } }`);
      const { code, violations } = answer.errors[0]?.extensions ?? { code: '' };
      expect([code, violations?.[0]?.path]).toEqual(['INVALID_INPUT', 'search']);
    }
    const label = await plane.ask('{ servers(labels: [{ key: "", value: "x" }]) { edges { cursor } } }');
    expect(label.errors[0]?.extensions.violations?.[0]?.path).toBe('labels[0].key');
  });
});

describe('audit events', () => {
  test('events are found by the beginning of what was called', async () => {
    const event = (id: string, target: string) => sql`
      insert into audit_events (time, id, kind, target_kind, target_name, outcome)
      values (now(), ${id}, 'exchange', 'tool', ${target}, 'success')`;
    await event('a', 'get_issue');
    await event('b', 'get%issue');
    await event('c', 'delete_issue');
    expect(await found('auditEvents', 'targetPrefix: "get"', 'id')).toEqual(['b', 'a']);
    expect(await found('auditEvents', 'targetPrefix: "get%"', 'id')).toEqual(['b']);
    expect(await found('auditEvents', 'targetPrefix: "et"', 'id')).toEqual([]);
  });
});
