import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { withV8Options } from '@sallyport/data-plane';
import type { CliEnvironment } from '../config.ts';
import type { Ports } from './choose-ports.ts';
import type { Secrets, StateDirectory } from './state-directory.ts';
import type { ChildProgram } from './supervise.ts';

/** Everything the programs of one start need to know of each other. */
export interface Topology {
  readonly directory: StateDirectory;
  readonly ports: Ports;
  readonly secrets: Secrets;
  readonly databaseUrl: string;
  /** For nodes: a role that sees the queues alone; undefined where the queues lie in Redis. */
  readonly queueUrl: string | undefined;
  readonly environment: CliEnvironment;
}

export const loopback = '127.0.0.1';
/** Shorter than in production: whoever presses Ctrl-C waits for it. */
const drainTimeoutMs = '5000';
export const nodeNames = ['node-1', 'node-2'] as const;

export const graphqlUrlOf = (ports: Ports): string => `http://${loopback}:${ports.api}/graphql`;
export const entryUrlOf = (ports: Ports): string => `http://${loopback}:${ports.entry}`;
export const nodeUrls = (ports: Ports): readonly URL[] =>
  [ports.node1, ports.node2].map((port) => new URL(`http://${loopback}:${port}`));
export const everythingUrlOf = (ports: Ports): string => `http://${loopback}:${ports.everything}/mcp`;
export const exampleUrlOf = (ports: Ports): string => `http://${loopback}:${ports.example}/mcp`;

const resolved = (specifier: string): string => fileURLToPath(import.meta.resolve(specifier));
const beside = (file: string): string => fileURLToPath(new URL(file, import.meta.url));

/** Exactly the example servers: everything else on this machine and its networks stays out of reach. */
const egressAllowance = (ports: Ports): string =>
  [ports.everything, ports.example].map((port) => `${loopback}/32:${port}`).join(',');

/** The control plane as production runs it, API and worker in one process. */
export function controlPlaneProgram(topology: Topology, bootstrapToken: string | undefined): ChildProgram {
  const { directory, ports, secrets, databaseUrl, environment } = topology;
  return {
    name: 'control-plane',
    nodeArguments: [beside('../../../control-plane/dist/main.js')],
    env: {
      ...environment.inherited,
      DATABASE_URL: databaseUrl,
      REDIS_URL: environment.redisUrl,
      SALLYPORT_SECRET_KEY: secrets.secretKey,
      SALLYPORT_CREDENTIAL_KEY_FILE: directory.credentialKeyFile,
      SALLYPORT_DRAIN_TIMEOUT_MS: drainTimeoutMs,
      SALLYPORT_BOOTSTRAP_TOKEN: bootstrapToken,
      SALLYPORT_EGRESS_ALLOW: egressAllowance(ports),
      SALLYPORT_LISTEN_HOST: loopback,
      SALLYPORT_LISTEN_PORT: String(ports.api),
      SALLYPORT_PUBLIC_URL: `http://${loopback}:${ports.api}`,
      SALLYPORT_NODES_URL: entryUrlOf(ports),
      SALLYPORT_OPERATIONS_HOST: loopback,
      SALLYPORT_OPERATIONS_PORT: String(ports.apiOperations),
    },
    readiness: { url: `http://${loopback}:${ports.apiOperations}/readyz` },
  };
}

/** A node as production runs it; its data directory holds no secret that opens it. */
export function nodeProgram(topology: Topology, at: 0 | 1, joinToken: string): ChildProgram {
  const { directory, ports, secrets, environment } = topology;
  const name = nodeNames[at];
  const [port, operationsPort] = at === 0 ? [ports.node1, ports.node1Operations] : [ports.node2, ports.node2Operations];
  return {
    name,
    nodeArguments: [...withV8Options([]), beside('../../../data-plane/dist/main.js')],
    env: {
      ...environment.inherited,
      // Never the control plane's own: a node must not be able to read it.
      DATABASE_URL: topology.queueUrl,
      REDIS_URL: environment.redisUrl,
      SALLYPORT_CONTROL_PLANE_URL: `http://${loopback}:${ports.api}`,
      SALLYPORT_TRUSTED_PROXIES: loopback,
      SALLYPORT_NODE_NAME: name,
      SALLYPORT_NODE_SECRET: secrets.nodeSecrets[at],
      SALLYPORT_DATA_DIRECTORY: join(directory.root, 'nodes', name),
      SALLYPORT_JOIN_TOKEN: joinToken,
      SALLYPORT_DRAIN_TIMEOUT_MS: drainTimeoutMs,
      SALLYPORT_EGRESS_ALLOW: egressAllowance(ports),
      SALLYPORT_LISTEN_HOST: loopback,
      SALLYPORT_LISTEN_PORT: String(port),
      SALLYPORT_OPERATIONS_HOST: loopback,
      SALLYPORT_OPERATIONS_PORT: String(operationsPort),
    },
    readiness: { url: `http://${loopback}:${operationsPort}/readyz` },
  };
}

/** The third-party server and our own. Neither sees a variable of this process: one of them has a tool that shows them. */
export function examplePrograms(ports: Ports): readonly ChildProgram[] {
  return [
    {
      name: 'example-everything',
      nodeArguments: [
        `--import=${new URL('./end-with-parent.js', import.meta.url).href}`,
        resolved('@modelcontextprotocol/server-everything/dist/index.js'),
        'streamableHttp',
      ],
      env: { PORT: String(ports.everything) },
      readiness: { url: everythingUrlOf(ports), anyStatus: true },
    },
    {
      name: 'example-modern',
      nodeArguments: [beside('./example-server.js'), String(ports.example)],
      env: {},
      readiness: { url: exampleUrlOf(ports), anyStatus: true },
    },
  ];
}
