import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  AccessRequest,
  applicableGrants,
  compileGrant,
  decide,
  type Decision,
  decideServer,
  grantProblems,
  type GrantVerdict,
  isConditional,
  type LabelledTarget,
  matchesTarget,
  matchGrant,
} from './decide.ts';
import { grantDefaults, type GrantEntry, type PrincipalRecord, type ToolLabels } from './snapshot.ts';

const principal = { id: 'p1', kind: 'user', groups: ['g1'] } satisfies Pick<PrincipalRecord, 'id' | 'kind' | 'groups'>;
const nowMs = 1_000;
const unjudged: ToolLabels = { risk: null, readOnly: null, destructive: null, idempotent: null, openWorld: null };
const noLimits = { riskMin: null, riskMax: null, readOnly: null, destructive: null, idempotent: null, openWorld: null };

function grant(part: Partial<GrantEntry>): GrantEntry {
  return { ...grantDefaults, id: 'a', subject: { kind: 'everyone' }, effect: 'allow', tools: ['*'], ...part };
}
function tool(name = 'search', labels: ToolLabels | null = null): LabelledTarget {
  return { kind: 'tool', name, labels };
}
/** @param args the JSON of a call's arguments; null for a list */
function request(args: string | null = '{}', contactAgeMs = 0): AccessRequest {
  const facts = {
    principal: { id: 'p1', kind: 'user', groups: ['analysts'] },
    server: { slug: 's', labels: {} },
    client: { name: '', version: '', address: '10.0.0.1' },
    nowMs,
    contactAgeMs,
  };
  return new AccessRequest(facts, args === null ? null : () => args);
}
function ask(grants: readonly GrantEntry[], target = tool(), by = request()): Decision {
  return decide(applicableGrants(grants.map(compileGrant), principal), target, by);
}
function effectOf(grants: readonly GrantEntry[], target = tool(), by = request()): string {
  return ask(grants, target, by).effect;
}
function failedPart(part: Partial<GrantEntry>, target = tool(), by = request()): GrantVerdict {
  return matchGrant(compileGrant(grant(part)), target, by);
}

const anyGrant: fc.Arbitrary<GrantEntry> = fc.record({
  id: fc.string({ minLength: 1, maxLength: 4 }),
  subject: fc.constantFrom<GrantEntry['subject']>(
    { kind: 'everyone' },
    { kind: 'group', id: 'g1' },
    { kind: 'group', id: 'g2' },
    { kind: 'user', id: 'p1' },
    { kind: 'serviceAccount', id: 'p1' },
  ),
  effect: fc.constantFrom('allow', 'allow', 'deny', 'requireApproval'),
  mode: fc.constantFrom('enforce', 'enforce', 'enforce', 'shadow'),
  tools: fc.array(fc.constantFrom('*', 'se*', 'search', 'delete', '*rch')),
  prompts: fc.constant([]),
  resources: fc.constant([]),
  limits: fc.constantFrom(null, null, { ...noLimits, riskMax: 'medium' as const }, { ...noLimits, readOnly: true }),
  when: fc.constantFrom(null, null, '"analysts" in principal.groups', 'principal.id == "p2"', 'server.labels.no == ""'),
  whenArguments: fc.constantFrom(null, null, 'arguments.n <= 5', 'arguments.n > 5'),
  notBefore: fc.constantFrom(null, null, 500, 1_000, 1_001),
  notAfter: fc.constantFrom(null, null, 1_000, 1_001, 900),
  configStalenessMaxMs: fc.constantFrom(null, null, 10_000),
});
const anyTarget: fc.Arbitrary<LabelledTarget> = fc.record({
  kind: fc.constant('tool' as const),
  name: fc.constantFrom('search', 'delete'),
  labels: fc.constantFrom(
    null,
    { ...unjudged, risk: 'low' as const, readOnly: true },
    { ...unjudged, risk: 'critical' as const, readOnly: false },
    unjudged,
  ),
});
const anyRequest: fc.Arbitrary<AccessRequest> = fc
  .record({ args: fc.constantFrom(null, '{}', '{"n":3}', '{"n":7}', '{"n":"x"}'), age: fc.constantFrom(0, 20_000) })
  .map(({ args, age }) => request(args, age));
