import { existsSync, readFileSync } from 'node:fs';
import type { BlockList } from 'node:net';
import { publicUrlSchema } from '@sallyport/schema';
import {
  type EgressProxy,
  egressProxyVariables,
  parseEgressAllowList,
  parseEgressProxy,
  parseTrustedProxies,
} from '@sallyport/schema/platform';
import { z } from 'zod';
import type { KeySettings } from './credentials/create-key-provider.ts';
import { parseKeyFile } from './credentials/key-provider.ts';
import type { PublicUrls } from './fleet/compile-snapshot.ts';
import type { RequestRates } from './request-limits.ts';

const truth = z.enum(['true', 'false']).transform((text) => text === 'true');
const port = z.coerce.number().int().min(0).max(65_535);
const rate = z.coerce.number().int().min(1).max(100_000);
const databaseUrl = z.string().regex(/^postgres(ql)?:\/\/\S+$/, 'must be a postgres:// URL');
const readableFile = z.string().refine((path) => existsSync(path), 'names a file that does not exist');
const pathName = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$/, 'must be a name, such as sallyport');
const processRoles = ['api', 'worker'] as const;

/** Every variable of the environment, in the order `--help` prints them. */
const environment = z.object({
  DATABASE_URL: databaseUrl.describe('PostgreSQL 15 or newer, as postgres://user:password@host:port/database.'),
  REDIS_URL: z
    .string()
    .regex(/^rediss?:\/\/\S+$/, 'must be a redis:// or rediss:// URL')
    .optional()
    .describe('Redis 6.2 or newer for the queues; without it they live in PostgreSQL.'),
  SALLYPORT_SECRET_KEY: z
    .string()
    .min(32, 'must have at least 32 characters')
    .describe('Seals keys at rest: at least 32 characters, kept outside the database and its backups.'),
  SALLYPORT_CREDENTIAL_KEY_FILE: readableFile
    .optional()
    .describe(
      'Seals credentials toward upstreams: a file with a line for each key, an id and 32 bytes in base64, the first of ' +
        'which seals. Without it or SALLYPORT_TRANSIT_URL no credential can be stored.',
    ),
  SALLYPORT_TRANSIT_URL: z
    .url({ protocol: /^https?$/ })
    .optional()
    .describe('Seals them by the transit engine of a HashiCorp Vault or OpenBao instead, such as https://vault:8200.'),
  SALLYPORT_TRANSIT_KEY: pathName.default('sallyport').describe('Name of the key in the transit engine.'),
  SALLYPORT_TRANSIT_MOUNT: pathName.default('transit').describe('Where the transit engine is mounted.'),
  SALLYPORT_TRANSIT_NAMESPACE: z.string().min(1).optional().describe('Namespace of the transit engine.'),
  SALLYPORT_TRANSIT_TOKEN_FILE: readableFile
    .optional()
    .describe('Holds the token for the transit engine; read for each request, so an agent may renew it.'),
  SALLYPORT_ROLES: z
    .string()
    .default('api,worker')
    .transform((text) => text.split(',').map((role) => role.trim()))
    .pipe(z.array(z.enum(processRoles)).min(1))
    .describe('What this process does: api, worker, or both (api,worker).'),
  SALLYPORT_LISTEN_HOST: z.string().min(1).default('127.0.0.1').describe('Address of GraphQL and node sync.'),
  SALLYPORT_LISTEN_PORT: port.default(4000).describe('Port of GraphQL and node sync; 0 for any free one.'),
  SALLYPORT_TLS_CERT_FILE: readableFile.optional().describe('Certificate chain, PEM.'),
  SALLYPORT_TLS_KEY_FILE: readableFile.optional().describe('Private key of the certificate, PEM.'),
  SALLYPORT_TLS_TERMINATED_BY_PROXY: truth
    .default(false)
    .describe('true: a proxy in front speaks TLS, so plain HTTP may be served on other addresses than loopback.'),
  SALLYPORT_PUBLIC_URL: publicUrlSchema
    .optional()
    .describe(
      'Where browsers and clients reach this control plane, such as https://control.example.com: the OAuth issuer. ' +
        'With SALLYPORT_NODES_URL it turns the authorization server on; the same on every replica.',
    ),
  SALLYPORT_NODES_URL: publicUrlSchema
    .optional()
    .describe('Where clients reach the nodes, such as https://mcp.example.com: access tokens are for URLs under it.'),
  SALLYPORT_TRUSTED_PROXIES: z
    .string()
    .default('')
    .transform((text) => text.split(',').flatMap((part) => (part.trim() === '' ? [] : [part.trim()])))
    .describe('Addresses or CIDRs of proxies whose X-Forwarded-For is believed, comma-separated.'),
  SALLYPORT_NETWORK_REQUESTS_PER_SECOND: rate
    .default(50)
    .describe(
      'Requests to the OAuth and SCIM endpoints that one network may send, a second; sixty times as many at once.',
    ),
  SALLYPORT_HOLDER_REQUESTS_PER_SECOND: rate
    .default(20)
    .describe(
      'Tokens for one client and user, and requests of one SCIM directory, a second; sixty times as many at once.',
    ),
  SALLYPORT_OPERATIONS_HOST: z
    .string()
    .min(1)
    .default('127.0.0.1')
    .describe('Address of /metrics, /healthz and /readyz.'),
  SALLYPORT_OPERATIONS_PORT: port.default(4001).describe('Port of /metrics, /healthz and /readyz; 0 for any.'),
  SALLYPORT_BOOTSTRAP_TOKEN: z
    .string()
    .min(32, 'must have at least 32 characters')
    .optional()
    .describe(
      'Opens the bootstrap mutation once, within 24 hours of the first start with it, while there is no owner. ' +
        'Without it a token is made and logged.',
    ),
  SALLYPORT_EGRESS_ALLOW: z
    .string()
    .default('')
    .describe('Private addresses that may be dialled: CIDR and port, comma-separated, such as 10.1.0.0/16:443.'),
  ...egressProxyVariables,
  SALLYPORT_DATABASE_CONNECTIONS_MAX: z.coerce
    .number()
    .int()
    .min(2)
    .max(500)
    .default(10)
    .describe('Connections per pool; a process has two pools.'),
  SALLYPORT_DRAIN_TIMEOUT_MS: z.coerce
    .number()
    .int()
    .min(0)
    .max(600_000)
    .default(15_000)
    .describe('How long a stopping process lets requests end, in milliseconds.'),
  SALLYPORT_LOG_LEVEL: z
    .enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal'])
    .default('info')
    .describe('trace, debug, info, warn, error or fatal.'),
});

