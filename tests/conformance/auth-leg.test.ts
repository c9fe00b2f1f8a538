import { afterAll, beforeAll, expect, test } from 'vitest';
import { testConfig } from '../kit/config.ts';
import { AuthLeg, authRevisions, authScenarios, expectedAuthFailures } from './auth-leg.ts';
import { readPage, rowOfAuthResult, writeRow } from './page.ts';

/** The short form; `pnpm conformance` runs both. */
const revisions = authRevisions.filter((revision) => testConfig.isConformanceWhole || revision === '2026-07-28');
let leg: AuthLeg;

beforeAll(async () => {
  leg = await AuthLeg.start();
}, 60_000);
afterAll(() => leg.stop());

test.each(revisions)(
  'as an OAuth client of upstreams the gateway does what the suite’s authorization scenarios of %s want [P57]',
  async (revision) => {
    const result = await leg.run(revision);
    const unexpected = [...result.failed].filter(([scenario]) => !Object.hasOwn(expectedAuthFailures, scenario));
    expect(unexpected).toEqual([]);
    expect(result.scenarios).toBe(authScenarios(revision).length);
    const row = rowOfAuthResult(result);
    if (process.env['UPDATE_GOLDEN'] === '1') writeRow(row);
    expect(readPage()).toContain(row);
  },
  300_000,
);
