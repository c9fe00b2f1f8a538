/** The parts of the audit path as processes of their own, which can be killed and started again. */
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { createGraphqlClient, type EmbeddedPostgres, freePort, startEmbeddedPostgres } from '@sallyport/cli';
import { type ControlPlane, parseConfig, startControlPlane } from '@sallyport/control-plane';
import { createLog, prepareQueueDatabase, randomSecret } from '@sallyport/schema/platform';
import { z } from 'zod';
import { Administrator } from '../kit/administrator.ts';
import { waitFor } from '../kit/condition.ts';
import { testConfig } from '../kit/config.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { Program } from '../kit/program.ts';
import { type RedisServer, startRedis } from '../kit/redis.ts';

const nodeCount = 2;

export interface KillableNode {
  readonly url: string;
  readonly directory: string;
  kill(): Promise<void>;
  start(): Promise<void>;
  /** SIGTERM: it drains. */
  stop(): Promise<void>;
}

export type KillTarget = 'node' | 'worker' | 'redis' | 'postgres';

export interface KillTopologyOptions {
  /** Without Redis the queues live in PostgreSQL, under a role of their own. */
  readonly redis: boolean;
}

export interface KillTopology {
  /** What can be killed here. */
  readonly targets: readonly [KillTarget, ...KillTarget[]];
  readonly nodes: readonly KillableNode[];
  readonly upstream: FakeUpstream;
  readonly databaseUrl: string;
  /** API key of the caller, who may use the tools `count` and `stream` of the server `counter`. */
  readonly key: string;
  /**
   * Kills one part by SIGKILL and starts it again after a moment; several may be down at once.
   * @returns what was killed; undefined where it is down already
   */
  kill(target: KillTarget, random: () => number): Promise<string | undefined>;
  /** Processes that ended though nobody had killed them. */
  readonly crashes: () => readonly string[];
  /** Everything that was killed is up again. */
  allUp(): Promise<void>;
  /** Stops the nodes cleanly and waits until all their epochs have ended in the store. */
  drained(deadlineMs: number): Promise<void>;
  stop(): Promise<void>;
}

class Database {
  readonly #directory: string;
  readonly #port: number;
  #server: EmbeddedPostgres | undefined;

  constructor(directory: string, port: number) {
    this.#directory = directory;
    this.#port = port;
  }

  get url(): string {
    return this.#server?.url ?? '';
  }

  async start(): Promise<void> {
    const settings = ['fsync=off', 'full_page_writes=off', 'max_connections=200'];
    this.#server = await startEmbeddedPostgres({ directory: this.#directory, port: this.#port, settings });
  }

  async kill(): Promise<void> {
    const server = this.#server;
    if (server === undefined) return;
    process.kill(server.pid, 'SIGKILL');
    await server.ended;
  }

  async stop(): Promise<void> {
    await this.#server?.stop();
  }
}

