import { fieldPermissions } from '@sallyport/control-plane';
import { getNamedType, isEnumType, isObjectType, isRequiredArgument } from 'graphql';
import postgres from 'postgres';
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  startTestControlPlane,
  testBootstrapToken,
  type TestControlPlane,
  testSecretKey,
} from '../kit/control-plane.ts';
import { apiSchema, documentOf, fieldsOf, isConnection } from '../kit/whole-schema.ts';

const queries = fieldsOf(apiSchema.getQueryType());
let plane: TestControlPlane;
let sql: postgres.Sql;
let auditorKey: string;
/** Of queries that must be told what to ask for. */
let args: Readonly<Record<string, string>>;
/** What was shown once, when it was made. */
const shown: string[] = [testBootstrapToken, testSecretKey];

const expiresAt = new Date(Date.now() + 86_400_000).toISOString();

async function made(mutation: string, fields = 'id'): Promise<Record<string, string>> {
  const answer = await plane.ask(`mutation { made: ${mutation} { ${fields} } }`);
  expect(answer.errors).toEqual([]);
  return answer.data.made;
}

beforeAll(async () => {
  plane = await startTestControlPlane();
  sql = postgres(plane.databaseUrl, { onnotice: () => undefined });
  shown.push(plane.ownerKey);
  // The key comes before the role: an owner makes none that reads payloads.
  const auditor = (await made(`createServiceAccount(input: { name: "auditor", expiresAt: "${expiresAt}" })`))['id'];
  const issued = `principalId: "${auditor}", name: "k", scopes: [API], expiresAt: "${expiresAt}"`;
  auditorKey = (await made(`createApiKey(input: { ${issued} })`, 'secret'))['secret'] ?? '';
  await made(`assignRole(input: { principalId: "${auditor}", role: AUDITOR })`);
  shown.push(auditorKey);
  const user = (await made('createUser(input: { name: "ada", email: "ada@example.com" })'))['id'];
  const group = (await made('createGroup(input: { name: "analysts" })'))['id'];
  await made(`addGroupMembers(input: { id: "${group}", principalIds: ["${user}"] })`);
  await made(`assignRole(input: { principalId: "${user}", role: VIEWER })`);
  const server = (await made('createServer(input: { slug: "jira", url: "https://mcp.example.org/mcp" })'))['id'] ?? '';
  const definition = '01890000-0000-7000-8000-00000000000d';
  const node = '01890000-0000-7000-8000-00000000000e';
  await sql`update servers set lifecycle = 'approved', protocol_revisions = '{2025-11-25}' where id = ${server}`;
  await sql`insert into definitions (id, server_id, kind, name, digests, state, approved_digests, first_seen_at, last_seen_at)
    values (${definition}, ${server}, 'tool', 'search', '{sha256:00}', 'approved', '{sha256:00}', now(), now())`;
  await sql`insert into nodes (id, name, build, last_contact_at) values (${node}, 'node', 'test', now())`;
  await sql`insert into node_keys (public_key, node_id, created_at, expires_at) values ('a key', ${node}, now(), now())`;
  const grant = (
    await made(
      `createGrant(input: { name: "all", subject: { kind: USER, id: "${user}" }, serverId: "${server}", effect: ALLOW, tools: ["*"] })`,
    )
  )['id'];
  const key = await made(
    `createApiKey(input: { principalId: "${user}", name: "k", scopes: [API, MCP], expiresAt: "${expiresAt}" })`,
    'secret id: apiKey { id }',
  );
  const keyId = (key['id'] as unknown as { id: string }).id;
  const rotated = await made(`rotateApiKey(input: { id: "${keyId}", expiresAt: "${expiresAt}" })`, 'secret');
  const join = await made(`createJoinToken(input: { name: "t", expiresAt: "${expiresAt}" })`, 'secret');
  shown.push(key['secret'] ?? '', rotated['secret'] ?? '', join['secret'] ?? '');
  await made('rotateSealingKey(input: {})');
  const account = (
    await made(`createServiceAccount(input: { name: "nightly", ownerId: "${user}", expiresAt: "${expiresAt}" })`)
  )['id'];
  const events = await plane.ask('{ auditEvents(action: "apiKey.create") { edges { node { id } } } }');
  const one = (id: string | undefined): string => `id: "${id}"`;
  args = {
    apiKey: one(keyId),
    auditEvent: one(events.data.auditEvents.edges[0]?.node.id),
    definition: one(definition),
    grant: one(grant),
    group: one(group),
    node: one(node),
    server: one(server),
    serviceAccount: one(account),
    user: one(user),
    effectiveAccess: `principalId: "${user}"`,
    targetAccess: `serverId: "${server}", kind: TOOL, name: "search"`,
    explainAccess: `input: { principalId: "${user}", serverId: "${server}", kind: TOOL, name: "search" }`,
    revocationStatus: 'configRevision: 1',
    traffic: `from: "${new Date(Date.now() - 3_600_000).toISOString()}", to: "${expiresAt}"`,
  };
});
afterAll(async () => {
  await sql.end();
  await plane.stop();
});

/** Lists of which the tests have made something. */
const filled = [
  ...['apiKeys', 'auditEvents', 'definitions', 'effectiveAccess', 'grants', 'groups', 'joinTokens', 'nodes'],
  ...['roleBindings', 'servers', 'serviceAccounts', 'targetAccess', 'users'],
];

