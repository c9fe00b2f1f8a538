import fc from 'fast-check';
import { expect, test } from 'vitest';
import { announcedLists, ListChanges } from './list-changes.ts';

test('a list is told changed exactly when what it has changed since it was read before', () => {
  const list = fc.array(fc.constantFrom('a', 'b', 'c'), { maxLength: 3 });
  const reads = fc.array(fc.option(list, { nil: undefined }), { maxLength: 20 });
  const property = fc.property(reads, (taken) => {
    const changes = new ListChanges();
    let before: string | undefined;
    for (const entries of taken) {
      const now = entries?.toSorted().join();
      const isChanged = entries !== undefined && before !== undefined && now !== before;
      expect(
        changes.read(
          'tools',
          entries?.map((name) => ({ name })),
        ),
      ).toBe(isChanged);
      before = now ?? before;
    }
  });
  fc.assert(property);
});

test('changes are told of the lists alone whose changes the server announces [P46]', () => {
  expect(announcedLists({ tools: { listChanged: true }, prompts: {}, resources: { subscribe: true } })).toEqual([
    'tools',
  ]);
});
