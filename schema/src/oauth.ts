/**
 * What the authorization server of the control plane and the nodes agree on: the shape of access tokens (RFC 9068), the
 * resources they are for (RFC 8707), and the scopes they carry.
 */
import { z } from 'zod';
import type { ListedKind } from './snapshot.ts';
import { stepUpSchema } from './step-up.ts';

/** The one algorithm that signs access tokens; a token that names another is refused before any key is looked at. */
export const accessTokenAlgorithm = 'ES256';

/** In milliseconds. A revoked family stays in its principal's record for this long and the clock skew. */
export const accessTokenLifetimeMs = 10 * 60_000;

/** How far clocks of the parties may differ, in milliseconds. */
export const tokenClockSkewMs = 60_000;

/** Opens everything below it; each of those opens the use of one kind of definition, where a grant allows it too. */
export const wholeScope = 'mcp';
export const partScopes = ['mcp:tools', 'mcp:prompts', 'mcp:resources'] as const;
export const oauthScopes = [wholeScope, ...partScopes] as const;
export type OAuthScope = (typeof oauthScopes)[number];

/** The scope that methods about a kind of definition need. `initialize`, `ping` and their like need none. */
export const scopeOfKind = {
  tool: 'mcp:tools',
  prompt: 'mcp:prompts',
  resource: 'mcp:resources',
  resourceTemplate: 'mcp:resources',
} as const satisfies Record<ListedKind, OAuthScope>;

/** Whether a token's scopes satisfy one that is needed. */
export function scopesCover(held: readonly string[], needed: OAuthScope): boolean {
  return held.includes(needed) || held.includes(wholeScope);
}

/** Where on a node the endpoint of a server is. */
export function endpointPath(slug: string): string {
  return `/mcp/${slug}`;
}

/** The resource that tokens for a server are for; compared as a string, to the last character. */
export function resourceUrl(nodesUrl: string, slug: string): string {
  return `${nodesUrl}${endpointPath(slug)}`;
}

/** Where the metadata of a protected resource is (RFC 9728 §3.1): the well-known path goes before that of the resource. */
export const resourceMetadataPath = '/.well-known/oauth-protected-resource';

export function resourceMetadataUrl(nodesUrl: string, slug: string): string {
  const { origin, pathname } = new URL(nodesUrl);
  return `${origin}${resourceMetadataPath}${pathname === '/' ? '' : pathname}${endpointPath(slug)}`;
}

/**
 * A public URL under which clients reach a plane: origin and perhaps a path, no query, and no slash at its end, so that
 * paths can be appended. Plain http only for loopback.
 */
export const publicUrlSchema = z.string().refine((text) => {
  const url = URL.parse(text);
  if (url === null || text.endsWith('/') || url.search !== '' || url.hash !== '' || /[?#]/.test(text)) return false;
  if (url.username !== '' || url.password !== '') return false;
  if ((url.pathname === '/' ? url.origin : url.href) !== text) return false;
  const loopback = /^(localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\])$/.test(url.hostname);
  return url.protocol === 'https:' || (url.protocol === 'http:' && loopback);
}, 'must be an https:// URL in its normal form without a slash at its end (http:// for loopback alone)');

/** Of the header of an access token. Other members, such as `jku` and `jwk`, are never followed. */
export const accessTokenHeaderSchema = z.looseObject({
  typ: z.literal('at+jwt'),
  alg: z.literal(accessTokenAlgorithm),
  kid: z.string().min(1).max(64),
});

/** Of the claims of an access token; times are seconds since the epoch. */
export const accessTokenClaimsSchema = z.looseObject({
  /** The public URL of the control plane. */
  iss: z.string(),
  /** `resourceUrl` of one endpoint; never a list. */
  aud: z.string(),
  /** Id of the principal. */
  sub: z.string(),
  /** Who uses the token: the URL of its metadata document, or the id of a registered client. */
  client_id: z.string(),
  /** Scopes, separated by spaces. */
  scope: z.string(),
  iat: z.number(),
  exp: z.number(),
  jti: z.string(),
  /** Epoch of the principal when the token was made: the token is void where the record has another. */
  epoch: z.number().int().nonnegative(),
  /** All tokens that came from one authorization: void where the principal's record names it as revoked. */
  family: z.string().min(1).max(128),
  /** Authentication context and time of the login behind it (RFC 9470 §6.1); absent where a client acts by itself. */
  acr: z.string().optional(),
  auth_time: z.number().optional(),
});
export type AccessTokenClaims = z.infer<typeof accessTokenClaimsSchema>;

const coordinate = z.string().regex(/^[A-Za-z0-9_-]{43}$/);

/**
 * What nodes need to verify access tokens without asking anybody; absent where no authorization server is configured,
 * and then no access token opens anything. A new key is published here first, and signs only after every live node
 * acknowledged it; the one before stays until nothing it signed can be valid.
 */
export const oauthDocumentSchema = z.strictObject({
  kind: z.literal('oauth'),
  /** `iss` of every token, and what the metadata of protected resources names. */
  issuer: publicUrlSchema,
  /** Under which clients reach nodes: resources are `resourceUrl(nodesUrl, slug)`. */
  nodesUrl: publicUrlSchema,
  /** Public keys on P-256 (RFC 7518 §6.2), sorted by id. */
  keys: z
    .array(z.strictObject({ kid: z.string().regex(/^[A-Za-z0-9_-]{1,64}$/), x: coordinate, y: coordinate }))
    .min(1),
  /** Endpoints that need more than any login; absent: none. */
  stepUp: z.array(stepUpSchema).optional(),
});
export type OAuthDocument = z.infer<typeof oauthDocumentSchema>;
