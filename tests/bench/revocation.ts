import { type ChildProcess, fork } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { startEmbeddedPostgres } from '@sallyport/cli';
import { type ControlPlane } from '@sallyport/control-plane';
import { randomSecret } from '@sallyport/schema/platform';
import postgres from 'postgres';
import { Administrator } from '../kit/administrator.ts';
import { waitFor } from '../kit/condition.ts';
import { testConfig } from '../kit/config.ts';
import { type EchoUpstream, startEchoUpstream } from '../kit/echo-upstream.ts';
import { designSize, seedLargeConfiguration } from '../kit/large-configuration.ts';
import { type FakeIdentityProvider, startFakeIdentityProvider } from '../oauth/fake-identity-provider.ts';
import { connectUsers } from '../oauth/federation-kit.ts';
import { RawConnection } from '../isolation/raw-connection.ts';
import {
  createCredentialVictim,
  createCredentialWorld,
  credentialKinds,
  type CredentialOutside,
  startCredentialOutside,
} from '../revocation/credential-victims.ts';
import type { FromLight, ToLight } from '../revocation/light-process.ts';
import { head, nodeSite, openLegacySession, revokeOne, type Site, type TrialResult } from '../revocation/trial.ts';
import { createVictim, revocationKinds, type Victim, type World } from '../revocation/victims.ts';
import { quantile } from './load.ts';
import { nodesUrl, startControl } from './topology.ts';

export interface RevocationOptions {
  /** Of each kind. */
  readonly trials: number;
  /** Calls of others on each node, per second. */
  readonly load: number;
  /** Among a configuration of the size that DESIGN.md names. */
  readonly large: boolean;
}

const slug = 'shared';
/** Light runtimes beside the whole node, by process. */
const lightCounts = [6, 6, 5];
const runtimeCount = lightCounts.length + lightCounts.reduce((sum, count) => sum + count, 0);
const loadConnections = 4;
const coldDeadlineMs = 300_000;

type AtEnd = (stop: () => Promise<void>) => void;

class LightProcess implements Site {
  readonly #child: ChildProcess;

