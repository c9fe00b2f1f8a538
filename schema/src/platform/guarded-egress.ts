import { lookup as systemLookup, type LookupAddress } from 'node:dns';
import { isIP, type LookupFunction, type Socket } from 'node:net';
import { callbackify } from 'node:util';
import { buildConnector, fetch as undiciFetch, Pool } from 'undici';
import { AppError } from '../errors.ts';
import {
  type Cidr,
  cidrContains,
  classifyAddress,
  formatIpAddress,
  type IpAddress,
  isMetadataRange,
  parseCidr,
  parseIpAddress,
} from '../ip-address.ts';
import { bareHostname, portOf } from './dialled-host.ts';
import { type EgressProxy, isBypassed, isMetadataName, isResolvedBy, openTunnel } from './egress-proxy.ts';

/** Opens addresses that the public Internet does not reach. Metadata addresses stay closed whatever it says. */
export interface EgressAllowance {
  readonly cidr: Cidr;
  /** Both inclusive. */
  readonly portFirst: number;
  readonly portLast: number;
}

/** Looks up all A and AAAA addresses of a host name; rejects when there are none. */
export type Resolve = (hostname: string) => Promise<readonly string[]>;

export interface EgressOptions {
  readonly allow: readonly EgressAllowance[];
  /** From the look-up to the end of the TLS handshake. */
  readonly connectTimeoutMs?: number;
  readonly connectionsPerOriginMax?: number;
  /** Wait for the response's headers, and for each next part of its body; 0 is no limit. */
  readonly headersTimeoutMs?: number;
  readonly bodyTimeoutMs?: number;
  /** The network's rim, for tests; default the system's resolver. */
  readonly resolve?: Resolve;
  /** Undefined: connections are direct. */
  readonly proxy?: EgressProxy | undefined;
}

export interface Egress {
  /**
   * The pool of connections to the URL's origin. Ask for it per request: one that nobody asked for lately is closed
   * when there are too many. Throws INVALID_INPUT for a URL that may never be dialled.
   */
  pool(url: URL): Pool;
  /**
   * Dials the URL's origin, TLS included, for whoever speaks HTTP himself: a function that gives a new connection each
   * time. Throws INVALID_INPUT for a URL that may never be dialled; dialling rejects with an AppError.
   */
  dialler(url: URL): () => Promise<Socket>;
  /**
   * `fetch` over the same pools. Never follows a redirect: one is an UPSTREAM_PROTOCOL error. Not for the hot path.
   */
  fetch(input: string | URL, init?: RequestInit): Promise<Response>;
  /**
   * Why the URL may not be registered, for its editor; undefined when it may. A host name that does not resolve here
   * passes, since another observer may resolve it: each dial checks again anyway. Where only `others` dial it, their
   * allow-lists decide; what is never allowed is refused all the same.
   */
  check(url: string, dialledBy?: 'here' | 'others'): Promise<string | undefined>;
  close(): Promise<void>;
}

export const egressDefaults = {
  connectTimeoutMs: 5_000,
  connectionsPerOriginMax: 256,
  headersTimeoutMs: 60_000,
  bodyTimeoutMs: 120_000,
} as const;

/** Pools kept; the one unused for longest gives way. Above the largest catalog, so that eviction is rare. */
const poolsMax = 4_096;
const urlLengthMax = 2_048;
const resolvedAddressesMax = 64;
/** Addresses of one host that a proxy is asked for, one after the other. */
const proxiedAddressesMax = 4;

function parsePorts(text: string): readonly [number, number] | undefined {
  const match = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(text);
  const first = Number(match?.[1]);
  const last = match?.[2] === undefined ? first : Number(match[2]);
  return match !== null && first >= 1 && first <= last && last <= 65_535 ? [first, last] : undefined;
}

function parseAllowance(text: string): EgressAllowance | string {
  const match = /^\[?([0-9a-fA-F:.]+?)\]?(?:\/(\d{1,3}))?\]?:([\d-]+)$/.exec(text);
  const address = match?.[1] === undefined ? undefined : parseIpAddress(match[1]);
  if (match === null || address === undefined) {
    return 'write CIDR:port or CIDR:first-last, such as 10.0.0.0/8:443 or [fd00::/8]:3000-4000';
  }
  const cidr = parseCidr(`${match[1]}/${match[2] ?? (address.family === 4 ? 32 : 128)}`);
  if (cidr === undefined) return `the prefix length /${match[2]} is too long`;
  if (cidr.base !== address.value) {
    return `has bits beyond its prefix; did you mean ${formatIpAddress({ ...address, value: cidr.base })}/${cidr.prefixLength}?`;
  }
  if (isMetadataRange(cidr)) return 'is a metadata address, which can never be allowed';
  const ports = parsePorts(match[3] ?? '');
  if (ports === undefined) return 'the port must be 1 to 65535, or a range first-last of such';
  return { cidr, portFirst: ports[0], portLast: ports[1] };
}

