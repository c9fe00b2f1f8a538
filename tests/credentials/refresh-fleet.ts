/** A control plane that can be killed and three nodes, each a process, before an upstream that wants each user's own token. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createGraphqlClient, freePort } from '@sallyport/cli';
import { prepareQueueDatabase, randomSecret } from '@sallyport/schema/platform';
import postgres from 'postgres';
import { z } from 'zod';
import { Administrator } from '../kit/administrator.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { createMigratedDatabase } from '../kit/postgres.ts';
import { Program } from '../kit/program.ts';
import { askModern } from '../kit/raw-mcp.ts';
import { type ConnectingPlane, connect, type Somebody, somebody } from './connecting-kit.ts';
import { credential, credentialFields, identified, keyFile } from './credential-kit.ts';
import { FakeAuthorizationServer } from './fake-authorization-server.ts';

const nodeCount = 3;
export type Answer = 'answered' | 'toConnect' | `failed: ${string}`;

export interface RefreshFleet extends ConnectingPlane {
  readonly as: FakeAuthorizationServer;
  readonly process: Program;
  readonly sql: postgres.Sql;
  /** A user with an account that is connected. */
  connected(name: string): Promise<Somebody>;
  /** Calls as somebody, so many at once on each node. */
  call(who: Somebody, each: number): Promise<Answer[]>;
  stop(): Promise<void>;
}

async function call(url: string, { key }: Somebody): Promise<Answer> {
  const { status, body } = await askModern({ url, key }, { method: 'tools/call', params: { name: 'look' } });
  if (body.includes('/oauth/connect/')) return 'toConnect';
  return body.includes('"result"') && !body.includes('"isError":true') ? 'answered' : `failed: ${status} ${body}`;
}

interface Ends {
  readonly stops: (() => Promise<unknown>)[];
}

async function program({ stops }: Ends, script: string, environment: Record<string, string>): Promise<Program> {
  const port = String(await freePort());
  const all = { ...environment, SALLYPORT_OPERATIONS_PORT: port, SALLYPORT_DRAIN_TIMEOUT_MS: '2000' };
  const made = new Program(script, all, `http://127.0.0.1:${port}`);
  stops.push(() => made.end('SIGKILL'));
  await made.start();
  return made;
}

async function startUpstream(as: FakeAuthorizationServer): Promise<FakeUpstream> {
  const upstream = await startFakeUpstream({ tools: ['look'] });
  as.resource = upstream.url;
  upstream.guard(
    ({ headers }) => as.live.has(headers.authorization?.slice('Bearer '.length) ?? ''),
    `Bearer resource_metadata="${as.url}/prm"`,
  );
  return upstream;
}

/** Ada, an administrator, registers the server; it is looked at with her account. */
async function provision(plane: ConnectingPlane, url: string): Promise<void> {
  const { administrator } = plane;
  const ada = await somebody(plane, 'Ada');
  await administrator.mutate('assignRole', { principalId: ada.id, role: 'ADMIN' }, '__typename', z.unknown());
  const asAda = new Administrator(ada.api, nodeCount);
  const { id } = await asAda.mutate('createServer', { slug: 'own', url }, 'id', identified);
  await asAda.mutate('setServerCredential', { serverId: id, userOAuth: {} }, credentialFields, credential);
  await connect(plane, ada, id);
  const found = 'discoveryProblem { code }';
  await asAda.mutate('discoverServer', { id }, found, z.object({ discoveryProblem: z.null() }));
  await asAda.mutate('approveServer', { id }, 'id', identified);
  await administrator.grant({ serverId: id, tools: ['*'] });
}

