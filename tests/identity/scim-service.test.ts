import postgres from 'postgres';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';
import { createDirectory, enterpriseSchema, groupSchema, ScimClient, userSchema } from './scim-kit.ts';

/** Ahead of the real time by what a test says. */
let aheadMs = 0;
const clock = { now: () => Date.now() + aheadMs, monotonic: () => performance.now() };
let plane: TestControlPlane;
let sql: postgres.Sql;
let directory: Awaited<ReturnType<typeof createDirectory>>;
let scim: ScimClient;
let origin: string;

beforeAll(async () => {
  plane = await startTestControlPlane({ clock });
  sql = postgres(plane.databaseUrl);
  directory = await createDirectory(plane, 'okta');
  scim = directory.client;
  origin = new URL(plane.graphqlUrl).origin;
});
afterAll(async () => {
  await sql.end();
  await plane.stop();
});

const opens = async (token: string): Promise<boolean> =>
  (await new ScimClient(origin, token).get('/ServiceProviderConfig')).status === 200;
const tomorrow = (): string => new Date(clock.now() + 86_400_000).toISOString();

test('nothing opens SCIM but a SCIM token, and a SCIM token opens nothing else', async () => {
  for (const path of ['/Users', '/Groups', '/Schemas', '/ResourceTypes', '/ServiceProviderConfig']) {
    for (const token of ['', 'spscim_wrong', plane.ownerKey, 'x'.repeat(4000)]) {
      const answer = await new ScimClient(origin, token).get(path);
      expect([answer.status, answer.headers.get('www-authenticate')]).toEqual([401, 'Bearer realm="SCIM"']);
    }
  }
  expect((await plane.ask('{ me { id } }', {}, directory.secret)).status).toBe(401);
});

test('a token is shown once, kept as its digest, rotated with an overlap, and revoked at once', async () => {
  const { id, secret, tokenId } = await createDirectory(plane, 'rotating');
  const rows = await sql`select scim_tokens::text as text from scim_tokens
    union all select audit_unchained::text from audit_unchained`;
  for (const row of rows) expect(row['text']).not.toContain(secret.slice(13));
  const rotated = await plane.ask(
    `mutation ($id: ID!, $expiresAt: DateTimeISO!) {
      rotateScimToken(input: { id: $id, expiresAt: $expiresAt, overlapSeconds: 60 }) {
        secret scimToken { id successorOf }
      }
    }`,
    { id: tokenId, expiresAt: new Date(clock.now() + 30 * 86_400_000).toISOString() },
  );
  expect(rotated.errors).toEqual([]);
  const successor = rotated.data.rotateScimToken;
  expect(successor.scimToken.successorOf).toBe(tokenId);
  expect([await opens(secret), await opens(successor.secret)]).toEqual([true, true]);
  aheadMs += 61_000;
  expect([await opens(secret), await opens(successor.secret)]).toEqual([false, true]);
  const listed = await plane.ask('query ($id: ID!) { scimDirectory(id: $id) { tokens { id lastUsedAt } } }', { id });
  expect(listed.data.scimDirectory.tokens.map((token: { id: string }) => token.id)).toEqual([successor.scimToken.id]);
  await plane.ask('mutation ($id: ID!) { revokeScimToken(input: { id: $id }) { id } }', { id: successor.scimToken.id });
  expect(await opens(successor.secret)).toBe(false);
});

