/**
 * A configuration of the size that the budgets are for: how long a change of it takes to compile, a cold node to be
 * ready, a decision to be made, what a node needs of memory, and what calls notice while all of it is applied anew.
 * The node has core 1 to itself; everything else is on core 0, where callers and upstream come before control plane and
 * PostgreSQL.
 */
import { setTimeout as delay } from 'node:timers/promises';
import {
  bumpConfigGeneration,
  type Database,
  FleetVault,
  openDatabase,
  SnapshotPublisher,
} from '@sallyport/control-plane/fleet';
import { migrate } from '@sallyport/control-plane/migrate';
import { createLog, randomSecret, systemClock } from '@sallyport/schema/platform';
import postgres from 'postgres';
import { Administrator } from '../kit/administrator.ts';
import { waitFor } from '../kit/condition.ts';
import { startTestControlPlane, testSecretKey } from '../kit/fleet.ts';
import { designSize, type LargeConfiguration, seedLargeConfiguration } from '../kit/large-configuration.ts';
import { type Relay, startRelay } from '../kit/relay.ts';
import { Callers, type CallLatency, readCallers } from './callers.ts';
import { addDecisionFigures } from './decision-figures.ts';
import { Figures } from './figures.ts';
import { quantile } from './load.ts';
import { keepToFirstCore, residentMebibytesMax } from './process-figures.ts';
import { startUpstreamThread } from './thread.ts';
import {
  type AtEnd,
  type NodeProcess,
  startBackgroundControl,
  startBackgroundPostgres,
  startNodeProcess,
} from './topology.ts';

export interface ScaleOptions {
  /** Changes that are compiled one by one. */
  readonly changes: number;
  /** Of each measurement of latency. */
  readonly seconds: number;
  /** A tenth of everything, for a quick look. */
  readonly small: boolean;
}

const compileMsMax = 150;
const coldMsMax = 5_000;
const residentMebibytesMost = 400;
const applyAddedMsMax = 15;
const changeEveryMs = 250;
/** In turn; not more than there are in the small configuration. */
const grantsChanged = 500;

/** One grant narrowed or widened, as `updateGrant` does it. */
async function changeGrant(database: Database, at: number): Promise<void> {
  await database.db.transaction(async (tx) => {
    const [row] = (await tx.execute(
      `update grants set tools = array['tool_*', 'extra_${at}'], revision = revision + 1
       where id = (select id from grants order by id offset ${at % grantsChanged} limit 1) returning server_id`,
    )) as unknown as { server_id: string }[];
    await bumpConfigGeneration(tx, { serverIds: [row?.server_id ?? ''] });
  });
}

async function compileFigures(databaseUrl: string, { changes }: ScaleOptions, figures: Figures): Promise<void> {
  const control = await startTestControlPlane(databaseUrl);
  // The one that is measured publishes when told to, not when signalled.
  await control.fleet.publisher.stop();
  const { database } = control;
  const took: number[] = [];
  const publisher = new SnapshotPublisher({
    database,
    vault: new FleetVault(testSecretKey),
    publicUrls: undefined,
    clock: systemClock,
    log: createLog({ name: 'scale', level: 'error' }),
    onCompiled: (_outcome, durationMs) => took.push(durationMs),
  });
  await publisher.publish();
  figures.add('everything compiled and published for the first time', took.splice(0)[0] ?? Number.NaN, 'ms');
  for (let at = 0; at < changes; at++) {
    await changeGrant(database, at);
    await publisher.publish();
  }
  took.sort((a, b) => a - b);
  figures.add('one grant changed, p50: read, compiled, published, committed', quantile(took, 0.5), 'ms');
  figures.add('one grant changed, p99', quantile(took, 0.99), 'ms', { most: compileMsMax });
  await control.stop();
}

interface Site {
  /** Between node and control plane. */
  readonly relay: Relay;
  readonly start: () => Promise<NodeProcess>;
}

