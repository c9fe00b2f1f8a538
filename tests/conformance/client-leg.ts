/** The official suite's client scenarios: a client of each revision, through nodes, on the suite's server of each. */
import { once } from 'node:events';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { json } from 'node:stream/consumers';
import { inspect } from 'node:util';
import { startRoundRobinEntry } from '@sallyport/cli';
import { systemClock } from '@sallyport/schema/platform';
import { z } from 'zod';
import { repositoryRoot } from '../contract/generated-files.ts';
import { startFleetOfNodes } from '../data-plane/fleet-of-nodes.ts';
import { type TestConfiguration, testKey } from '../data-plane/pipeline-node.ts';
import { driveScenario, isDriven } from './client-scenarios.ts';
import { configurationOf, discover, type Discovery, enginesOf, type Topology } from './matrix.ts';
import { type Check, failedChecks, runClientScenario, scoredScenarios, type SuiteRevision } from './run-suite.ts';

export interface ClientCell {
  /** What the suite's server speaks, and nothing else. */
  readonly server: SuiteRevision;
  readonly client: SuiteRevision;
  readonly topology: Topology;
}

export interface ClientCellResult extends ClientCell {
  readonly scenarios: number;
  /** Scenarios that failed, with the checks that did and what the client said. */
  readonly failed: ReadonlyMap<string, readonly string[]>;
  /** Scenarios in which a node was killed. */
  readonly kills: number;
}

const revisions = ['2025-11-25', '2026-07-28'] as const;

export const clientCells: readonly ClientCell[] = revisions.flatMap((server) =>
  revisions.flatMap((client) =>
    (['one node', 'three nodes, one killed'] as const).map((topology) => ({ server, client, topology })),
  ),
);

/** The suite runs this, but does not score it: it is younger than both revisions. Nodes pass schemas on, so it counts here. */
const counted = 'json-schema-2020-12-preservation';

/** Scenarios that nodes can stand in the midst of. */
export function clientScenarios(revision: SuiteRevision): readonly string[] {
  return [...scoredScenarios(revision, 'client').filter((scenario) => !scenario.startsWith('auth/')), counted];
}

/** What is not passed, by scenario; each with the reason. */
export const expectedClientFailures: Readonly<Record<string, string>> = {};

/** Why the others of the suite's client scenarios are not run with a client before the nodes. */
export const notInTheMidst =
  'they judge how a client logs in to the server. Before a client of Sallyport stands Sallyport: it is the protected resource, names its own authorization server, and passes on neither a challenge of the server nor the tokens of the client. How clients log in is tested with real ones (`tests/oauth/real-clients.test.ts`), and by the scenarios that the suite has for authorization servers (`tests/oauth/conformance.test.ts`). What they want of a client, the gateway does itself; see below.';

const handedOver = z.object({ serverUrl: z.string(), context: z.string() });

/** Has the suite start a scenario's server, and does with it what is to be done. @returns what the server saw of it */
export async function onServer(
  scenario: string,
  revision: SuiteRevision,
  label: string,
  use: (url: string, context: string) => Promise<void>,
  host = '127.0.0.1',
): Promise<readonly Check[]> {
  const answer = async (incoming: IncomingMessage): Promise<void> => {
    const { serverUrl, context } = handedOver.parse(await json(incoming));
    const url = new URL(serverUrl);
    url.hostname = host;
    await use(url.href, context);
  };
  const driver = createServer((incoming, outgoing) => {
    answer(incoming).then(
      () => outgoing.end(),
      (error: unknown) => outgoing.writeHead(500).end(inspect(error)),
    );
  });
  driver.listen(0, '127.0.0.1');
  await once(driver, 'listening');
  try {
    const { port } = driver.address() as AddressInfo;
    const program = join(repositoryRoot(), 'tests/conformance/hand-over.ts');
    const command = `${process.execPath} ${program} http://127.0.0.1:${port} "$MCP_CONFORMANCE_CONTEXT"`;
    return await runClientScenario({ command, scenario, revision, label });
  } finally {
    driver.closeAllConnections();
    driver.close();
  }
}

/** By scenario and revision. */
const discoveries = new Map<string, Promise<Discovery>>();

/**
 * What discovery finds on a scenario's server. It asks for every revision there is, which a client does not: so it gets
 * a server of its own, whose verdict nobody reads.
 */
function discoveryOf(scenario: string, revision: SuiteRevision): Promise<Discovery> {
  const key = `${scenario} ${revision}`;
  const known = discoveries.get(key) ?? discoverOnServer(scenario, revision);
  discoveries.set(key, known);
  return known;
}

async function discoverOnServer(scenario: string, revision: SuiteRevision): Promise<Discovery> {
  let found: Discovery | undefined;
  await onServer(scenario, revision, 'discovery', async (url) => {
    found = await discover(url);
  });
  if (found === undefined) throw new Error(`the server of ${scenario} could not be discovered`);
  return found;
}

/** Serves an upstream at nodes; `kill` cuts off the first of them where there are others, and says whether there were. */
async function throughNodes(
  configuration: TestConfiguration,
  topology: Topology,
  use: (url: string, kill: () => boolean) => Promise<void>,
): Promise<void> {
  const ends: (() => Promise<void>)[] = [];
  try {
    const fleet = await startFleetOfNodes(topology === 'one node' ? 1 : 3, configuration, enginesOf(topology));
    ends.push(() => fleet.stop());
    const nodes = fleet.nodes.map(({ node }) => new URL(node.url('reference')));
    const entry = await startRoundRobinEntry({ host: '127.0.0.1', port: 0, nodes, clock: systemClock });
    ends.push(() => entry.stop(0));
    await use(`http://127.0.0.1:${entry.port}/mcp/reference`, () => {
      if (fleet.nodes.length > 1) fleet.nodes[0]?.kill();
      return fleet.nodes.length > 1;
    });
  } finally {
    for (const end of ends.reverse()) await end();
  }
}

async function runScenario(
  scenario: string,
  { server, client, topology }: ClientCell,
): Promise<{ checks: readonly Check[]; isKilled: boolean }> {
  const found = await discoveryOf(scenario, server);
  let isKilled = false;
  const label = `client-${client}-${topology === 'one node' ? 1 : 3}`;
  const checks = await onServer(scenario, server, label, (upstream, context) =>
    throughNodes(configurationOf(upstream, found), topology, (url, kill) => {
      const onConnected = (): void => {
        isKilled = kill();
      };
      return driveScenario(scenario, { endpoint: { url, key: testKey }, revision: client, context, onConnected });
    }),
  );
  return { checks, isKilled };
}

export async function runClientCell(cell: ClientCell): Promise<ClientCellResult> {
  const scenarios = clientScenarios(cell.server);
  const failed = new Map<string, readonly string[]>();
  let kills = 0;
  for (const scenario of scenarios) {
    if (!isDriven(scenario)) throw new Error(`no client knows what to do in the scenario ${scenario}`);
    const { checks, isKilled } = await runScenario(scenario, cell);
    if (isKilled) kills += 1;
    const failures = failedChecks(checks).filter(({ status }) => status === 'FAILURE');
    const isPassed = failures.length === 0 && checks.some(({ status }) => status === 'SUCCESS');
    if (!isPassed)
      failed.set(
        scenario,
        failures.map(({ id, problem }) => `${id}: ${problem ?? ''}`),
      );
  }
  return { ...cell, scenarios: scenarios.length, failed, kills };
}