test('who may not change settings can neither let a directory in nor make it a token', async () => {
  const account = await plane.ask(
    `mutation ($expiresAt: DateTimeISO!) {
      createServiceAccount(input: { name: "viewer", expiresAt: $expiresAt }) { id }
    }`,
    { expiresAt: tomorrow() },
  );
  const { id } = account.data.createServiceAccount;
  await plane.ask('mutation ($id: ID!) { assignRole(input: { principalId: $id, role: VIEWER }) { id } }', { id });
  const key = await plane.ask('mutation ($input: CreateApiKeyInput!) { createApiKey(input: $input) { secret } }', {
    input: { principalId: id, name: 'k', scopes: ['API'], expiresAt: tomorrow() },
  });
  const { secret } = key.data.createApiKey;
  for (const mutation of [
    'mutation { createScimDirectory(input: { name: "x", issuer: "https://x.example" }) { id } }',
    `mutation { createScimToken(input: { directoryId: "${directory.id}", name: "x", expiresAt: "${tomorrow()}" }) { secret } }`,
    `mutation { revokeScimToken(input: { id: "${directory.tokenId}" }) { id } }`,
    `mutation { deleteScimDirectory(input: { id: "${directory.id}" }) { id } }`,
  ]) {
    const code = (await plane.ask(mutation, {}, secret)).errors[0]?.extensions.code;
    expect(['FORBIDDEN', 'NOT_FOUND']).toContain(code);
  }
  expect(await opens(directory.secret)).toBe(true);
});

test('a directory neither sees nor changes what another provisions, nor what was made here', async () => {
  const other = (await createDirectory(plane, 'other')).client;
  const theirs = await other.createUser('theirs');
  const theirGroup = await other.createGroup('Theirs');
  const local = await plane.ask('mutation { createUser(input: { name: "Local" }) { id } }');
  const localGroup = await plane.ask('mutation { createGroup(input: { name: "Local" }) { id } }');
  for (const id of [theirs.id, local.data.createUser.id]) {
    expect((await scim.get(`/Users/${id}`)).status).toBe(404);
    expect((await scim.patch(`/Users/${id}`, [{ op: 'replace', path: 'active', value: false }])).status).toBe(404);
    expect((await scim.delete(`/Users/${id}`)).status).toBe(404);
    const mine = await scim.post('/Groups', { displayName: `with ${id}`, members: [{ value: id }] });
    expect([mine.status, mine.body.scimType]).toEqual([400, 'invalidValue']);
  }
  for (const id of [theirGroup.id, localGroup.data.createGroup.id]) {
    expect((await scim.get(`/Groups/${id}`)).status).toBe(404);
    expect((await scim.patch(`/Groups/${id}`, [{ op: 'replace', path: 'members', value: [] }])).status).toBe(404);
  }
  expect((await scim.get('/Users?filter=userName eq "theirs"')).body.totalResults).toBe(0);
});

test('a directory that is deleted pushes no more; its users and groups stay and are managed here', async () => {
  const { id, client, secret } = await createDirectory(plane, 'parting');
  const user = await client.createUser('left', { externalId: 'left' });
  const group = await client.createGroup('Left', [user.id]);
  await plane.ask('mutation ($id: ID!) { deleteScimDirectory(input: { id: $id }) { id } }', { id });
  expect(await opens(secret)).toBe(false);
  const query =
    'query ($user: ID!, $group: ID!) { user(id: $user) { directoryId status } group(id: $group) { directoryId members { edges { node { id } } } } }';
  const answer = await plane.ask(query, { user: user.id, group: group.id });
  expect(answer.data.user).toEqual({ directoryId: null, status: 'ACTIVE' });
  expect(answer.data.group).toEqual({ directoryId: null, members: { edges: [{ node: { id: user.id } }] } });
});

test('a directory needs a name and an issuer of its own', async () => {
  const create = 'mutation ($input: CreateScimDirectoryInput!) { createScimDirectory(input: $input) { id } }';
  const paths = async (input: object): Promise<string[] | undefined> =>
    (await plane.ask(create, { input })).errors[0]?.extensions.violations?.map(({ path }) => path);
  expect(await paths({ name: '', issuer: 'http://plain.example' })).toEqual(['input.name', 'input.issuer']);
  expect(await paths({ name: 'okta', issuer: 'https://okta.idp.example' })).toEqual(['input.name', 'input.issuer']);
});

