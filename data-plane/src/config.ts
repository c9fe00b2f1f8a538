import { existsSync } from 'node:fs';
import { availableParallelism, hostname } from 'node:os';
import { BlockList } from 'node:net';
import {
  type EgressProxy,
  egressProxyVariables,
  parseEgressAllowList,
  parseEgressProxy,
  parseTrustedProxies,
  type QueueBackend,
} from '@sallyport/schema/platform';
import { syncPath } from '@sallyport/schema';
import { z } from 'zod';
import type { AccessRules } from './mcp/origin.ts';
import type { ListenerLimits } from './server.ts';

const truth = z.enum(['true', 'false']).transform((text) => text === 'true');
const port = z.coerce.number().int().min(0).max(65_535);
const readableFile = z.string().refine((path) => existsSync(path), 'names a file that does not exist');
const count = (smallest: number, largest: number) => z.coerce.number().int().min(smallest).max(largest);
const list = z
  .string()
  .default('')
  .transform((text) => text.split(',').flatMap((part) => (part.trim() === '' ? [] : [part.trim().toLowerCase()])));

const mebibyte = 1024 * 1024;

/** Every variable of the environment, in the order `--help` prints them. */
const environment = z.object({
  SALLYPORT_CONTROL_PLANE_URL: z
    .url({ protocol: /^(https?|wss?)$/, error: 'must be an http(s) or ws(s) URL' })
    .describe('The control plane, such as https://control.example.com; the sync path is added.'),
  SALLYPORT_NODE_SECRET: z
    .string()
    .min(32, 'must have at least 32 characters')
    .describe('Seals what lies in the data directory: at least 32 characters, kept outside of it.'),
  SALLYPORT_JOIN_TOKEN: z.string().optional().describe('Lets the node join; needed until it has joined once.'),
  SALLYPORT_DATA_DIRECTORY: z
    .string()
    .min(1)
    .default('./data')
    .describe('Identity, last known good configuration and audit spool. Must outlive the process; one node each.'),
  SALLYPORT_NODE_NAME: z.string().min(1).max(128).default(hostname()).describe('How the node is shown.'),
  SALLYPORT_WORKERS: count(1, 64)
    .default(1)
    .describe(
      'Processes that share the port, a core each (also --workers N). Each is a node to the control plane, with the ' +
        'limits given here, its own directory and one use of the join token. Needs Linux or FreeBSD.',
    ),
  SALLYPORT_NODE_LABELS: z
    .string()
    .default('')
    .transform((text) => text.split(',').filter((part) => part.trim() !== ''))
    .pipe(z.array(z.string().regex(/^[^=]+=[^=]*$/, 'must be name=value, comma-separated')))
    .transform((pairs) => Object.fromEntries(pairs.map((pair) => pair.split('=').map((part) => part.trim()))))
    .pipe(z.record(z.string(), z.string()))
    .describe('Labels of the node: name=value, comma-separated.'),
  REDIS_URL: z
    .string()
    .regex(/^rediss?:\/\/\S+$/, 'must be a redis:// or rediss:// URL')
    .optional()
    .describe('Redis for the queues.'),
  DATABASE_URL: z
    .string()
    .regex(/^postgres(ql)?:\/\/\S+$/, 'must be a postgres:// URL')
    .optional()
    .describe('Without Redis: PostgreSQL for the queues, under a role that owns the queue schema alone.'),
  SALLYPORT_LISTEN_HOST: z.string().min(1).default('127.0.0.1').describe('Address of the MCP endpoints.'),
  SALLYPORT_LISTEN_PORT: port.default(8080).describe('Port of the MCP endpoints; 0 for any free one.'),
  SALLYPORT_TLS_CERT_FILE: readableFile.optional().describe('Certificate chain, PEM.'),
  SALLYPORT_TLS_KEY_FILE: readableFile.optional().describe('Private key of the certificate, PEM.'),
  SALLYPORT_TLS_TERMINATED_BY_PROXY: truth
    .default(false)
    .describe('true: a proxy in front speaks TLS, so plain HTTP may be served on other addresses than loopback.'),
  SALLYPORT_PUBLIC_HOSTS: list.describe(
    'Names clients call the node by: host (any port) or host:port, comma-separated. Loopback names where it listens there.',
  ),
  SALLYPORT_ALLOWED_ORIGINS: list.describe(
    'Web origins that may call the node besides its own names: scheme://host[:port], comma-separated.',
  ),
  SALLYPORT_TRUSTED_PROXIES: list.describe(
    'Addresses or CIDRs of proxies whose X-Forwarded-For is believed, comma-separated.',
  ),
  SALLYPORT_OPERATIONS_HOST: z
    .string()
    .min(1)
    .default('127.0.0.1')
    .describe('Address of /metrics, /healthz and /readyz.'),
  SALLYPORT_OPERATIONS_PORT: port.default(8081).describe('Port of /metrics, /healthz and /readyz; 0 for any.'),
  SALLYPORT_PEER_HOST: z
    .string()
    .min(1)
    .default('127.0.0.1')
    .describe('Address for the other nodes of the fleet; TLS with certificates that the control plane names.'),
  SALLYPORT_PEER_PORT: port.default(0).describe('Port for the other nodes; 0 for any free one.'),
  SALLYPORT_PEER_URL: z
    .url({ protocol: /^https$/, error: 'must be an https URL' })
    .optional()
    .describe('Where the other nodes reach this one, such as https://10.0.3.7:8082; default its host and port.'),
  SALLYPORT_EGRESS_ALLOW: z
    .string()
    .default('')
    .describe('Private addresses that may be dialled: CIDR and port, comma-separated, such as 10.1.0.0/16:443.'),
  ...egressProxyVariables,
  SALLYPORT_AUDIT_SPOOL_BYTES_MAX: count(16 * mebibyte, 1024 ** 4)
    .default(1024 * mebibyte)
    .describe('Size of the audit spool on disk, in bytes.'),
  SALLYPORT_PAYLOAD_SPOOL_BYTES_MAX: count(4 * mebibyte, 1024 ** 4)
    .default(1024 * mebibyte)
    .describe('Size of the spool of captured payloads on disk, in bytes; what finds no room there is told as lost.'),
  SALLYPORT_PAYLOAD_MEMORY_BYTES_MAX: count(mebibyte, 1024 ** 4)
    .default(64 * mebibyte)
    .describe('Messages held in memory until they are sealed, those of open streams included, in bytes.'),
  SALLYPORT_REQUEST_HEADER_BYTES_MAX: count(8 * 1024, mebibyte)
    .default(32 * 1024)
    .describe('Header block of a request, in bytes.'),
  SALLYPORT_REQUEST_HEADERS_TIMEOUT_MS: count(100, 600_000)
    .default(10_000)
    .describe('How long a header block may take to arrive, in milliseconds.'),
  SALLYPORT_REQUEST_BODY_TIMEOUT_MS: count(100, 600_000)
    .default(30_000)
    .describe('How long a body may take to arrive, in milliseconds.'),
  SALLYPORT_REQUEST_BODIES_BYTES_MAX: count(mebibyte, 1024 ** 4)
    .default(256 * mebibyte)
    .describe('Request bodies held at once, in bytes; more are answered with 503.'),
  SALLYPORT_CONNECTIONS_MAX: count(1, 1_000_000).default(20_000).describe('Client connections at once.'),
  SALLYPORT_CONNECTION_IDLE_TIMEOUT_MS: count(1_000, 3_600_000)
    .default(75_000)
    .describe('How long an idle client connection is kept, in milliseconds; longer than the load balancer does.'),
  SALLYPORT_EXCHANGES_MAX: count(1, 1_000_000)
    .default(10_000)
    .describe(
      'Exchanges under way at once; more are answered with 503. Streams that clients listen on take half of them at most.',
    ),
  SALLYPORT_UPSTREAM_CONNECTIONS_MAX: count(1, 100_000)
    .default(8_192)
    .describe('Connections to one upstream at once; a stream holds one.'),
  SALLYPORT_DECISION_CACHE_BYTES_MAX: count(mebibyte, 1024 ** 4)
    .default(64 * mebibyte)
    .describe('Memory for remembered decisions, in bytes.'),
  SALLYPORT_HTTP_ENGINE: z
    .enum(['wire', 'libraries'])
    .default('wire')
    .describe('What speaks HTTP to clients and upstreams: wire, the node itself; libraries, node:http and undici.'),
  SALLYPORT_INSPECTION_THREADS: count(1, 64)
    .optional()
    .describe(
      'Threads that inspect long texts; default one less than the processors, at most 4; with several workers, their share of that.',
    ),
  SALLYPORT_DRAIN_TIMEOUT_MS: count(0, 3_600_000)
    .default(15_000)
    .describe('How long a stopping node lets exchanges end and the spool be confirmed, in milliseconds.'),
  SALLYPORT_LOG_LEVEL: z
    .enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal'])
    .default('info')
    .describe('trace, debug, info, warn, error or fatal.'),
});
type Environment = z.infer<typeof environment>;

