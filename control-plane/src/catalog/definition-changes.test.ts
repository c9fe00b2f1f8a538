import type { DefinitionState } from '@sallyport/schema';
import { describe, expect, test } from 'vitest';
import type { AutoApproval, DefinitionRow, DriftClass } from './catalog.tables.ts';
import { type Judge, planDefinitionChanges, planSightings, seenDefinitions, standingOf } from './definition-changes.ts';

const then = new Date(0);

function held(name: string, digests: string[], state: DefinitionState, approvedDigests: string[] = []): DefinitionRow {
  return {
    id: name,
    serverId: 's',
    kind: 'tool',
    name,
    nameKey: name,
    digests,
    state,
    approvedDigests,
    reportedDigests: [],
    rejectedDigests: [],
    driftClass: null,
    discovered: true,
    risk: null,
    readOnly: null,
    destructive: null,
    idempotent: null,
    openWorld: null,
    firstSeenAt: then,
    lastSeenAt: then,
    removedAt: null,
    revision: 1,
    createdAt: then,
    updatedAt: then,
  };
}

function seen(name: string, ...digests: string[]) {
  return { kind: 'tool' as const, name, digests };
}

/** Every wording is so far from every other, and nothing is severe. */
function judging(drift: DriftClass, more: Partial<Judge> = {}): Judge {
  return {
    isSevere: () => false,
    driftOf: () => drift,
    isRisky: () => false,
    webhooksOn: () => 'clear',
    autoApproval: 'none',
    ...more,
  };
}
const harmless = judging('review');

describe('the state of a definition', () => {
  test.each([
    ['pending', [], ['a'], 'pending'],
    ['approved', ['a'], ['a'], 'approved'],
    ['approved', ['a'], ['b'], 'drifted'],
    ['drifted', ['a'], ['a'], 'drifted'],
    ['approved', ['a', 'b'], ['b', 'a'], 'approved'],
    ['approved', ['a'], ['a', 'b'], 'drifted'],
    ['quarantined', ['a'], ['a'], 'quarantined'],
    ['quarantined', [], ['b'], 'quarantined'],
  ] as const)('%s with %j approved becomes, when %j is seen, %s', (state, approved, digests, expected) => {
    expect(standingOf(held('t', [...approved], state, [...approved]), digests, harmless).state).toBe(expected);
  });
});

test.each<[AutoApproval, DriftClass, DriftClass, DefinitionState]>([
  ['none', 'review', 'same', 'drifted'],
  ['minor', 'review', 'minor', 'drifted'],
  ['minor', 'minor', 'same', 'approved'],
  ['review', 'review', 'same', 'approved'],
  ['review', 'review', 'quarantine', 'quarantined'],
])('with %s, what drifted by %s and is seen by %s is %s', (autoApproval, driftClass, now, state) => {
  const row = { ...held('t', ['b'], 'drifted', ['a']), driftClass };
  for (const digests of now === 'same' ? [['a'], ['c']] : [['c']]) {
    expect(standingOf(row, digests, judging(now, { autoApproval })).state).toBe(state);
  }
});

describe('what is approved by itself', () => {
  test.each<[AutoApproval, DriftClass, DefinitionState]>([
    ['none', 'same', 'approved'],
    ['none', 'minor', 'drifted'],
    ['minor', 'minor', 'approved'],
    ['minor', 'review', 'drifted'],
    ['review', 'review', 'approved'],
    ['review', 'quarantine', 'quarantined'],
  ])('with %s, a drift of %s becomes %s', (autoApproval, drift, state) => {
    const standing = standingOf(held('t', ['b'], 'approved', ['a']), ['b'], judging(drift, { autoApproval }));
    expect(standing.state).toBe(state);
    expect(standing.approvedDigests).toEqual(state === 'approved' ? ['b', 'a'] : ['a']);
  });

  test.each<[AutoApproval, boolean, DefinitionState]>([
    ['minor', false, 'pending'],
    ['review', false, 'approved'],
    ['review', true, 'pending'],
  ])('with %s, a new definition (risky: %s) becomes %s', (autoApproval, risky, state) => {
    const judge = judging('review', { autoApproval, isRisky: () => risky });
    expect(standingOf(held('t', ['a'], 'pending'), ['a'], judge).state).toBe(state);
  });

  test('is never what the scan finds severe, what somebody rejected, or what is quarantined', () => {
    const trusting = judging('minor', { autoApproval: 'review' });
    const severe = { ...trusting, isSevere: () => true };
    const rejected = { ...held('t', ['b'], 'approved', ['a']), rejectedDigests: ['b'] };
    expect(standingOf(held('t', ['b'], 'approved', ['a']), ['b'], severe).state).toBe('quarantined');
    expect(standingOf(rejected, ['b'], trusting).state).toBe('quarantined');
    expect(standingOf(held('t', ['b'], 'quarantined', ['a']), ['b'], trusting).state).toBe('quarantined');
    expect(standingOf(held('t', ['a'], 'quarantined', ['a']), ['a'], trusting).state).toBe('quarantined');
  });
});

