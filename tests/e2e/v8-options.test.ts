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
  const given = ['--cpu-prof', '--max_semi_space_size=64', '--allocation_site_pretenuring'];
  expect(withV8Options(given)).toEqual(given);
  const starts = startsOf(given.slice(1));
  expect(starts.map(([, options]) => options)).toEqual([given.slice(1)]);
});

test('what calls leave behind is garbage of young objects, whatever was queued while the node started', () => {
  const script = `
    import { getHeapSpaceStatistics } from 'node:v8';
    const oldBytes = () => getHeapSpaceStatistics().find(({ space_name }) => space_name === 'old_space').space_used_size;
    const done = () => undefined;
    for (let round = 0; round < 7; round++) {
      for (let n = 0; n < 60_000; n++) process.nextTick(done, { n });
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    gc();
    const before = oldBytes();
    let most = 0;
    for (let turn = 0; turn < 2_000; turn++) {
      for (let n = 0; n < 20; n++) process.nextTick(done, { call: new Array(100).fill(turn) });
      await new Promise((resolve) => setImmediate(resolve));
      most = Math.max(most, oldBytes() - before);
    }
    console.log(most);`;
  // Without the options two of three runs leave some 15 MiB of 33 among old objects.
  for (let run = 0; run < 4; run++) {
    const options = [...withV8Options(['--expose-gc']), '--input-type=module', '--eval', script];
    const { stdout, stderr } = spawnSync(process.execPath, options, {
      encoding: 'utf8',
      env: { PATH: testConfig.path },
    });
    expect(stderr).toBe('');
    expect(Number.parseInt(stdout, 10)).toBeLessThan(2 * 1_048_576);
  }
});

test('old objects may grow by the same, whether there are few of them or many', () => {
  const mebibyte = 1_048_576;
  for (const used of [16, 64, 200, 1_000]) {
    const grown = used * (growthPercent(used * mebibyte) / 100);
    expect(grown).toBeGreaterThanOrEqual(32);
    expect(grown).toBeLessThan(32 + used / 100 + 1e-9);
  }
});