/** From the narrowest to the widest. */
const width: Record<Decision['effect'], number> = { deny: 0, requireApproval: 1, allow: 2 };

describe('decide', () => {
  test('no grants means no', () => expect(effectOf([])).toBe('deny'));
  test('a deny wins over any allow', () =>
    expect(effectOf([grant({}), grant({ id: 'b', effect: 'deny', tools: ['search'] })])).toBe('deny'));
  test('an empty selector selects nothing', () => expect(effectOf([grant({ tools: [] })])).toBe('deny'));
  test('a grant for a group the principal is not in does not match', () =>
    expect(effectOf([grant({ subject: { kind: 'group', id: 'g2' } })])).toBe('deny'));
  test('a user id does not match a service account with the same id', () =>
    expect(effectOf([grant({ subject: { kind: 'serviceAccount', id: 'p1' } })])).toBe('deny'));
  test.each([
    ['starts at its first instant', { notBefore: nowMs }, 'allow'],
    ['is not in force before it', { notBefore: nowMs + 1 }, 'deny'],
    ['has ended at its last instant', { notAfter: nowMs }, 'deny'],
    ['is in force just before it', { notAfter: nowMs + 1 }, 'allow'],
  ])('a window %s', (_name, window, effect) => expect(effectOf([grant(window)])).toBe(effect));
  test('the ids of the deciding grants are named, the denying ones alone where one denies', () => {
    const grants = [grant({ id: 'z' }), grant({ id: 'y' }), grant({ id: 'x', effect: 'deny' })];
    expect(ask(grants)).toEqual({ effect: 'deny', reason: 'DENIED_BY_GRANT', grantIds: ['x'], shadow: null });
    expect(ask(grants.slice(0, 2)).grantIds).toEqual(['y', 'z']);
  });
  test('a grant that needs an approval opens what it selects, and each call needs the approval', () => {
    const approval = grant({ id: 'b', effect: 'requireApproval' });
    expect(ask([approval])).toMatchObject({ effect: 'requireApproval', reason: 'APPROVAL_NEEDED', grantIds: ['b'] });
    expect(effectOf([approval], tool(), request(null))).toBe('requireApproval');
    expect(effectOf([grant({}), approval])).toBe('requireApproval');
    expect(effectOf([grant({}), approval, grant({ id: 'c', effect: 'deny' })])).toBe('deny');
  });
  test('a grant opens nothing on a node that has been alone for longer than the grant allows', () => {
    const brief = grant({ configStalenessMaxMs: 10_000 });
    expect([10_000, 10_001].map((age) => effectOf([brief], tool(), request('{}', age)))).toEqual(['allow', 'deny']);
  });
  test('a server is visible only through a grant that opens something, in its window and by its condition', () => {
    const visible = (part: Partial<GrantEntry>, by = request(null)): string =>
      decideServer([compileGrant(grant(part))], by).effect;
    expect(visible({ tools: [] })).toBe('deny');
    expect(visible({ notAfter: nowMs })).toBe('deny');
    expect(visible({ effect: 'deny' })).toBe('deny');
    expect(visible({ when: 'principal.id == "p2"' })).toBe('deny');
    expect(visible({ when: 'server.labels.no == ""' })).toBe('deny');
    expect(visible({ mode: 'shadow' })).toBe('deny');
    expect(visible({ configStalenessMaxMs: 1 }, request(null, 2))).toBe('deny');
    expect(visible({ tools: [], prompts: ['greet'] })).toBe('allow');
    expect(visible({ effect: 'requireApproval', when: 'principal.id == "p1"' })).toBe('allow');
  });
});

