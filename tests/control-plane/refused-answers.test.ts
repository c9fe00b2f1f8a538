/** A change whose answer somebody may not read is not made. */
import postgres from 'postgres';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type GraphqlAnswer, startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';

const inDays = (days: number): string => new Date(Date.now() + days * 86_400_000).toISOString();

let plane: TestControlPlane;
let sql: postgres.Sql;
/** Of somebody who writes and reads nothing. */
let key: string;

beforeAll(async () => {
  plane = await startTestControlPlane();
  sql = postgres(plane.databaseUrl);
  const one = async (document: string): Promise<{ id: string; secret: string }> => {
    const answer = await plane.ask(`mutation { done: ${document} }`);
    expect(answer.errors).toEqual([]);
    return answer.data.done;
  };
  const user = await one('createUser(input: { name: "writer" }) { id }');
  const permissions = '["group:write", "apiKey:write", "serviceAccount:write"]';
  const role = await one(`createRole(input: { name: "writes", permissions: ${permissions} }) { id }`);
  await one(`assignRole(input: { principalId: "${user.id}", roleId: "${role.id}" }) { id }`);
  const made = `principalId: "${user.id}", name: "k", scopes: [API], expiresAt: "${inDays(1)}"`;
  key = (await one(`createApiKey(input: { ${made} }) { secret }`)).secret;
});
afterAll(async () => {
  await sql.end();
  await plane.stop();
});

const stored = async (): Promise<unknown> =>
  sql`select (select count(*) from groups) as groups, (select count(*) from principals) as principals,
    (select count(*) from api_keys) as keys, (select count(*) from audit_events) as events,
    (select generation from config_generation) as generation`;
const codeOf = (answer: GraphqlAnswer): string | undefined => answer.errors[0]?.extensions.code;

test.each([
  ['of the object', 'createGroup(input: { name: "a" }) { id }', ''],
  ['within the object', 'createGroup(input: { name: "a" }) { __typename accessChanges { summary } }', ''],
  ['in a fragment', 'createGroup(input: { name: "a" }) { ...seen }', 'fragment seen on Group { ... { name } }'],
  [
    'behind another',
    `createServiceAccount(input: { name: "b", expiresAt: "${inDays(1)}" }) { ... { groups { edges { node { id } } } } }`,
    '',
  ],
  ['that is included', 'createGroup(input: { name: "a" }) { id @include(if: true) }', ''],
])(
  'an answer with a field %s that the asker may not read is refused before anything is changed',
  async (_what, field, fragment) => {
    const before = await stored();
    expect(codeOf(await plane.ask(`mutation { ${field} } ${fragment}`, {}, key))).toBe('FORBIDDEN');
    expect(await stored()).toEqual(before);
  },
);

test('a change is made where the answer has nothing that the asker may not read', async () => {
  const plain =
    'mutation ($no: Boolean = false) { createGroup(input: { name: "made" }) { __typename id @include(if: $no) } }';
  expect((await plane.ask(plain, {}, key)).errors).toEqual([]);
  const skipped = 'mutation { createGroup(input: { name: "also made" }) { __typename id @skip(if: true) } }';
  expect((await plane.ask(skipped, {}, key)).errors).toEqual([]);
  expect(await sql`select name from groups order by name`).toMatchObject([{ name: 'also made' }, { name: 'made' }]);
});

test('whoever may not change something learns nothing of it by what he asks for', async () => {
  const id = '01890000-0000-7000-8000-0000000000ff';
  const answer = await plane.ask(`mutation { deleteUser(input: { id: "${id}" }) { id } }`, {}, key);
  expect(codeOf(answer)).toBe('NOT_FOUND');
});
