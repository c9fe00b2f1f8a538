import { describe, expect, test } from 'vitest';
import { findBinary, hasBinary } from '../kit/binaries.ts';
import { run, terraformFolder } from '../kit/terraform.ts';

const timeoutMs = 300_000;

describe.skipIf(!hasBinary('go', 'golang-go', "the Terraform provider's own tests"))('the provider in Go', () => {
  const go = (...parameters: readonly string[]) => run(findBinary('go') ?? 'go', parameters, { cwd: terraformFolder });

  test('is formatted as gofmt does', async () => {
    expect(await run(findBinary('gofmt') ?? 'gofmt', ['-l', '.'], { cwd: terraformFolder })).toEqual({
      code: 0,
      output: '',
    });
  });

  test(
    'passes go vet',
    async () => {
      expect(await go('vet', './...')).toEqual({ code: 0, output: '' });
    },
    timeoutMs,
  );

  test(
    'has the modules that it needs and no others',
    async () => {
      expect(await go('mod', 'tidy', '-diff')).toEqual({ code: 0, output: '' });
    },
    timeoutMs,
  );

  test(
    'passes its unit tests',
    async () => {
      const { code, output } = await go('test', './...');
      expect(output).not.toContain('FAIL');
      expect(code).toBe(0);
    },
    timeoutMs,
  );
});
