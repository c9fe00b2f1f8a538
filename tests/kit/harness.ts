/**
 * The whole of Sallyport in one process for a test file: a control plane over a database of its own, nodes that joined
 * it over the sync socket, and the round-robin entry before them. All on free loopback ports, all composed by the
 * functions that the programs themselves use.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createGraphqlClient, freePort, startRoundRobinEntry } from '@sallyport/cli';
import { type ControlPlane, parseConfig as parseControlPlaneConfig, startControlPlane } from '@sallyport/control-plane';
import { type NodeConfig, parseNodeConfig, type RunningNode, startNode } from '@sallyport/data-plane';
import {
  type Clock,
  createLog,
  type Log,
  prepareQueueDatabase,
  randomSecret,
  systemClock,
} from '@sallyport/schema/platform';
import { z } from 'zod';
import { Administrator } from './administrator.ts';
import { type HttpEngine, testConfig } from './config.ts';
import type { Endpoint } from './mcp-clients.ts';
import { createMigratedDatabase } from './postgres.ts';

export interface HarnessOptions {
  /** URLs of upstreams on this machine, which the nodes and the control plane may dial. */
  readonly upstreams: readonly string[];
  /** Default true. False: only the nodes may dial the upstreams. */
  readonly controlPlaneReaches?: boolean;
  readonly nodes?: number;
  /** In place of `upstreams`, where their ports are not known beforehand: `SALLYPORT_EGRESS_ALLOW`. */
  readonly egressAllow?: string;
  /** What nodes speak HTTP with, in turn; default what the environment of the tests says. */
  readonly httpEngines?: readonly HttpEngine[];
  /** Further variables, for all processes. */
  readonly environment?: Readonly<Record<string, string>>;
  /** Where a process logs, by its name; default: one log for all, of the level that `testConfig` says. */
  readonly logOf?: (process: string) => Log;
  /** Default: the queues live in PostgreSQL. */
  readonly redisUrl?: string;
  /** Default false. True: the control plane issues access tokens for the endpoints behind the entry. */
  readonly authorizationServer?: boolean;
  /** Where the nodes are told that the control plane is, by their index; default where it is. */
  readonly syncUrlFor?: (syncUrl: string, index: number) => string;
}

export interface Harness {
  readonly administrator: Administrator;
  readonly controlPlane: ControlPlane;
  readonly nodes: readonly RunningNode[];
  /** Of each node, by its index: all that it has on disk. */
  readonly dataDirectories: readonly string[];
  /** Of the round-robin entry: each request goes to the next node. */
  readonly entryOrigin: string;
  readonly databaseUrl: string;
  /** API key of the owner that the bootstrap made. */
  readonly ownerKey: string;
  endpoint(slug: string, key: string): Endpoint;
  /** Stops a node and starts it again over what it has on disk, on another port and by another clock. */
  restartNode(index: number, clock: Clock): Promise<RunningNode>;
  stop(): Promise<void>;
}

const drainTimeoutMs = 2_000;
const anyPorts = { controlPlane: 0, entry: 0 };

/** The configuration, or everything that is wrong with the environment it was read from. */
function accepted<T>(result: { ok: true; config: T } | { ok: false; problems: readonly string[] }): T {
  if (!result.ok) throw new Error(`the harness is configured wrongly: ${result.problems.join('; ')}`);
  return result.config;
}

interface Parts {
  readonly databaseUrl: string;
  readonly queueUrl: string | undefined;
  readonly controlPlaneReaches: boolean;
  /** Known beforehand where URLs under them are part of the configuration; else 0, for any. */
  readonly ports: { readonly controlPlane: number; readonly entry: number };
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly logOf: (process: string) => Log;
}

function publicUrlsOf({ controlPlane, entry }: Parts['ports']): Readonly<Record<string, string>> {
  if (controlPlane === 0) return {};
  return {
    SALLYPORT_LISTEN_PORT: String(controlPlane),
    SALLYPORT_PUBLIC_URL: `http://127.0.0.1:${controlPlane}`,
    SALLYPORT_NODES_URL: `http://127.0.0.1:${entry}`,
  };
}

async function startPlane(parts: Parts, bootstrapToken: string): Promise<ControlPlane> {
  const { databaseUrl, environment } = parts;
  const env = {
    ...environment,
    ...(parts.controlPlaneReaches ? {} : { SALLYPORT_EGRESS_ALLOW: '' }),
    DATABASE_URL: databaseUrl,
    SALLYPORT_SECRET_KEY: randomSecret('secret_'),
    SALLYPORT_BOOTSTRAP_TOKEN: bootstrapToken,
    ...publicUrlsOf(parts.ports),
  };
  return startControlPlane(accepted(parseControlPlaneConfig(env)), { log: parts.logOf('control-plane') });
}

async function bootstrap(graphqlUrl: string, token: string): Promise<string> {
  const input = { token, userName: 'Test owner', serviceAccountName: 'tests' };
  const document = 'mutation ($input: BootstrapInput!) { bootstrap(input: $input) { secret } }';
  const answer = z.object({ bootstrap: z.object({ secret: z.string() }) });
  return (await createGraphqlClient(graphqlUrl, undefined).ask(document, { input }, answer)).bootstrap.secret;
}