describe('what cannot be known', () => {
  const failing = { whenArguments: 'arguments.missing == 1' };
  test.each([
    ['opens nothing', [grant(failing)], 'deny'],
    ['denies', [grant({}), grant({ id: 'b', effect: 'deny', ...failing })], 'deny'],
    ['needs the approval', [grant({}), grant({ id: 'b', effect: 'requireApproval', ...failing })], 'requireApproval'],
    ['is not opened by the approval itself', [grant({ effect: 'requireApproval', ...failing })], 'deny'],
  ])('%s', (_name, grants, effect) => expect(effectOf(grants)).toBe(effect));

  test('arguments that are too large to look at are such', () => {
    const large = request(JSON.stringify({ n: 1, text: 'x'.repeat(70_000) }));
    expect(effectOf([grant({ whenArguments: 'arguments.n == 1' })], tool(), large)).toBe('deny');
    const denied = [grant({}), grant({ id: 'b', effect: 'deny', whenArguments: 'arguments.n == 2' })];
    expect(effectOf(denied, tool(), large)).toBe('deny');
    expect(effectOf(denied)).toBe('deny');
    expect(effectOf(denied, tool(), request('{"n":1}'))).toBe('allow');
  });

  test.each([
    ['an allow up to a risk', { limits: { ...noLimits, riskMax: 'high' as const } }, 'deny', 'allow', 'deny'],
    ['an allow of what only reads', { limits: { ...noLimits, readOnly: true } }, 'deny', 'allow', 'deny'],
    [
      'a deny from a risk on',
      { effect: 'deny' as const, limits: { ...noLimits, riskMin: 'high' as const } },
      'deny',
      'allow',
      'deny',
    ],
    [
      'an approval from a risk on',
      { effect: 'requireApproval' as const, limits: { ...noLimits, riskMin: 'high' as const } },
      'requireApproval',
      'allow',
      'requireApproval',
    ],
  ])('is the label of a tool nobody judged: %s', (_name, part, unknown, harmless, harmful) => {
    const opening = 'effect' in part ? [grant({})] : [];
    const effect = (labels: ToolLabels | null): string =>
      effectOf([...opening, grant({ id: 'b', ...part })], tool('search', labels));
    expect(effect(null)).toBe(unknown);
    expect(effect(unjudged)).toBe(unknown);
    expect(effect({ ...unjudged, risk: 'low', readOnly: true })).toBe(harmless);
    expect(effect({ ...unjudged, risk: 'critical', readOnly: false })).toBe(harmful);
  });
});

describe('lists', () => {
  test('are opened by `when`, whatever the arguments would have to be', () => {
    const conditional = grant({ whenArguments: 'arguments.n <= 5' });
    expect(effectOf([conditional], tool(), request(null))).toBe('allow');
    expect(effectOf([{ ...conditional, when: 'principal.id == "p2"' }], tool(), request(null))).toBe('deny');
  });
  test('are not narrowed by a deny of some arguments', () => {
    const denied = [grant({}), grant({ id: 'b', effect: 'deny', whenArguments: 'arguments.n > 5' })];
    expect(effectOf(denied, tool(), request(null))).toBe('allow');
    expect(effectOf(denied, tool(), request('{"n":6}'))).toBe('deny');
  });
});

describe('a shadow grant', () => {
  test('is told in the decision, and changes nothing else of it', () => {
    const deny = grant({ id: 'b', effect: 'deny', mode: 'shadow' });
    const shadow = { effect: 'deny', grantIds: ['b'] };
    expect(ask([grant({}), deny])).toEqual({ effect: 'allow', reason: 'GRANTED', grantIds: ['a'], shadow });
    const opening = { effect: 'allow', grantIds: ['a'] };
    expect(ask([grant({ mode: 'shadow' })])).toMatchObject({ effect: 'deny', reason: 'NO_GRANT', shadow: opening });
    expect(ask([grant({}), { ...deny, tools: ['other'] }]).shadow).toBeNull();
  });
});

