import { defaultLimits, documentSchema } from '@sallyport/schema';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { GrantRow } from '../access/access.tables.ts';
import type { ServerRow } from '../catalog/catalog.tables.ts';
import type { ApiKeyRow, PrincipalRow } from '../identity/identity.tables.ts';
import {
  type CompiledUnit,
  compileFleet,
  compileSnapshot,
  type ConfigurationRows,
  type FleetRows,
  fleetUnit,
  type PublishedDefinitionRow,
} from './compile-snapshot.ts';
import type { OAuthSigningKeyRow, SealingKeyRow } from './fleet.tables.ts';

const at = new Date('2030-01-01T00:00:00Z');
const base = { revision: 1, createdAt: at, updatedAt: at, deletedAt: null };

function server(id: string, changes: Partial<ServerRow> = {}): ServerRow {
  return {
    ...base,
    id,
    slug: `slug-${id}`,
    slugKey: `slug-${id}`,
    title: 'Title',
    description: '',
    url: 'https://mcp.example.com/mcp',
    lifecycle: 'approved',
    ownerGroupId: null,
    labels: { tier: 'one' },
    auditMode: 'strict',
    autoApproval: 'none',
    configStalenessMaxMs: null,
    discoveredBy: 'controlPlane',
    protocolRevisions: ['2026-07-28'],
    transport: 'streamableHttp',
    extensions: ['io.modelcontextprotocol/ui', 'io.modelcontextprotocol/tasks'],
    credentialMode: 'none',
    credentialRevision: 0,
    credentialSteadySince: 0,
    discoveredAs: null,
    asks: null,
    capabilities: {},
    serverInfo: null,
    instructions: null,
    discoveredAt: at,
    discoveryAttemptedAt: at,
    discoveryDoubtedAt: null,
    discoveryProblem: null,
    discoveryProblemMessage: null,
    discoveryNotes: [],
    discoveryLease: null,
    discoveryLeaseUntil: null,
    ...changes,
  };
}
function grant(id: string, changes: Partial<GrantRow> = {}): GrantRow {
  return {
    ...base,
    id,
    name: id,
    subjectKind: 'everyone',
    subjectPrincipalId: null,
    subjectGroupId: null,
    serverId: 's1',
    serverLabels: null,
    effect: 'allow',
    mode: 'enforce',
    limits: null,
    when: null,
    whenArguments: null,
    configStalenessMaxMs: null,
    tools: ['b', 'a'],
    prompts: [],
    resources: [],
    notBefore: null,
    notAfter: at,
    source: 'static',
    reason: '',
    ...changes,
  };
}
function definition(
  kind: PublishedDefinitionRow['kind'],
  name: string,
  changes: Partial<PublishedDefinitionRow> = {},
): PublishedDefinitionRow {
  const unlabelled = { risk: null, readOnly: null, destructive: null, idempotent: null, openWorld: null };
  return { serverId: 's1', kind, name, state: 'approved', approvedDigests: [], ...unlabelled, ...changes };
}
function principal(id: string, kind: PrincipalRow['kind'] = 'user'): PrincipalRow {
  const person = { issuer: 'local', subject: id, email: null, ownerId: null, directoryId: null };
  return { ...base, ...person, id, kind, name: id, description: '', status: 'active', epoch: 3, expiresAt: null };
}
function apiKey(id: string, principalId: string): ApiKeyRow {
  const hash = id.charCodeAt(1).toString(16).repeat(32);
  const times = {
    expiresAt: at,
    revokedAt: null,
    lastUsedAt: null,
    permissions: null,
    serverIds: null,
    serverLabels: null,
    networks: null,
    issuedBy: null,
    knownTo: [],
    successorOf: null,
  };
  return { ...base, ...times, id, principalId, name: id, hash, hint: 'sp_', scopes: ['mcp', 'api'] };
}
function signingKey(id: string, use: OAuthSigningKeyRow['use']): OAuthSigningKeyRow {
  const times = { createdAt: at, publishedRevision: null, signingSince: null, retiresAt: null };
  return { ...times, id, use, x: 'x'.repeat(43), y: 'y'.repeat(43), sealedPrivateKey: 'sealed' };
}
const sealingKey: SealingKeyRow = {
  id: 'k1',
  sealedSecret: 'sealed',
  use: 'seal',
  createdAt: at,
  publishedRevision: 1,
  sealingSince: at,
  retiresAt: null,
};

