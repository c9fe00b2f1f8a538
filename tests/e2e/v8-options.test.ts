/** The options of V8 that memory and speed of a node rest on, however it is started. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { growthPercent, withV8Options } from '@sallyport/data-plane';
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
  const given = ['--cpu-prof', '--max_semi_space_size=64'];
  expect(withV8Options(given)).toEqual(given);
  const starts = startsOf(given.slice(1));
  expect(starts.map(([, options]) => options)).toEqual([given.slice(1)]);
});

test('old objects may grow by the same, whether there are few of them or many', () => {
  const mebibyte = 1_048_576;
  for (const used of [16, 64, 200, 1_000]) {
    const grown = used * (growthPercent(used * mebibyte) / 100);
    expect(grown).toBeGreaterThanOrEqual(32);
    expect(grown).toBeLessThan(32 + used / 100 + 1e-9);
  }
});
