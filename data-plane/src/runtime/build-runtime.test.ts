import {
  type ConfigDocument,
  defaultLimits,
  encodeDocument,
  grantDefaults,
  type KeysDocument,
  type Manifest,
  manifestHash,
  principalShard,
  type PrincipalRecord,
  type PrincipalsDocument,
  type ServerDocument,
} from '@sallyport/schema';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { buildFromDocuments, buildRuntime, type BuiltConfiguration, type BuildResult } from './build-runtime.ts';
import type { Runtime } from './runtime.ts';

const secret = Buffer.alloc(32, 7).toString('base64');
const keys: KeysDocument = { kind: 'keys', sealing: [{ id: 'k1', secret, use: 'seal' }] };

function server(id: string, tools: string[] = ['echo']): ServerDocument {
  return {
    kind: 'server',
    id,
    slug: `s-${id}`,
    lifecycle: 'approved',
    url: 'https://mcp.example.com/mcp',
    protocolRevisions: ['2026-07-28', '2025-11-25', '2019-01-01'],
    labels: {},
    definitions: tools.map((name) => ({ kind: 'tool', name, approvedDigests: ['d'], state: 'approved', labels: null })),
    transport: 'streamableHttp',
    extensions: [],
    auditMode: 'buffered',
    configStalenessMaxMs: null,
  };
}
function grants(serverId: string, tools: string[]): ConfigDocument {
  const entry = { ...grantDefaults, subject: { kind: 'everyone' as const }, effect: 'allow' as const, tools };
  return { kind: 'grants', serverId, grants: [{ id: `g-${serverId}`, ...entry }] };
}
function labelGrants(selector: Record<string, string>, tools: string[]): ConfigDocument {
  const entry = { ...grantDefaults, subject: { kind: 'everyone' as const }, effect: 'allow' as const, tools };
  return { kind: 'labelGrants', selector, grants: [{ ...entry, id: `l-${JSON.stringify(selector)}` }] };
}
function failing(serverId: string): ConfigDocument {
  const entry = { ...grantDefaults, subject: { kind: 'everyone' as const }, effect: 'allow' as const };
  return { kind: 'grants', serverId, grants: [{ ...entry, id: 'g', tools: ['*'], when: 'principal.nam == ""' }] };
}
function principal(id: string, keyHash: string, epoch = 0): PrincipalRecord {
  const key = { id: `key-${keyHash}`, hash: keyHash.padEnd(64, '0'), scopes: ['mcp' as const], expiresAt: 1 };
  const none = { groups: [], revokedFamilies: [], expiresAt: null };
  return { ...none, id, kind: 'user', name: id, status: 'active', epoch, keys: [key] };
}
function shards(records: readonly PrincipalRecord[]): PrincipalsDocument[] {
  const byShard = Map.groupBy(records, (record) => principalShard(record.id));
  return [...byShard].map(([shard, principals]) => ({ kind: 'principals', shard, principals }));
}

/** Builds what `documents` say, checked or not, as a control plane of another build could send it. */
function build(documents: readonly unknown[], previous?: BuiltConfiguration, entriesOf = keyed): BuildResult {
  const encoded = documents.map((document) => encodeDocument(document as ConfigDocument));
  const entries = entriesOf(encoded);
  const bodies = new Map(encoded.map(({ hash, body }) => [hash, body]));
  const history = { id: 'h', startedAt: 0, signature: '' };
  const manifest: Manifest = { history, revision: 1, hash: manifestHash(entries), entries };
  return buildRuntime(manifest, (hash) => bodies.get(hash), previous);
}
function keyed(encoded: readonly { key: string; hash: string }[]): Record<string, string> {
  return Object.fromEntries(encoded.map(({ key, hash }) => [key, hash]));
}
function problemsOf(result: BuildResult): string[] {
  return result.ok ? [] : result.problems.map(({ document, path, message }) => `${document} ${path}: ${message}`);
}