test('members join and leave in the ways of Entra and Okta', async () => {
  const [a = '', b = '', c = ''] = await Promise.all(
    ['m1', 'm2', 'm3'].map(async (n) => (await scim.createUser(n)).id),
  );
  const { id } = await scim.createGroup('Members', [a]);
  const change = async (...operations: object[]): Promise<string[]> => {
    const answer = await scim.patch(`/Groups/${id}`, operations);
    expect([answer.status, answer.body]).toEqual([204, undefined]);
    return scim.memberIds(id);
  };
  expect(await change({ op: 'Add', path: 'members', value: [{ value: b }, { value: a }] })).toEqual([a, b].sort());
  expect(await change({ op: 'Remove', path: 'members', value: [{ value: b }] })).toEqual([a]);
  expect(await change({ op: 'add', value: { members: [{ value: c, display: 'm3' }] } })).toEqual([a, c].sort());
  expect(await change({ op: 'remove', path: `members[value eq "${a}"]` })).toEqual([c]);
  expect(await change({ op: 'replace', path: 'members', value: [{ value: a }, { value: b }] })).toEqual([a, b].sort());
  expect(
    await change(
      { op: 'remove', path: `members[value eq "${a}"]` },
      { op: 'add', path: 'members', value: [{ value: a }] },
    ),
  ).toEqual([a, b].sort());
  expect(await change({ op: 'remove', path: 'members' })).toEqual([]);
  const renamed = await scim.patch(`/Groups/${id}`, [{ op: 'replace', value: { id, displayName: 'Renamed' } }]);
  expect(renamed.status).toBe(204);
  expect((await scim.get(`/Groups/${id}`)).body).toMatchObject({ displayName: 'Renamed', members: [] });
  const put = { schemas: [groupSchema], displayName: 'Put', members: [{ value: c }] };
  expect((await scim.put(`/Groups/${id}`, put)).body).toMatchObject({ displayName: 'Put', members: [{ value: c }] });
});

test('a member that is nobody is refused by name, and nothing of the request is done', async () => {
  const user = await scim.createUser('somebody');
  const { id } = await scim.createGroup('Whole');
  const nobody = crypto.randomUUID();
  const answer = await scim.patch(`/Groups/${id}`, [
    { op: 'add', path: 'members', value: [{ value: user.id }] },
    { op: 'add', path: 'members', value: [{ value: nobody }] },
  ]);
  expect([answer.status, answer.body.scimType]).toEqual([400, 'invalidValue']);
  expect(answer.body.detail).toContain(nobody);
  expect(await scim.memberIds(id)).toEqual([]);
});

test('a group of a directory is read-only here, and a name that is taken here is a conflict there', async () => {
  const { id } = await scim.createGroup('From the directory');
  for (const mutation of [
    'mutation ($id: ID!) { updateGroup(input: { id: $id, name: "Mine" }) { id } }',
    'mutation ($id: ID!) { deleteGroup(input: { id: $id }) { id } }',
    `mutation ($id: ID!) { addGroupMembers(input: { id: $id, principalIds: ["${plane.ownerId}"] }) { id } }`,
    `mutation ($id: ID!) { removeGroupMembers(input: { id: $id, principalIds: ["${plane.ownerId}"] }) { id } }`,
  ]) {
    const answer = await plane.ask(mutation, { id });
    expect(answer.errors[0]?.extensions.violations?.[0]?.message).toContain('provisioned by a directory');
  }
  await plane.ask('mutation { createGroup(input: { name: "Taken" }) { id } }');
  const taken = await scim.post('/Groups', { schemas: [groupSchema], displayName: 'Taken' });
  expect([taken.status, taken.body.scimType]).toEqual([409, 'uniqueness']);
});