/** A node from nothing, and the same once more from its disk; the second one stays. */
async function nodeFigures({ start }: Site, figures: Figures): Promise<NodeProcess> {
  const coldAt = performance.now();
  const cold = await start();
  figures.add('cold node, from its start to ready', performance.now() - coldAt, 'ms', { most: coldMsMax });
  await delay(2_000);
  figures.add('most memory of a cold node', residentMebibytesMax(cold.child.pid ?? 0), 'MiB');
  await cold.stop();
  const warmAt = performance.now();
  const node = await start();
  figures.add('the node again, from its disk, to ready', performance.now() - warmAt, 'ms');
  return node;
}

function addLatency(figures: Figures, what: string, { node, direct }: CallLatency, most?: number): void {
  if (node.failures + direct.failures > 0) throw new Error(`${node.failures} of ${node.sent} calls failed ${what}`);
  figures.add(`p50 added at 500 calls/s ${what}`, node.p50Ms - direct.p50Ms, 'ms');
  const target = most === undefined ? {} : { most };
  figures.add(`p99 added (direct: ${direct.p99Ms.toFixed(1)} ms)`, node.p99Ms - direct.p99Ms, 'ms', target);
}

/** Every document of servers and principals becomes another. */
async function changeEverything(sql: postgres.Sql): Promise<void> {
  await sql.begin(async (tx) => {
    await tx`update servers set config_staleness_max_ms = coalesce(config_staleness_max_ms, 86400000) - 1`;
    await tx`update principals set epoch = epoch + 1`;
    await tx`update config_generation set generation = generation + 1`;
    await tx`select pg_notify('sallyport_config', '')`;
  });
}

const converged = (administrator: Administrator) =>
  waitFor('the configuration is live', () => administrator.converged(), { deadlineMs: 120_000 });

/** All is published while the node is away, so that the node alone is at work when it comes back and applies it. */
async function applyEverything(
  site: Site,
  administrator: Administrator,
  sql: postgres.Sql,
): Promise<() => Promise<void>> {
  site.relay.cut();
  const before = await newestRevision(sql);
  await changeEverything(sql);
  const next = async () => (await newestRevision(sql)) > before;
  await waitFor('the changes are published', next, { deadlineMs: 120_000 });
  return async () => {
    site.relay.mend();
    await converged(administrator);
  };
}

async function newestRevision(sql: postgres.Sql): Promise<number> {
  const [row] = await sql<{ revision: string }[]>`select coalesce(max(revision), 0) as revision from config_manifests`;
  return Number(row?.revision ?? 0);
}

/** What comes after calls is over: the trail of those before is stored, so that nobody is at work on it. */
async function settled(node: NodeProcess): Promise<void> {
  const unconfirmed = /^sallyport_audit_spool_unconfirmed_records (\d+)/m;
  const isStored = async (): Promise<boolean> => {
    const answer = await fetch(new URL('/metrics', node.operations));
    return unconfirmed.exec(await answer.text())?.[1] === '0';
  };
  await waitFor('the audit trail is stored', isStored, { deadlineMs: 120_000, intervalMs: 500 });
}

async function callFigures(
  site: Site,
  node: NodeProcess,
  callers: Callers,
  { database, sql, administrator }: { database: Database; sql: postgres.Sql; administrator: Administrator },
  { changes, seconds }: ScaleOptions,
  figures: Figures,
): Promise<void> {
  const called = await callers.everyone();
  if (called.failures > 0) throw new Error(`${called.failures} of ${called.calls} calls failed`);
  const pid = node.child.pid ?? 0;
  figures.add(`most memory after ${called.calls} principals called`, residentMebibytesMax(pid), 'MiB', {
    most: residentMebibytesMost,
  });
  await callers.during(() => delay(2_000));
  await settled(node);
  addLatency(figures, 'and no change', await callers.during(() => delay(seconds * 1000)));
  const oneByOne = await callers.during(async () => {
    const end = performance.now() + seconds * 1000;
    for (let at = changes; performance.now() < end; at++) {
      await changeGrant(database, at);
      await delay(changeEveryMs);
    }
  });
  addLatency(figures, 'and a grant changed 4 times a second', oneByOne);
  await converged(administrator);
  await settled(node);
  const apply = await applyEverything(site, administrator, sql);
  const began = performance.now();
  const latency = await callers.during(apply);
  figures.add('everything sent and applied anew, until acknowledged', performance.now() - began, 'ms');
  addLatency(figures, 'meanwhile', latency, applyAddedMsMax);
  figures.add('most memory then', residentMebibytesMax(pid), 'MiB', { most: residentMebibytesMost });
}