function readBuild(): string {
  const text = readFileSync(new URL('../package.json', import.meta.url), 'utf8');
  return z.looseObject({ version: z.string() }).parse(JSON.parse(text)).version;
}

export interface ControlPlaneConfig {
  /** Of this program, as others are told. */
  readonly build: string;
  readonly databaseUrl: string;
  readonly databaseConnectionsMax: number;
  readonly redisUrl: string | undefined;
  readonly secretKey: string;
  /** Undefined: credentials cannot be stored. */
  readonly credentialKeys: KeySettings | undefined;
  readonly roles: readonly (typeof processRoles)[number][];
  readonly listen: { readonly host: string; readonly port: number };
  readonly tls: { readonly certFile: string; readonly keyFile: string } | undefined;
  /** Undefined: no authorization server. */
  readonly publicUrls: PublicUrls | undefined;
  /** Undefined: a proxy is in front and not named, so nobody's address can be told. */
  readonly trustedProxies: BlockList | undefined;
  readonly requestRates: RequestRates;
  readonly operations: { readonly host: string; readonly port: number };
  readonly bootstrapToken: string | undefined;
  readonly egressAllow: ReturnType<typeof parseEgressAllowList>['allow'];
  /** Undefined: connections are direct. */
  readonly egressProxy: EgressProxy | undefined;
  readonly drainTimeoutMs: number;
  readonly logLevel: string;
}

export type ParsedConfig =
  | { readonly ok: true; readonly config: ControlPlaneConfig }
  | { readonly ok: false; readonly problems: readonly string[] };

export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(host);
}

type Environment = z.infer<typeof environment>;

