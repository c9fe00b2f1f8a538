import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { randomSecret } from '@sallyport/schema/platform';
import { startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';

let plane: TestControlPlane;
let sql: postgres.Sql;
let directoryId: string;

beforeAll(async () => {
  plane = await startTestControlPlane();
  sql = postgres(plane.databaseUrl);
  const input = { name: 'corp', issuer: 'https://login.example.com' };
  const document = 'mutation ($input: CreateScimDirectoryInput!) { made: createScimDirectory(input: $input) { id } }';
  directoryId = (await plane.ask(document, { input })).data.made.id;
});
afterAll(async () => {
  await sql.end();
  await plane.stop();
});

const inADay = (): string => new Date(Date.now() + 86_400_000).toISOString();

/** Makes a key or a token with a secret, and tells what the API said. */
async function bring(kind: 'ApiKey' | 'JoinToken' | 'OAuthClient' | 'ScimToken', secret: string, more: object = {}) {
  const own = {
    ApiKey: { principalId: plane.ownerId, scopes: ['API'], expiresAt: inADay() },
    JoinToken: { expiresAt: inADay() },
    OAuthClient: { authentication: 'SECRET', redirectUris: ['https://client.example.com/callback'] },
    ScimToken: { directoryId, expiresAt: inADay() },
  }[kind];
  const fields = {
    ApiKey: 'apiKey { id hint }',
    JoinToken: 'joinToken { id hint }',
    OAuthClient: 'client { id }',
    ScimToken: 'scimToken { id hint }',
  };
  return plane.ask(
    `mutation ($input: Create${kind}Input!) { made: create${kind}(input: $input) { secret object: ${fields[kind]} } }`,
    { input: { ...own, name: 'brought', secret, ...more } },
  );
}

describe.each([
  ['ApiKey', 'sp_', 'api_keys'],
  ['JoinToken', 'spjoin_', 'join_tokens'],
  ['OAuthClient', 'sps_', 'oauth_clients'],
  ['ScimToken', 'spscim_', 'scim_tokens'],
] as const)('the secret that the caller of create%s brings along', (kind, prefix, table) => {
  test('is kept as its digest, not shown again, and absent from the audit trail', async () => {
    const secret = randomSecret(prefix);
    const { data } = await bring(kind, secret);
    expect(data.made.secret).toBeNull();
    expect(secret.startsWith(data.made.object.hint ?? '')).toBe(true);
    const rows = await sql`select ${sql(table)}::text as text from ${sql(table)} where id = ${data.made.object.id}
      union all select audit_events::text from audit_events where object_id = ${data.made.object.id}
      union all select audit_unchained::text from audit_unchained
      union all select idempotency_keys::text from idempotency_keys`;
    expect(rows.length).toBeGreaterThan(1);
    for (const row of rows) expect(row['text']).not.toContain(secret.slice(prefix.length + 6));
  });

  test('must be as long and as random as one that is made here', async () => {
    const random = randomSecret('');
    const bad = [random, `${prefix}${random.slice(1)}`, `${prefix}${'a'.repeat(43)}`, `${prefix}${random}!`, prefix];
    for (const secret of bad) {
      const { errors } = await bring(kind, secret, { dryRun: true });
      expect(errors[0]?.extensions.violations).toEqual([
        { path: 'input.secret', message: `must be ${prefix} and 43 to 96 random letters, digits, - or _` },
      ]);
    }
  });
});

// Clients have their client_id besides, so that two may have the same secret.
test.each([
  ['ApiKey', 'sp_'],
  ['JoinToken', 'spjoin_'],
  ['ScimToken', 'spscim_'],
] as const)('the secret of create%s opens for one alone: it cannot be brought twice', async (kind, prefix) => {
  const secret = randomSecret(prefix);
  expect((await bring(kind, secret)).errors).toEqual([]);
  expect((await bring(kind, secret)).errors[0]?.extensions.code).toBe('CONFLICT');
});

test('a key that was brought along opens the API', async () => {
  const secret = randomSecret('sp_');
  await bring('ApiKey', secret);
  expect((await plane.ask('{ me { id } }', {}, secret)).data.me).toEqual({ id: plane.ownerId });
});

test('a SCIM token that was brought along opens its directory, and the API not', async () => {
  const secret = randomSecret('spscim_');
  await bring('ScimToken', secret);
  const headers = { authorization: `Bearer ${secret}` };
  const users = await fetch(new URL('/scim/v2/Users', plane.graphqlUrl), { headers });
  expect([users.status, (await plane.ask('{ me { id } }', {}, secret)).status]).toEqual([200, 401]);
});