function toolWithHeader(name: string): string {
  const region = { type: 'string', 'x-mcp-header': name };
  return JSON.stringify({ name: 'ship', inputSchema: { type: 'object', properties: { region } } });
}

const rows: ConfigurationRows & FleetRows = {
  webhooks: [],
  payloadKey: undefined,
  servers: [server('s2', { lifecycle: 'deprecated', configStalenessMaxMs: 60_000 }), server('s1')],
  definitions: [
    definition('tool', 'echo', { approvedDigests: ['d2', 'd1'], risk: 'low', readOnly: true }),
    definition('prompt', 'ask', { state: 'pending' }),
    definition('tool', 'ship', { approvedDigests: ['d4', 'd3', 'd5'] }),
  ],
  headerBodies: [
    { serverId: 's1', digest: 'd3', raw: toolWithHeader('Region') },
    { serverId: 's1', digest: 'd4', raw: toolWithHeader('not a token') },
    { serverId: 's1', digest: 'd5', raw: toolWithHeader('Region') },
    { serverId: 's1', digest: 'not-approved', raw: toolWithHeader('Other') },
  ],
  grants: [
    grant('g2', { subjectKind: 'group', subjectGroupId: 'team', effect: 'deny', tools: ['rm*'] }),
    grant('g1', { subjectKind: 'serviceAccount', subjectPrincipalId: 'robot', notBefore: at }),
  ],
  access: {
    policies: [],
    labelGrants: [
      grant('l2', { serverId: null, serverLabels: { tier: 'one' }, when: 'principal.id == "ada"' }),
      grant('l1', { serverId: null, serverLabels: { tier: 'one' }, effect: 'requireApproval' }),
      grant('l3', { serverId: null, serverLabels: { tier: 'two', team: 'crm' }, mode: 'shadow' }),
    ],
    groups: [
      { id: 'team', name: 'Team' },
      { id: 'all', name: 'All' },
    ],
  },
  principals: [principal('robot', 'serviceAccount'), principal('ada')],
  subjects: [
    { id: 'robot', kind: 'serviceAccount' },
    { id: 'ada', kind: 'user' },
  ],
  groups: [{ id: 'team' }, { id: 'all' }],
  groupMembers: [
    { groupId: 'team', principalId: 'ada' },
    { groupId: 'all', principalId: 'ada' },
  ],
  apiKeys: [apiKey('kb', 'robot'), apiKey('ka', 'robot')],
  revokedFamilies: [
    { family: 'f2', principalId: 'ada' },
    { family: 'f1', principalId: 'ada' },
  ],
  limits: { sessionTtlMs: 1_000 },
  sealingKeys: [sealingKey],
  publicUrls: { issuer: 'https://control.example.com', nodesUrl: 'https://mcp.example.com' },
  stepUp: [],
  signingKeys: [signingKey('s2', 'verify'), signingKey('s1', 'sign')],
};
const openSecret = (): string | undefined => Buffer.alloc(32, 5).toString('base64');

function flat(units: ReadonlyMap<string, CompiledUnit>): CompiledUnit {
  const all = [...units.values()];
  return {
    documents: all.flatMap(({ documents }) => documents).sort((a, b) => (a.key < b.key ? -1 : 1)),
    problems: all.flatMap(({ problems }) => problems),
  };
}
function compile(changes: Partial<ConfigurationRows & FleetRows> = {}, open = openSecret): CompiledUnit {
  const all = { ...rows, ...changes };
  return flat(new Map([...compileSnapshot(all), [fleetUnit, compileFleet(all, open, () => undefined)]]));
}
function keysOf(compiled: CompiledUnit): string[] {
  return compiled.documents.map(({ key }) => key);
}
function problemsOf(compiled: CompiledUnit): string[] {
  return compiled.problems.map(({ objectKind, objectId, path }) => `${objectKind} ${objectId} ${path}`.trim());
}

test('rows compile to the documents of the golden file', async () => {
  const compiled = compile();
  expect(compiled.problems).toEqual([]);
  const documents = Object.fromEntries(
    compiled.documents.map(({ key, hash, body }) => [key, { hash, document: JSON.parse(body) as unknown }]),
  );
  // `vitest run -u` writes it anew.
  await expect(`${JSON.stringify(documents, null, 2)}\n`).toMatchFileSnapshot('compile-snapshot.golden.json');
});