export function scaleSize(options: Pick<ScaleOptions, 'small'>, upstreamUrl: string): LargeConfiguration {
  const upstream = { url: upstreamUrl, protocolRevision: '2026-07-28' };
  const size = { ...designSize, memberships: 4, upstream };
  return options.small ? { ...size, servers: size.servers / 10, principals: size.principals / 10 } : size;
}

/** Two databases with the same rows. */
async function seededDatabases(url: string, size: LargeConfiguration): Promise<[string, string]> {
  const sql = postgres(url, { max: 1, onnotice: () => undefined });
  const named = (name: string): string => Object.assign(new URL(url), { pathname: `/${name}` }).href;
  await sql`create database compiled`;
  const seeding = postgres(named('compiled'), { max: 1, onnotice: () => undefined });
  await migrate(seeding);
  await seedLargeConfiguration(seeding, size);
  await seeding.end();
  await sql`create database served template compiled`;
  await sql.end();
  return [named('compiled'), named('served')];
}

export async function measureScale(
  options: ScaleOptions,
  directory: string,
  print: (line: string) => void,
  atEnd: AtEnd,
): Promise<Figures> {
  keepToFirstCore(atEnd);
  const figures = new Figures(print);
  addDecisionFigures(figures);
  const upstreamUrl = await startUpstreamThread(new URL('./echo-thread.js', import.meta.url), atEnd);
  const databaseUrl = await startBackgroundPostgres(directory, atEnd);
  const egressAllow = `127.0.0.1/32:${new URL(upstreamUrl).port}`;
  const size = scaleSize(options, upstreamUrl);
  const [compiled, served] = await seededDatabases(databaseUrl, size);
  print(`${size.servers} servers, ${size.servers * size.definitions} tools, ${size.servers * size.grants} grants,`);
  print(`${size.principals} principals in ${size.groups} groups\n`);
  await compileFigures(compiled, options, figures);
  const { port, api } = await startBackgroundControl(egressAllow, served, atEnd);
  const administrator = new Administrator(api, 1);
  const sql = postgres(served, { max: 1, onnotice: () => undefined });
  atEnd(() => sql.end());
  const relay = await startRelay(port);
  atEnd(() => relay.stop());
  const joinToken = await administrator.createJoinToken(1);
  const environment = {
    SALLYPORT_CONTROL_PLANE_URL: `http://127.0.0.1:${relay.port}`,
    SALLYPORT_NODE_SECRET: randomSecret('node_'),
    SALLYPORT_JOIN_TOKEN: joinToken,
    SALLYPORT_EGRESS_ALLOW: egressAllow,
    DATABASE_URL: served,
  };
  const site: Site = {
    relay,
    start: () => startNodeProcess({ directory, nodePin: ['taskset', '-c', '1'], nodeArguments: [] }, environment),
  };
  const database = openDatabase({ url: served, connectionsMax: 2 });
  atEnd(() => database.close());
  await waitFor('everything is published', async () => (await newestRevision(sql)) > 1, { deadlineMs: 120_000 });
  const node = await nodeFigures(site, figures);
  atEnd(() => node.stop());
  await converged(administrator);
  const callers = new Callers({
    nodeUrl: node.url.href,
    upstreamUrl,
    requestsPerSecond: { node: 500, direct: 200 },
    ...(await readCallers(sql)),
  });
  atEnd(() => callers.stop());
  await callFigures(site, node, callers, { database, sql, administrator }, options, figures);
  return figures;
}