  constructor() {
    const script = fileURLToPath(new URL('../revocation/light-process.js', import.meta.url));
    this.#child = fork(script, { execArgv: [], stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  }

  /** @returns the URL of the node in it */
  async start(message: Omit<Extract<ToLight, { type: 'start' }>, 'type'>): Promise<string> {
    return (await this.#ask({ type: 'start', ...message }, 'started')).nodeUrl;
  }

  async watch(victim: Parameters<Site['watch']>[0]): ReturnType<Site['watch']> {
    await this.#ask({ type: 'watch', call: victim.call('light') }, 'admitted');
    return { settle: async () => (await this.#ask({ type: 'settle' }, 'settled')).watched };
  }

  async stop(): Promise<void> {
    const exited = once(this.#child, 'exit');
    this.#child.disconnect();
    await exited;
  }

  async #ask<Type extends FromLight['type']>(
    message: ToLight,
    type: Type,
  ): Promise<Extract<FromLight, { type: Type }>> {
    const answered = once(this.#child, 'message') as Promise<[FromLight]>;
    this.#child.send(message);
    const [answer] = await answered;
    if (answer.type === type) return answer as Extract<FromLight, { type: Type }>;
    throw new Error(answer.type === 'failed' ? answer.message : `${answer.type} instead of ${type}`);
  }
}

interface Fleet {
  readonly administrator: Administrator;
  readonly upstream: EchoUpstream;
  readonly idp: FakeIdentityProvider;
  readonly outside: CredentialOutside;
  readonly nodeUrls: readonly string[];
  readonly sites: readonly Site[];
  readonly issuer: string;
}

async function seed(databaseUrl: string): Promise<void> {
  const sql = postgres(databaseUrl, { max: 1, onnotice: () => undefined });
  await seedLargeConfiguration(sql, designSize);
  await sql.end();
}

async function startFleet(options: RevocationOptions, directory: string, atEnd: AtEnd): Promise<Fleet> {
  const database = await startEmbeddedPostgres({ directory: join(directory, 'postgres') });
  atEnd(() => database.stop());
  const upstream = await startEchoUpstream();
  atEnd(() => upstream.stop());
  const idp = await startFakeIdentityProvider('http://127.0.0.1');
  atEnd(() => idp.stop());
  const outside = await startCredentialOutside();
  atEnd(() => outside.stop());
  const dialled = [upstream.url, idp.issuer, ...outside.urls];
  const egressAllow = dialled.map((url) => `127.0.0.1/32:${new URL(url).port}`).join(',');
  const keyFile = join(directory, 'credential-keys');
  writeFileSync(keyFile, `first ${randomBytes(32).toString('base64')}\n`);
  const [controlPlane, api] = await startControl(egressAllow, database.url, { SALLYPORT_CREDENTIAL_KEY_FILE: keyFile });
  atEnd(() => controlPlane.stop());
  const issuer = new URL(controlPlane.graphqlUrl ?? '').origin;
  if (options.large) await seed(database.url);
  const administrator = new Administrator(api, runtimeCount);
  const joinToken = await administrator.createJoinToken(runtimeCount);
  const processes = lightCounts.map(() => new LightProcess());
  for (const one of processes) atEnd(() => one.stop());
  const nodeUrls = await Promise.all(
    processes.map((one, at) => {
      const environment = nodeEnvironment(`node-${at}`, directory, controlPlane, {
        SALLYPORT_JOIN_TOKEN: joinToken,
        SALLYPORT_EGRESS_ALLOW: egressAllow,
        DATABASE_URL: database.url,
      });
      const syncUrl = controlPlane.syncUrl ?? '';
      return one.start({ environment, lightCount: lightCounts[at] ?? 0, syncUrl, joinToken, directory });
    }),
  );
  const nodes = nodeUrls.map((url, at) => nodeSite(`node-${at}`, url, upstream.arrivals));
  return { administrator, upstream, idp, outside, nodeUrls, sites: [...nodes, ...processes], issuer };
}

function nodeEnvironment(
  name: string,
  directory: string,
  controlPlane: ControlPlane,
  more: Readonly<Record<string, string>>,
): Record<string, string> {
  return {
    PATH: testConfig.path,
    SALLYPORT_CONTROL_PLANE_URL: controlPlane.syncUrl ?? '',
    SALLYPORT_NODE_NAME: name,
    SALLYPORT_NODE_SECRET: randomSecret('node_'),
    SALLYPORT_DATA_DIRECTORY: join(directory, name),
    SALLYPORT_LISTEN_PORT: '0',
    SALLYPORT_OPERATIONS_PORT: '0',
    ...more,
  };
}

/** Cold runtimes that share two cores take their time to get a large configuration. */
async function everywhere({ administrator }: Fleet): Promise<void> {
  await waitFor('every runtime has the configuration', () => administrator.converged(), { deadlineMs: coldDeadlineMs });
}

async function createWorld({ administrator, upstream, idp, nodeUrls, issuer }: Fleet): Promise<World> {
  const { id } = await administrator.registerServer(slug, upstream.url);
  const disposable = await administrator.registerServer('disposable', upstream.url);
  const [nodeUrl = ''] = nodeUrls;
  return {
    administrator,
    serverId: id,
    slug,
    disposable,
    issuer,
    nodesUrl,
    users: await connectUsers(administrator, idp, issuer),
    openSession: (name, key) => openLegacySession(`${nodeUrl}/mcp/${name}`, key),
  };
}

/** Calls of somebody else on every node, at a steady rate, until the end. */
async function startLoad(world: World, { nodeUrls }: Fleet, perSecond: number, atEnd: AtEnd): Promise<void> {
  if (perSecond === 0) return;
  const other = await createVictim('grant ended', world);
  const call = other.call('load');
  const text = head(call);
  let stopped = false;
  const loops = nodeUrls.flatMap((url) =>
    Array.from({ length: loadConnections }, async () => {
      const connection = new RawConnection(new URL(url));
      while (!stopped) {
        await connection.send(text, call.body);
        await delay((loadConnections * 1000) / perSecond);
      }
      connection.close();
    }),
  );
  atEnd(async () => {
    stopped = true;
    await Promise.all(loops);
  });
}

function row(name: string, values: readonly number[]): string {
  const sorted = values.toSorted((a, b) => a - b);
  const figures = [quantile(sorted, 0.5), quantile(sorted, 0.95), quantile(sorted, 0.99), quantile(sorted, 1)];
  return [
    name.padEnd(36),
    ...figures.map((figure) => figure.toFixed(0).padStart(8)),
    String(values.length).padStart(8),
  ].join(' ');
}

const columns = `${'kind'.padEnd(36)} ${['p50 ms', 'p95 ms', 'p99 ms', 'max ms', 'samples'].map((title) => title.padStart(8)).join(' ')}`;

/** So many trials of each kind, a round of all kinds after the other. */
async function tried<Kind extends string>(
  kinds: readonly Kind[],
  create: (kind: Kind) => Promise<Victim>,
  { sites, nodeUrls }: Fleet,
  trials: number,
): Promise<ReadonlyMap<string, readonly TrialResult[]>> {
  const results = new Map<Kind, TrialResult[]>(kinds.map((kind) => [kind, []]));
  for (let trial = 0; trial < trials; trial++) {
    for (const kind of kinds) results.get(kind)?.push(await revokeOne(await create(kind), sites, nodeUrls));
  }
  return results;
}

function table(
  print: (line: string) => void,
  title: string,
  results: ReadonlyMap<string, readonly TrialResult[]>,
  pick: (result: TrialResult) => readonly number[],
): void {
  print(`\nFrom the answer of the mutation to ${title}`);
  print(columns);
  const all: number[] = [];
  for (const [kind, found] of results) {
    const values = found.flatMap(pick);
    print(row(kind, values));
    all.push(...values);
  }
  print(row('all', all));
}

export async function measureRevocations(
  options: RevocationOptions,
  directory: string,
  print: (line: string) => void,
  atEnd: AtEnd,
): Promise<void> {
  const fleet = await startFleet(options, directory, atEnd);
  await everywhere(fleet);
  const world = await createWorld(fleet);
  await everywhere(fleet);
  await startLoad(world, fleet, options.load, atEnd);
  const results = await tried(revocationKinds, (kind) => createVictim(kind, world), fleet, options.trials);
  const credentials = await createCredentialWorld(world, fleet.outside, fleet.upstream.url);
  const ended = await tried(
    credentialKinds,
    (kind) => createCredentialVictim(kind, credentials),
    fleet,
    options.trials,
  );
  const load = `${options.load} calls/s of others on each node`;
  print(`${runtimeCount} runtimes, ${load}${options.large ? ', large configuration' : ''}`);
  table(print, 'the last call that a runtime admitted', results, ({ admittedMs }) => admittedMs);
  table(print, 'the end of an open stream', results, ({ streamMs }) => streamMs);
  table(print, 'the last call that carried the credential that it ended', ended, ({ admittedMs }) => admittedMs);
  table(print, 'the end of an open stream that carried it', ended, ({ streamMs }) => streamMs);
}