test('equal rows give equal bytes whatever their order', () => {
  const shuffled = fc.record({
    servers: fc.shuffledSubarray([...rows.servers], { minLength: 2 }),
    definitions: fc.shuffledSubarray([...rows.definitions], { minLength: 3 }),
    headerBodies: fc.shuffledSubarray([...rows.headerBodies], { minLength: 4 }),
    grants: fc.shuffledSubarray([...rows.grants], { minLength: 2 }),
    principals: fc.shuffledSubarray([...rows.principals], { minLength: 2 }),
    access: fc.record({
      labelGrants: fc.shuffledSubarray([...(rows.access?.labelGrants ?? [])], { minLength: 3 }),
      policies: fc.constant(rows.access?.policies ?? []),
      groups: fc.shuffledSubarray([...(rows.access?.groups ?? [])], { minLength: 2 }),
    }),
    groupMembers: fc.shuffledSubarray([...rows.groupMembers], { minLength: 2 }),
    apiKeys: fc.shuffledSubarray([...rows.apiKeys], { minLength: 2 }),
  });
  const expected = compile().documents;
  const property = fc.property(shuffled, (changes) => {
    expect(compile(changes).documents).toEqual(expected);
  });
  fc.assert(property, { numRuns: 40 });
});

test('every compiled document is one that a node of this build can parse', () => {
  for (const { body } of compile().documents) expect(documentSchema.safeParse(JSON.parse(body)).error).toBeUndefined();
});

test('a grant of a subject that is gone, or of a server that is not served, does not compile and is no problem', () => {
  const compiled = compile({
    grants: [
      grant('of-nobody', { subjectKind: 'user', subjectPrincipalId: 'gone' }),
      grant('of-no-group', { subjectKind: 'group', subjectGroupId: 'gone' }),
      grant('elsewhere', { serverId: 'draft' }),
    ],
  });
  expect(keysOf(compiled).some((key) => key.startsWith('grants/'))).toBe(false);
  expect(compiled.problems).toEqual([]);
});

test('a server that cannot be published is withheld with its grants, and named', () => {
  const compiled = compile({ servers: [server('s1', { protocolRevisions: [] }), server('s2')] });
  expect(keysOf(compiled).filter((key) => /^(server|grants)/.test(key))).toEqual(['server/s2']);
  expect(problemsOf(compiled)).toEqual(['server s1 protocolRevisions']);
});

test('an allow that cannot be published goes alone, a deny takes its server with it', () => {
  const costly = { tools: ['*a'.repeat(9)] };
  const allow = compile({ grants: [grant('bad', costly), grant('good')] });
  expect(allow.documents.find(({ key }) => key === 'grants/s1')?.body).toMatch(/"id":"good"/);
  expect(problemsOf(allow)).toEqual(['grant bad tools.0']);
  const deny = compile({ grants: [grant('bad', { ...costly, effect: 'deny' }), grant('good')] });
  expect(keysOf(deny).filter((key) => /^(server|grants)/.test(key))).toEqual(['server/s2']);
  expect(problemsOf(deny)).toEqual(['grant bad tools.0', 'server s1 grants/bad']);
});

test('a deny on labels that cannot be published denies all that it could be about', () => {
  const onLabels = { serverId: null, serverLabels: { tier: 'one' } };
  const groups = [{ id: 'team', name: 'Team' }];
  const wrong = grant('bad', { ...onLabels, effect: 'deny', tools: ['rm'], when: 'principal.nam == ""' });
  const compiled = compile({
    access: { labelGrants: [wrong, grant('allow', { ...wrong, id: 'allow', effect: 'allow' })], groups, policies: [] },
  });
  expect(problemsOf(compiled)).toEqual(['grant bad when', 'grant allow when']);
  const document = compiled.documents.find(({ key }) => key.startsWith('labelGrants/'));
  const { grants } = JSON.parse(document?.body ?? '{}') as { grants: unknown[] };
  expect(grants).toMatchObject([
    { id: 'bad', effect: 'deny', tools: ['*'], prompts: ['*'], resources: ['*'], when: null },
  ]);
});