/** What two equal runtimes have in common, whatever the order of their maps. */
function comparable(runtime: Runtime): unknown {
  const sorted = <Value>(map: ReadonlyMap<string, Value>): [string, Value][] =>
    [...map].sort(([a], [b]) => (a < b ? -1 : 1));
  return {
    servers: sorted(runtime.serverById).map(([id, one]) => [
      id,
      one.document,
      [...one.definitions],
      one.grants.map(({ entry }) => entry).sort((a, b) => (a.id < b.id ? -1 : 1)),
      one.fingerprint,
    ]),
    slugs: sorted(runtime.serverBySlug).map(([slug, one]) => [slug, one.document.id]),
    principals: sorted(runtime.principalById),
    keys: sorted(runtime.apiKeyByHash),
    limits: runtime.limits,
    sealing: runtime.sealing.seal.id,
  };
}

describe('a whole configuration', () => {
  test('is indexed by everything a request asks for', () => {
    const robot = principal('robot', 'a1');
    const { runtime } = buildFromDocuments([
      server('1'),
      grants('1', ['echo']),
      ...shards([robot]),
      defaultLimits,
      keys,
    ]);
    const found = runtime.serverBySlug.get('s-1');
    expect(found).toBe(runtime.serverById.get('1'));
    expect(found?.upstream.href).toBe('https://mcp.example.com/mcp');
    // A revision this build does not know adds no era.
    expect([...(found?.eras ?? [])].sort()).toEqual(['legacy', 'modern']);
    expect(found?.grants[0]?.matchers.tool[0]?.('echo')).toBe(true);
    expect(found?.definitions.get('tool', 'echo')?.state).toBe('approved');
    expect(runtime.apiKeyByHash.get(robot.keys[0]?.hash ?? '')?.principal.id).toBe('robot');
    expect(runtime.sealing.seal.secret).toEqual(Buffer.alloc(32, 7));
  });

  test('a grant on labels is a grant on every server that carries them, and on no other', () => {
    const labelled = (id: string, labels: Record<string, string>): ServerDocument => ({ ...server(id), labels });
    const onLabels = (selector: Record<string, string>, id: string): ConfigDocument => ({
      kind: 'labelGrants',
      selector,
      grants: [{ ...grantDefaults, id, subject: { kind: 'everyone' }, effect: 'allow', tools: ['*'] }],
    });
    const documents = [
      defaultLimits,
      keys,
      labelled('1', { team: 'crm', stage: 'prod' }),
      labelled('2', { team: 'crm' }),
      labelled('3', {}),
      onLabels({ team: 'crm' }, 'team'),
      onLabels({ team: 'crm', stage: 'prod' }, 'both'),
    ];
    const grantsOf = ({ runtime }: BuiltConfiguration, id: string): string[] =>
      runtime.serverById.get(id)?.grants.map(({ entry }) => entry.id) ?? [];
    const built = buildFromDocuments(documents);
    expect(grantsOf(built, '1').sort()).toEqual(['both', 'team']);
    expect([grantsOf(built, '2'), grantsOf(built, '3')]).toEqual([['team'], []]);
    const moved = buildFromDocuments(documents.with(4, labelled('3', { team: 'crm' })).slice(0, 6), {
      previous: built,
    });
    expect([grantsOf(moved, '1'), grantsOf(moved, '3')]).toEqual([['team'], ['team']]);
    const relabelled = buildFromDocuments(documents.with(4, labelled('3', { team: 'crm' })), { previous: built });
    expect(grantsOf(relabelled, '3')).toEqual(['team']);
    expect(relabelled.runtime.serverById.get('2')).toBe(built.runtime.serverById.get('2'));
    const ended = buildFromDocuments(documents.slice(0, -2), { previous: built });
    expect(['1', '2', '3'].map((id) => grantsOf(ended, id))).toEqual([[], [], []]);
    const prints = [built, ended].map(({ runtime }) => runtime.serverById.get('1')?.fingerprint);
    expect(prints[0]).not.toBe(prints[1]);
  });

  test('names of groups are those of its document', () => {
    const groups: ConfigDocument = { kind: 'groups', groups: [{ id: 'g', name: 'analysts' }] };
    const { runtime } = buildFromDocuments([defaultLimits, keys, groups]);
    expect([...runtime.groupNames]).toEqual([['g', 'analysts']]);
  });

  test('a server without a grants document has no grants', () => {
    const { runtime } = buildFromDocuments([server('1'), defaultLimits, keys]);
    expect(runtime.serverById.get('1')?.grants).toEqual([]);
  });
});