export interface NodeConfig {
  readonly syncUrl: string;
  readonly nodeSecret: string;
  readonly joinToken: string | null;
  readonly dataDirectory: string;
  readonly name: string;
  readonly workers: number;
  /** Which of several workers this is, from 1; null for a node that runs alone. */
  readonly worker: number | null;
  readonly labels: Readonly<Record<string, string>>;
  readonly queues: QueueBackend;
  /** `shared`: other processes of this program listen on the same port. */
  readonly listen: { readonly host: string; readonly port: number; readonly shared: boolean };
  readonly tls: { readonly certFile: string; readonly keyFile: string } | undefined;
  readonly access: AccessRules;
  readonly trustedProxies: BlockList;
  readonly operations: { readonly host: string; readonly port: number };
  /** `url` null: the address and port listened on. */
  readonly peer: { readonly host: string; readonly port: number; readonly url: string | null };
  readonly egressAllow: ReturnType<typeof parseEgressAllowList>['allow'];
  /** Undefined: connections are direct. */
  readonly egressProxy: EgressProxy | undefined;
  readonly listener: ListenerLimits;
  readonly auditSpoolBytesMax: number;
  readonly payloadSpoolBytesMax: number;
  readonly payloadMemoryBytesMax: number;
  readonly exchangesMax: number;
  readonly upstreamConnectionsMax: number;
  readonly decisionCacheBytesMax: number;
  readonly httpEngine: 'wire' | 'libraries';
  readonly inspectionThreads: number;
  readonly drainTimeoutMs: number;
  readonly logLevel: string;
}

