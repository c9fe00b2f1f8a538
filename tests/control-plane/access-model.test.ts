/** The worked examples of the guide, made through the API and asked of `explainAccess`. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { repositoryRoot } from '../contract/generated-files.ts';
import { startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';

const guide = readFileSync(join(repositoryRoot(), 'docs/guides/access-model.md'), 'utf8');
const examples = guide
  .split(/^## /m)
  .filter((section) => section.startsWith('Worked examples'))
  .flatMap((section) => section.split(/^### /m).slice(1))
  .map((text) => ({
    title: text.split('\n')[0] ?? '',
    mutation: /```graphql\n([^]*?)```/.exec(text)?.[1] ?? '',
    rows: text
      .split('\n')
      .filter((line) => line.startsWith('|') && !/^\|(?:-|\s*who)/.test(line))
      .map((line) => line.split('|').map((cell) => cell.trim())),
  }));

const servers = { jira: 'crm', bank: 'money' } as const;
const tools: readonly (readonly [keyof typeof servers, string, Record<string, unknown>])[] = [
  ['jira', 'search_issues', { risk: 'LOW', readOnly: true, destructive: false }],
  ['jira', 'create_issue', { risk: 'MEDIUM', destructive: false }],
  ['jira', 'delete_project', { risk: 'HIGH', destructive: true }],
  ['jira', 'export_all', {}],
  ['bank', 'get_balance', {}],
  ['bank', 'pay', {}],
];

let plane: TestControlPlane;
let sql: postgres.Sql;
/** Ids by the names the guide uses. */
const ids = new Map<string, string>();
const idOf = (number: number): string => `01890000-0000-7000-8000-${String(number).padStart(12, '0')}`;

async function ask(query: string, variables: Record<string, unknown> = {}) {
  const answer = await plane.ask(query, variables);
  expect(answer.errors).toEqual([]);
  return answer.data;
}

async function seedServers(): Promise<void> {
  for (const [index, [slug, team]] of Object.entries(servers).entries()) {
    const id = idOf(index);
    ids.set(slug, id);
    await sql`insert into servers (id, slug, slug_key, title, url, lifecycle, labels, protocol_revisions, discovery_attempted_at)
      values (${id}, ${slug}, ${slug}, ${slug}, 'https://mcp.example.org/mcp', 'approved', ${sql.json({ team })}, '{2025-11-25}', now())`;
  }
  for (const [index, [slug, name, labels]] of tools.entries()) {
    const id = idOf(100 + index);
    await sql`insert into definitions (id, server_id, kind, name, digests, state, approved_digests, first_seen_at, last_seen_at)
      values (${id}, ${ids.get(slug) ?? ''}, 'tool', ${name}, '{d}', 'approved', '{d}', now(), now())`;
    if (Object.keys(labels).length === 0) continue;
    const input = { id: ids.get(slug), definitionIds: [id], labels };
    await ask('mutation ($input: LabelDefinitionsInput!) { labelDefinitions(input: $input) { id } }', { input });
  }
}

async function seedSubjects(): Promise<void> {
  const expiresAt = new Date(Date.now() + 86_400_000).toISOString();
  const made = [
    ['ada', 'createUser(input: { name: "ada" })'],
    ['bo', 'createUser(input: { name: "bo" })'],
    ['nightly', `createServiceAccount(input: { name: "nightly", expiresAt: "${expiresAt}" })`],
    ['analysts', 'createGroup(input: { name: "analysts" })'],
    ['contractors', 'createGroup(input: { name: "contractors" })'],
  ] as const;
  for (const [name, mutation] of made) ids.set(name, (await ask(`mutation { made: ${mutation} { id } }`)).made.id);
  const join = 'mutation ($input: GroupMembersInput!) { addGroupMembers(input: $input) { id } }';
  await ask(join, { input: { id: ids.get('analysts'), principalIds: [ids.get('ada')] } });
  await ask(join, { input: { id: ids.get('contractors'), principalIds: [ids.get('bo')] } });
}

beforeAll(async () => {
  plane = await startTestControlPlane();
  sql = postgres(plane.databaseUrl);
  await seedServers();
  await seedSubjects();
});
afterAll(async () => {
  await sql.end();
  await plane.stop();
});

const outcomes: Readonly<Record<string, string>> = {
  ALLOW: 'allowed',
  DENY: 'not available',
  REQUIRE_APPROVAL: 'needs an approval',
};

async function explained(who: string, calls: string, how: string): Promise<string | undefined> {
  const [, slug = '', name = ''] = /^(\S+) `(.+)`$/.exec(calls) ?? [];
  const [, values] = /`(\{.*\})`/.exec(how) ?? [];
  const [, address] = /from (\S+)/.exec(how) ?? [];
  const [, at] = /at (\S+)$/.exec(how) ?? [];
  const input = {
    principalId: ids.get(who),
    serverId: ids.get(slug),
    kind: 'TOOL',
    name,
    arguments: values === undefined ? null : JSON.parse(values),
    client: { address },
    at,
  };
  const query = 'query ($input: ExplainAccessInput!) { explainAccess(input: $input) { effect } }';
  return outcomes[(await ask(query, { input })).explainAccess.effect];
}

/** With the ids that the guide writes as names. */
function withIds(mutation: string): string {
  return mutation.replace(/\b(id|serverId): "([a-z]+)"/g, (_match, key: string, name: string) => {
    const id = ids.get(name);
    if (id === undefined) throw new Error(`the guide speaks of ${name}, which the test does not know`);
    return `${key}: "${id}"`;
  });
}

describe('the guide to the access model', () => {
  test('has worked examples', () => expect(examples.length).toBeGreaterThan(6));

  test.each(examples)('tells what comes of it: $title', async ({ mutation, rows }) => {
    expect(rows.length).toBeGreaterThan(2);
    const made = Object.values<{ id: string } | { id: string }[]>(await ask(withIds(mutation))).flat();
    for (const [, who = '', calls = '', how = '', outcome] of rows) {
      expect(`${who} ${calls} ${how}: ${await explained(who, calls, how)}`).toBe(`${who} ${calls} ${how}: ${outcome}`);
    }
    const items = made.map(({ id }) => ({ id }));
    await ask('mutation ($input: DeleteGrantsInput!) { deleteGrants(input: $input) { id } }', { input: { items } });
  });
});