interface JoinedNode {
  readonly running: RunningNode;
  readonly config: NodeConfig;
  readonly directory: string;
}

async function joinNode(
  { environment, queueUrl, logOf }: Parts,
  name: string,
  httpEngine: HttpEngine,
  syncUrl: string,
  joinToken: string,
): Promise<JoinedNode> {
  const directory = mkdtempSync(join(tmpdir(), `sallyport-${name}-`));
  const env = {
    SALLYPORT_HTTP_ENGINE: httpEngine,
    ...environment,
    DATABASE_URL: queueUrl,
    SALLYPORT_CONTROL_PLANE_URL: syncUrl,
    SALLYPORT_JOIN_TOKEN: joinToken,
    SALLYPORT_NODE_NAME: name,
    SALLYPORT_NODE_SECRET: randomSecret('node_'),
    SALLYPORT_DATA_DIRECTORY: directory,
  };
  const config = accepted(parseNodeConfig(env));
  return { running: await startNode(config, { log: logOf(name) }), config, directory };
}

export async function startHarness(options: HarnessOptions): Promise<Harness> {
  const stops: (() => Promise<unknown>)[] = [];
  const stop = async (): Promise<void> => {
    for (const end of stops.splice(0).reverse()) await end();
  };
  try {
    return await start(options, stops, stop);
  } catch (error) {
    await stop();
    throw error;
  }
}

async function partsOf(
  options: HarnessOptions,
  database: { readonly name: string; readonly url: string },
): Promise<Parts> {
  const log = createLog({ name: 'harness', level: testConfig.logLevel });
  const queueRole = { role: `queue_${database.name}`, password: randomSecret('q_') };
  return {
    databaseUrl: database.url,
    // As in production: nodes reach the queues through Redis, else as a role that sees nothing else of the database.
    queueUrl: options.redisUrl === undefined ? await prepareQueueDatabase(database.url, queueRole) : undefined,
    controlPlaneReaches: options.controlPlaneReaches ?? true,
    ports:
      options.authorizationServer === true ? { controlPlane: await freePort(), entry: await freePort() } : anyPorts,
    environment: {
      ...options.environment,
      REDIS_URL: options.redisUrl,
      SALLYPORT_OPERATIONS_PORT: '0',
      SALLYPORT_LISTEN_PORT: '0',
      SALLYPORT_EGRESS_ALLOW:
        options.egressAllow ?? options.upstreams.map((url) => `127.0.0.1/32:${new URL(url).port}`).join(','),
      SALLYPORT_DRAIN_TIMEOUT_MS: String(drainTimeoutMs),
    },
    logOf: options.logOf ?? (() => log),
  };
}

async function start(
  options: HarnessOptions,
  stops: (() => Promise<unknown>)[],
  stop: () => Promise<void>,
): Promise<Harness> {
  const database = await createMigratedDatabase();
  stops.push(() => database.drop());
  const parts = await partsOf(options, database);
  const nodeCount = options.nodes ?? 2;
  const bootstrapToken = randomSecret('spb_');
  const controlPlane = await startPlane(parts, bootstrapToken);
  stops.push(() => controlPlane.stop());
  const { graphqlUrl = '', syncUrl = '' } = controlPlane;
  const ownerKey = await bootstrap(graphqlUrl, bootstrapToken);
  const owner = createGraphqlClient(graphqlUrl, ownerKey);
  const administrator = new Administrator(owner, nodeCount);
  const token = await administrator.createJoinToken(nodeCount);
  const names = Array.from({ length: nodeCount }, (_, index) => `node-${index + 1}`);
  const { httpEngines = [testConfig.httpEngine] } = options;
  const nodes: RunningNode[] = [];
  const joined = await Promise.all(
    names.map(async (name, index) => {
      const httpEngine = httpEngines[index % httpEngines.length] ?? testConfig.httpEngine;
      const node = await joinNode(parts, name, httpEngine, options.syncUrlFor?.(syncUrl, index) ?? syncUrl, token);
      nodes[index] = node.running;
      stops.push(async () => {
        await nodes[index]?.stop();
        rmSync(node.directory, { recursive: true, force: true });
      });
      return node;
    }),
  );
  const urls = nodes.map(({ url }) => new URL(url));
  const entry = await startRoundRobinEntry({
    host: '127.0.0.1',
    port: parts.ports.entry,
    nodes: urls,
    clock: systemClock,
  });
  stops.push(() => entry.stop(0));
  await administrator.converged();
  const entryOrigin = `http://127.0.0.1:${entry.port}`;
  return {
    administrator,
    controlPlane,
    nodes,
    dataDirectories: joined.map(({ directory }) => directory),
    entryOrigin,
    databaseUrl: database.url,
    ownerKey,
    endpoint: (slug, key) => ({ url: `${entryOrigin}/mcp/${slug}`, key }),
    restartNode: async (index, clock) => {
      const config = joined[index]?.config;
      if (config === undefined) throw new Error(`there is no node ${index}`);
      await nodes[index]?.stop();
      const running = await startNode(config, { log: parts.logOf(config.name), clock });
      nodes[index] = running;
      return running;
    },
    stop,
  };
}
