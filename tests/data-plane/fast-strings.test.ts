import { execFileSync } from 'node:child_process';
import { expect, test } from 'vitest';

const repository = new URL('../../', import.meta.url).pathname;

/** In a process of its own: only there are the engine's own functions to be had. */
function hasFastStrings(program: string): boolean {
  const print = 'console.log(%HasFastProperties(String.prototype));';
  const flags = ['--allow-natives-syntax', '--input-type=module', '--eval', `${program}\n${print}`];
  return execFileSync(process.execPath, flags, { cwd: repository, encoding: 'utf8' }).trim() === 'true';
}

test.each(['data-plane', 'control-plane'])('the %s goes through texts as fast as the engine can', (plane) => {
  expect(hasFastStrings(`await import('./${plane}/dist/index.js');`)).toBe(true);
});

test('an heir of strings would slow it down, by which the test above is one', () => {
  expect(hasFastStrings('globalThis.Heir = class extends String {};')).toBe(false);
});
