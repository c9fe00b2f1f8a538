import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { join } from 'node:path';
import { createGraphqlClient, freePort, type GraphqlClient, startEmbeddedPostgres } from '@sallyport/cli';
import { type ControlPlane, parseConfig, startControlPlane } from '@sallyport/control-plane';
import { withV8Options } from '@sallyport/data-plane';
import { createLog, randomSecret } from '@sallyport/schema/platform';
import { z } from 'zod';
import { Administrator, type ClientAccount } from '../kit/administrator.ts';
import { waitFor } from '../kit/condition.ts';
import { testConfig } from '../kit/config.ts';
import { startControlProcess } from './control-process.ts';
import { putChildrenBehind } from './process-figures.ts';

/** Groups whose grants a decision has to look through, besides the one that allows. */
const otherGrants = 50;

/** Under which resources lie; access tokens are for URLs under it, wherever the nodes listen. */
export const nodesUrl = 'https://mcp.example.com';

/** Takes what stops a part, as soon as the part runs. */
export type AtEnd = (stop: () => Promise<void>) => void;

export interface Topology {
  readonly nodeUrl: URL;
  /** The node's process, for its memory. */
  readonly nodePid: number;
  readonly nodeChild: ChildProcess;
  /** All may use everything. Several, since one principal may only hold so many streams. */
  readonly clients: readonly ClientAccount[];
}

export interface TopologyOptions {
  readonly directory: string;
  readonly nodePin: readonly string[];
  /** Slug → URL of the upstream. */
  readonly upstreams: ReadonlyMap<string, URL>;
  readonly clients: number;
  /** Of the node; default one. */
  readonly workers?: number;
  /** For Node.js, before the program. */
  readonly nodeArguments?: readonly string[];
  /** Slugs of the servers whose traffic every detector looks at. */
  readonly inspected?: readonly string[];
  readonly atEnd: AtEnd;
}

function controlEnvironment(egressAllow: string, databaseUrl: string, port: number, bootstrapToken: string) {
  return {
    DATABASE_URL: databaseUrl,
    SALLYPORT_SECRET_KEY: randomSecret('secret_'),
    SALLYPORT_BOOTSTRAP_TOKEN: bootstrapToken,
    SALLYPORT_LISTEN_PORT: String(port),
    SALLYPORT_PUBLIC_URL: `http://127.0.0.1:${port}`,
    SALLYPORT_NODES_URL: nodesUrl,
    SALLYPORT_EGRESS_ALLOW: egressAllow,
  };
}

/** @param more further variables */
export async function startControl(
  egressAllow: string,
  databaseUrl: string,
  more: Readonly<Record<string, string>> = {},
): Promise<[ControlPlane, GraphqlClient]> {
  const [port, bootstrapToken] = [await freePort(), randomSecret('spb_')];
  const environment = controlEnvironment(egressAllow, databaseUrl, port, bootstrapToken);
  const parsed = parseConfig({ ...environment, SALLYPORT_OPERATIONS_PORT: '0', ...more });
  if (!parsed.ok) throw new Error(parsed.problems.join('\n'));
  const controlPlane = await startControlPlane(parsed.config, { log: createLog({ name: 'bench', level: 'error' }) });
  return [controlPlane, await bootstrapped(controlPlane.graphqlUrl ?? '', bootstrapToken)];
}

/**
 * For what is behind a node and may come later: load and upstreams on the same core then do not wait for it, not even for the
 * rest of a slice of time, as they do for what is merely `nice` (sched(7), SCHED_IDLE).
 */
const inBackground = ['chrt', '--idle'] as const;

/** PostgreSQL, which takes what others leave of the processor. */
export async function startBackgroundPostgres(directory: string, atEnd: AtEnd): Promise<string> {
  const server = await startEmbeddedPostgres({ directory: join(directory, 'postgres') });
  atEnd(() => server.stop());
  // All its other processes are begun by this one.
  const [command, policy] = inBackground;
  const { status } = spawnSync(command, [policy, '--all-tasks', '--pid', '0', String(server.pid)]);
  if (status !== 0) throw new Error('chrt is not installed (apt install util-linux)');
  putChildrenBehind(server.pid, atEnd);
  return server.url;
}

/** The control plane as a process that does, too. @returns where it listens, and its API as its first owner */
export async function startBackgroundControl(
  egressAllow: string,
  databaseUrl: string,
  atEnd: AtEnd,
): Promise<{ readonly port: number; readonly api: GraphqlClient }> {
  const [port, bootstrapToken] = [await freePort(), randomSecret('spb_')];
  const environment = controlEnvironment(egressAllow, databaseUrl, port, bootstrapToken);
  const control = await startControlProcess(environment, [...inBackground, '0']);
  atEnd(() => control.end('SIGTERM'));
  return { port, api: await bootstrapped(`http://127.0.0.1:${port}/graphql`, bootstrapToken) };
}

/** The API as its first owner. */
export async function bootstrapped(graphqlUrl: string, token: string): Promise<GraphqlClient> {
  const answer = await createGraphqlClient(graphqlUrl, undefined).ask(
    'mutation ($token: String!) { bootstrap(input: { token: $token }) { secret } }',
    { token },
    z.object({ bootstrap: z.object({ secret: z.string() }) }),
  );
  return createGraphqlClient(graphqlUrl, answer.bootstrap.secret);
}