/** Problems between variables; one that is wrong in itself is absent here and told elsewhere. */
function crossProblems(env: Partial<Environment>): string[] {
  const problems: string[] = [];
  const hasCert = env.SALLYPORT_TLS_CERT_FILE !== undefined;
  if (hasCert !== (env.SALLYPORT_TLS_KEY_FILE !== undefined)) {
    problems.push('SALLYPORT_TLS_CERT_FILE and SALLYPORT_TLS_KEY_FILE belong together: set both or none');
  }
  if ((env.SALLYPORT_PUBLIC_URL === undefined) !== (env.SALLYPORT_NODES_URL === undefined)) {
    problems.push('SALLYPORT_PUBLIC_URL and SALLYPORT_NODES_URL belong together: set both or none');
  }
  if (env.SALLYPORT_PUBLIC_URL !== undefined && new URL(env.SALLYPORT_PUBLIC_URL).pathname !== '/') {
    problems.push('SALLYPORT_PUBLIC_URL: must be an origin without a path, such as https://control.example.com');
  }
  const host = env.SALLYPORT_LISTEN_HOST;
  if (host !== undefined && !isLoopback(host) && !hasCert && env.SALLYPORT_TLS_TERMINATED_BY_PROXY === false) {
    problems.push(
      `SALLYPORT_LISTEN_HOST: ${host} is not loopback, so TLS is needed: set ` +
        'SALLYPORT_TLS_CERT_FILE and SALLYPORT_TLS_KEY_FILE, or SALLYPORT_TLS_TERMINATED_BY_PROXY=true',
    );
  }
  if (parseTrustedProxies(env.SALLYPORT_TRUSTED_PROXIES ?? []) === undefined) {
    problems.push('SALLYPORT_TRUSTED_PROXIES: must be addresses or CIDRs, such as 10.0.0.0/8');
  }
  problems.push(...credentialKeyProblems(env));
  for (const problem of parseEgressAllowList(env.SALLYPORT_EGRESS_ALLOW ?? '').problems) {
    problems.push(`SALLYPORT_EGRESS_ALLOW: ${problem}`);
  }
  problems.push(...parseEgressProxy(env).problems);
  return problems;
}

function credentialKeyProblems(env: Partial<Environment>): string[] {
  const file = env.SALLYPORT_CREDENTIAL_KEY_FILE;
  const url = env.SALLYPORT_TRANSIT_URL;
  if (file !== undefined && url !== undefined) {
    return ['SALLYPORT_CREDENTIAL_KEY_FILE and SALLYPORT_TRANSIT_URL are both set: choose one'];
  }
  if ((url === undefined) !== (env.SALLYPORT_TRANSIT_TOKEN_FILE === undefined)) {
    return ['SALLYPORT_TRANSIT_URL and SALLYPORT_TRANSIT_TOKEN_FILE belong together: set both or none'];
  }
  if (url?.startsWith('http:') === true && !isLoopback(new URL(url).hostname)) {
    return ['SALLYPORT_TRANSIT_URL: must start with https://, since keys travel over it'];
  }
  const parsed = file === undefined ? undefined : parseKeyFile(readFileSync(file, 'utf8'));
  return parsed !== undefined && 'problem' in parsed ? [`SALLYPORT_CREDENTIAL_KEY_FILE: ${parsed.problem}`] : [];
}

function credentialKeysOf(env: Environment): KeySettings | undefined {
  const {
    SALLYPORT_CREDENTIAL_KEY_FILE: file,
    SALLYPORT_TRANSIT_URL: url,
    SALLYPORT_TRANSIT_TOKEN_FILE: tokenFile,
  } = env;
  if (file !== undefined) return { file };
  if (url === undefined || tokenFile === undefined) return undefined;
  const { SALLYPORT_TRANSIT_KEY: keyName, SALLYPORT_TRANSIT_MOUNT: mount } = env;
  return { url, tokenFile, keyName, mount, namespace: env.SALLYPORT_TRANSIT_NAMESPACE };
}

/** The variables that are right, each by itself. */
function readable(given: Readonly<Record<string, unknown>>): Partial<Environment> {
  const entries = Object.entries(environment.shape).flatMap(([name, schema]) => {
    const parsed = schema.safeParse(given[name]);
    return parsed.success ? [[name, parsed.data]] : [];
  });
  return Object.fromEntries(entries) as Partial<Environment>;
}