test('a group of five thousand is pushed and patched in parts, and listed without its members', async () => {
  const size = 5000;
  await sql`insert into principals (id, kind, name, issuer, subject, directory_id)
    select ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'user', 'bulk ' || n,
      'https://okta.idp.example', 'bulk-' || n, ${directory.id} from generate_series(1, ${size}) n`;
  await sql`insert into scim_users (principal_id, directory_id, user_name, active, attributes)
    select id, directory_id, name, true, '{}' from principals where name like 'bulk %'`;
  const ids = Array.from({ length: size }, (_, n) => `00000000-0000-7000-8000-${String(n + 1).padStart(12, '0')}`);
  const { id } = await scim.createGroup('Bulk', ids.slice(0, 4000));
  expect(await scim.memberIds(id)).toHaveLength(4000);
  const rest = ids.slice(4000).map((value) => ({ value }));
  expect((await scim.patch(`/Groups/${id}`, [{ op: 'add', path: 'members', value: rest }])).status).toBe(204);
  const listed = await scim.get('/Groups?filter=displayName eq "bulk"&excludedAttributes=members');
  expect(listed.body).toMatchObject({ totalResults: 1, Resources: [{ id, displayName: 'Bulk' }] });
  expect(listed.body.Resources[0].members).toBeUndefined();
  const member = encodeURIComponent(`id eq "${id}" and members eq "${ids[4999]}"`);
  expect((await scim.get(`/Groups?filter=${member}`)).body.totalResults).toBe(1);
});

test('filters find by every operator, join, and never more than they say', async () => {
  const { client } = await createDirectory(plane, 'filters');
  await client.createUser('Alice@example.com', {
    externalId: 'A1',
    displayName: 'Alice',
    emails: [{ value: 'alice@work.example', type: 'work', primary: true }],
  });
  await client.createUser('bob@example.com', {
    externalId: 'a1',
    displayName: 'Bob 100%',
    active: false,
    emails: [{ value: 'bob@home.example', type: 'home' }],
  });
  await client.createUser('carol@example.com', {
    name: { familyName: 'O_Neil' },
    [enterpriseSchema]: { department: 'Law' },
  });
  const found = async (filter: string): Promise<string[]> => {
    const { status, body } = await client.get(`/Users?filter=${encodeURIComponent(filter)}`);
    if (status !== 200) throw new Error(JSON.stringify(body));
    return body.Resources.map((user: { userName: string }) => user.userName.split('@')[0]?.toLowerCase());
  };
  expect(await found('userName eq "ALICE@example.com"')).toEqual(['alice']);
  expect(await found('externalId eq "a1"')).toEqual(['bob']);
  expect(await found('username sw "bob"')).toEqual(['bob']);
  expect(await found('userName co "example.com" and not (active eq false)')).toEqual(['alice', 'carol']);
  expect(await found('active eq "False"')).toEqual(['bob']);
  expect(await found('displayName ew "%"')).toEqual(['bob']);
  expect(await found('displayName co "_"')).toEqual([]);
  expect(await found('name.familyName eq "o_neil"')).toEqual(['carol']);
  expect(await found('emails pr')).toEqual(['alice', 'bob']);
  expect(await found('emails[type eq "work" and primary eq true]')).toEqual(['alice']);
  expect(await found('emails.value eq "bob@home.example" or displayName eq "Alice"')).toEqual(['alice', 'bob']);
  expect(await found('emails.type eq "home"')).toEqual(['bob']);
  // One element satisfies both, as Entra means it.
  await client.createUser('dave@example.com', {
    emails: [
      { value: 'dave@work.example', type: 'work' },
      { value: 'alice@work.example', type: 'home' },
    ],
  });
  expect(await found('emails[type eq "work"].value eq "alice@work.example"')).toEqual(['alice']);
  expect(await found('active eq true and (emails[type eq "work" or type eq "x"].value sw "dave")')).toEqual(['dave']);
  expect(await found('emails[type eq "home"].value pr and userName sw "d"')).toEqual(['dave']);
  expect(await found(`displayName eq "emails[type eq \\"work\\"].value pr" or userName sw "bob"`)).toEqual(['bob']);
  await client.delete(`/Users/${(await client.get('/Users?filter=userName%20sw%20%22dave%22')).body.Resources[0].id}`);
  expect(await found(`${enterpriseSchema}:department eq "law"`)).toEqual(['carol']);
  expect(await found(`${userSchema}:userName eq "carol@example.com"`)).toEqual(['carol']);
  expect(await found('externalId eq null')).toEqual(['carol']);
  expect(await found('meta.created gt "2020-01-01T00:00:00Z" and userName lt "b"')).toEqual(['alice']);
  expect(await found(`userName eq "x' or 1=1 --"`)).toEqual([]);
});