/** For a query of one object by its id: the first of the list of such objects, if there is any. */
async function argumentsOf(field: (typeof queries)[number]): Promise<string | undefined> {
  if (field.args.some((argument) => isRequiredArgument(argument) && argument.name !== 'id')) return undefined;
  const wanted = `${getNamedType(field.type).name}Connection`;
  const list = queries.find(({ args: known, type }) => {
    return getNamedType(type).name === wanted && !known.some((argument) => isRequiredArgument(argument));
  });
  if (list === undefined || !field.args.some(({ name }) => name === 'id')) return undefined;
  const answer = await plane.ask(`{ list: ${list.name}(first: 1) { edges { node { id } } } }`);
  const id = answer.data?.list.edges[0]?.node.id;
  return id === undefined ? undefined : `id: "${id}"`;
}

/** Everything at rest that is, or proves, a secret: by the names of columns, so that those of new tables count too. */
async function storedSecrets(): Promise<string[]> {
  const columns = await sql<{ table: string; column: string }[]>`
    select c.table_name as table, c.column_name as column from information_schema.columns c
      join information_schema.tables t using (table_schema, table_name)
    where c.table_schema = 'public' and t.table_type = 'BASE TABLE' and c.data_type in ('text', 'character', 'bytea')
      and c.column_name ~ '(^|_)(hash|secret|password|token|sealed|private|verifier|credential)(_|$)'
      and c.table_name !~ '^(audit|config)_'`;
  const values = await Promise.all(
    columns.map(async ({ table, column }) => {
      const rows = await sql.unsafe(`select ${column}::text as value from ${table} where ${column} is not null`);
      return rows.map((row) => String(row['value']));
    }),
  );
  return values.flat().filter((value) => value.length >= 16);
}

test('no answer to any query holds a secret, whatever of it is selected', async () => {
  const stored = await storedSecrets();
  // Hashes of keys and of the join token, sealed keys of the fleet and of sessions.
  expect(stored.length).toBeGreaterThanOrEqual(6);
  const secrets = [...shown, ...stored];
  expect(shown.filter((secret) => secret.length < 16)).toEqual([]);
  const asked = new Set<string>();
  const shownSomething = new Set<string>();
  for (const field of queries) {
    const needed = field.args.filter((argument) => isRequiredArgument(argument));
    const given = args[field.name] ?? (await argumentsOf(field));
    if (needed.length > 0 && given === undefined) continue;
    asked.add(field.name);
    // What auditors alone read is asked as one.
    const key = fieldPermissions[`Query.${field.name}`] === 'payload:read' ? auditorKey : plane.ownerKey;
    const answer = await plane.ask(documentOf(field, given), {}, key);
    expect({ field: field.name, errors: answer.errors }).toEqual({ field: field.name, errors: [] });
    const text = JSON.stringify(answer.data);
    const leaked = secrets.filter((secret) => text.includes(secret));
    expect({ field: field.name, leaked }).toEqual({ field: field.name, leaked: [] });
    if (isConnection(field) && answer.data.answer.edges.length > 0) shownSomething.add(field.name);
  }
  const headers = { authorization: `Bearer ${plane.ownerKey}` };
  const exported = await (
    await fetch(
      new URL(`/audit/export?from=${new Date(Date.now() - 3_600_000).toISOString()}&to=${expiresAt}`, plane.graphqlUrl),
      { headers },
    )
  ).text();
  expect(exported).toContain('apiKey.create');
  expect(secrets.filter((secret) => exported.includes(secret))).toEqual([]);
  expect(Object.keys(args).filter((name) => !asked.has(name))).toEqual([]);
  // What was empty has shown nothing.
  expect(filled.filter((name) => !shownSomething.has(name))).toEqual([]);
});

test('only what is made shows a secret, and only once', async () => {
  const named = Object.values(apiSchema.getTypeMap())
    .filter((type) => isObjectType(type) && !type.name.startsWith('__'))
    .flatMap((type) =>
      fieldsOf(isObjectType(type) ? type : undefined)
        .filter(({ name }) => /secret|password|private|verifier|hash|credential|token$/i.test(name))
        // Whether there is a secret, how many there are and of which kind is none.
        .filter((field) => {
          const kind = getNamedType(field.type);
          return !isObjectType(kind) && !isEnumType(kind) && kind.name !== 'Boolean' && kind.name !== 'Int';
        })
        .map(({ name }) => `${type.name}.${name}`),
    );
  const once = named.filter((name) => /Payload\.secret$/.test(name));
  expect(named.filter((name) => !once.includes(name))).toEqual([]);
  const query = `mutation { createApiKey(input: {
    principalId: "${plane.ownerId}", name: "again", scopes: [API], expiresAt: "${expiresAt}", idempotencyKey: "again"
  }) { secret } }`;
  expect((await plane.ask(query)).data.createApiKey.secret).toMatch(/^sp_/);
  expect((await plane.ask(query)).data.createApiKey.secret).toBeNull();
  // A payload is the answer of mutations alone.
  const readable = [apiSchema.getQueryType(), apiSchema.getSubscriptionType()]
    .flatMap((type) => fieldsOf(type))
    .map(({ type }) => getNamedType(type).name);
  expect(readable.filter((name) => once.some((field) => field.startsWith(`${name}.`)))).toEqual([]);
});