const noLimits = { riskMin: null, readOnly: null, destructive: null, idempotent: null, openWorld: null };
const malformed = { limits: { ...noLimits, riskMax: 'huge' } as unknown as GrantRow['limits'] };

test('a grant that does not fit its document is left out; what it protects goes with it, unless it is in shadow', () => {
  const served = (changes: Partial<GrantRow>): boolean => {
    const compiled = compile({ grants: [grant('bad', { ...malformed, ...changes }), grant('good')] });
    expect(problemsOf(compiled)).toContain('grant bad limits.riskMax');
    expect(compiled.documents.find(({ key }) => key === 'grants/s1')?.body ?? '').not.toContain('bad');
    return keysOf(compiled).includes('server/s1');
  };
  expect([served({}), served({ effect: 'deny', mode: 'shadow' })]).toEqual([true, true]);
  expect([served({ effect: 'deny' }), served({ effect: 'requireApproval' })]).toEqual([false, false]);
});

test('of grants on labels that do not fit their document, those that protect deny all that they could be about', () => {
  const onLabels = { ...malformed, serverId: null, serverLabels: { tier: 'one' } };
  const labelGrants = [
    grant('allow', onLabels),
    grant('approval', { ...onLabels, effect: 'requireApproval' }),
    grant('deny', { ...onLabels, effect: 'deny' }),
    grant('good', { ...onLabels, limits: null }),
    grant('shadow', { ...onLabels, effect: 'deny', mode: 'shadow' }),
  ];
  const compiled = compile({ access: { labelGrants, groups: [], policies: [] } });
  const document = compiled.documents.find(({ key }) => key.startsWith('labelGrants/'));
  const { grants } = JSON.parse(document?.body ?? '{}') as { grants: unknown[] };
  expect(grants).toMatchObject([
    { id: 'approval', effect: 'deny', tools: ['*'] },
    { id: 'deny', effect: 'deny', tools: ['*'] },
    { id: 'good', effect: 'allow', tools: ['a', 'b'] },
  ]);
  const withProblems = ['allow', 'approval', 'deny', 'shadow'];
  expect(problemsOf(compiled)).toEqual(withProblems.map((id) => `grant ${id} limits.riskMax`));
});

test('a deny whose subject is of another kind than it says is not silently without effect', () => {
  const wrong = grant('bad', { subjectKind: 'user', subjectPrincipalId: 'robot', effect: 'deny' });
  const compiled = compile({ grants: [wrong] });
  expect(problemsOf(compiled)).toEqual(['grant bad subject', 'server s1 grants/bad']);
  expect(keysOf(compiled)).not.toContain('server/s1');
});

test('limits and keys that are not valid are left out and named, so that the ones before stay', () => {
  const limits = compile({ limits: { sessionTtlMs: -1 } });
  expect(problemsOf(limits)).toEqual(['limits limits sessionTtlMs']);
  expect(keysOf(limits)).not.toContain('limits');
  const unopened = compile({}, () => undefined);
  expect(problemsOf(unopened)).toEqual(['keys keys k1']);
  expect(keysOf(unopened)).not.toContain('keys');
  expect(problemsOf(compile({ sealingKeys: [{ ...sealingKey, use: 'open' }] }))).toEqual(['keys keys']);
  expect(problemsOf(compile({ limits: 'none' }))[0]).toContain('limits limits');
});

test('without settings the limits are the defaults', () => {
  const compiled = compile({ limits: null });
  expect(JSON.parse(compiled.documents.find(({ key }) => key === 'limits')?.body ?? '')).toEqual(defaultLimits);
});

test('the schemas of arguments go along where some webhook may change arguments, and else not', () => {
  const approved = { ...rows, definitions: [definition('tool', 'ship', { approvedDigests: ['d9'] })] };
  const shipping = { serverId: approved.servers[0]?.id ?? '', digest: 'd9', raw: toolWithHeader('Region') };
  const published = (argumentsMayChange: boolean): string => {
    const owned = approved.definitions.map((one) => ({ ...one, serverId: shipping.serverId }));
    const parts = { ...approved, definitions: owned, headerBodies: [shipping], argumentsMayChange };
    return [...compileSnapshot(parts).values()].flatMap(({ documents }) => documents.map(({ body }) => body)).join();
  };
  expect(published(true)).toContain('inputSchemas');
  expect(published(false)).not.toContain('inputSchemas');
});
