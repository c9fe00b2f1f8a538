import { buildFromDocuments, DecisionCache } from '@sallyport/data-plane';
import {
  AccessRequest,
  defaultLimits,
  grantDefaults,
  type GrantEntry,
  type PrincipalRecord,
  type ServerDocument,
} from '@sallyport/schema';
import fc from 'fast-check';
import { expect, test } from 'vitest';

const ids = ['alice', 'bob', 'carol'];
const groups = ['g1', 'g2'];
const names = ['a', 'ab', 'b'];
const secret = Buffer.alloc(32).toString('base64');

const subject = fc.oneof(
  fc.constant({ kind: 'everyone' as const }),
  fc.record({ kind: fc.constant('group' as const), id: fc.constantFrom(...groups) }),
  fc.record({ kind: fc.constantFrom('user' as const, 'serviceAccount' as const), id: fc.constantFrom(...ids) }),
);
const grant = fc.record({
  subject,
  effect: fc.constantFrom('allow' as const, 'deny' as const, 'requireApproval' as const),
  mode: fc.constantFrom('enforce' as const, 'shadow' as const),
  tools: fc.array(fc.constantFrom(...names, '*', 'a*'), { maxLength: 2 }),
  when: fc.constantFrom(null, 'principal.id == "alice"', '"g1" in principal.groups'),
  whenArguments: fc.constantFrom(null, 'arguments.n <= 1'),
  notAfter: fc.constantFrom(null, 1_000),
  configStalenessMaxMs: fc.constantFrom(null, 10),
});
const principal = fc.record({
  id: fc.constantFrom(...ids),
  kind: fc.constantFrom('user' as const, 'serviceAccount' as const),
  groups: fc.subarray(groups),
});
const question = fc.record({
  principal,
  name: fc.constantFrom(...names),
  nowMs: fc.constantFrom(0, 999, 1_000),
  contactAgeMs: fc.constantFrom(0, 11),
  arguments: fc.constantFrom(null, '{"n":1}', '{"n":2}'),
});
type Question = typeof question extends fc.Arbitrary<infer Value> ? Value : never;

function serverOf(entries: readonly Omit<GrantEntry, 'id' | 'prompts' | 'resources' | 'limits' | 'notBefore'>[]) {
  const server: ServerDocument = {
    kind: 'server',
    id: 's',
    slug: 's',
    lifecycle: 'approved',
    url: 'http://127.0.0.1/mcp',
    protocolRevisions: ['2026-07-28'],
    labels: {},
    definitions: names.map((name) => ({ kind: 'tool', name, state: 'approved', approvedDigests: [], labels: null })),
    transport: 'streamableHttp',
    extensions: [],
    auditMode: 'buffered',
    configStalenessMaxMs: null,
  };
  const grants = entries.map((entry, index) => {
    // A deny holds however old the configuration is; publishing it with a limit is refused.
    const configStalenessMaxMs = entry.effect === 'deny' ? null : entry.configStalenessMaxMs;
    return { ...grantDefaults, ...entry, configStalenessMaxMs, id: String(index) };
  });
  const { runtime } = buildFromDocuments([
    defaultLimits,
    { kind: 'keys', sealing: [{ id: 'k', secret, use: 'seal' }] },
    server,
    { kind: 'grants', serverId: 's', grants },
  ]);
  const built = runtime.serverById.get('s');
  if (built === undefined) throw new Error('no server');
  return built;
}

function decide(cache: DecisionCache, server: ReturnType<typeof serverOf>, asked: Question) {
  const who: PrincipalRecord = {
    ...asked.principal,
    name: asked.principal.id,
    status: 'active',
    epoch: 0,
    expiresAt: null,
    revokedFamilies: [],
    keys: [],
  };
  const facts = {
    principal: { ...asked.principal, name: asked.principal.id },
    server: { slug: 's', labels: {} },
    client: { name: '', version: '', address: '' },
    nowMs: asked.nowMs,
    contactAgeMs: asked.contactAgeMs,
  };
  const { arguments: text } = asked;
  const request = () => new AccessRequest(facts, text === null ? null : () => text);
  const set = cache.get(server, who, asked.nowMs);
  return [set.decideServer(request), set.decide({ kind: 'tool', name: asked.name }, request)];
}

test('what one principal was told never decides for another: any order of questions, as if each were the first', () => {
  fc.assert(
    fc.property(fc.array(grant, { maxLength: 6 }), fc.array(question, { maxLength: 12 }), (grants, questions) => {
      const server = serverOf(grants);
      const shared = new DecisionCache({ bytesMax: 1024 * 1024 });
      for (const asked of questions) {
        const alone = new DecisionCache({ bytesMax: 1024 * 1024 });
        expect(decide(shared, server, asked)).toEqual(decide(alone, server, asked));
      }
    }),
    { numRuns: 300 },
  );
});