describe('a configuration is refused as a whole, with document and path,', () => {
  const base = [defaultLimits, keys];
  const cases: [string, unknown[], string][] = [
    ['an unknown field', [...base, { ...server('1'), surprise: true }], 'server/1 : Unrecognized key: "surprise"'],
    ['an unknown value', [...base, { ...server('1'), lifecycle: 'draft' }], 'server/1 lifecycle: '],
    ['no limits', [keys], 'limits : the manifest has no such document'],
    ['no keys', [defaultLimits], 'keys : the manifest has no such document'],
    ['grants of a server that is not there', [...base, grants('9', [])], 'grants/9 serverId: names a server'],
    [
      'a pattern that is too costly',
      [...base, server('1'), grants('1', ['*a'.repeat(9)])],
      'grants/1 grants.0.tools.0: ',
    ],
    ['a condition that does not compile', [...base, server('1'), failing('1')], 'grants/1 grants.0.when: '],
    ['grants on no labels at all', [...base, { kind: 'labelGrants', selector: {}, grants: [] }], 'at least one label'],
    [
      'one slug for two servers',
      [...base, server('1'), { ...server('2'), slug: 's-1' }],
      'server/2 slug: is used by two',
    ],
    ['two definitions of one name', [...base, server('1', ['a', 'a'])], 'server/1 definitions.1.name: occurs twice'],
    [
      'a principal of another shard',
      [...base, { kind: 'principals', shard: (principalShard('u') + 1) % 256, principals: [principal('u', 'a')] }],
      'belongs to another shard',
    ],
    [
      'one key for two principals',
      [...base, ...shards([principal('u', 'a'), principal('v', 'a')])],
      'hash: occurs twice',
    ],
    [
      'no key that seals',
      [defaultLimits, { kind: 'keys', sealing: [{ id: 'k', secret, use: 'open' }] }],
      'keys sealing: no key seals',
    ],
    [
      'a short secret',
      [defaultLimits, { kind: 'keys', sealing: [{ id: 'k', secret: 'AAAA', use: 'seal' }] }],
      'is not 32 bytes',
    ],
  ];
  test.each(cases)('when it has %s', (_name, documents, problem) => {
    expect(problemsOf(build(documents)).join('\n')).toContain(problem);
  });

  test('when a document stands under another key', () => {
    const moved = build([...base, server('1')], undefined, (encoded) => {
      const entries = keyed(encoded);
      const { 'server/1': hash = '', ...rest } = entries;
      return { ...rest, 'server/2': hash };
    });
    expect(problemsOf(moved)).toEqual(['server/2 : the document says that it is server/1']);
  });

  test('when a document is missing or does not match its hash', () => {
    const { manifest } = buildFromDocuments(base);
    expect(problemsOf(buildRuntime(manifest, () => undefined))[0]).toContain('the document is missing');
    expect(problemsOf(buildRuntime(manifest, () => '{}'))[0]).toContain('does not match its hash');
  });
});