/**
 * Parses `127.0.0.0/8:3000-4000,[::1]:3000-4000,10.0.0.0/8:443`. Each problem names its entry and the mend; with any
 * problem the caller must refuse the whole list.
 */
export function parseEgressAllowList(text: string): {
  readonly allow: readonly EgressAllowance[];
  readonly problems: readonly string[];
} {
  const allow: EgressAllowance[] = [];
  const problems: string[] = [];
  for (const entry of text.split(',').map((part) => part.trim())) {
    if (entry === '') continue;
    const parsed = parseAllowance(entry);
    if (typeof parsed === 'string') problems.push(`"${entry}": ${parsed}`);
    else allow.push(parsed);
  }
  return { allow, problems };
}

/** Why an address may not be dialled on a port: the range it lies in; undefined when it may. */
function denial(text: string, port: number, allow: readonly EgressAllowance[]): string | undefined {
  const address = parseIpAddress(text);
  if (address === undefined) return 'not an address';
  const allowed = (part: IpAddress): boolean =>
    allow.some((entry) => entry.portFirst <= port && port <= entry.portLast && cidrContains(entry.cidr, part));
  const verdict = classifyAddress(address);
  if (verdict.metadata) return 'metadata';
  return verdict.parts.find((part) => !allowed(part.address))?.range;
}

/** What is wrong with the URL's form, whatever its host resolves to. */
function formProblem(text: string): { readonly problem: string } | { readonly url: URL } {
  if (text.length > urlLengthMax) return { problem: `must have at most ${urlLengthMax} characters` };
  const url = URL.parse(text);
  if (url === null) return { problem: 'must be an absolute URL, such as https://mcp.example.com/mcp' };
  if (url.protocol !== 'http:' && url.protocol !== 'https:') return { problem: 'must start with https:// or http://' };
  if (url.username !== '' || url.password !== '') {
    return { problem: 'must not hold a user name or password: register a credential instead' };
  }
  if (url.hash !== '' || text.includes('#')) return { problem: 'must not have a fragment (#…)' };
  if (url.hostname === '') return { problem: 'must name a host' };
  if (url.port === '0') return { problem: 'must not name port 0' };
  return { url };
}

const resolveBySystem: Resolve = (hostname) =>
  new Promise((resolve, reject) => {
    systemLookup(hostname, { all: true, order: 'verbatim' }, (error, found) => {
      if (error === null) resolve(found.map((entry) => entry.address));
      else reject(error);
    });
  });

function unreachable(internal: string, cause?: unknown): AppError {
  return new AppError('UPSTREAM_UNREACHABLE', { internal, ...(cause === undefined ? {} : { cause }) });
}

/**
 * The addresses to dial, all of them checked: one denied address refuses the host, since which one is dialled is not
 * for whoever owns the name to choose.
 */
async function checkedAddresses(
  hostname: string,
  port: number,
  options: { readonly allow: readonly EgressAllowance[]; readonly resolve: Resolve },
): Promise<readonly LookupAddress[]> {
  const literal = isIP(hostname) !== 0;
  const found = literal ? [hostname] : await options.resolve(hostname);
  if (found.length === 0 || found.length > resolvedAddressesMax) {
    throw unreachable(`${hostname} resolves to ${found.length} addresses`);
  }
  for (const address of found) {
    const range = denial(address, port, options.allow);
    if (range !== undefined) throw unreachable(`egress to ${hostname}:${port} denied: ${address} is ${range}`);
  }
  return found.map((address) => ({ address, family: isIP(address) }));
}

type Settings = Required<Omit<EgressOptions, 'proxy'>> & Pick<EgressOptions, 'proxy'>;

/** Resolves and checks in place of the plain look-up, so that what was checked is what is dialled: no second answer. */
function guardedLookup(port: number, settings: Settings): LookupFunction {
  const look = callbackify((hostname: string) => checkedAddresses(hostname, port, settings));
  return (hostname, lookupOptions, callback) => {
    look(hostname, (error, checked) => {
      if (error !== null) {
        const internal = `cannot look up ${hostname}: ${error.message}`;
        callback(error instanceof AppError ? error : unreachable(internal, error), '', 0);
        return;
      }
      const [first] = checked;
      if (lookupOptions.all === true) callback(null, [...checked]);
      else if (first !== undefined) callback(null, first.address, first.family);
    });
  };
}

