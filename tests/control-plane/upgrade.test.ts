/** An organization of an older release is upgraded: what its rows gave holds, and what they cannot prove is not believed. */
import { cpSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { migrate } from '@sallyport/control-plane/migrate';
import { sha256 } from '@sallyport/schema';
import postgres from 'postgres';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type GraphqlAnswer, startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';
import { createEmptyDatabase } from '../kit/postgres.ts';

const shipped = join(import.meta.dirname, '../../control-plane/migrations');
const lastOfTheOldRelease = '0041_proposal_people.sql';
const id = (number: number): string => `01890000-0000-7000-8000-${String(number).padStart(12, '0')}`;

const [first, second, candidate, stronger, plain] = [id(1), id(2), id(3), id(4), id(5)];
const [account, directory, server, proposal, group] = [id(6), id(7), id(8), id(9), id(10)];
const secretOf = (name: string): string => `sp_${name.padEnd(43, 'x')}`;
const keys = { first: secretOf('first'), given: secretOf('given'), made: secretOf('made'), own: secretOf('own') };
const scimToken = `spscim_${'t'.repeat(43)}`;

let sql: postgres.Sql;
let plane: TestControlPlane;

async function fillOldDatabase(): Promise<void> {
  for (const [user, name] of Object.entries({ first, second, candidate, stronger, plain }).map(([n, i]) => [i, n])) {
    await sql`insert into principals (id, kind, name, issuer, subject)
      values (${user ?? ''}, 'user', ${name ?? ''}, 'https://idp.example', ${name ?? ''})`;
  }
  await sql`insert into principals (id, kind, name, owner_id, expires_at)
    values (${account}, 'serviceAccount', 'first owner', ${first}, now() + interval '90 days')`;
  for (const [index, [holder, role]] of (
    [
      [account, 'owner'],
      [second, 'owner'],
      [stronger, 'admin'],
    ] as const
  ).entries()) {
    await sql`insert into role_bindings (id, principal_id, role) values (${id(20 + index)}, ${holder}, ${role})`;
  }
  const issued = [
    [keys.first, account, null],
    [keys.given, second, account],
    [keys.made, second, second],
    [keys.own, second, null],
  ] as const;
  for (const [index, [secret, holder, issuer]] of issued.entries()) {
    await sql`insert into api_keys (id, principal_id, name, hash, hint, scopes, expires_at, issued_by, created_at)
      values (${id(30 + index)}, ${holder}, 'old', ${sha256(secret)}, 'sp_', '{api}', now() + interval '90 days', ${issuer},
        now() - interval '1 day' + ${index} * interval '1 hour')`;
  }
  await sql`insert into role_proposals (id, principal_id, role, proposed_by, expires_at)
    values (${proposal}, ${candidate}, 'owner', ${second}, now() + interval '5 days')`;
  await sql`insert into scim_directories (id, name, issuer) values (${directory}, 'corp', 'https://idp.example')`;
  await sql`insert into scim_tokens (id, directory_id, name, hash, hint, expires_at)
    values (${id(40)}, ${directory}, 'old', ${sha256(scimToken)}, 'spscim_', now() + interval '90 days')`;
  await sql`update principals set directory_id = ${directory} where id in (${stronger}, ${plain})`;
  for (const user of [stronger, plain]) {
    await sql`insert into scim_users (principal_id, directory_id, user_name, active, attributes)
      values (${user}, ${directory}, ${user}, true, '{}')`;
  }
  await sql`insert into servers (id, slug, slug_key, title, url, lifecycle, protocol_revisions, discovered_at, discovery_attempted_at)
    values (${server}, 'jira', 'jira', 'Jira', 'https://mcp.example.org/mcp', 'approved', '{2025-11-25}', now(), now())`;
  await sql`insert into definitions (id, server_id, kind, name, digests, approved_digests, state, first_seen_at, last_seen_at)
    values (${id(50)}, ${server}, 'tool', 'search', '{d}', '{d}', 'approved', now(), now())`;
  await sql`insert into groups (id, name) values (${group}, 'analysts')`;
  await sql`insert into group_members (group_id, principal_id) values (${group}, ${plain})`;
  await sql`insert into grants (id, name, subject_kind, subject_group_id, server_id, effect, tools)
    values (${id(51)}, 'analysts search', 'group', ${group}, ${server}, 'allow', '{search}')`;
  const consent = { principal_id: plain, client_id: 'c', client_name: 'c', redirect_uri: 'https://c.example/cb' };
  for (const [index, slug] of ['jira', 'gone'].entries()) {
    const resource = `https://gateway.example/mcp/${slug}`;
    const times = { created_at: new Date(), updated_at: new Date() };
    await sql`insert into oauth_consents ${sql({ ...consent, ...times, id: id(60 + index), resource, scopes: ['mcp'] })}`;
  }
  for (const model of ['Grant', 'RefreshToken', 'Session']) {
    await sql`insert into oauth_objects (model, hash, sealed, expires_at, created_at)
      values (${model}, ${sha256(model)}, 'sealed', now() + interval '1 day', now())`;
  }
}

beforeAll(async () => {
  const { url } = await createEmptyDatabase();
  sql = postgres(url, { onnotice: () => undefined });
  const old = mkdtempSync(join(tmpdir(), 'sallyport-upgrade-'));
  for (const name of readdirSync(shipped))
    if (name <= lastOfTheOldRelease) cpSync(join(shipped, name), join(old, name));
  await migrate(sql, old);
  rmSync(old, { recursive: true });
  await fillOldDatabase();
  await migrate(sql, shipped);
  plane = await startTestControlPlane({ databaseUrl: url, bootstrap: false });
}, 60_000);
afterAll(async () => {
  await sql.end();
  await plane.stop();
});

function run(name: string, type: string, input: object, key: string, fields = 'id'): Promise<GraphqlAnswer> {
  return plane.ask(`mutation ($input: ${type}!) { done: ${name}(input: $input) { ${fields} } }`, { input }, key);
}

test('what was set up works on: roles, keys, grants, servers in service', async () => {
  const query = `query ($id: ID!, $server: ID!) { me { permissions } server(id: $server) { lifecycle autoApproval credentialMode }
    effectiveAccess(principalId: $id) { edges { node { name effect } } } }`;
  const answer = await plane.ask(query, { id: plain, server }, keys.first);
  expect(answer.errors).toEqual([]);
  expect(answer.data.me.permissions).toContain('role:assign');
  expect(answer.data.server).toEqual({ lifecycle: 'APPROVED', autoApproval: 'NONE', credentialMode: 'NONE' });
  expect(answer.data.effectiveAccess.edges).toEqual([{ node: { name: 'search', effect: 'ALLOW' } }]);
});

test('two people are told apart by who made the keys then, and by the keys that these were made with', async () => {
  const rows = await sql`select hash, known_to from api_keys`;
  const knownTo = (secret: string): string[] =>
    rows.find(({ hash }) => hash === sha256(secret))?.['known_to'].toSorted();
  expect([keys.first, keys.given, keys.made, keys.own].map(knownTo)).toEqual([[], [first], [first, second], []]);
  const wanted = { principalId: candidate, role: 'AUDITOR' };
  for (const key of [keys.given, keys.made]) {
    const proposed = await run('proposeRole', 'ProposeRoleInput', wanted, key);
    const confirmed = await run('confirmRole', 'RoleProposalInput', { id: proposed.data.done.id }, keys.first);
    expect(confirmed.errors[0]?.extensions.code).toBe('FORBIDDEN');
    await run('cancelRoleProposal', 'RoleProposalInput', { id: proposed.data.done.id }, keys.first);
  }
  const proposed = await run('proposeRole', 'ProposeRoleInput', wanted, keys.own);
  const confirmed = await run('confirmRole', 'RoleProposalInput', { id: proposed.data.done.id }, keys.first);
  expect(confirmed.errors).toEqual([]);
});

test('a proposal of which is not known who may have made it is not confirmed', async () => {
  const confirmed = await run('confirmRole', 'RoleProposalInput', { id: proposal }, keys.first);
  expect(confirmed.errors[0]?.extensions.violations?.[0]?.message).toContain('propose it anew');
});

test('a token of a directory that says nothing of its maker rules nobody with a role', async () => {
  const deactivate = async (user: string): Promise<number> => {
    const response = await fetch(`${plane.graphqlUrl.replace(/graphql$/, 'scim/v2/Users')}/${user}`, {
      method: 'PATCH',
      headers: { authorization: `Bearer ${scimToken}`, 'content-type': 'application/scim+json' },
      body: JSON.stringify({
        schemas: ['urn:ietf:params:scim:api:messages:2.0:PatchOp'],
        Operations: [{ op: 'replace', path: 'active', value: false }],
      }),
    });
    return response.status;
  };
  expect([await deactivate(stronger), await deactivate(plain)]).toEqual([403, 200]);
});

test('consents are for the server that has the endpoint; logins of which that is not known end', async () => {
  const consents = await sql`select resource, server_id from oauth_consents order by id`;
  expect(consents.map((row) => row['server_id'])).toEqual([server, null]);
  expect((await sql`select model from oauth_objects`).map((row) => row['model'])).toEqual(['Session']);
});
