import type { DefinitionState } from '@sallyport/schema';
import { describe, expect, test } from 'vitest';
import type { DefinitionRow } from './catalog.tables.ts';
import { planDefinitionChanges, seenDefinitions, stateOf } from './definition-changes.ts';

const then = new Date(0);

function held(name: string, digests: string[], state: DefinitionState, approvedDigests: string[] = []): DefinitionRow {
  return {
    id: name,
    serverId: 's',
    kind: 'tool',
    name,
    digests,
    state,
    approvedDigests,
    reportedDigests: [],
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

const harmless: ReadonlySet<string> = new Set();

describe('the state of a definition', () => {
  test.each([
    ['pending', [], ['a'], 'pending'],
    ['approved', ['a'], ['a'], 'approved'],
    ['approved', ['a'], ['b'], 'drifted'],
    ['drifted', ['a'], ['a'], 'approved'],
    ['approved', ['a', 'b'], ['b', 'a'], 'approved'],
    ['approved', ['a'], ['a', 'b'], 'drifted'],
    ['quarantined', ['a'], ['a'], 'quarantined'],
    ['quarantined', [], ['b'], 'quarantined'],
  ] as const)('%s with %j approved becomes, when %j is seen, %s', (state, approved, digests, expected) => {
    expect(stateOf({ state, approvedDigests: [...approved] }, digests, harmless)).toBe(expected);
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
    expect(changes.added).toEqual([{ ...seen('new', '9'), state: 'pending' }]);
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
      new Set(['2', '3']),
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
