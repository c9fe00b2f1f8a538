import fc from 'fast-check';
import { expect, test } from 'vitest';
import { applyManifestChanges, foldManifestChanges, manifestChanges, manifestHash } from './snapshot.ts';

const entries = fc.dictionary(
  fc.constantFrom('server/a', 'server/b', 'grants/a', 'grants/b', 'limits', 'principals/001', '__proto__x', 'toString'),
  fc.constantFrom('1', '2', '3'),
  { noNullPrototype: true },
);

test('a delta applied to its base is the whole, over any number of steps', () => {
  fc.assert(
    fc.property(fc.array(entries, { minLength: 1, maxLength: 8 }), (timeline) => {
      const steps = timeline.slice(1).map((after, index) => manifestChanges(timeline[index] ?? {}, after));
      const first = timeline[0] ?? {};
      const last = timeline.at(-1) ?? {};
      const merged = applyManifestChanges(first, foldManifestChanges(steps));
      expect(merged).toEqual(last);
      expect(manifestHash(merged)).toBe(manifestHash(last));
    }),
    { numRuns: 300 },
  );
});

test('a delta holds what changed and nothing else', () => {
  expect(manifestChanges({ a: '1', b: '1', c: '1' }, { a: '1', b: '2', d: '1' })).toEqual({
    changed: { b: '2', d: '1' },
    removed: ['c'],
  });
});
