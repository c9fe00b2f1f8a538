import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { compileGlob, globLengthMax, globProblem } from './glob.ts';

describe('compileGlob', () => {
  test.each([
    ['search', 'search', true],
    ['search', 'Search', false],
    ['*', '', true],
    ['get_*', 'get_', true],
    ['get_*', 'forget_it', false],
    ['*_issue', 'create_issue', true],
    ['a*b*c', 'a1b2c', true],
    ['a*b*c', 'acb', false],
    ['ab*ba', 'aba', false],
    ['file:///*.md', 'file:///docs/deep/a.md', true],
    ['a.c', 'abc', false],
  ])('%s on %s is %s', (pattern, name, matches) => expect(compileGlob(pattern)(name)).toBe(matches));

  test('agrees with the regular expression that means the same', () => {
    const text = fc.stringMatching(/^[ab]{0,8}$/);
    fc.assert(
      fc.property(fc.stringMatching(/^[ab*]{1,8}$/), text, (pattern, name) => {
        const expected = new RegExp(`^${pattern.replaceAll('*', '[^]*')}$`).test(name);
        return compileGlob(pattern)(name) === expected;
      }),
    );
  });

  test('a pattern that is empty, too long or has too many stars has a problem', () => {
    expect(globProblem('')).toContain('empty');
    expect(globProblem('x'.repeat(globLengthMax + 1))).toContain('longer');
    expect(globProblem('*a'.repeat(9))).toContain('more than');
    expect(globProblem('tools_*')).toBeUndefined();
  });
});
