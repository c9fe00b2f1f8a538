import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { applicableGrants, compileGrant, decide, decideServer, type AccessTarget } from './decide.ts';
import type { GrantEntry, PrincipalRecord } from './snapshot.ts';

const principal = { id: 'p1', kind: 'user', groups: ['g1'] } satisfies Pick<PrincipalRecord, 'id' | 'kind' | 'groups'>;
const now = 1_000;

function grant(part: Partial<GrantEntry>): GrantEntry {
  return {
    id: 'a',
    subject: { kind: 'everyone' },
    effect: 'allow',
    tools: ['*'],
    prompts: [],
    resources: [],
    notBefore: null,
    notAfter: null,
    ...part,
  };
}

function ask(grants: readonly GrantEntry[], target: AccessTarget = { kind: 'tool', name: 'search' }): boolean {
  return decide(applicableGrants(grants.map(compileGrant), principal), target, now).effect === 'allow';
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
  effect: fc.constantFrom('allow', 'deny'),
  tools: fc.array(fc.constantFrom('*', 'se*', 'search', 'delete', '*rch')),
  prompts: fc.array(fc.constantFrom('*', 'greet')),
  resources: fc.array(fc.constantFrom('file://*')),
  notBefore: fc.constantFrom(null, 500, 1_000, 1_001),
  notAfter: fc.constantFrom(null, 1_000, 1_001, 900),
});

describe('decide', () => {
  test('no grants means no', () => expect(ask([])).toBe(false));
  test('a deny wins over any allow', () =>
    expect(ask([grant({}), grant({ id: 'b', effect: 'deny', tools: ['search'] })])).toBe(false));
  test('an empty selector selects nothing', () => expect(ask([grant({ tools: [] })])).toBe(false));
  test('a grant for a group the principal is not in does not match', () =>
    expect(ask([grant({ subject: { kind: 'group', id: 'g2' } })])).toBe(false));
  test('a user id does not match a service account with the same id', () =>
    expect(ask([grant({ subject: { kind: 'serviceAccount', id: 'p1' } })])).toBe(false));
  test.each([
    ['starts at its first instant', { notBefore: now }, true],
    ['is not in force before it', { notBefore: now + 1 }, false],
    ['has ended at its last instant', { notAfter: now }, false],
    ['is in force just before it', { notAfter: now + 1 }, true],
  ])('a window %s', (_name, window, allowed) => expect(ask([grant(window)])).toBe(allowed));
  test('the ids of the deciding grants are named, the denying ones alone where one denies', () => {
    const compiled = [grant({ id: 'z' }), grant({ id: 'y' }), grant({ id: 'x', effect: 'deny' })].map(compileGrant);
    expect(decide(compiled, { kind: 'tool', name: 't' }, now)).toEqual({
      effect: 'deny',
      reason: 'DENIED_BY_GRANT',
      grantIds: ['x'],
    });
    expect(decide(compiled.slice(0, 2), { kind: 'tool', name: 't' }, now).grantIds).toEqual(['y', 'z']);
  });
  test('a server is visible only through an allow that selects something and is in its window', () => {
    expect(decideServer([compileGrant(grant({ tools: [] }))], now).effect).toBe('deny');
    expect(decideServer([compileGrant(grant({ notAfter: now }))], now).effect).toBe('deny');
    expect(decideServer([compileGrant(grant({ effect: 'deny' }))], now).effect).toBe('deny');
    expect(decideServer([compileGrant(grant({ tools: [], prompts: ['greet'] }))], now).effect).toBe('allow');
  });
  test('the order of grants does not matter', () => {
    fc.assert(fc.property(fc.array(anyGrant), (grants) => ask(grants) === ask(grants.toReversed())));
  });
  test('adding a deny never widens and adding an allow never narrows', () => {
    fc.assert(
      fc.property(fc.array(anyGrant), anyGrant, (grants, added) => {
        const before = ask(grants);
        const after = ask([...grants, added]);
        return added.effect === 'deny' ? !after || before : after || !before;
      }),
    );
  });
});
