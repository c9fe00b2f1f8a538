import { expect, test } from 'vitest';
import { slugKey, slugProblem } from './slug.ts';

test.each([
  ['github', 'GitHub'],
  ['my-server', 'my--server'],
  ['my-server', 'myserver'],
  ['tools', 't00ls'],
  ['mail', 'mai1'],
  ['modern', 'modem'],
  ['wiki', 'vviki'],
  ['files', 'ｆｉｌｅｓ'],
])('%s and %s are the same name', (left, right) => {
  expect(slugKey(left)).toBe(slugKey(right));
});

test('names that people can tell apart stay apart', () => {
  const names = ['jira', 'jira2', 'gira', 'mail', 'mall', 'wiki', 'files', 'file'];
  expect(new Set(names.map(slugKey)).size).toBe(names.length);
});

test('a slug that is not one is refused with the nearest that is', () => {
  expect(slugProblem('Café Números!')).toContain('for example cafe-numeros');
  expect(slugProblem('GitHub')).toContain('for example github');
  expect(slugProblem('-a-')).toContain('for example a');
  expect(slugProblem('日本')).not.toContain('for example');
  expect(slugProblem('a'.repeat(65))).toBeDefined();
  expect(slugProblem('')).toBeDefined();
  for (const good of ['a', '7', 'a-b', 'a'.repeat(64)]) expect(slugProblem(good)).toBeUndefined();
});