export type ParsedConfig =
  | { readonly ok: true; readonly config: NodeConfig }
  | { readonly ok: false; readonly problems: readonly string[] };

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(host);
}

/** Problems between variables, which only show when each is right in itself. */
function crossProblems(env: Environment): string[] {
  const problems: string[] = [];
  const hasCert = env.SALLYPORT_TLS_CERT_FILE !== undefined;
  const loopback = isLoopback(env.SALLYPORT_LISTEN_HOST);
  if (hasCert !== (env.SALLYPORT_TLS_KEY_FILE !== undefined)) {
    problems.push('SALLYPORT_TLS_CERT_FILE and SALLYPORT_TLS_KEY_FILE belong together: set both or none');
  }
  if (!loopback && !hasCert && !env.SALLYPORT_TLS_TERMINATED_BY_PROXY) {
    problems.push(
      `SALLYPORT_LISTEN_HOST: ${env.SALLYPORT_LISTEN_HOST} is not loopback, so TLS is needed: set ` +
        'SALLYPORT_TLS_CERT_FILE and SALLYPORT_TLS_KEY_FILE, or SALLYPORT_TLS_TERMINATED_BY_PROXY=true',
    );
  }
  if (!loopback && env.SALLYPORT_PUBLIC_HOSTS.length === 0) {
    problems.push('SALLYPORT_PUBLIC_HOSTS: is required where the node does not listen on loopback');
  }
  if (/^(0\.0\.0\.0|::)$/.test(env.SALLYPORT_PEER_HOST) && env.SALLYPORT_PEER_URL === undefined) {
    problems.push('SALLYPORT_PEER_URL: is required where SALLYPORT_PEER_HOST names no address in particular');
  }
  if (env.SALLYPORT_WORKERS > 1 && env.SALLYPORT_PEER_URL !== undefined) {
    const isFixed = env.SALLYPORT_PEER_PORT > 0 && new URL(env.SALLYPORT_PEER_URL).port !== '';
    if (!isFixed) {
      problems.push(
        'SALLYPORT_PEER_URL: with several workers, it and SALLYPORT_PEER_PORT must name ports, from which on each worker has one',
      );
    }
  }
  const controlPlane = new URL(env.SALLYPORT_CONTROL_PLANE_URL);
  if (/^(http|ws):$/.test(controlPlane.protocol) && !isLoopback(controlPlane.hostname)) {
    problems.push('SALLYPORT_CONTROL_PLANE_URL: must be https or wss unless it is on loopback');
  }
  if (env.REDIS_URL === undefined && env.DATABASE_URL === undefined) {
    problems.push('REDIS_URL or DATABASE_URL is required: the queues live in one of them');
  }
  if (parseTrustedProxies(env.SALLYPORT_TRUSTED_PROXIES) === undefined) {
    problems.push('SALLYPORT_TRUSTED_PROXIES: must be addresses or CIDRs, such as 10.0.0.0/8');
  }
  for (const problem of parseEgressAllowList(env.SALLYPORT_EGRESS_ALLOW).problems) {
    problems.push(`SALLYPORT_EGRESS_ALLOW: ${problem}`);
  }
  problems.push(...parseEgressProxy(env).problems);
  return problems;
}