async function startPlane(ends: Ends, databaseUrl: string, egress: Record<string, string>) {
  const port = await freePort();
  const token = randomSecret('spb_');
  const origin = `http://127.0.0.1:${port}`;
  const process = await program(ends, 'control-plane/dist/main.js', {
    ...egress,
    DATABASE_URL: databaseUrl,
    SALLYPORT_SECRET_KEY: randomSecret('secret_'),
    SALLYPORT_CREDENTIAL_KEY_FILE: keyFile(),
    SALLYPORT_BOOTSTRAP_TOKEN: token,
    SALLYPORT_LISTEN_PORT: String(port),
    SALLYPORT_PUBLIC_URL: origin,
    SALLYPORT_NODES_URL: 'https://mcp.example.com',
  });
  const graphqlUrl = `${origin}/graphql`;
  const { bootstrap } = await createGraphqlClient(graphqlUrl, undefined).ask(
    'mutation ($token: String!) { bootstrap(input: { token: $token }) { secret } }',
    { token },
    z.object({ bootstrap: z.object({ secret: z.string() }) }),
  );
  const administrator = new Administrator(createGraphqlClient(graphqlUrl, bootstrap.secret), nodeCount);
  return { process, administrator, controlPlane: { graphqlUrl }, syncUrl: `ws://127.0.0.1:${port}/sync` };
}

async function startNodes(ends: Ends, environment: Record<string, string>): Promise<string[]> {
  const directory = mkdtempSync(join(tmpdir(), 'sallyport-refresh-'));
  ends.stops.push(async () => rmSync(directory, { recursive: true, force: true }));
  return Promise.all(
    Array.from({ length: nodeCount }, async (_, at) => {
      const port = String(await freePort());
      await program(ends, 'data-plane/dist/main.js', {
        ...environment,
        SALLYPORT_NODE_NAME: `node-${at}`,
        SALLYPORT_NODE_SECRET: randomSecret('node_'),
        SALLYPORT_DATA_DIRECTORY: join(directory, `node-${at}`),
        SALLYPORT_LISTEN_PORT: port,
      });
      return `http://127.0.0.1:${port}/mcp/own`;
    }),
  );
}

export async function startRefreshFleet(): Promise<RefreshFleet> {
  const stops: (() => Promise<unknown>)[] = [];
  const stop = async (): Promise<void> => {
    for (const one of stops.toReversed()) await one();
  };
  try {
    return await start({ stops }, stop);
  } catch (error) {
    await stop();
    throw error;
  }
}

async function start(ends: Ends, stop: () => Promise<void>): Promise<RefreshFleet> {
  const as = await new FakeAuthorizationServer().start();
  const upstream = await startUpstream(as);
  const { url: databaseUrl, name } = await createMigratedDatabase();
  const sql = postgres(databaseUrl, { max: 3, onnotice: () => undefined });
  ends.stops.push(
    () => as.stop(),
    () => upstream.stop(),
    () => sql.end(),
  );
  const queueUrl = await prepareQueueDatabase(databaseUrl, { role: `queue_${name}`, password: randomSecret('q_') });
  const allowed = [as.url, upstream.url].map((url) => `127.0.0.1/32:${new URL(url).port}`).join(',');
  const egress = { SALLYPORT_EGRESS_ALLOW: allowed };
  const { syncUrl, ...plane } = await startPlane(ends, databaseUrl, egress);
  const urls = await startNodes(ends, {
    ...egress,
    DATABASE_URL: queueUrl,
    SALLYPORT_CONTROL_PLANE_URL: syncUrl,
    SALLYPORT_JOIN_TOKEN: await plane.administrator.createJoinToken(nodeCount),
  });
  await provision(plane, upstream.url);
  const [server] = await sql<{ id: string }[]>`select id from servers`;
  return {
    ...plane,
    as,
    sql,
    connected: async (who) => {
      const made = await somebody(plane, who);
      await connect(plane, made, server?.id ?? '');
      await plane.administrator.converged();
      return made;
    },
    call: (who, each) => Promise.all(urls.flatMap((url) => Array.from({ length: each }, () => call(url, who)))),
    stop,
  };
}
