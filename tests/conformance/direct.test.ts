import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type ReferenceServer, startReferenceServer } from '../kit/reference-server.ts';
import { failedChecks, runSuite, type SuiteResult, type SuiteRevision, scoredScenarios } from './run-suite.ts';

let reference: ReferenceServer;
beforeAll(async () => {
  reference = await startReferenceServer();
});
afterAll(() => reference.stop());

const scores: readonly (readonly [SuiteRevision, number])[] = [
  ['2025-11-25', 30],
  ['2026-07-28', 37],
];

describe.each(scores)('the reference server, measured directly by %s', (revision, scenarioCount) => {
  let results: SuiteResult;
  beforeAll(async () => {
    results = await runSuite({ url: reference.url, revision, label: 'direct' });
  });

  test(`passes all ${scenarioCount} scored scenarios, without a warning`, () => {
    const scored = scoredScenarios(revision);
    expect(scored).toHaveLength(scenarioCount);
    const failed = scored.filter((scenario) => {
      const checks = results.get(scenario) ?? [];
      return checks.length === 0 || failedChecks(checks).length > 0;
    });
    expect(failed).toEqual([]);
  });
});

test.each(['http-header-validation', 'http-custom-header-server-validation'])('it passes %s', async (scenario) => {
  const results = await runSuite({ url: reference.url, revision: '2026-07-28', label: 'direct', scenario });
  const checks = results.get(scenario) ?? [];
  expect(checks.length).toBeGreaterThan(5);
  expect(failedChecks(checks)).toEqual([]);
});