/** Dials the connections of one origin. The address check happens here: once per connection, not per request. */
function guardedConnector(port: number, settings: Settings): buildConnector.connector {
  const direct = directConnector(port, settings);
  const { proxy } = settings;
  if (proxy === undefined) return direct;
  const proxied = proxiedConnector(port, proxy, settings);
  return (target, callback) => {
    const isDirect = isBypassed(proxy, bareHostname(target.hostname));
    return isDirect ? direct(target, callback) : proxied(target, callback);
  };
}

/** TLS is with the host itself; the proxy sees the address that was checked, or the name where it resolves. */
function proxiedConnector(port: number, proxy: EgressProxy, settings: Settings): buildConnector.connector {
  const secure = buildConnector({ allowH2: false, timeout: settings.connectTimeoutMs });
  const open = callbackify((hostname: string) => tunnelTo(hostname, port, proxy, settings));
  return (target, callback) => {
    const hostname = bareHostname(target.hostname);
    const fail = (error: Error): void => {
      const internal = `cannot connect to ${hostname}:${port}: ${error.message}`;
      callback(error instanceof AppError ? error : unreachable(internal, error), null);
    };
    open(hostname, (error, socket) => {
      if (error !== null) fail(error);
      else if (target.protocol !== 'https:') callback(null, socket);
      else {
        secure({ ...target, hostname, httpSocket: socket }, (...[refused, secured]) =>
          refused === null ? callback(null, secured) : fail(refused),
        );
      }
    });
  };
}

/** Through the proxy to one of the checked addresses, IPv4 first, which more proxies have a way to. */
async function tunnelTo(hostname: string, port: number, proxy: EgressProxy, settings: Settings): Promise<Socket> {
  if (isMetadataName(hostname)) throw unreachable(`egress to ${hostname}:${port} denied: metadata`);
  const isNamed = isResolvedBy(proxy, hostname);
  const checked = isNamed ? [{ address: hostname, family: 0 }] : await checkedAddresses(hostname, port, settings);
  const hosts = checked.toSorted((a, b) => a.family - b.family).slice(0, proxiedAddressesMax);
  let problem: unknown;
  for (const { address: host } of hosts) {
    try {
      return await openTunnel(proxy, { host, port }, settings.connectTimeoutMs);
    } catch (error) {
      problem = error;
    }
  }
  throw problem;
}

function directConnector(port: number, settings: Settings): buildConnector.connector {
  const connect = buildConnector({
    allowH2: false,
    timeout: settings.connectTimeoutMs,
    lookup: guardedLookup(port, settings),
  });
  return (target, callback) => {
    const hostname = bareHostname(target.hostname);
    // A literal address never reaches the look-up.
    const range = isIP(hostname) === 0 ? undefined : denial(hostname, port, settings.allow);
    if (range !== undefined) {
      callback(unreachable(`egress to ${hostname}:${port} denied: ${range}`), null);
      return;
    }
    connect({ ...target, hostname }, (...[error, socket]) => {
      if (error !== null) {
        const internal = `cannot connect to ${hostname}:${port}: ${error.message}`;
        callback(error instanceof AppError ? error : unreachable(internal, error), null);
        return;
      }
      const peerRange = denial(socket.remoteAddress ?? '', port, settings.allow);
      if (peerRange === undefined) {
        callback(null, socket);
        return;
      }
      socket.destroy();
      callback(unreachable(`connected to ${hostname}:${port}, yet the peer is ${peerRange}`), null);
    });
  };
}

function diallerTo({ protocol, hostname, host }: URL, settings: Settings): () => Promise<Socket> {
  const port = portOf(new URL(`${protocol}//${host}`));
  const connect = guardedConnector(port, settings);
  const target = { protocol, hostname, host, port: String(port) };
  return () =>
    new Promise((resolve, reject) => {
      connect(target, (...[error, socket]) => (error === null ? resolve(socket) : reject(error)));
    });
}

function createPool(url: URL, settings: Settings): Pool {
  return new Pool(url.origin, {
    connect: guardedConnector(portOf(url), settings),
    connections: settings.connectionsPerOriginMax,
    headersTimeout: settings.headersTimeoutMs,
    bodyTimeout: settings.bodyTimeoutMs,
    pipelining: 1,
  });
}

/** The pools by origin, the one used least lately first. */
class PoolCache {
  readonly #pools = new Map<string, Pool>();
  readonly #settings: Settings;

  constructor(settings: Settings) {
    this.#settings = settings;
  }

  get(url: URL): Pool {
    const pool = this.#pools.get(url.origin) ?? createPool(url, this.#settings);
    this.#pools.delete(url.origin);
    this.#pools.set(url.origin, pool);
    if (this.#pools.size > poolsMax) this.#evict();
    return pool;
  }

  #evict(): void {
    const [oldest] = this.#pools;
    if (oldest === undefined) return;
    this.#pools.delete(oldest[0]);
    // Graceful: what is under way on it ends first.
    void oldest[1].close();
  }