describe('what did not change is shared', () => {
  const documents = [
    server('1'),
    grants('1', ['a']),
    server('2'),
    grants('2', ['b']),
    ...shards([principal('u', 'a')]),
  ];
  const before = buildFromDocuments([...documents, defaultLimits, keys]);

  test('a changed grant rebuilds its server and nothing else', () => {
    const changed = documents.map((one) => (one.kind === 'grants' && one.serverId === '1' ? grants('1', ['z']) : one));
    const { runtime } = buildFromDocuments([...changed, defaultLimits, keys], { previous: before });
    expect(runtime.serverById.get('1')).not.toBe(before.runtime.serverById.get('1'));
    expect(runtime.serverById.get('1')?.definitions).toBe(before.runtime.serverById.get('1')?.definitions);
    expect(runtime.serverById.get('2')).toBe(before.runtime.serverById.get('2'));
    expect(runtime.principalById).toBe(before.runtime.principalById);
    expect(runtime.apiKeyByHash).toBe(before.runtime.apiKeyByHash);
  });

  test('a server whose definitions are as they were shares them with the one before, and no other does', () => {
    const changed = documents.map((one) => {
      if (one.kind !== 'server') return one;
      return one.id === '1' ? { ...one, labels: { team: 'crm' } } : server(one.id, ['another']);
    });
    const { runtime } = buildFromDocuments([...changed, defaultLimits, keys], { previous: before });
    const [one, other] = ['1', '2'].map((id) => [runtime.serverById.get(id), before.runtime.serverById.get(id)]);
    expect(one?.[0]?.document.labels).toEqual({ team: 'crm' });
    expect(one?.[0]?.definitions).toBe(one?.[1]?.definitions);
    expect(one?.[0]?.document.definitions).toBe(one?.[1]?.document.definitions);
    expect(other?.[0]?.definitions.get('tool', 'another')?.state).toBe('approved');
    expect(other?.[0]?.definitions).not.toBe(other?.[1]?.definitions);
  });

  test('a changed principal leaves the servers and the running maps alone', () => {
    const changed = [...documents.filter(({ kind }) => kind !== 'principals'), ...shards([principal('u', 'b', 1)])];
    const { runtime } = buildFromDocuments([...changed, defaultLimits, keys], { previous: before });
    expect(runtime.serverById).toBe(before.runtime.serverById);
    expect([...runtime.apiKeyByHash.keys()]).toEqual(['b'.padEnd(64, '0')]);
    expect([...before.runtime.apiKeyByHash.keys()]).toEqual(['a'.padEnd(64, '0')]);
  });

  test('whatever changes, building on what ran gives the same as building from nothing, or the same problems', () => {
    const id = fc.constantFrom('1', '2', '3');
    const team = fc.constantFrom('crm', 'erp');
    const configuration = fc.record({
      // Slugs pass from one to another, and are used twice now and then.
      servers: fc.uniqueArray(
        fc.record({ id, slug: fc.constantFrom('p', 'q', 'r', 's'), team, tools: fc.subarray(['a', 'b', 'c']) }),
        { selector: (one) => one.id },
      ),
      // Also on servers that are not there.
      granted: fc.subarray(['1', '2', '3']),
      tools: fc.subarray(['x', 'y*', '*']),
      labelled: fc.uniqueArray(fc.record({ team, tools: fc.subarray(['m', 'n']) }), { selector: (one) => one.team }),
      // A key of two principals, too.
      principals: fc.uniqueArray(
        fc.record({
          id: fc.constantFrom('u', 'v', 'w', 'u2'),
          key: fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f'),
          epoch: fc.nat(2),
        }),
        { selector: (one) => one.id },
      ),
    });
    let applied = 0;
    let refused = 0;
    fc.assert(
      fc.property(fc.array(configuration, { minLength: 2, maxLength: 6 }), (timeline) => {
        let previous: BuiltConfiguration | undefined;
        for (const { servers, granted, tools, labelled, principals } of timeline) {
          const wanted = [
            ...servers.map((one) => ({ ...server(one.id, one.tools), slug: one.slug, labels: { team: one.team } })),
            ...granted.map((serverId) => grants(serverId, tools)),
            ...labelled.map((one) => labelGrants({ team: one.team }, one.tools)),
            ...shards(principals.map((one) => principal(one.id, one.key, one.epoch))),
            defaultLimits,
            keys,
          ];
          const fresh = build(wanted);
          const built = build(wanted, previous);
          // Which of two is named as the second depends on their order: the problems are counted.
          const outcome = (of: BuildResult) => (of.ok ? comparable(of.built.runtime) : of.problems.length);
          expect(outcome(built)).toEqual(outcome(fresh));
          if (built.ok) {
            previous = built.built;
            applied++;
          } else refused++;
        }
      }),
      { numRuns: 100 },
    );
    expect(applied).toBeGreaterThan(50);
    expect(refused).toBeGreaterThan(50);
  });
});
