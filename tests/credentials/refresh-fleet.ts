/**
 * Control planes whose clocks can be moved and three nodes, each a process, before an upstream that wants each user's own
 * token, of an authorization server whose refresh tokens are good once. For tests and for the benchmark.
 */
import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createGraphqlClient, freePort } from '@sallyport/cli';
import { prepareQueueDatabase, randomSecret } from '@sallyport/schema/platform';
import postgres from 'postgres';
import { Pool } from 'undici';
import { z } from 'zod';
import { toolCall } from '../bench/tool-call.ts';
import { Administrator } from '../kit/administrator.ts';
import { waitFor } from '../kit/condition.ts';
import { startEchoUpstream } from '../kit/echo-upstream.ts';
import { movableClock, Program } from '../kit/program.ts';
import { type ConnectingPlane, connect, type Somebody, somebody } from './connecting-kit.ts';
import { FakeAuthorizationServer, type TokenFamily } from './fake-authorization-server.ts';

const nodeCount = 3;
const slug = 'own';
export type Answer = 'answered' | 'toConnect' | `failed: ${string}`;

export interface FleetPlace {
  /** Of the superuser, of a database with the tables and nothing in them. */
  readonly databaseUrl: string;
  readonly directory: string;
  /** Default one; the nodes are spread over them. */
  readonly controlPlanes?: number;
  /** Takes what stops a part, as soon as the part runs. */
  readonly atEnd: (stop: () => Promise<unknown>) => void;
}

/** A user with an account that is connected. */
export interface Connected extends Somebody {
  readonly family: TokenFamily;
}

export interface RefreshFleet extends ConnectingPlane {
  readonly as: FakeAuthorizationServer;
  /** What the upstream did with the tokens it was sent. */
  readonly upstream: UpstreamGate;
  /** The first of the control planes. */
  readonly process: Program;
  readonly sql: postgres.Sql;
  connected(name: string): Promise<Connected>;
  /** Calls as somebody, so many at once on each node. */
  call(who: Somebody, each: number): Promise<Answer[]>;
  /**
   * Moves the clocks of the control planes, and waits until each node has learnt the time.
   * @param witness whose token is to be renewed at the time that it is then; his calls tell what a node takes for the time
   */
  moveClock(byMs: number, witness: Connected): Promise<void>;
}

/** Before the upstream: lets those in whose token is good. */
class UpstreamGate {
  /** Takes no token at all. */
  isShut = false;
  /** Taken whether or not it is good. */
  alwaysTaken: string | undefined;
  lastToken = '';
  readonly refused = new Set<string>();
  readonly #as: FakeAuthorizationServer;

  constructor(as: FakeAuthorizationServer) {
    this.#as = as;
  }

  isAccepted(token: string): boolean {
    this.lastToken = token;
    const isAccepted = !this.isShut && (this.#as.live.has(token) || token === this.alwaysTaken);
    if (!isAccepted) this.refused.add(token);
    return isAccepted;
  }
}

/** The clients of one node. */
class Clients {
  readonly #url: URL;
  readonly #pool: Pool;

  constructor(origin: string) {
    this.#url = new URL(`/mcp/${slug}`, origin);
    this.#pool = new Pool(origin, { connections: 128 });
  }

