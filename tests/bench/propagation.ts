/**
 * Fifty nodes, of which three are whole ones that are called all the time: how long a change takes to be acknowledged by
 * the last of them, what it costs on the wire, and how they come back to a control plane that was killed.
 */
import { join } from 'node:path';
import { freePort, type GraphqlClient, startEmbeddedPostgres } from '@sallyport/cli';
import { migrate } from '@sallyport/control-plane/migrate';
import { syncPath } from '@sallyport/schema';
import { randomSecret } from '@sallyport/schema/platform';
import postgres from 'postgres';
import { z } from 'zod';
import { Administrator } from '../kit/administrator.ts';
import { waitFor } from '../kit/condition.ts';
import { sharedNowMs } from '../kit/echo-upstream.ts';
import { seedLargeConfiguration } from '../kit/large-configuration.ts';
import { LightNode } from '../kit/light-node.ts';
import { startSyncProxy } from '../kit/sync-proxy.ts';
import { Callers, readCallers } from './callers.ts';
import { startControlProcess } from './control-process.ts';
import { Figures } from './figures.ts';
import { quantile } from './load.ts';
import { scaleSize } from './scale.ts';
import { startUpstreamThread } from './thread.ts';
import { bootstrapped, startNodeProcess } from './topology.ts';

export interface PropagationOptions {
  readonly changes: number;
  /** A tenth of the servers and principals. */
  readonly small: boolean;
}

type AtEnd = (stop: () => Promise<void>) => void;

const lightCount = 47;
const wholeCount = 3;
const callsPerSecond = 50;
const acknowledgedMsMax = 1_000;
const settledMsMax = 10_000;
const coldDeadlineMs = 300_000;

/** What tells of a node that it acknowledged something. */
interface Acknowledging {
  readonly revision: number;
  /** On the clock that all processes share. */
  readonly acknowledgedAt: number;
}

interface Fleet {
  readonly api: GraphqlClient;
  readonly administrator: Administrator;
  readonly sql: postgres.Sql;
  readonly light: readonly LightNode[];
  readonly acknowledging: readonly Acknowledging[];
  readonly callers: readonly Callers[];
  /** SIGKILL, and the same again. */
  restartControl(): Promise<void>;
}

/** A whole node behind a proxy that sees what it acknowledges. */
async function startWhole(
  at: number,
  directory: string,
  syncUrl: string,
  environment: Readonly<Record<string, string>>,
  atEnd: AtEnd,
): Promise<{ readonly url: URL; readonly acknowledging: Acknowledging }> {
  const proxy = await startSyncProxy(syncUrl);
  atEnd(() => proxy.stop());
  const acknowledging = { revision: 0, acknowledgedAt: 0 };
  proxy.passUp = (message) => {
    if (message.type === 'ack')
      Object.assign(acknowledging, { revision: message.revision, acknowledgedAt: sharedNowMs() });
    // Kept for nobody.
    proxy.reset();
    return true;
  };
  const node = await startNodeProcess(
    { directory, nodePin: [] },
    {
      ...environment,
      SALLYPORT_CONTROL_PLANE_URL: new URL(proxy.url).origin,
      SALLYPORT_NODE_NAME: `whole-${at}`,
      SALLYPORT_DATA_DIRECTORY: join(directory, `whole-${at}`),
    },
  );
  atEnd(() => node.stop());
  return { url: node.url, acknowledging };
}

async function startFleet(options: PropagationOptions, directory: string, atEnd: AtEnd): Promise<Fleet> {
  const upstreamUrl = await startUpstreamThread(new URL('./echo-thread.js', import.meta.url), atEnd);
  const database = await startEmbeddedPostgres({ directory: join(directory, 'postgres') });
  atEnd(() => database.stop());
  const sql = postgres(database.url, { max: 1, onnotice: () => undefined });
  atEnd(() => sql.end());
  await migrate(sql);
  await seedLargeConfiguration(sql, scaleSize(options, upstreamUrl));
  const egressAllow = `127.0.0.1/32:${new URL(upstreamUrl).port}`;
  const [port, bootstrapToken] = [await freePort(), randomSecret('spb_')];
  const startControl = () =>
    startControlProcess({
      DATABASE_URL: database.url,
      SALLYPORT_SECRET_KEY: secretKey,
      SALLYPORT_BOOTSTRAP_TOKEN: bootstrapToken,
      SALLYPORT_LISTEN_PORT: String(port),
      SALLYPORT_EGRESS_ALLOW: egressAllow,
    });
  const secretKey = randomSecret('secret_');
  let control = await startControl();
  atEnd(() => control.end('SIGTERM'));
  const api = await bootstrapped(`http://127.0.0.1:${port}/graphql`, bootstrapToken);
  const administrator = new Administrator(api, lightCount + wholeCount);
  const joinToken = await administrator.createJoinToken(lightCount + wholeCount);
  const syncUrl = `ws://127.0.0.1:${port}${syncPath}`;
  const environment = {
    SALLYPORT_JOIN_TOKEN: joinToken,
    SALLYPORT_EGRESS_ALLOW: egressAllow,
    DATABASE_URL: database.url,
  };
  const whole = await Promise.all(
    Array.from({ length: wholeCount }, (_, at) => startWhole(at, directory, syncUrl, environment, atEnd)),
  );
  const light = Array.from(
    { length: lightCount },
    (_, at) => new LightNode({ url: syncUrl, joinToken, name: `light-${at}` }),
  );
  for (const node of light) atEnd(() => Promise.resolve(node.stop()));
  await waitFor('all nodes are live', () => administrator.converged(), { deadlineMs: coldDeadlineMs });
  const who = await readCallers(sql);
  const callers = whole.map(
    ({ url }) =>
      new Callers({
        nodeUrl: url.href,
        upstreamUrl,
        requestsPerSecond: { node: callsPerSecond, direct: 1 },
        ...who,
      }),
  );
  for (const one of callers) atEnd(() => one.stop());
  return {
    api,
    administrator,
    sql,
    light,
    acknowledging: [...light, ...whole.map(({ acknowledging }) => acknowledging)],
    callers,
    restartControl: async () => {
      await control.end('SIGKILL');
      control = await startControl();
    },
  };
}

