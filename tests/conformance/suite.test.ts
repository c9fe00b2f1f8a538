import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type AuthorizationShim, startAuthorizationShim } from '../kit/authorization-shim.ts';
import { httpEngines } from '../kit/config.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { type ReferenceServer, startReferenceServer } from '../kit/reference-server.ts';
import { failedChecks, runSuite, type SuiteResult, type SuiteRevision, scoredScenarios } from './run-suite.ts';

let reference: ReferenceServer;
let harness: Harness;
let shim: AuthorizationShim;
let throughNodes: string;

beforeAll(async () => {
  reference = await startReferenceServer();
  // A node of each pair of edges, in turn.
  harness = await startHarness({ upstreams: [reference.url], httpEngines });
  const { administrator } = harness;
  const server = await administrator.registerServer('reference', reference.url);
  const { key } = await administrator.createClient('conformance suite');
  await administrator.grant({ serverId: server.id, tools: ['*'], prompts: ['*'], resources: ['*'] });
  await administrator.converged();
  shim = await startAuthorizationShim({ target: new URL(harness.entryOrigin), bearer: key });
  throughNodes = `${shim.origin}/mcp/reference`;
});
afterAll(async () => {
  await shim.stop();
  await harness.stop();
  await reference.stop();
});

/** Without the texts of errors: ours may say the same in other words. */
function verdicts(result: SuiteResult): Readonly<Record<string, readonly string[]>> {
  return Object.fromEntries(
    [...result].map(([scenario, checks]) => [
      scenario,
      checks.map(({ id, name, status }) => `${id} ${name} ${status}`),
    ]),
  );
}

/**
 * The reference serves no tasks, so it fails every check of them. This one nodes answer themselves: the id of a task that
 * they sealed for nobody is no task's, whatever the upstream serves.
 */
const answeredByNodes = 'sep-2663-tasks-get-invalid-task-id-32602';

/** What a client should see through nodes: what it sees directly, but for what nodes answer. */
function expectedThroughNodes(direct: SuiteResult): SuiteResult {
  return new Map(
    [...direct].map(([scenario, checks]) => [
      scenario,
      checks.map((check) => (check.id === answeredByNodes ? { ...check, status: 'SUCCESS' as const } : check)),
    ]),
  );
}

const scores: readonly (readonly [SuiteRevision, number])[] = [
  ['2025-11-25', 30],
  ['2026-07-28', 37],
];

describe.each(scores)('by %s', (revision, scenarioCount) => {
  let direct: SuiteResult;
  beforeAll(async () => {
    direct = await runSuite({ url: reference.url, revision, label: 'direct' });
  });

  test(`the reference server passes all ${scenarioCount} scored scenarios, without a warning`, () => {
    const scored = scoredScenarios(revision);
    expect(scored).toHaveLength(scenarioCount);
    const failed = scored.filter((scenario) => {
      const checks = direct.get(scenario) ?? [];
      return checks.length === 0 || failedChecks(checks).length > 0;
    });
    expect(failed).toEqual([]);
  });

  test('it scores the same through two nodes, check by check', async () => {
    const through = await runSuite({ url: throughNodes, revision, label: 'through-nodes' });
    expect(verdicts(through)).toEqual(verdicts(expectedThroughNodes(direct)));
  });
});

/** The suite runs these, but does not score them. */
test.each(['http-header-validation', 'http-custom-header-server-validation'])(
  '%s passes directly and through two nodes',
  async (scenario) => {
    for (const [label, url] of Object.entries({ direct: reference.url, 'through-nodes': throughNodes })) {
      const checks = (await runSuite({ url, revision: '2026-07-28', label, scenario })).get(scenario) ?? [];
      expect(checks.length).toBeGreaterThan(5);
      expect(failedChecks(checks)).toEqual([]);
    }
  },
);
