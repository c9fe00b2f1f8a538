import { expect, test } from 'vitest';
import { testConfig } from '../kit/config.ts';
import { measureIsolation } from './run.ts';

const responses = testConfig.strict ? 100_000 : 10_000;

test(`${responses} answers to 200 principals with the same request ids, through two nodes, are each their own [P28] [P30]`, async () => {
  const result = await measureIsolation({ principals: 200, responses });
  process.stdout.write(
    `${result.responses} responses, ${result.progress} progress notifications in ${result.seconds.toFixed(1)} s\n`,
  );
  expect(result.examples).toEqual([]);
  expect(result).toMatchObject({ mixed: 0, failures: 0, responses });
  expect(result.progress).toBeGreaterThan(responses / 20);
}, 240_000);