export async function startKillTopology(options: KillTopologyOptions): Promise<KillTopology> {
  const directory = mkdtempSync(join(tmpdir(), 'sallyport-kills-'));
  chmodSync(directory, 0o755);
  const database = new Database(join(directory, 'postgres'), await freePort());
  await database.start();
  const redis = options.redis ? await startRedis() : undefined;
  const upstream = await startFakeUpstream();
  const plane = await startPlane(database, redis, upstream);
  const { nodes, key } = await provision(plane, directory, {
    queue:
      redis === undefined
        ? { DATABASE_URL: await prepareQueueDatabase(database.url, { role: 'queue', password: randomSecret('q_') }) }
        : { REDIS_URL: redis.url },
    upstream,
  });
  const { worker } = plane;
  const killing = new Killing(nodes, {
    worker: { kill: () => worker.end('SIGKILL'), start: () => worker.start() },
    redis: { kill: async () => redis?.kill(), start: async () => redis?.restart() },
    postgres: { kill: () => database.kill(), start: () => database.start() },
  });
  return {
    targets: redis === undefined ? ['node', 'worker', 'postgres'] : ['node', 'worker', 'redis', 'postgres'],
    nodes,
    upstream,
    databaseUrl: database.url,
    key,
    kill: (target, random) => killing.kill(target, random),
    crashes: () => [worker.crashes, ...nodes.map((node) => node.crashes)].flat(),
    allUp: () => killing.allUp(),
    drained: async (deadlineMs) => {
      const isDrained = async (): Promise<boolean> => {
        for (const node of nodes) if ((await unconfirmed(node)) > 0) return false;
        return true;
      };
      await waitFor('the nodes have nothing unconfirmed', isDrained, { deadlineMs, intervalMs: 200 });
      await Promise.all(nodes.map((node) => node.stop()));
    },
    stop: async () => {
      await killing.allUp().catch(() => undefined);
      await Promise.all(nodes.map((node) => node.stop()));
      await worker.end('SIGTERM');
      await plane.api.stop();
      await upstream.stop();
      await redis?.stop();
      await database.stop();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

interface Part {
  kill(): Promise<void>;
  start(): Promise<void>;
}

/** Kills parts and starts them again. */
class Killing {
  readonly #nodes: readonly Part[];
  readonly #parts: Readonly<Record<Exclude<KillTarget, 'node'>, Part>>;
  readonly #down = new Set<Part>();
  readonly #restarts = new Set<Promise<void>>();

  constructor(nodes: readonly Part[], parts: Readonly<Record<Exclude<KillTarget, 'node'>, Part>>) {
    this.#nodes = nodes;
    this.#parts = parts;
  }

  async kill(target: KillTarget, random: () => number): Promise<string | undefined> {
    const index = Math.floor(random() * this.#nodes.length);
    const part = target === 'node' ? this.#nodes[index] : this.#parts[target];
    const downMs = 50 + random() * 600;
    if (part === undefined || this.#down.has(part)) return undefined;
    this.#down.add(part);
    await part.kill();
    this.#restarts.add(
      delay(downMs)
        .then(() => part.start())
        .then(() => void this.#down.delete(part)),
    );
    return target === 'node' ? `node-${index + 1}` : target;
  }

  async allUp(): Promise<void> {
    await Promise.all(this.#restarts);
  }
}

interface Plane {
  readonly api: ControlPlane;
  readonly worker: Program;
  readonly bootstrapToken: string;
}

/** The control plane in its two roles: the API in this process, the worker in one of its own. */
async function startPlane(database: Database, redis: RedisServer | undefined, upstream: FakeUpstream): Promise<Plane> {
  const bootstrapToken = randomSecret('spb_');
  const environment = {
    DATABASE_URL: database.url,
    ...(redis === undefined ? {} : { REDIS_URL: redis.url }),
    SALLYPORT_SECRET_KEY: randomSecret('secret_'),
    SALLYPORT_BOOTSTRAP_TOKEN: bootstrapToken,
    SALLYPORT_EGRESS_ALLOW: egressTo(upstream),
    SALLYPORT_DRAIN_TIMEOUT_MS: '3000',
  };
  const api = await startApi(environment);
  const port = String(await freePort());
  const worker = new Program(
    'control-plane/dist/main.js',
    { ...environment, SALLYPORT_ROLES: 'worker', SALLYPORT_OPERATIONS_PORT: port },
    `http://127.0.0.1:${port}`,
  );
  await worker.start();
  return { api, worker, bootstrapToken };
}

function egressTo(upstream: FakeUpstream): string {
  return `127.0.0.1/32:${new URL(upstream.url).port}`;
}

/** Nodes that joined, the upstream as the server `counter`, and a client who may use two of its tools. */
async function provision(
  plane: Plane,
  directory: string,
  around: { readonly queue: Readonly<Record<string, string>>; readonly upstream: FakeUpstream },
): Promise<{ readonly nodes: readonly StartedNode[]; readonly key: string }> {
  const { graphqlUrl = '', syncUrl = '' } = plane.api;
  const answer = z.object({ bootstrap: z.object({ secret: z.string() }) });
  const document = 'mutation ($input: BootstrapInput!) { bootstrap(input: $input) { secret } }';
  const input = { token: plane.bootstrapToken, userName: 'Owner', serviceAccountName: 'tests' };
  const { bootstrap } = await createGraphqlClient(graphqlUrl, undefined).ask(document, { input }, answer);
  const administrator = new Administrator(createGraphqlClient(graphqlUrl, bootstrap.secret), nodeCount);
  const joinToken = await administrator.createJoinToken(nodeCount);
  const surroundings = { queueEnvironment: around.queue, syncUrl, joinToken, egress: egressTo(around.upstream) };
  const nodes = await Promise.all(
    Array.from({ length: nodeCount }, (_, index) => startNode(directory, index, surroundings)),
  );
  const server = await administrator.registerServer('counter', around.upstream.url);
  const client = await administrator.createClient('caller');
  await administrator.grant({ serverId: server.id, tools: ['count', 'stream'] });
  await administrator.converged();
  return { nodes, key: client.key };
}

async function startApi(environment: Readonly<Record<string, string>>): Promise<ControlPlane> {
  const parsed = parseConfig({
    ...environment,
    SALLYPORT_ROLES: 'api',
    SALLYPORT_LISTEN_PORT: '0',
    SALLYPORT_OPERATIONS_PORT: '0',
  });
  if (!parsed.ok) throw new Error(parsed.problems.join('; '));
  return startControlPlane(parsed.config, { log: createLog({ name: 'api', level: testConfig.logLevel }) });
}

interface NodeSurroundings {
  readonly queueEnvironment: Readonly<Record<string, string>>;
  readonly syncUrl: string;
  readonly joinToken: string;
  readonly egress: string;
}

interface StartedNode extends KillableNode {
  readonly crashes: readonly string[];
  readonly operationsUrl: string;
}

async function startNode(root: string, index: number, around: NodeSurroundings): Promise<StartedNode> {
  const [port, operationsPort] = [await freePort(), await freePort()];
  const directory = join(root, `node-${index + 1}`);
  const operationsUrl = `http://127.0.0.1:${operationsPort}`;
  const program = new Program(
    'data-plane/dist/main.js',
    {
      ...around.queueEnvironment,
      SALLYPORT_HTTP_ENGINE: testConfig.httpEngine,
      SALLYPORT_CONTROL_PLANE_URL: around.syncUrl,
      SALLYPORT_JOIN_TOKEN: around.joinToken,
      SALLYPORT_NODE_NAME: `node-${index + 1}`,
      SALLYPORT_NODE_SECRET: randomSecret('node_'),
      SALLYPORT_DATA_DIRECTORY: directory,
      SALLYPORT_LISTEN_PORT: String(port),
      SALLYPORT_OPERATIONS_PORT: String(operationsPort),
      SALLYPORT_EGRESS_ALLOW: around.egress,
      SALLYPORT_DRAIN_TIMEOUT_MS: '20000',
    },
    operationsUrl,
  );
  await program.start();
  return {
    url: `http://127.0.0.1:${port}`,
    operationsUrl,
    crashes: program.crashes,
    directory,
    kill: () => program.end('SIGKILL'),
    start: () => program.start(),
    stop: () => program.end('SIGTERM'),
  };
}

async function unconfirmed(node: StartedNode): Promise<number> {
  const text = await (await fetch(`${node.operationsUrl}/metrics`)).text();
  const match = /^sallyport_audit_spool_unconfirmed_records (\d+)/m.exec(text);
  return match === null ? Number.POSITIVE_INFINITY : Number(match[1]);
}
