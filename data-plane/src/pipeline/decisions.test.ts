import {
  AccessRequest,
  defaultLimits,
  type DefinitionEntry,
  grantDefaults,
  type GrantEntry,
  type PrincipalRecord,
} from '@sallyport/schema';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { buildFromDocuments } from '../runtime/build-runtime.ts';
import type { ServerRuntime } from '../runtime/runtime.ts';
import { DecisionCache, mayCall } from './decisions.ts';

const principal = (id: string, groups: string[] = []): PrincipalRecord => ({
  id,
  kind: 'user',
  name: id,
  status: 'active',
  groups,
  epoch: 0,
  expiresAt: null,
  revokedFamilies: [],
  keys: [],
});
const grant = (over: Partial<GrantEntry>): GrantEntry => ({
  ...grantDefaults,
  id: 'g',
  subject: { kind: 'everyone' },
  effect: 'allow',
  ...over,
});
const definition = (kind: DefinitionEntry['kind'], name: string, state: DefinitionEntry['state'] = 'approved') => ({
  kind,
  name,
  state,
  approvedDigests: [],
  labels: null,
});
const at =
  (nowMs: number, groups: readonly string[] = [], args: string | null = null) =>
  () =>
    new AccessRequest(
      {
        principal: { id: 'alice', kind: 'user', groups },
        server: { slug: 's', labels: {} },
        client: { name: '', version: '', address: '' },
        nowMs,
        contactAgeMs: 0,
      },
      args === null ? null : () => args,
    );

function serverOf(grants: GrantEntry[], definitions: DefinitionEntry[]): ServerRuntime {
  const { runtime } = buildFromDocuments([
    defaultLimits,
    { kind: 'keys', sealing: [{ id: 'k', secret: Buffer.alloc(32).toString('base64'), use: 'seal' }] },
    {
      kind: 'server',
      id: 's',
      slug: 's',
      lifecycle: 'approved',
      url: 'http://127.0.0.1/mcp',
      protocolRevisions: ['2026-07-28'],
      labels: {},
      definitions,
      transport: 'streamableHttp',
      extensions: [],
      auditMode: 'buffered',
      configStalenessMaxMs: null,
    },
    { kind: 'grants', serverId: 's', grants },
  ]);
  const server = runtime.serverById.get('s');
  if (server === undefined) throw new Error('no server');
  return server;
}

const cacheOf = (bytesMax = 1024 * 1024) => new DecisionCache({ bytesMax });
const reasonOf = (server: ServerRuntime, kind: 'tool' | 'prompt' | 'resource', name: string, cache = cacheOf()) =>
  cache.get(server, principal('alice'), 1_000).decide({ kind, name }, at(1_000)).reason;

describe('a granted name is still refused where its definition is not approved', () => {
  const server = serverOf(
    [grant({ tools: ['*'], prompts: ['*'], resources: ['*'] })],
    [
      definition('tool', 'good'),
      definition('tool', 'new', 'pending'),
      definition('tool', 'changed', 'drifted'),
      definition('prompt', 'bad', 'quarantined'),
      definition('resource', 'file://known'),
      definition('resource', 'file://changed', 'drifted'),
      definition('resourceTemplate', 'db://{table}/{id}', 'quarantined'),
      definition('resourceTemplate', 'db://open/{+rest}'),
    ],
  );
  test.each([
    ['tool', 'good', 'GRANTED'],
    ['tool', 'new', 'DEFINITION_NOT_APPROVED'],
    ['tool', 'changed', 'DEFINITION_NOT_APPROVED'],
    ['tool', 'never seen', 'DEFINITION_NOT_APPROVED'],
    ['prompt', 'bad', 'DEFINITION_NOT_APPROVED'],
    ['resource', 'file://known', 'GRANTED'],
    ['resource', 'file://unlisted', 'GRANTED'],
    ['resource', 'file://changed', 'DEFINITION_NOT_APPROVED'],
    ['resource', 'db://{table}/{id}', 'DEFINITION_NOT_APPROVED'],
    ['resource', 'db://users/1', 'DEFINITION_NOT_APPROVED'],
    ['resource', 'db://open/1', 'GRANTED'],
  ] as const)('%s %s: %s', (kind, name, reason) => {
    expect(reasonOf(server, kind, name)).toBe(reason);
  });
});