export interface NodeProcess {
  readonly child: ChildProcess;
  readonly url: URL;
  readonly operations: URL;
  /** Drains and exits. @throws Error where it ended otherwise */
  stop(): Promise<void>;
}

/** A node as a process of its own; resolves when it is ready. */
export async function startNodeProcess(
  options: Pick<TopologyOptions, 'directory' | 'nodePin' | 'nodeArguments'>,
  environment: Readonly<Record<string, string>>,
): Promise<NodeProcess> {
  const [port, operationsPort] = [await freePort(), await freePort()];
  const program = fileURLToPath(new URL('main.js', import.meta.resolve('@sallyport/data-plane')));
  const nodeArguments = withV8Options(options.nodeArguments ?? []);
  const [command, ...args] = [...options.nodePin, process.execPath, ...nodeArguments, program];
  const child = spawn(command, args, {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    env: {
      PATH: testConfig.path,
      SALLYPORT_LISTEN_PORT: String(port),
      SALLYPORT_OPERATIONS_PORT: String(operationsPort),
      SALLYPORT_NODE_NAME: 'bench',
      SALLYPORT_NODE_SECRET: randomSecret('node_'),
      SALLYPORT_DATA_DIRECTORY: join(options.directory, 'node'),
      SALLYPORT_LOG_LEVEL: 'error',
      SALLYPORT_HTTP_ENGINE: testConfig.httpEngine,
      ...environment,
    },
  });
  const operations = new URL(`http://127.0.0.1:${operationsPort}/`);
  const deadlineMs = 120_000;
  await waitFor('the node is ready', () => isReady(child, operations), { deadlineMs });
  return {
    child,
    url: new URL(`http://127.0.0.1:${port}/`),
    operations,
    stop: async () => {
      const exited = once(child, 'exit');
      child.kill('SIGTERM');
      const [code, signal] = await exited;
      if (code !== 0) throw new Error(`the node did not drain and exit, but ended with ${String(code ?? signal)}`);
    },
  };
}

async function isReady(child: ChildProcess, operations: URL): Promise<boolean> {
  if (child.exitCode !== null) throw new Error(`the node exited with ${child.exitCode}`);
  const answer = await fetch(new URL('/readyz', operations)).catch(() => undefined);
  return answer?.ok === true;
}

/** On each server a grant that allows, and many of other subjects that do not concern the caller. */
async function provision(
  administrator: Administrator,
  { upstreams, clients, inspected = [] }: TopologyOptions,
): Promise<ClientAccount[]> {
  const accounts: ClientAccount[] = [];
  const serverIds: string[] = [];
  for (let n = 0; n < clients; n++) accounts.push(await administrator.createClient(`bench-${n}`));
  for (const [slug, url] of upstreams) {
    const { id } = await administrator.registerServer(slug, url.href);
    if (inspected.includes(slug)) serverIds.push(id);
    for (const { principalId } of accounts) {
      const subject = { kind: 'SERVICE_ACCOUNT', id: principalId } as const;
      await administrator.grant({ serverId: id, subject, tools: ['*'], resources: ['*'] });
    }
    const other = await administrator.createClient(`other-${slug}`);
    for (let n = 0; n < otherGrants; n++) {
      const subject = { kind: 'SERVICE_ACCOUNT', id: other.principalId } as const;
      await administrator.grant({ serverId: id, subject, tools: [`tool_${n}_*`] });
    }
  }
  if (serverIds.length > 0) {
    const detectors = ['HIDDEN_TEXT', 'SECRET', 'PERSONAL_DATA', 'INJECTION', 'LINK'];
    const rules = detectors.map((detector) => ({ detector, action: 'BLOCK' }));
    const policy = { name: 'all detectors', mode: 'ENFORCE', match: { serverIds }, rules };
    await administrator.mutate('createPolicy', policy, 'id', z.object({ id: z.string() }));
  }
  await administrator.converged();
  return accounts;
}

/**
 * The real planes, each a process of its own: one node on the core it is pinned to, control plane and PostgreSQL beside
 * the load and the upstream, behind which they stand back. They store what the node recorded, which no call waits for; a
 * node would else be measured by how often its load gets its turn among them.
 */
export async function startTopology(options: TopologyOptions): Promise<Topology> {
  const databaseUrl = await startBackgroundPostgres(options.directory, options.atEnd);
  const egressAllow = [...options.upstreams.values()].map(({ hostname, port }) => `${hostname}/32:${port}`).join(',');
  const { port, api } = await startBackgroundControl(egressAllow, databaseUrl, options.atEnd);
  const { workers = 1 } = options;
  const administrator = new Administrator(api, workers);
  const node = await startNodeProcess(options, {
    SALLYPORT_WORKERS: String(workers),
    SALLYPORT_CONTROL_PLANE_URL: `ws://127.0.0.1:${port}`,
    SALLYPORT_JOIN_TOKEN: await administrator.createJoinToken(workers),
    SALLYPORT_EGRESS_ALLOW: egressAllow,
    DATABASE_URL: databaseUrl,
  });
  options.atEnd(() => node.stop());
  const clients = await provision(administrator, options);
  return { nodeUrl: node.url, nodePid: node.child.pid ?? 0, nodeChild: node.child, clients };
}
