import { AppError } from '@sallyport/schema';

/** Which names this node answers to, and which web pages may call it. */
export interface AccessRules {
  /** `host` (any port) or `host:port`, lower case; IPv6 in brackets. */
  readonly publicHosts: ReadonlySet<string>;
  /** `scheme://host[:port]`, lower case; besides those whose host is a public one. */
  readonly allowedOrigins: ReadonlySet<string>;
}

const hostForm = /^(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(\d{1,5}))?$/;
const originForm = /^https?:\/\/(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(\d{1,5}))?$/;

/** Whether the request is for a name of this node. */
export function isPublicHost(rules: AccessRules, headers: ReadonlyMap<string, string>): boolean {
  const host = headers.get('host');
  return host !== undefined && isPublic(rules, hostForm, host.toLowerCase());
}

function isPublic(rules: AccessRules, form: RegExp, text: string): boolean {
  const [, host, port] = form.exec(text) ?? [];
  if (host === undefined) return false;
  return rules.publicHosts.has(host) || (port !== undefined && rules.publicHosts.has(`${host}:${port}`));
}

export function isAllowedOrigin(rules: AccessRules, origin: string): boolean {
  const text = origin.toLowerCase();
  return rules.allowedOrigins.has(text) || isPublic(rules, originForm, text);
}

/**
 * Refuses requests that a foreign web page or a rebound name brought here. Checked on every request, before anything
 * else is read. A missing Origin is no browser; `null` is a page that hides where it comes from.
 * @throws AppError ORIGIN_NOT_ALLOWED
 */
export function checkOrigin(rules: AccessRules, headers: ReadonlyMap<string, string>): void {
  if (!isPublicHost(rules, headers)) {
    throw new AppError('ORIGIN_NOT_ALLOWED', { internal: `host ${headers.get('host') ?? '(none)'}` });
  }
  const origin = headers.get('origin');
  if (origin !== undefined && !isAllowedOrigin(rules, origin)) {
    throw new AppError('ORIGIN_NOT_ALLOWED', { internal: `origin ${origin}` });
  }
}

const requestHeaders = [
  'Accept',
  'Authorization',
  'Content-Type',
  'Last-Event-ID',
  'MCP-Protocol-Version',
  'Mcp-Method',
  'Mcp-Name',
  'Mcp-Session-Id',
  'Traceparent',
];
const exposedHeaders = 'Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, Retry-After';
const mirroredParamForm = /^mcp-param-[!#$%&'*+.^_`|~0-9a-z-]{1,128}$/i;
/** How long a browser may keep the answer to a preflight, in seconds. */
const preflightAgeS = 600;

/** What a browser must be told with every response to an allowed origin. Callers check the origin before. */
export function corsHeaders(origin: string): string[] {
  return ['access-control-allow-origin', origin, 'vary', 'origin', 'access-control-expose-headers', exposedHeaders];
}

/** The answer to a preflight of an allowed origin. `Mcp-Param-*` has no wildcard in CORS, so asked-for ones are named. */
export function preflightHeaders(origin: string, askedHeaders: string | undefined): string[] {
  const mirrored = (askedHeaders ?? '')
    .split(',')
    .map((name) => name.trim())
    .filter((name) => mirroredParamForm.test(name));
  return [
    ...corsHeaders(origin),
    'access-control-allow-methods',
    'GET, POST, DELETE',
    'access-control-allow-headers',
    [...requestHeaders, ...mirrored].join(', '),
    'access-control-max-age',
    String(preflightAgeS),
  ];
}