test.each([
  'userName',
  'userName eq',
  'userName eq "a" garbage',
  'password eq "x"',
  'active gt true',
  'emails[',
  'meta.created eq "soon"',
  `${'('.repeat(3000)}`,
  Array(40).fill('title eq "x"').join(' or '),
])('a filter that cannot be answered is refused, and finds nobody: %#', async (filter) => {
  const answer = await scim.get(`/Users?filter=${encodeURIComponent(filter)}`);
  expect([answer.status, answer.body.scimType]).toEqual([400, 'invalidFilter']);
});

test('a list is read page by page, each resource once, and counted without reading it', async () => {
  const { client } = await createDirectory(plane, 'pages');
  for (let n = 0; n < 5; n++) await client.createUser(`page-${n}`);
  const seen: string[] = [];
  for (let startIndex = 1; startIndex <= 5; startIndex += 2) {
    const { body } = await client.get(`/Users?startIndex=${startIndex}&count=2`);
    expect(body).toMatchObject({ totalResults: 5, startIndex });
    expect(body.itemsPerPage).toBe(body.Resources.length);
    seen.push(...body.Resources.map((user: { userName: string }) => user.userName));
  }
  expect(seen).toEqual(['page-0', 'page-1', 'page-2', 'page-3', 'page-4']);
  expect((await client.get('/Users?count=0')).body).toMatchObject({ totalResults: 5, Resources: [] });
  expect((await client.get('/Users?startIndex=-3&count=-1')).body).toMatchObject({ startIndex: 1, Resources: [] });
  expect((await client.get('/Users?count=ten')).status).toBe(400);
  const search = {
    schemas: ['urn:ietf:params:scim:api:messages:2.0:SearchRequest'],
    filter: 'userName sw "page"',
    count: 1,
    attributes: ['userName'],
  };
  const { body } = await client.post(`/${'Users'}/.search`, search);
  expect(body).toMatchObject({ totalResults: 5, itemsPerPage: 1 });
  expect(Object.keys(body.Resources[0]).sort()).toEqual(['id', 'meta', 'schemas', 'userName']);
});

test('what is served is described: configuration, resource types and schemas', async () => {
  const { body } = await scim.get('/ServiceProviderConfig');
  expect(body).toMatchObject({
    patch: { supported: true },
    filter: { supported: true },
    etag: { supported: true },
    bulk: { supported: false },
  });
  const types = await scim.get('/ResourceTypes');
  expect(types.body.Resources.map((type: { name: string }) => type.name)).toEqual(['User', 'Group']);
  const schemas = await scim.get('/Schemas');
  expect(schemas.body.totalResults).toBe(3);
  for (const schema of schemas.body.Resources as { id: string; meta: { location: string } }[]) {
    const path = new URL(schema.meta.location).pathname.replace('/scim/v2', '');
    expect((await scim.get(path)).body).toEqual(schema);
  }
  expect((await scim.get('/Schemas/urn:nothing')).status).toBe(404);
  expect((await scim.get('/Schemas?filter=id pr')).status).toBe(403);
});

test('methods, media types and sizes that are not served are refused', async () => {
  const { id } = await scim.createUser('methods');
  expect((await scim.ask('POST', `/Users/${id}`, {})).status).toBe(405);
  expect((await scim.ask('DELETE', '/Users')).status).toBe(405);
  expect((await scim.get('/Bulk')).status).toBe(404);
  expect((await scim.ask('POST', '/Users', '{}', { 'content-type': 'text/plain' })).status).toBe(415);
  const large = await scim
    .ask('POST', '/Users', `{"userName":"${'x'.repeat(9 * 1024 * 1024)}"}`)
    .catch(() => undefined);
  expect([413, undefined]).toContain(large?.status);
});