describe('what a node saw', () => {
  test('stands beside what discovery sees, and a discovery does not undo it', () => {
    const row = held('t', ['a'], 'approved', ['a']);
    const [told] = planSightings([row], [seen('t', 'b')], harmless).changed;
    expect(told).toMatchObject({ digests: ['a'], reportedDigests: ['b'], state: 'drifted' });
    const after = { ...row, reportedDigests: ['b'], state: 'drifted' as const, driftClass: 'review' as const };
    expect(planDefinitionChanges([after], [seen('t', 'a')], harmless).changed).toEqual([]);
  });

  test('is bounded for each definition, and what is known already changes nothing', () => {
    const row = {
      ...held('t', ['a'], 'approved', ['a']),
      reportedDigests: Array.from({ length: 8 }, (_, at) => `${at}`),
    };
    expect(planSightings([row], [seen('t', 'new')], harmless).changed).toEqual([]);
    expect(planSightings([held('t', ['a'], 'approved', ['a'])], [seen('t', 'a')], harmless).changed).toEqual([]);
  });

  test('is looked at again once webhooks have said something of it, and not otherwise', () => {
    const row = { ...held('t', ['a'], 'approved', ['a']), reportedDigests: ['b'] };
    const drifted = { ...row, state: 'drifted' as const, driftClass: 'review' as const };
    const denying: Judge = { ...harmless, webhooksOn: () => 'denied' };
    const judged = new Set(['b']);
    expect(planSightings([drifted], [seen('t', 'b')], denying).changed).toEqual([]);
    expect(planSightings([drifted], [seen('t', 'b')], harmless, judged).changed).toEqual([]);
    expect(planSightings([drifted], [seen('t', 'b')], denying, judged).changed).toMatchObject([
      { state: 'quarantined', reportedDigests: ['b'] },
    ]);
  });

  test('of a definition that no discovery ever saw stays, though discoveries do not see it', () => {
    const row = { ...held('t', ['a'], 'approved', ['a']), discovered: false };
    expect(planDefinitionChanges([row], [], harmless).removed).toEqual([]);
  });
});

describe('a discovery', () => {
  test('that finds the same changes nothing', () => {
    const rows = [held('a', ['1'], 'approved', ['1']), held('b', ['2'], 'pending')];
    const changes = planDefinitionChanges(rows, [seen('b', '2'), seen('a', '1')], harmless);
    expect(changes).toEqual({ added: [], changed: [], removed: [] });
  });

  test('tells added, changed, removed and returned ones apart', () => {
    const gone = { ...held('gone', ['1'], 'approved', ['1']), removedAt: then };
    const rows = [held('drifts', ['1'], 'approved', ['1']), held('vanishes', ['1'], 'pending'), gone];
    const changes = planDefinitionChanges(rows, [seen('new', '9'), seen('drifts', '2'), seen('gone', '1')], harmless);
    expect(changes.added).toMatchObject([{ ...seen('new', '9'), state: 'pending' }]);
    expect(changes.changed.map(({ row, state, digests }) => [row.name, state, digests])).toEqual([
      ['drifts', 'drifted', ['2']],
      ['gone', 'approved', ['1']],
    ]);
    expect(changes.removed.map((row) => row.name)).toEqual(['vanishes']);
  });

  test('quarantines what is severe by the scan, unless it was approved', () => {
    const rows = [held('drifts', ['1'], 'approved', ['1']), held('approved', ['3'], 'approved', ['3'])];
    const changes = planDefinitionChanges(
      rows,
      [seen('new', '2'), seen('drifts', '2'), seen('approved', '3')],
      judging('review', { isSevere: (digest) => digest === '2' || digest === '3' }),
    );
    expect(changes.added.map(({ state }) => state)).toEqual(['quarantined']);
    expect(changes.changed.map(({ row, state }) => [row.name, state])).toEqual([['drifts', 'quarantined']]);
  });

  test('does not remove twice what is removed', () => {
    const gone = { ...held('gone', ['1'], 'pending'), removedAt: then };
    expect(planDefinitionChanges([gone], [], harmless).removed).toEqual([]);
  });

  test('takes a tool and a prompt of one name for two definitions, and one in two wordings for one', () => {
    const raw = {};
    const found = seenDefinitions([
      { kind: 'tool', name: 'x', digest: 'modern', raw },
      { kind: 'prompt', name: 'x', digest: 'p', raw },
      { kind: 'tool', name: 'x', digest: 'legacy', raw },
    ]);
    expect(found).toEqual([
      { kind: 'tool', name: 'x', digests: ['modern', 'legacy'] },
      { kind: 'prompt', name: 'x', digests: ['p'] },
    ]);
  });
});