  async call({ key }: Somebody): Promise<Answer> {
    const { headers, body } = toolCall(this.#url, key, 'echo', {});
    const response = await this.#pool.request({ path: this.#url.pathname, method: 'POST', headers, body });
    const text = await response.body.text();
    if (text.includes('/oauth/connect/')) return 'toConnect';
    const isAnswered = text.includes('"result"') && !text.includes('"isError":true');
    return isAnswered ? 'answered' : `failed: ${response.statusCode} ${text}`;
  }

  stop(): Promise<void> {
    return this.#pool.close();
  }
}

async function program(
  { atEnd }: FleetPlace,
  script: string,
  environment: Readonly<Record<string, string>>,
): Promise<Program> {
  const port = String(await freePort());
  const all = { ...environment, SALLYPORT_OPERATIONS_PORT: port, SALLYPORT_DRAIN_TIMEOUT_MS: '2000' };
  const made = new Program(script, all, `http://127.0.0.1:${port}`);
  atEnd(() => made.end('SIGKILL'));
  await made.start();
  return made;
}

const identified = z.object({ id: z.string() });

/** Ada, an administrator, registers the server; it is looked at with her account. */
async function provision(plane: ConnectingPlane, url: string): Promise<string> {
  const { administrator } = plane;
  const ada = await somebody(plane, 'Ada');
  await administrator.mutate('assignRole', { principalId: ada.id, role: 'ADMIN' }, '__typename', z.unknown());
  const asAda = new Administrator(ada.api, nodeCount);
  const { id } = await asAda.mutate('createServer', { slug, url }, 'id', identified);
  await asAda.mutate('setServerCredential', { serverId: id, userOAuth: {} }, 'mode', z.unknown());
  await connect(plane, ada, id);
  const found = 'discoveryProblem { code }';
  await asAda.mutate('discoverServer', { id }, found, z.object({ discoveryProblem: z.null() }));
  await asAda.mutate('approveServer', { id }, 'id', identified);
  await administrator.grant({ serverId: id, tools: ['*'] });
  return id;
}

interface StartedPlanes extends ConnectingPlane {
  readonly processes: readonly [Program, ...Program[]];
  readonly syncUrls: readonly string[];
}

async function startPlanes(place: FleetPlace, egress: Readonly<Record<string, string>>): Promise<StartedPlanes> {
  const keys = join(place.directory, 'keys');
  writeFileSync(keys, `first ${randomBytes(32).toString('base64')}\n`);
  const token = randomSecret('spb_');
  const ports = await Promise.all(Array.from({ length: place.controlPlanes ?? 1 }, () => freePort()));
  const origin = `http://127.0.0.1:${ports[0] ?? 0}`;
  const shared = {
    ...egress,
    ...movableClock,
    DATABASE_URL: place.databaseUrl,
    SALLYPORT_SECRET_KEY: randomSecret('secret_'),
    SALLYPORT_CREDENTIAL_KEY_FILE: keys,
    SALLYPORT_BOOTSTRAP_TOKEN: token,
    SALLYPORT_PUBLIC_URL: origin,
    SALLYPORT_NODES_URL: 'https://mcp.example.com',
  };
  const start = (port: number) =>
    program(place, 'control-plane/dist/main.js', { ...shared, SALLYPORT_LISTEN_PORT: String(port) });
  const [port = 0, ...others] = ports;
  const processes: [Program, ...Program[]] = [await start(port)];
  for (const other of others) processes.push(await start(other));
  const graphqlUrl = `${origin}/graphql`;
  const { bootstrap } = await createGraphqlClient(graphqlUrl, undefined).ask(
    'mutation ($token: String!) { bootstrap(input: { token: $token }) { secret } }',
    { token },
    z.object({ bootstrap: z.object({ secret: z.string() }) }),
  );
  const administrator = new Administrator(createGraphqlClient(graphqlUrl, bootstrap.secret), nodeCount);
  const syncUrls = ports.map((at) => `ws://127.0.0.1:${at}/sync`);
  return { processes, administrator, controlPlane: { graphqlUrl }, syncUrls };
}

async function startNodes(
  place: FleetPlace,
  syncUrls: readonly string[],
  environment: Readonly<Record<string, string>>,
): Promise<Clients[]> {
  return Promise.all(
    Array.from({ length: nodeCount }, async (_, at) => {
      const port = String(await freePort());
      await program(place, 'data-plane/dist/main.js', {
        ...environment,
        SALLYPORT_CONTROL_PLANE_URL: syncUrls[at % syncUrls.length] ?? '',
        SALLYPORT_NODE_NAME: `node-${at}`,
        SALLYPORT_NODE_SECRET: randomSecret('node_'),
        SALLYPORT_DATA_DIRECTORY: join(place.directory, `node-${at}`),
        SALLYPORT_LISTEN_PORT: port,
      });
      const clients = new Clients(`http://127.0.0.1:${port}`);
      place.atEnd(() => clients.stop());
      return clients;
    }),
  );
}

export async function startRefreshFleet(place: FleetPlace): Promise<RefreshFleet> {
  const { databaseUrl, atEnd } = place;
  const as = await new FakeAuthorizationServer().start();
  atEnd(() => as.stop());
  // As strict as one can be.
  as.endsAccessByRefresh = true;
  const gate = new UpstreamGate(as);
  const upstream = await startEchoUpstream('modern', {
    isAccepted: (token) => gate.isAccepted(token),
    challenge: `Bearer resource_metadata="${as.url}/prm"`,
  });
  atEnd(() => upstream.stop());
  as.resource = upstream.url;
  const sql = postgres(databaseUrl, { max: 3, onnotice: () => undefined });
  atEnd(() => sql.end());
  const role = `queue_${new URL(databaseUrl).pathname.slice(1)}`;
  const queueUrl = await prepareQueueDatabase(databaseUrl, { role, password: randomSecret('q_') });
  const allowed = [as.url, upstream.url].map((url) => `127.0.0.1/32:${new URL(url).port}`).join(',');
  const egress = { SALLYPORT_EGRESS_ALLOW: allowed };
  const plane = await startPlanes(place, egress);
  const nodes = await startNodes(place, plane.syncUrls, {
    ...egress,
    DATABASE_URL: queueUrl,
    SALLYPORT_JOIN_TOKEN: await plane.administrator.createJoinToken(nodeCount),
  });
  const serverId = await provision(plane, upstream.url);
  let aheadMs = 0;
  return {
    ...plane,
    as,
    upstream: gate,
    process: plane.processes[0],
    sql,
    connected: async (name) => {
      const made = await somebody(plane, name);
      await connect(plane, made, serverId);
      const family = [...as.families.values()].at(-1);
      if (family === undefined) throw new Error('nothing was connected');
      return { ...made, family };
    },
    call: (who, each) => Promise.all(nodes.flatMap((one) => Array.from({ length: each }, () => one.call(who)))),
    moveClock: async (byMs, witness) => {
      for (const one of nodes) await one.call(witness);
      // A refusal would bring the new one to a node that knows nothing of the time.
      gate.alwaysTaken = witness.family.access;
      aheadMs += byMs;
      await Promise.all(plane.processes.map((one) => one.moveClock(aheadMs)));
      for (const one of nodes) {
        await waitFor('a node learns the time', async () => {
          await one.call(witness);
          return gate.lastToken !== gate.alwaysTaken && gate.lastToken === witness.family.access;
        });
      }
    },
  };
}