test.each([
  [{ tools: ['x'] }, 'selector'],
  [{ notAfter: 1 }, 'window'],
  [{ configStalenessMaxMs: 1 }, 'staleness'],
  [{ limits: { ...noLimits, riskMax: 'low' as const } }, 'limits'],
  [{ when: 'principal.id == "p2"' }, 'when'],
  [{ whenArguments: 'arguments.n == 2' }, 'whenArguments'],
  [{}, null],
])('the part that failed is named: %o fails by %s', (part, failed) => {
  expect(failedPart(part, tool('search', { ...unjudged, risk: 'high' }), request('{"n":1}', 5)).failed).toBe(failed);
});

describe('for any grants, request and target', () => {
  const runs = { numRuns: 1_000 };
  test('their order does not matter', () => {
    const property = fc.property(fc.array(anyGrant), anyTarget, anyRequest, (grants, target, by) => {
      expect(ask(grants.toReversed(), target, by)).toEqual(ask(grants, target, by));
    });
    fc.assert(property, runs);
  });
  test('a deny more never widens, an allow more never narrows, a shadow more changes nothing', () => {
    const property = fc.property(fc.array(anyGrant), anyGrant, anyTarget, anyRequest, (grants, added, target, by) => {
      const before = width[effectOf(grants, target, by) as Decision['effect']];
      const after = width[effectOf([...grants, added], target, by) as Decision['effect']];
      if (added.mode === 'shadow') return after === before;
      if (added.effect === 'requireApproval') return true;
      return added.effect === 'deny' ? after <= before : after >= before;
    });
    fc.assert(property, runs);
  });
  test('what one may call by some arguments is listed', () => {
    const property = fc.property(
      fc.array(anyGrant),
      anyTarget,
      fc.constantFrom('{"n":3}', '{"n":7}'),
      (grants, target, args) => {
        return effectOf(grants, target, request(args)) === 'deny' || effectOf(grants, target, request(null)) !== 'deny';
      },
    );
    fc.assert(property, runs);
  });
  test('what is listed can be called, where no grant looks at arguments', () => {
    const plain = fc.array(anyGrant.map((entry) => ({ ...entry, whenArguments: null })));
    const property = fc.property(plain, anyTarget, (grants, target) => {
      expect(ask(grants, target, request(null))).toEqual(ask(grants, target, request('{}')));
    });
    fc.assert(property, runs);
  });
  test('leaving out grants that do not match the target, as a cache does, changes nothing', () => {
    const property = fc.property(fc.array(anyGrant), anyTarget, anyRequest, (grants, target, by) => {
      const applicable = applicableGrants(grants.map(compileGrant), principal);
      const candidates = applicable.filter((one) => matchesTarget(one, target));
      expect(decide(candidates, target, by)).toEqual(decide(applicable, target, by));
      // Without a condition nothing of the request but its time has a say.
      const still = candidates.filter((one) => !isConditional(one));
      expect(decide(still, target, by)).toEqual(decide(still, target, request(null)));
    });
    fc.assert(property, runs);
  });
});

test.each([
  [{ tools: [''] }, 'tools.0', /empty/],
  [{ when: 'principal.nam == ""' }, 'when', /nam \(line 1, column 11\)/],
  [{ whenArguments: 'arguments.n' }, 'whenArguments', /true or false/],
  [{ prompts: ['p'], limits: { ...noLimits, readOnly: true } }, 'limits', /about tools/],
  [{ limits: noLimits }, 'limits', /limit nothing/],
  [{ resources: ['r'], whenArguments: 'true' }, 'whenArguments', /without arguments/],
  [{ effect: 'deny' as const, configStalenessMaxMs: 5 }, 'configStalenessMaxMs', /however old/],
])('a grant that cannot be meant is refused with the part that is wrong: %o', (part, path, message) => {
  expect(grantProblems(grant(part))).toEqual([{ path, message: expect.stringMatching(message) }]);
});