/** Reads the configuration, or says everything that is wrong with it at once. Values never appear in problems. */
export function parseConfig(env: Readonly<Record<string, string | undefined>>): ParsedConfig {
  // An empty variable is how many orchestrators write "not set".
  const given = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== undefined && value !== ''));
  const parsed = environment.safeParse(given);
  const problems = parsed.success
    ? crossProblems(parsed.data)
    : parsed.error.issues.map((issue) => {
        const name = String(issue.path[0]);
        return given[name] === undefined ? `${name}: is required` : `${name}: ${issue.message}`;
      });
  if (!parsed.success || problems.length > 0) return { ok: false, problems };
  return { ok: true, config: Object.freeze(configOf(parsed.data)) };
}

function configOf(env: Environment): NodeConfig {
  const { SALLYPORT_TLS_CERT_FILE: certFile, SALLYPORT_TLS_KEY_FILE: keyFile } = env;
  const own = isLoopback(env.SALLYPORT_LISTEN_HOST) ? ['localhost', '127.0.0.1', '[::1]'] : [];
  return {
    syncUrl: syncUrlOf(env.SALLYPORT_CONTROL_PLANE_URL),
    nodeSecret: env.SALLYPORT_NODE_SECRET,
    joinToken: env.SALLYPORT_JOIN_TOKEN ?? null,
    dataDirectory: env.SALLYPORT_DATA_DIRECTORY,
    name: env.SALLYPORT_NODE_NAME,
    workers: env.SALLYPORT_WORKERS,
    worker: null,
    labels: env.SALLYPORT_NODE_LABELS,
    queues: env.REDIS_URL === undefined ? { databaseUrl: env.DATABASE_URL ?? '' } : { redisUrl: env.REDIS_URL },
    listen: { host: env.SALLYPORT_LISTEN_HOST, port: env.SALLYPORT_LISTEN_PORT, shared: false },
    tls: certFile === undefined || keyFile === undefined ? undefined : { certFile, keyFile },
    access: {
      publicHosts: new Set([...own, ...env.SALLYPORT_PUBLIC_HOSTS]),
      allowedOrigins: new Set(env.SALLYPORT_ALLOWED_ORIGINS),
    },
    trustedProxies: parseTrustedProxies(env.SALLYPORT_TRUSTED_PROXIES) ?? new BlockList(),
    operations: { host: env.SALLYPORT_OPERATIONS_HOST, port: env.SALLYPORT_OPERATIONS_PORT },
    peer: {
      host: env.SALLYPORT_PEER_HOST,
      port: env.SALLYPORT_PEER_PORT,
      url: env.SALLYPORT_PEER_URL ?? null,
    },
    egressAllow: parseEgressAllowList(env.SALLYPORT_EGRESS_ALLOW).allow,
    egressProxy: parseEgressProxy(env).proxy,
    listener: {
      requestHeaderBytesMax: env.SALLYPORT_REQUEST_HEADER_BYTES_MAX,
      requestHeadersTimeoutMs: env.SALLYPORT_REQUEST_HEADERS_TIMEOUT_MS,
      requestBodyTimeoutMs: env.SALLYPORT_REQUEST_BODY_TIMEOUT_MS,
      requestBodiesBytesMax: env.SALLYPORT_REQUEST_BODIES_BYTES_MAX,
      connectionsMax: env.SALLYPORT_CONNECTIONS_MAX,
      connectionIdleTimeoutMs: env.SALLYPORT_CONNECTION_IDLE_TIMEOUT_MS,
    },
    auditSpoolBytesMax: env.SALLYPORT_AUDIT_SPOOL_BYTES_MAX,
    payloadSpoolBytesMax: env.SALLYPORT_PAYLOAD_SPOOL_BYTES_MAX,
    payloadMemoryBytesMax: env.SALLYPORT_PAYLOAD_MEMORY_BYTES_MAX,
    exchangesMax: env.SALLYPORT_EXCHANGES_MAX,
    upstreamConnectionsMax: env.SALLYPORT_UPSTREAM_CONNECTIONS_MAX,
    decisionCacheBytesMax: env.SALLYPORT_DECISION_CACHE_BYTES_MAX,
    httpEngine: env.SALLYPORT_HTTP_ENGINE,
    inspectionThreads: env.SALLYPORT_INSPECTION_THREADS ?? inspectionThreadsOf(env.SALLYPORT_WORKERS),
    drainTimeoutMs: env.SALLYPORT_DRAIN_TIMEOUT_MS,
    logLevel: env.SALLYPORT_LOG_LEVEL,
  };
}

