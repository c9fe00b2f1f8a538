import { expect, test } from 'vitest';
import { lifecycles } from './catalog.tables.ts';
import { isServed, transitionProblem } from './lifecycle.ts';

test('a server goes only where its lifecycle leads', () => {
  const allowed = lifecycles.flatMap((from) =>
    lifecycles.filter((to) => transitionProblem(from, to) === undefined).map((to) => `${from} → ${to}`),
  );
  expect(allowed).toEqual([
    'draft → pending',
    'draft → approved',
    'pending → draft',
    'pending → approved',
    'approved → deprecated',
    'approved → disabled',
    'deprecated → approved',
    'deprecated → disabled',
    'disabled → draft',
    'disabled → approved',
  ]);
});

test('a refused step names where the server may go instead', () => {
  expect(transitionProblem('draft', 'deprecated')).toContain('pending or approved');
  expect(transitionProblem('approved', 'approved')).toContain('already');
});

test('only approved and deprecated servers are served', () => {
  expect(lifecycles.filter(isServed)).toEqual(['approved', 'deprecated']);
});