test('a set of decisions ends when a grant begins or ends', () => {
  const server = serverOf(
    [grant({ id: 'a', tools: ['t'], notBefore: 100, notAfter: 200 }), grant({ id: 'b', tools: ['u'], notAfter: 150 })],
    [definition('tool', 't'), definition('tool', 'u')],
  );
  const cache = cacheOf();
  const may = (name: string, nowMs: number) =>
    cache.get(server, principal('alice'), nowMs).decide({ kind: 'tool', name }, at(nowMs)).effect === 'allow';
  const seen = [99, 100, 149, 150, 199, 200, 120].map((nowMs) => [nowMs, may('t', nowMs), may('u', nowMs)]);
  expect(seen).toEqual([
    [99, false, true],
    [100, true, true],
    [149, true, true],
    [150, true, false],
    [199, true, false],
    [200, false, false],
    [120, true, true],
  ]);
  expect(cache.get(server, principal('alice'), 200).decideServer(at(200)).effect).toBe('deny');
});

test('principals whom the same grants concern share their decisions; others never do', () => {
  const server = serverOf(
    [
      grant({ id: 'all', tools: ['t'] }),
      grant({ id: 'team', subject: { kind: 'group', id: 'team' }, tools: ['u'] }),
      grant({ id: 'bob', subject: { kind: 'user', id: 'bob' }, tools: ['v'] }),
    ],
    ['t', 'u', 'v'].map((name) => definition('tool', name)),
  );
  const cache = cacheOf();
  const setOf = (who: PrincipalRecord) => cache.get(server, who, 0);
  expect(setOf(principal('alice'))).toBe(setOf(principal('carol', ['another group'])));
  expect(setOf(principal('alice', ['team']))).not.toBe(setOf(principal('alice')));
  expect(setOf(principal('bob')).decide({ kind: 'tool', name: 'v' }, at(0)).effect).toBe('allow');
  expect(setOf(principal('alice')).decide({ kind: 'tool', name: 'v' }, at(0)).effect).toBe('deny');
  // A service account is not the user of the same id.
  expect(setOf({ ...principal('bob'), kind: 'serviceAccount' }).decide({ kind: 'tool', name: 'v' }, at(0)).effect).toBe(
    'deny',
  );
});

test('the memory for decisions keeps its bound, whatever names callers make up', () => {
  const server = serverOf([grant({ resources: ['*'] })], []);
  const cache = cacheOf(64 * 1024);
  for (let index = 0; index < 2_000; index++) {
    const set = cache.get(server, principal('alice'), 0);
    set.decide({ kind: 'resource', name: `made-up://${index}` }, at(0));
    set.decide({ kind: 'resource', name: `long://${index}/${'x'.repeat(1000)}` }, at(0));
    expect(cache.bytes).toBeLessThanOrEqual(64 * 1024);
  }
});

test('what is not configured any more is let go with the change, and what a change left alone stays', () => {
  const before = serverOf([grant({ tools: ['t'] })], [definition('tool', 't')]);
  const after = serverOf([grant({ tools: ['t', 'u'] })], [definition('tool', 't')]);
  const cache = cacheOf();
  const set = cache.get(before, principal('alice'), 0);
  const alone = cache.bytes;
  // As it is built when something else changed.
  const again = serverOf([grant({ tools: ['t'] })], [definition('tool', 't')]);
  cache.keepOnly([again]);
  expect(cache.get(again, principal('alice'), 0)).toBe(set);
  cache.keepOnly([after]);
  expect(cache.bytes).toBe(0);
  // What an exchange that began before still holds is decided as before, and counts no more.
  expect(set.decide({ kind: 'tool', name: 't' }, at(0)).effect).toBe('allow');
  expect(cache.bytes).toBe(0);
  cache.get(after, principal('alice'), 0);
  expect(cache.bytes).toBe(alone);
});

test('when the memory is full, what was used longest ago goes first, of whatever server', () => {
  const users = Array.from({ length: 20 }, (_, at) => `user-${at}`);
  const byUser = (tool: string) => users.map((id) => grant({ id, subject: { kind: 'user', id }, tools: [tool] }));
  const [one, other] = [serverOf(byUser('t'), []), serverOf(byUser('u'), [])];
  const cache = cacheOf(3_000);
  const used = cache.get(one, principal('user-0'), 0);
  const forgotten = cache.get(other, principal('user-0'), 0);
  for (const user of users.slice(1)) {
    cache.get(other, principal(user), 0);
    expect(cache.get(one, principal('user-0'), 0)).toBe(used);
    expect(cache.bytes).toBeLessThanOrEqual(3_000);
  }
  expect(cache.get(other, principal('user-0'), 0)).not.toBe(forgotten);
});

