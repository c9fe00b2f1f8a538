import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { AuthLeg, authScenarios, expectedAuthFailures } from './auth-leg.ts';
import { rowOfAuthResult } from './page.ts';

const page = readFileSync(join(import.meta.dirname, '../../docs/reference/conformance.md'), 'utf8');
let leg: AuthLeg;

beforeAll(async () => {
  leg = await AuthLeg.start();
}, 60_000);
afterAll(() => leg.stop());

test('as an OAuth client of upstreams the gateway does what the suite’s authorization scenarios want [P57]', async () => {
  const result = await leg.run('2026-07-28');
  const unexpected = [...result.failed].filter(([scenario]) => !Object.hasOwn(expectedAuthFailures, scenario));
  expect(unexpected).toEqual([]);
  expect(result.scenarios).toBe(authScenarios('2026-07-28').length);
  expect(page).toContain(rowOfAuthResult(result));
}, 300_000);
