import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { isIP, type Socket } from 'node:net';
import { z } from 'zod';
import { bareHostname, portOf } from './dialled-host.ts';

/** A proxy of the operator's, which every guarded connection goes through but those to the hosts it is bypassed for. */
export interface EgressProxy {
  /** http or https; may hold a user name and password. */
  readonly url: URL;
  /**
   * Whether it is given names. It then resolves them, and it alone can say which addresses they may lead to. If not, it is
   * given the addresses that were checked here.
   */
  readonly resolves: boolean;
  /** Host names, or `*.` and a domain for all below it, and literal addresses; in lower case. */
  readonly bypass: readonly string[];
}

/** Under which the metadata services of cloud providers answer, where no look-up here could tell that they do. */
const metadataNames: ReadonlySet<string> = new Set([
  'metadata',
  'metadata.google.internal',
  'metadata.goog',
  'metadata.azure.internal',
  'metadata.tencentyun.com',
  'metadata.platformequinix.com',
  'instance-data',
  'instance-data.ec2.internal',
]);
const keepAliveDelayMs = 60_000;
const bypassPattern = /^(?:(?:\*\.)?[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|[0-9a-f:.]+)$/;

/** The environment's variables of the proxy, of either plane. */
export const egressProxyVariables = {
  SALLYPORT_EGRESS_PROXY: z
    .string()
    .optional()
    .describe(
      'Proxy that connections to what was registered or learnt go through (HTTP CONNECT), such as ' +
        'http://user:password@proxy.example.com:3128. It is given addresses that were checked here. Those to the ' +
        'database, the queue, the vault and between the parts of Sallyport do not go through it.',
    ),
  SALLYPORT_EGRESS_PROXY_RESOLVES: z
    .enum(['true', 'false'])
    .transform((text) => text === 'true')
    .default(false)
    .describe(
      'true: the proxy is given names and resolves them. It alone can then refuse names that lead to private addresses, ' +
        'and must.',
    ),
  SALLYPORT_EGRESS_PROXY_BYPASS: z
    .string()
    .default('')
    .describe(
      'Hosts that are dialled directly, checked here, comma-separated, such as mcp.example.com,*.corp.example.',
    ),
};

type ProxyVariables = Partial<z.infer<z.ZodObject<typeof egressProxyVariables>>>;

/** What the environment says of the proxy. Problems never hold a value, which may hold a password. */
export function parseEgressProxy(env: ProxyVariables): {
  readonly proxy: EgressProxy | undefined;
  readonly problems: readonly string[];
} {
  const problems: string[] = [];
  const bypass = (env.SALLYPORT_EGRESS_PROXY_BYPASS ?? '').split(',').map((host) => host.trim().toLowerCase());
  const hosts = bypass.filter((host) => host !== '').map((host) => host.replace(/^\[(.*)\]$/, '$1'));
  if (hosts.some((host) => !bypassPattern.test(host))) {
    problems.push('SALLYPORT_EGRESS_PROXY_BYPASS: must be hosts, such as mcp.example.com,*.corp.example,10.1.2.3');
  }
  if (env.SALLYPORT_EGRESS_PROXY === undefined) {
    for (const [name, isSet] of [
      ['SALLYPORT_EGRESS_PROXY_RESOLVES', env.SALLYPORT_EGRESS_PROXY_RESOLVES === true],
      ['SALLYPORT_EGRESS_PROXY_BYPASS', hosts.length > 0],
    ] as const) {
      if (isSet) problems.push(`${name}: is of no use without SALLYPORT_EGRESS_PROXY`);
    }
    return { proxy: undefined, problems };
  }
  const url = URL.parse(env.SALLYPORT_EGRESS_PROXY);
  if (url === null || !/^https?:$/.test(url.protocol) || url.pathname !== '/' || url.search !== '' || url.hash !== '') {
    problems.push('SALLYPORT_EGRESS_PROXY: must be a URL without a path, such as http://proxy.example.com:3128');
    return { proxy: undefined, problems };
  }
  if (authorizationOf(url) === undefined) {
    problems.push('SALLYPORT_EGRESS_PROXY: a % in the user name or password must be written as %25');
    return { proxy: undefined, problems };
  }
  return { proxy: { url, resolves: env.SALLYPORT_EGRESS_PROXY_RESOLVES === true, bypass: hosts }, problems };
}

export function isBypassed({ bypass }: EgressProxy, hostname: string): boolean {
  const host = bareName(hostname);
  return bypass.some((entry) => (entry.startsWith('*.') ? host.endsWith(entry.slice(1)) : host === entry));
}

/** Whether the proxy is to resolve a host. What is this machine by its name (RFC 6761) is looked up and checked here. */
export function isResolvedBy({ resolves }: EgressProxy, hostname: string): boolean {
  return resolves && isIP(hostname) === 0 && !/(?:^|\.)localhost$/.test(bareName(hostname));
}

/** Whether a name is one of a metadata service. Which other names lead to one, only a resolving proxy can know. */
export function isMetadataName(hostname: string): boolean {
  return metadataNames.has(bareName(hostname));
}

function bareName(hostname: string): string {
  return hostname.toLowerCase().replace(/\.$/, '');
}

/**
 * A connection through the proxy (CONNECT, RFC 9110 §9.3.6) to a host or address. What is said in it is for whoever
 * answers there: the caller does TLS. Rejects, and says nothing of the proxy's credentials, where the proxy does not
 * answer in time, refuses, or says more than that it connected.
 */
export function openTunnel(
  proxy: EgressProxy,
  to: { readonly host: string; readonly port: number },
  timeoutMs: number,
): Promise<Socket> {
  const authority = `${isIP(to.host) === 6 ? `[${to.host}]` : to.host}:${to.port}`;
  const { url } = proxy;
  const proxyHost = bareHostname(url.hostname);
  const request = (url.protocol === 'https:' ? httpsRequest : httpRequest)({
    host: proxyHost,
    // Of the proxy's own certificate: the library would take the name from the header, which is that of whoever is behind it.
    servername: isIP(proxyHost) === 0 ? proxyHost : '',
    port: portOf(url),
    method: 'CONNECT',
    path: authority,
    headers: { host: authority, ...authorizationOf(url) },
    agent: false,
  });
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => request.destroy(new Error('it did not answer in time')), timeoutMs);
    const refuse = (why: string): void => {
      clearTimeout(timer);
      reject(new Error(`the egress proxy did not connect to ${authority}: ${why}`));
    };
    request.on('error', ({ message }) => refuse(message));
    request.on('connect', ({ statusCode = 0 }, stream, head) => {
      const socket = stream as Socket;
      if (statusCode < 200 || statusCode > 299 || head.length > 0) {
        socket.destroy();
        refuse(head.length > 0 && statusCode < 300 ? 'it said more than that' : `it answered ${statusCode}`);
        return;
      }
      clearTimeout(timer);
      socket.setNoDelay(true);
      socket.setKeepAlive(true, keepAliveDelayMs);
      resolve(socket);
    });
    request.end();
  });
}

/** Undefined where the credentials of the URL cannot be read. */
function authorizationOf({ username, password }: URL): Readonly<Record<string, string>> | undefined {
  if (username === '' && password === '') return {};
  try {
    const pair = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`;
    return { 'proxy-authorization': `Basic ${Buffer.from(pair).toString('base64')}` };
  } catch {
    return undefined;
  }
}