/** Reads the configuration, or says everything that is wrong with it at once. Values never appear in problems. */
export function parseConfig(env: Readonly<Record<string, string | undefined>>): ParsedConfig {
  // An empty variable is how many orchestrators write "not set".
  const given = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== undefined && value !== ''));
  const parsed = environment.safeParse(given);
  const problems = (parsed.error?.issues ?? []).map((issue) => {
    const name = String(issue.path[0]);
    return given[name] === undefined ? `${name}: is required` : `${name}: ${issue.message}`;
  });
  problems.push(...crossProblems(readable(given)));
  if (!parsed.success || problems.length > 0) return { ok: false, problems };
  const data = parsed.data;
  const { SALLYPORT_TLS_CERT_FILE: certFile, SALLYPORT_TLS_KEY_FILE: keyFile } = data;
  const { SALLYPORT_PUBLIC_URL: issuer, SALLYPORT_NODES_URL: nodesUrl } = data;
  const config: ControlPlaneConfig = {
    build: readBuild(),
    databaseUrl: data.DATABASE_URL,
    databaseConnectionsMax: data.SALLYPORT_DATABASE_CONNECTIONS_MAX,
    redisUrl: data.REDIS_URL,
    secretKey: data.SALLYPORT_SECRET_KEY,
    credentialKeys: credentialKeysOf(data),
    roles: data.SALLYPORT_ROLES,
    listen: { host: data.SALLYPORT_LISTEN_HOST, port: data.SALLYPORT_LISTEN_PORT },
    tls: certFile === undefined || keyFile === undefined ? undefined : { certFile, keyFile },
    publicUrls: issuer === undefined || nodesUrl === undefined ? undefined : { issuer, nodesUrl },
    trustedProxies:
      data.SALLYPORT_TLS_TERMINATED_BY_PROXY && data.SALLYPORT_TRUSTED_PROXIES.length === 0
        ? undefined
        : parseTrustedProxies(data.SALLYPORT_TRUSTED_PROXIES),
    requestRates: {
      networkPerSecond: data.SALLYPORT_NETWORK_REQUESTS_PER_SECOND,
      holderPerSecond: data.SALLYPORT_HOLDER_REQUESTS_PER_SECOND,
    },
    operations: { host: data.SALLYPORT_OPERATIONS_HOST, port: data.SALLYPORT_OPERATIONS_PORT },
    bootstrapToken: data.SALLYPORT_BOOTSTRAP_TOKEN,
    egressAllow: parseEgressAllowList(data.SALLYPORT_EGRESS_ALLOW).allow,
    egressProxy: parseEgressProxy(data).proxy,
    drainTimeoutMs: data.SALLYPORT_DRAIN_TIMEOUT_MS,
    logLevel: data.SALLYPORT_LOG_LEVEL,
  };
  return { ok: true, config: Object.freeze(config) };
}

/** The configuration of this process's environment. */
export function readConfig(): ParsedConfig {
  return parseConfig(process.env);
}

function withoutPassword(url: string): string {
  const parsed = new URL(url);
  if (parsed.password !== '') parsed.password = 'redacted';
  return parsed.href;
}

/** The configuration as it may be logged. */
export function redactedConfig(config: ControlPlaneConfig): Record<string, unknown> {
  return {
    ...config,
    databaseUrl: withoutPassword(config.databaseUrl),
    redisUrl: config.redisUrl === undefined ? undefined : withoutPassword(config.redisUrl),
    secretKey: '[redacted]',
    trustedProxies: config.trustedProxies?.rules,
    bootstrapToken: config.bootstrapToken === undefined ? undefined : '[redacted]',
  };
}

/** What `--help` prints: each variable, what it means, and its default. */
export function configHelp(): string {
  const lines = Object.entries(environment.shape).map(([name, schema]) => {
    const absent = schema.safeParse(undefined);
    const value = absent.success ? absent.data : undefined;
    const fallback = Array.isArray(value) ? value.join(',') : value === undefined ? '' : String(value);
    const need = absent.success ? (fallback === '' ? 'optional' : `default ${fallback}`) : 'required';
    return `  ${name} (${need})\n      ${schema.description ?? ''}`;
  });
  return `The Sallyport control plane. It is configured by environment variables:\n\n${lines.join('\n')}\n`;
}
