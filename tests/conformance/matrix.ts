/** The official suite against one reference server of each era, over nodes of each number: a cell for each combination. */
import { startRoundRobinEntry } from '@sallyport/cli';
import { paramHeaderMaps } from '@sallyport/schema';
import { createEgress, discoverUpstream, parseEgressAllowList, systemClock } from '@sallyport/schema/platform';
import { startFleetOfNodes } from '../data-plane/fleet-of-nodes.ts';
import { type TestConfiguration, testKey } from '../data-plane/pipeline-node.ts';
import { startAuthorizationShim } from '../kit/authorization-shim.ts';
import { type HttpEngine, httpEngines } from '../kit/config.ts';
import { type ReferenceEras, startReferenceServer } from '../kit/reference-server.ts';
import { failedChecks, runSuite, scoredScenarios, type SuiteResult, type SuiteRevision } from './run-suite.ts';

export type Topology = 'one node' | 'three nodes, one killed';

export interface Cell {
  readonly eras: ReferenceEras;
  readonly revision: SuiteRevision;
  readonly topology: Topology;
}

export interface CellResult extends Cell {
  readonly scenarios: number;
  /** Scored scenarios that failed, with the checks that did. */
  readonly failed: ReadonlyMap<string, readonly string[]>;
  /** Whether a node was killed while the suite ran; null where none should be. */
  readonly isKilled: boolean | null;
  readonly result: SuiteResult;
}

export const cells: readonly Cell[] = (['dual', 'legacy', 'modern'] as const).flatMap((eras) =>
  (['2025-11-25', '2026-07-28'] as const).flatMap((revision) =>
    (['one node', 'three nodes, one killed'] as const).map((topology) => ({ eras, revision, topology })),
  ),
);

/** What the wire to a legacy server cannot carry, by scenario; each with the reason. */
export const expectedFailures: Readonly<Record<string, string>> = {
  'server-stateless':
    'The fixture refuses what a request did not declare (-32021). A legacy server learns capabilities with its session and asks, or does not: it has no such error.',
  'input-required-result-basic-elicitation':
    'The scenario wants its question under the key `user_name`. A legacy server gives its questions no names.',
  'input-required-result-capability-check':
    'The fixture reads the capabilities of each request in its envelope, which a legacy server does not get.',
};

/** Answers after which the first node is killed, at the next moment in which nothing is under way. */
const killAfterAnswers = 40;

/** Several nodes are one of each pair of edges in turn; what one node is, the environment of the tests says. */
export function enginesOf(topology: Topology): readonly HttpEngine[] {
  return topology === 'one node' ? [] : httpEngines;
}

/** Whether client and server share an era, so that bytes pass. */
export function isSameEra({ eras, revision }: Cell): boolean {
  return eras === 'dual' || (eras === 'legacy') === (revision === '2025-11-25');
}

export async function runCell(cell: Cell): Promise<CellResult> {
  const ends: (() => Promise<void>)[] = [];
  try {
    const reference = await startReferenceServer({ eras: cell.eras });
    ends.push(() => reference.stop());
    const configuration = configurationOf(reference.url, await discover(reference.url));
    const fleet = await startFleetOfNodes(
      cell.topology === 'one node' ? 1 : 3,
      configuration,
      enginesOf(cell.topology),
    );
    ends.push(() => fleet.stop());
    const nodes = fleet.nodes.map(({ node }) => new URL(node.url('reference')));
    const entry = await startRoundRobinEntry({ host: '127.0.0.1', port: 0, nodes, clock: systemClock });
    ends.push(() => entry.stop(0));
    let isKilled: boolean | null = cell.topology === 'one node' ? null : false;
    const onQuiet = (answers: number, asked: boolean): void => {
      if (isKilled !== false || answers < killAfterAnswers || asked) return;
      isKilled = true;
      fleet.nodes[0]?.kill();
    };
    const target = new URL(`http://127.0.0.1:${entry.port}`);
    const shim = await startAuthorizationShim({ target, bearer: testKey, onQuiet });
    ends.push(() => shim.stop());
    const label = `${cell.eras}-${fleet.nodes.length}`;
    const result = await runSuite({ url: `${shim.origin}/mcp/reference`, revision: cell.revision, label });
    return { ...cell, isKilled, result, ...scored(result, cell.revision) };
  } finally {
    for (const end of ends.reverse()) await end();
  }
}

function scored(result: SuiteResult, revision: SuiteRevision): Pick<CellResult, 'scenarios' | 'failed'> {
  const scenarios = scoredScenarios(revision);
  const failed = scenarios.flatMap((scenario) => {
    const checks = result.get(scenario) ?? [];
    const failures = failedChecks(checks).filter(({ status }) => status === 'FAILURE');
    if (checks.length > 0 && failures.length === 0) return [];
    return [[scenario, failures.map(({ id }) => id)] as const];
  });
  return { scenarios: scenarios.length, failed: new Map(failed) };
}

/** What the control plane would learn of a server. */
export async function discover(url: string): Promise<Discovery> {
  const egress = createEgress({ allow: parseEgressAllowList('127.0.0.0/8:1-65535').allow, connectionsPerOriginMax: 8 });
  try {
    const clientInfo = { name: 'conformance', version: '1' };
    return await discoverUpstream({ url, egress, timeoutMs: 30_000, clientInfo, definitionsBytesMax: 1e7 });
  } finally {
    await egress.close();
  }
}

/** As the control plane would have it: what was discovered is approved, and everything granted. */
export function configurationOf(url: string, found: Discovery): TestConfiguration {
  const names = new Map(found.definitions.map(({ kind, name }) => [`${kind}\n${name}`, { kind, name }]));
  const definitions = [...names.values()].map(({ kind, name }) => {
    const approved = found.definitions.filter((one) => one.kind === kind && one.name === name);
    const maps = kind === 'tool' ? paramHeaderMaps(approved.map(({ raw }) => raw)) : undefined;
    const paramHeaders = maps?.map((map) => map.map(({ path, ...header }) => ({ ...header, path: [...path] })));
    const approvedDigests = approved.map(({ digest }) => digest);
    const entry = { kind, name, approvedDigests, state: 'approved' as const, labels: null };
    return { ...entry, ...(paramHeaders === undefined ? {} : { paramHeaders }) };
  });
  return {
    servers: [{ slug: 'reference', url, protocolRevisions: found.protocolRevisions, definitions }],
    grants: [{ server: 'reference', tools: ['*'], prompts: ['*'], resources: ['*'] }],
    keepRecords: false,
  };
}

export type Discovery = Awaited<ReturnType<typeof discoverUpstream>>;