  async close(): Promise<void> {
    const pools = [...this.#pools.values()];
    this.#pools.clear();
    await Promise.all(pools.map((pool) => pool.destroy()));
  }
}

/** fetch() hides the dialler's error in the cause of a TypeError. */
function causeOf(thrown: unknown): unknown {
  let current = thrown;
  for (let depth = 0; depth < 4 && current instanceof Error; depth++) {
    if (current instanceof AppError) return current;
    current = current.cause;
  }
  return thrown;
}

async function fetchOnce(url: URL, init: RequestInit, dispatcher: Pool): Promise<Response> {
  const { body } = init;
  if (body !== undefined && body !== null && typeof body !== 'string' && !(body instanceof Uint8Array)) {
    throw new TypeError('the body of a guarded fetch is a string or bytes');
  }
  const response = await undiciFetch(url, {
    method: init.method ?? 'GET',
    headers: [...new Headers(init.headers)],
    body: body ?? null,
    signal: init.signal ?? null,
    redirect: 'manual',
    dispatcher,
  }).catch((error: unknown) => {
    throw causeOf(error);
  });
  if (response.status >= 300 && response.status < 400 && response.status !== 304) {
    await response.body?.cancel();
    throw new AppError('UPSTREAM_PROTOCOL', { internal: `${url.host} answered with a redirect` });
  }
  return response;
}

/** The same response, whose body breaks off with UPSTREAM_PROTOCOL where it has more bytes. */
export function withinBytes(response: Response, bytesMax: number): Response {
  if (response.body === null) return response;
  let left = bytesMax;
  const limit = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      left -= chunk.byteLength;
      if (left >= 0) controller.enqueue(chunk);
      else
        controller.error(new AppError('UPSTREAM_PROTOCOL', { internal: `the answer has more than ${bytesMax} bytes` }));
    },
  });
  const { status, headers } = response;
  return new Response(response.body.pipeThrough(limit), { status, headers });
}

function diallable(text: string): URL {
  const form = formProblem(text);
  if ('url' in form) return form.url;
  throw new AppError('INVALID_INPUT', { internal: `not a URL to dial: ${form.problem}` });
}

function mend(hostname: string, port: number, range: string): string {
  if (range === 'metadata') return 'points to a metadata service of a cloud provider, which can never be registered';
  const literal = parseIpAddress(hostname);
  const entry =
    literal === undefined
      ? `<address>:${port}`
      : literal.family === 4
        ? `${hostname}:${port}`
        : `[${hostname}]:${port}`;
  return (
    `leads to a ${range} address, which is closed by default; an operator opens it with ` +
    `SALLYPORT_EGRESS_ALLOW=${entry} on the control plane and on every node, or on nodes alone for a server that ` +
    'nodes discover'
  );
}

async function checkForEditor(
  text: string,
  dialledBy: 'here' | 'others',
  settings: Settings,
): Promise<string | undefined> {
  const form = formProblem(text);
  if ('problem' in form) return form.problem;
  const hostname = bareHostname(form.url.hostname);
  const port = portOf(form.url);
  const { proxy } = settings;
  const isProxied = proxy !== undefined && !isBypassed(proxy, hostname);
  if (isProxied && isMetadataName(hostname)) return mend(hostname, port, 'metadata');
  if (isProxied && isResolvedBy(proxy, hostname)) return undefined;
  const addresses =
    isIP(hostname) === 0 ? await settings.resolve(hostname).catch((): readonly string[] => []) : [hostname];
  for (const address of addresses) {
    const range = denial(address, port, settings.allow);
    if (range === 'metadata' || (range !== undefined && dialledBy === 'here')) return mend(hostname, port, range);
  }
  return undefined;
}

/**
 * The one way out of both planes. Checks at each dial that every address of the host may be reached, and dials what it
 * checked, with the host's own name for SNI and Host, directly or through the one proxy it is given. Follows no redirect
 * and takes no proxy from HTTP_PROXY. Does not check who answers there beyond TLS, nor what is said, nor where a proxy that
 * resolves names goes with them.
 */
export function createEgress(options: EgressOptions): Egress {
  const settings: Settings = { resolve: resolveBySystem, ...egressDefaults, ...options };
  const pools = new PoolCache(settings);
  return {
    pool: (url) => pools.get(diallable(url.href)),
    dialler: (url) => diallerTo(diallable(url.href), settings),
    fetch: (input, init) => {
      const url = diallable(String(input));
      return fetchOnce(url, init ?? {}, pools.get(url));
    },
    check: (url, dialledBy = 'here') => checkForEditor(url, dialledBy, settings),
    close: () => pools.close(),
  };
}
