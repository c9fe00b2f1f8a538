import { randomBytes } from 'node:crypto';
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Database, type Fleet, openDatabase, type PublicUrls, startFleet } from '@sallyport/control-plane/fleet';
import { RuntimeStore, SyncClient, type SyncClientOptions } from '@sallyport/data-plane/runtime';
import { AppError, permissions, type Sighting, syncPath } from '@sallyport/schema';
import { type Clock, createLog, type Log, systemClock, uuidv7 } from '@sallyport/schema/platform';
import { waitFor } from './condition.ts';
import { testConfig } from './config.ts';

export const testSecretKey = 'fleet-secret-key-fleet-secret-key-0123';
export const testNodeSecret = 'node-secret-node-secret-node-secret-01';
const quiet: Log = createLog({ name: 'test', level: testConfig.logLevel });

/** An actor who may do everything, as the services want one. */
export const administrator = {
  actor: {
    principalId: '00000000-0000-0000-0000-000000000000',
    name: 'test',
    kind: 'system' as const,
    keyId: null,
    permissions: new Set(permissions),
    limited: [],
    groupIds: new Set<string>(),
  },
  authorize: () => undefined,
  serverScope: () => 'all' as const,
  clock: systemClock,
  log: quiet,
};

export interface SightingReport {
  readonly nodeId: string;
  readonly serverId: string;
  readonly definitions: readonly Sighting[];
}

export interface TestControlPlane {
  readonly fleet: Fleet;
  readonly database: Database;
  readonly url: string;
  readonly port: number;
  readonly healthReports: { nodeId: string; serverId: string }[];
  /** Servers whose protocol revisions nodes doubted. */
  readonly doubts: readonly string[];
  /** What nodes withheld. */
  readonly sightings: readonly SightingReport[];
  joinToken(options?: { usesMax?: number | null; labels?: Record<string, string> }): Promise<string>;
  /** Stops as a crash does: sockets are cut, nobody says goodbye. */
  stop(): Promise<void>;
}

/** The push's end in the control plane, over a real database, without the API around it. */
export async function startTestControlPlane(
  databaseUrl: string,
  options: { readonly port?: number; readonly clock?: Clock; readonly publicUrls?: PublicUrls } = {},
): Promise<TestControlPlane> {
  const database = openDatabase({ url: databaseUrl, connectionsMax: 5 });
  const healthReports: { nodeId: string; serverId: string }[] = [];
  const doubts: string[] = [];
  const sightings: SightingReport[] = [];
  const fleet = await startFleet({
    database,
    secretKey: testSecretKey,
    publicUrls: options.publicUrls,
    addressOf: (request) => request.socket.remoteAddress ?? null,
    clock: options.clock ?? systemClock,
    log: quiet,
    watermarksOf: () => Promise.resolve([]),
    spoolEpochsReported: () => Promise.resolve(),
    recordHealth: (nodeId, observations) => {
      healthReports.push(...observations.map(({ serverId }) => ({ nodeId, serverId })));
      return Promise.resolve();
    },
    lend: () => Promise.resolve({ ok: false, problem: 'CREDENTIAL_MISSING', connectUrl: null }),
    doubtServer: (serverId) => {
      doubts.push(serverId);
      return Promise.resolve();
    },
    definitionsSighted: (nodeId, serverId, definitions) => {
      sightings.push({ nodeId, serverId, definitions });
    },
  });
  const http = createServer((_request, response) => response.writeHead(404).end());
  http.on('upgrade', (request, socket, head) => fleet.syncServer.handleUpgrade(request, socket, head));
  const port = await listening(http, options.port ?? 0);
  return {
    fleet,
    database,
    port,
    url: `ws://127.0.0.1:${port}${syncPath}`,
    healthReports,
    doubts,
    sightings,
    joinToken: async (token = {}) => {
      const expiresAt = new Date(systemClock.now() + 3_600_000);
      const input = { name: 'test', expiresAt, usesMax: token.usesMax ?? null, labels: token.labels ?? {} };
      const { secret } = await fleet.joinTokens.create(administrator, input);
      if (secret === null) throw new Error('no secret');
      return secret;
    },
    stop: async () => {
      http.closeAllConnections();
      await fleet.stop();
      await new Promise((resolve) => http.close(resolve));
      await database.close();
    },
  };
}

function listening(server: Server, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', () => {
      const address = server.address();
      resolve(typeof address === 'object' && address !== null ? address.port : 0);
    });
  });
}

export interface TestNode {
  readonly client: SyncClient;
  readonly store: RuntimeStore;
  readonly directory: string;
  /** Goodbye and all. */
  stop(): Promise<void>;
}

