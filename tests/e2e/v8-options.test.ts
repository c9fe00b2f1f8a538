/** The options of V8 that the memory of a node rests on, however it is started. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { withV8Options } from '@sallyport/data-plane';
import { testConfig } from '../kit/config.ts';

const program = join(import.meta.dirname, '../../data-plane/dist/main.js');
/** Tells of each start, before anything else of the program. */
const witness = '--import=data:text/javascript,console.log(JSON.stringify([process.pid,process.execArgv]))';

function startsOf(options: readonly string[], ...given: readonly string[]): [number, string[]][] {
  const { stdout, status } = spawnSync(process.execPath, [...options, program, '--help', ...given], {
    encoding: 'utf8',
    env: { PATH: testConfig.path, NODE_OPTIONS: witness },
  });
  expect(status).toBe(0);
  expect(stdout).toContain('SALLYPORT_CONTROL_PLANE_URL');
  return stdout
    .split('\n')
    .filter((line) => line.startsWith('['))
    .map((line) => JSON.parse(line) as [number, string[]]);
}

test.skipIf(process.platform === 'win32')(
  'a node that is started by hand runs under them, as the process it was',
  () => {
    const starts = startsOf([]);
    expect(starts.map(([, options]) => options)).toEqual([[], withV8Options([])]);
    expect(new Set(starts.map(([pid]) => pid)).size).toBe(1);
  },
);

test('what whoever starts it says goes before', () => {
  const starts = startsOf(['--max_semi_space_size=64', '--heap-growing-percent=50']);
  expect(starts.map(([, options]) => options)).toEqual([['--max_semi_space_size=64', '--heap-growing-percent=50']]);
  expect(withV8Options(['--cpu-prof', '--max_semi_space_size=64'])).toEqual([
    '--heap-growing-percent=30',
    '--cpu-prof',
    '--max_semi_space_size=64',
  ]);
});