test('what was decided anew equals what was remembered, over random grants', () => {
  const names = ['a', 'ab', 'b', 'file://a'];
  const pattern = fc.constantFrom(...names, '*', 'a*', 'file://*');
  const selector = fc.array(pattern, { maxLength: 2 });
  const subject = fc.constantFrom<GrantEntry['subject']>(
    { kind: 'everyone' },
    { kind: 'group', id: 'g1' },
    { kind: 'user', id: 'alice' },
    { kind: 'serviceAccount', id: 'alice' },
  );
  const effect = fc.constantFrom('allow' as const, 'deny' as const);
  const grants = fc.array(fc.record({ subject, effect, tools: selector, prompts: selector, resources: selector }), {
    maxLength: 6,
  });
  fc.assert(
    fc.property(grants, fc.subarray(['g1', 'g2']), (entries, groups) => {
      const server = serverOf(
        entries.map((entry, index) => grant({ ...entry, id: String(index) })),
        names.flatMap((name) => [definition('tool', name), definition('prompt', name)]),
      );
      const cache = cacheOf();
      const who = principal('alice', groups);
      for (const kind of ['tool', 'prompt', 'resource'] as const) {
        for (const name of names) {
          const first = cache.get(server, who, 0).decide({ kind, name }, at(0));
          expect(cache.get(server, who, 0).decide({ kind, name }, at(0))).toEqual(first);
          expect(cacheOf().get(server, who, 0).decide({ kind, name }, at(0))).toEqual(first);
          // Whoever may use something may know of the server.
          expect([first.effect, cache.get(server, who, 0).decideServer(at(0)).effect]).not.toEqual(['allow', 'deny']);
        }
      }
    }),
    { numRuns: 200 },
  );
});

test('what a condition decides is decided for each request, and remembered for none', () => {
  const server = serverOf(
    [
      grant({ id: 'team', tools: ['t'], when: '"team" in principal.groups' }),
      grant({ id: 'small', tools: ['pay'], whenArguments: 'arguments.amount <= 10' }),
    ],
    ['t', 'pay', 'other'].map((name) => definition('tool', name)),
  );
  const set = cacheOf().get(server, principal('alice'), 0);
  const ask = (name: string, request: ReturnType<typeof at>) => set.decide({ kind: 'tool', name }, request).effect;
  const asked = [ask('t', at(0)), ask('t', at(0, ['team'])), ask('t', at(0)), ask('other', at(0, ['team']))];
  expect(asked).toEqual(['deny', 'allow', 'deny', 'deny']);
  const paid = ['{"amount":10}', '{"amount":11}', '{}', '{"amount":10}'].map((args) => ask('pay', at(0, [], args)));
  expect(paid).toEqual(['allow', 'deny', 'deny', 'allow']);
  expect(ask('pay', at(0))).toBe('allow');
});

test('a server that a condition opens is known to those alone whom it lets in', () => {
  const server = serverOf([grant({ tools: ['t'], when: '"team" in principal.groups' })], [definition('tool', 't')]);
  const set = cacheOf().get(server, principal('alice'), 0);
  const known = [at(0), at(0, ['team']), at(0)].map((request) => set.decideServer(request).effect);
  expect(known).toEqual(['deny', 'allow', 'deny']);
});

test.each([
  ['active', {}, {}, true],
  ['disabled', { status: 'disabled' as const }, {}, false],
  ['expired', { expiresAt: 1_000 }, {}, false],
  ['with an expired key', {}, { expiresAt: 1_000 }, false],
  ['with a key for the API alone', {}, { scopes: ['api' as const] }, false],
])('a principal that is %s may call: %s', (_what, ofPrincipal, ofKey, expected) => {
  const key = { id: 'k', hash: 'h', scopes: ['mcp' as const], expiresAt: 2_000, ...ofKey };
  expect(mayCall({ principal: { ...principal('alice'), ...ofPrincipal }, key, networks: null }, 1_000, null)).toBe(
    expected,
  );
});