/** A node as far as the push goes. Give `directory` to start it again with what it had. */
export function startTestNode(
  url: string,
  options: Partial<SyncClientOptions> & { readonly directory?: string } = {},
): TestNode {
  const directory = options.directory ?? mkdtempSync(join(tmpdir(), 'sallyport-node-'));
  directories.add(directory);
  const clock = options.clock ?? systemClock;
  const store = new RuntimeStore({ clock });
  const client = new SyncClient({
    url,
    joinToken: null,
    dataDirectory: directory,
    nodeSecret: testNodeSecret,
    name: 'node',
    build: 'test',
    labels: {},
    peerUrl: null,
    peerCertificate: null,
    onPeers: () => undefined,
    onReturned: () => undefined,
    onForget: () => undefined,
    clock,
    log: quiet,
    spoolEpochs: () => [],
    load: () => ({
      exchangesOpen: 0,
      requestsPerSecond: 0,
      eventLoopDelayP99Ms: 0,
      residentBytes: 0,
      spoolBytes: 0,
      spoolRecordsUnconfirmed: 0,
    }),
    discover: () => Promise.reject(new AppError('UPSTREAM_UNREACHABLE')),
    ...options,
    store,
  });
  client.start();
  return { client, store, directory, stop: () => client.stop() };
}

const directories = new Set<string>();
/** Removes what nodes of this test file wrote. */
export function removeNodeDirectories(): void {
  for (const directory of directories) rmSync(directory, { recursive: true, force: true });
}

/** What is on a node's disk at this moment, as a crash would leave it. */
export function copyDirectory(directory: string): string {
  const copy = mkdtempSync(join(tmpdir(), 'sallyport-node-'));
  directories.add(copy);
  cpSync(directory, copy, { recursive: true });
  return copy;
}

/** Brings the identity of a copy up to date: one node has one, and each start makes the one before useless. */
export function copyIdentity(from: string, to: string): void {
  cpSync(join(from, 'identity'), join(to, 'identity'), { recursive: true });
}

/** Rows with one server, one service account in one group, and a grant of `tools` to the group. */
export interface SeededRows {
  readonly serverId: string;
  readonly groupId: string;
  readonly principalId: string;
  readonly grantId: string;
}

export async function seedRows(database: Database, slug = 'example'): Promise<SeededRows> {
  const id = (): string => uuidv7(systemClock.now());
  const rows = { serverId: id(), groupId: id(), principalId: id(), grantId: id() };
  const owner = id();
  const { raw } = database;
  await raw.begin(async (tx) => {
    await tx`insert into principals (id, kind, name, issuer, subject) values (${owner}, 'user', 'Owner', 'local', ${owner})`;
    await tx`insert into principals (id, kind, name, owner_id, expires_at)
      values (${rows.principalId}, 'serviceAccount', 'Robot', ${owner}, now() + interval '1 day')`;
    await tx`insert into api_keys (id, principal_id, name, hash, hint, scopes, expires_at)
      values (${id()}, ${rows.principalId}, 'key', ${randomBytes(32).toString('hex')}, 'sp_', '{mcp}', now() + interval '1 day')`;
    await tx`insert into groups (id, name) values (${rows.groupId}, ${`group ${slug}`})`;
    await tx`insert into group_members (group_id, principal_id) values (${rows.groupId}, ${rows.principalId})`;
    await tx`insert into servers (id, slug, slug_key, title, url, lifecycle, protocol_revisions)
      values (${rows.serverId}, ${slug}, ${slug}, ${slug}, 'https://mcp.example.com/mcp', 'approved', '{2025-11-25}')`;
    await tx`insert into definitions (id, server_id, kind, name, digests, state, approved_digests, first_seen_at, last_seen_at)
      values (${id()}, ${rows.serverId}, 'tool', 'echo', '{d1}', 'approved', '{d1}', now(), now())`;
    await tx`insert into grants (id, name, subject_kind, subject_group_id, server_id, effect, tools)
      values (${rows.grantId}, 'grant', 'group', ${rows.groupId}, ${rows.serverId}, 'allow', '{echo}')`;
    await tx`update config_generation set generation = generation + 1`;
    await tx`select pg_notify('sallyport_config', '')`;
  });
  return rows;
}

/** Runs statements as one change that nodes must know of. */
export async function change(database: Database, work: (tx: Database['raw']) => Promise<unknown>): Promise<void> {
  await database.raw.begin(async (tx) => {
    await work(tx as unknown as Database['raw']);
    await tx`update config_generation set generation = generation + 1`;
    await tx`select pg_notify('sallyport_config', '')`;
  });
}

/** Waits until the newest published configuration has everything committed and is live on these nodes. */
export function converged(control: TestControlPlane, nodes: readonly TestNode[]): Promise<number> {
  return waitFor(
    `the configuration is live on ${nodes.length} nodes`,
    async () => {
      const status = await control.fleet.nodes.configStatus(administrator);
      const applied = nodes.every(({ store }) => store.current?.revision === status.configRevision);
      return !status.pending && applied && status.nodesLive >= nodes.length && status.configRevision;
    },
    { deadlineMs: 15_000 },
  );
}