function inspectionThreadsOf(workers: number): number {
  return Math.min(4, Math.max(1, Math.floor((availableParallelism() - 1) / workers)));
}

/** The WebSocket of the control plane: the path is added to a URL that has none. */
function syncUrlOf(controlPlaneUrl: string): string {
  const url = new URL(controlPlaneUrl);
  url.protocol = url.protocol.replace(/^http/, 'ws');
  if (url.pathname === '/') url.pathname = syncPath;
  return url.href;
}

/** The configuration of this process's environment. @param flags what stands above it, from the command line */
export function readConfig(flags: Readonly<Record<string, string>> = {}): ParsedConfig {
  return parseConfig({ ...process.env, ...flags });
}

/** The configuration as it may be logged. */
export function redactedConfig(config: NodeConfig): Record<string, unknown> {
  return {
    ...config,
    nodeSecret: '[redacted]',
    joinToken: config.joinToken === null ? null : '[redacted]',
    queues: 'redisUrl' in config.queues ? 'redis' : 'postgresql',
    access: {
      publicHosts: [...config.access.publicHosts],
      allowedOrigins: [...config.access.allowedOrigins],
    },
    trustedProxies: config.trustedProxies.rules,
    egressAllow: config.egressAllow.length,
  };
}

/** What `--help` prints: each variable, what it means, and its default. */
export function configHelp(): string {
  const lines = Object.entries(environment.shape).map(([name, schema]) => {
    const absent = schema.safeParse(undefined);
    const value: unknown = absent.success ? absent.data : undefined;
    const fallback = ['string', 'number', 'boolean'].includes(typeof value)
      ? JSON.stringify(value).replaceAll('"', '')
      : '';
    const need = absent.success ? (fallback === '' ? 'optional' : `default ${fallback}`) : 'required';
    return `  ${name} (${need})\n      ${schema.description ?? ''}`;
  });
  return `A data-plane node of Sallyport. It is configured by environment variables:\n\n${lines.join('\n')}\n`;
}