/** One grant through the API. @returns milliseconds from the answer to the last acknowledgement */
async function changeGrant({ api, acknowledging }: Fleet, grantId: string, tool: string): Promise<number> {
  const before = Math.max(...acknowledging.map(({ revision }) => revision));
  await api.ask(
    'mutation ($input: UpdateGrantInput!) { updateGrant(input: $input) { id } }',
    { input: { id: grantId, tools: ['tool_*', tool] } },
    z.object({ updateGrant: z.object({ id: z.string() }) }),
  );
  const answeredAt = sharedNowMs();
  const isEverywhere = (): boolean => acknowledging.every(({ revision }) => revision > before);
  await waitFor('every node acknowledged the change', isEverywhere, { deadlineMs: 60_000, intervalMs: 2 });
  return Math.max(0, Math.max(...acknowledging.map(({ acknowledgedAt }) => acknowledgedAt)) - answeredAt);
}

async function changeFigures(fleet: Fleet, changes: number, figures: Figures): Promise<void> {
  const grants = await fleet.sql<{ id: string }[]>`select id from grants where effect = 'allow' limit ${changes}`;
  const bytes = (): number => fleet.light.reduce((sum, node) => sum + node.bytesReceived, 0);
  const whole = bytes() / lightCount;
  const before = bytes();
  const took: number[] = [];
  for (const [at, { id }] of grants.entries()) took.push(await changeGrant(fleet, id, `extra_${at}`));
  took.sort((a, b) => a - b);
  figures.add('a grant changed, from the answer to the last of 50 ACKs, p50', quantile(took, 0.5), 'ms');
  figures.add('the same, p99', quantile(took, 0.99), 'ms', { most: acknowledgedMsMax });
  figures.add('bytes to a node for the manifest as a whole', whole / 1024, 'KiB');
  figures.add(
    'bytes to a node for each change, heartbeats included',
    (bytes() - before) / lightCount / took.length,
    'B',
  );
}

async function stormFigures(fleet: Fleet, figures: Figures): Promise<void> {
  const killedAt = performance.now();
  await fleet.restartControl();
  const readyAt = performance.now();
  await waitFor('every node is back', () => fleet.administrator.converged(), { deadlineMs: 120_000 });
  figures.add('control plane killed and ready again', readyAt - killedAt, 'ms');
  figures.add('all 50 nodes back, after that', performance.now() - readyAt, 'ms', { most: settledMsMax });
}

export async function measurePropagation(
  options: PropagationOptions,
  directory: string,
  print: (line: string) => void,
  atEnd: AtEnd,
): Promise<Figures> {
  const figures = new Figures(print);
  const fleet = await startFleet(options, directory, atEnd);
  const calls = fleet.callers.map((callers) => {
    const { promise, resolve } = Promise.withResolvers<void>();
    return { latency: callers.during(() => promise), end: resolve };
  });
  try {
    await changeFigures(fleet, options.changes, figures);
    await stormFigures(fleet, figures);
  } finally {
    for (const { end } of calls) end();
  }
  const latencies = await Promise.all(calls.map(({ latency }) => latency));
  figures.add(
    'calls meanwhile',
    latencies.reduce((sum, { node }) => sum + node.sent, 0),
    '',
  );
  figures.add(
    'of them failed',
    latencies.reduce((sum, { node }) => sum + node.failures, 0),
    '',
    { most: 0 },
  );
  return figures;
}
