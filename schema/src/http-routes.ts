/**
 * Every path that a port of either plane answers, with its methods and who may ask. The dispatch of each port is made
 * of these tables: a path without a row cannot be served, and a row without a handler does not compile.
 * tests/authorization tries each row as every kind of caller, and expects what its `access` says. To add a route, add a
 * row here and a handler of the same name where the port is served.
 */
import type { Permission } from './permissions.ts';

/**
 * Who may ask:
 * - `public`: anybody; what it tells is no secret, or a token in the request opens it;
 * - `operator`: anybody who reaches the port, which is bound where only operators do;
 * - `authenticated`: any actor; a permission: an actor who has it;
 * - `fields`: each field by its own row (control-plane/src/access/field-permissions.ts);
 * - `node`: a node, which proves who it is within the protocol;
 * - `fleet`: a live node by the certificate that the control plane named for it; anybody else gets no connection;
 * - `endpoint`: a principal with a grant on the server, by the method table (mcp-methods.ts);
 * - `directory`: a SCIM directory by a token of its own, which sees what it provisions.
 */
export type RouteAccess =
  | Permission
  | 'public'
  | 'operator'
  | 'authenticated'
  | 'fields'
  | 'node'
  | 'fleet'
  | 'endpoint'
  | 'directory';

/** `UPGRADE` is a GET that asks for a WebSocket. */
export type RouteMethod = 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE' | 'OPTIONS' | 'UPGRADE';

export interface HttpRoute {
  /** `{slug}` stands for one segment of lower-case letters, digits and hyphens, `{id}` for any one segment. */
  readonly path: string;
  readonly methods: readonly RouteMethod[];
  readonly access: RouteAccess;
}
export type HttpRoutes = Readonly<Record<string, HttpRoute>>;

const readingScim = { methods: ['GET'], access: 'directory' } as const;
const searchingScim = { methods: ['POST'], access: 'directory' } as const;
const collectionOfScim = { methods: ['GET', 'POST'], access: 'directory' } as const;
const resourceOfScim = { methods: ['GET', 'PUT', 'PATCH', 'DELETE'], access: 'directory' } as const;

/** SCIM 2.0 (RFC 7644 §3.2), on the API port of the control plane. */
export const scimRoutes = {
  scimServiceProviderConfig: { path: '/scim/v2/ServiceProviderConfig', ...readingScim },
  scimResourceTypes: { path: '/scim/v2/ResourceTypes', ...readingScim },
  scimResourceType: { path: '/scim/v2/ResourceTypes/{id}', ...readingScim },
  scimSchemas: { path: '/scim/v2/Schemas', ...readingScim },
  scimSchema: { path: '/scim/v2/Schemas/{id}', ...readingScim },
  scimUserSearch: { path: '/scim/v2/Users/.search', ...searchingScim },
  scimUsers: { path: '/scim/v2/Users', ...collectionOfScim },
  scimUser: { path: '/scim/v2/Users/{id}', ...resourceOfScim },
  scimGroupSearch: { path: '/scim/v2/Groups/.search', ...searchingScim },
  scimGroups: { path: '/scim/v2/Groups', ...collectionOfScim },
  scimGroup: { path: '/scim/v2/Groups/{id}', ...resourceOfScim },
} as const satisfies HttpRoutes;

/**
 * The authorization server, on the API port of the control plane; 404 where none is configured. What a request may do
 * is for the client's credentials, codes, cookies and tokens in it to open.
 */
export const oauthRoutes = {
  oauthMetadata: { path: '/.well-known/oauth-authorization-server', methods: ['GET', 'OPTIONS'], access: 'public' },
  oauthJwks: { path: '/oauth/jwks', methods: ['GET', 'OPTIONS'], access: 'public' },
  oauthAuthorize: { path: '/oauth/authorize', methods: ['GET'], access: 'public' },
  oauthResume: { path: '/oauth/authorize/{id}', methods: ['GET'], access: 'public' },
  oauthToken: { path: '/oauth/token', methods: ['POST', 'OPTIONS'], access: 'public' },
  oauthRevoke: { path: '/oauth/revoke', methods: ['POST', 'OPTIONS'], access: 'public' },
  oauthRegister: { path: '/oauth/register', methods: ['POST'], access: 'public' },
  oauthInteraction: { path: '/oauth/interaction/{id}', methods: ['GET'], access: 'public' },
  oauthLogin: { path: '/oauth/interaction/{id}/login', methods: ['POST'], access: 'public' },
  oauthProvider: { path: '/oauth/interaction/{id}/provider', methods: ['GET'], access: 'public' },
  oauthCallback: { path: '/oauth/callback/{id}', methods: ['GET'], access: 'public' },
  oauthLoggedIn: { path: '/oauth/interaction/{id}/logged-in', methods: ['GET'], access: 'public' },
  oauthBackChannelLogout: { path: '/oauth/backchannel-logout/{id}', methods: ['POST'], access: 'public' },
  oauthConnected: { path: '/oauth/connect/callback', methods: ['GET'], access: 'public' },
  oauthConnect: { path: '/oauth/connect/{id}', methods: ['GET', 'POST'], access: 'public' },
  oauthUpstreamClient: { path: '/oauth/upstream-client', methods: ['GET'], access: 'public' },
  oauthUpstreamSignedClient: { path: '/oauth/upstream-client/signed', methods: ['GET'], access: 'public' },
  oauthUpstreamKeys: { path: '/oauth/upstream/jwks', methods: ['GET'], access: 'public' },
  oauthUpstreamIssuer: { path: '/oauth/upstream/.well-known/openid-configuration', methods: ['GET'], access: 'public' },
  oauthAccount: { path: '/oauth/account', methods: ['GET', 'POST'], access: 'public' },
  oauthAccountsDue: { path: '/oauth/interaction/{id}/accounts', methods: ['POST'], access: 'public' },
  oauthConsent: { path: '/oauth/interaction/{id}/consent', methods: ['POST'], access: 'public' },
} as const satisfies HttpRoutes;

/** The API port of the control plane. */
export const apiRoutes = {
  ...scimRoutes,
  ...oauthRoutes,
  graphql: { path: '/graphql', methods: ['POST', 'UPGRADE'], access: 'fields' },
  auditExport: { path: '/audit/export', methods: ['GET'], access: 'audit:read' },
  sync: { path: '/sync', methods: ['UPGRADE'], access: 'node' },
} as const satisfies HttpRoutes;

/** The port of a node that clients reach. */
export const nodeRoutes = {
  endpointMetadata: {
    path: '/.well-known/oauth-protected-resource/mcp/{slug}',
    methods: ['GET', 'HEAD'],
    access: 'public',
  },
  rootMetadata: { path: '/.well-known/oauth-protected-resource', methods: ['GET', 'HEAD'], access: 'public' },
  endpoint: { path: '/mcp/{slug}', methods: ['POST', 'GET', 'DELETE'], access: 'endpoint' },
} as const satisfies HttpRoutes;

const askedByNodes = { methods: ['POST'], access: 'fleet' } as const;

/** The port on which nodes reach each other. */
export const peerRoutes = {
  notice: { path: '/peer/v1/notice', ...askedByNodes },
  session: { path: '/peer/v1/session', ...askedByNodes },
  response: { path: '/peer/v1/response', ...askedByNodes },
  resume: { path: '/peer/v1/resume', ...askedByNodes },
  exchange: { path: '/peer/v1/exchange', ...askedByNodes },
} as const satisfies HttpRoutes;

/** The operations port of both planes. */
export const operationsRoutes = {
  metrics: { path: '/metrics', methods: ['GET', 'HEAD'], access: 'operator' },
  healthz: { path: '/healthz', methods: ['GET', 'HEAD'], access: 'operator' },
  readyz: { path: '/readyz', methods: ['GET', 'HEAD'], access: 'operator' },
} as const satisfies HttpRoutes;

export interface RouteMatch<Name extends string> {
  readonly name: Name;
  readonly route: HttpRoute;
  /** What stands for `{slug}` and the like, by name. */
  readonly parameters: Readonly<Record<string, string>>;
}

const parameterForms: Readonly<Record<string, string>> = { slug: '(?<slug>[a-z0-9-]{1,64})', id: '(?<id>[^/]{1,256})' };

function patternOf(path: string): RegExp {
  const source = path.replace(/[.*+?^$()|[\]\\]/g, String.raw`\$&`).replace(/\{(\w+)\}/g, (_whole, name: string) => {
    const form = parameterForms[name];
    if (form === undefined) throw new Error(`the route ${path} has an unknown parameter ${name}`);
    return form;
  });
  return new RegExp(`^${source}$`);
}

/**
 * The dispatch of one port. Patterns are compiled once; the first row that matches wins, and the method is for the
 * caller to compare, so that a path that exists answers 405 in the form of its port.
 */
export function routeMatcher<Name extends string>(
  routes: Readonly<Record<Name, HttpRoute>>,
): (path: string) => RouteMatch<Name> | undefined {
  const compiled = (Object.entries(routes) as [Name, HttpRoute][]).map(([name, route]) => ({
    name,
    route,
    pattern: patternOf(route.path),
  }));
  return (path) => {
    for (const { name, route, pattern } of compiled) {
      const found = pattern.exec(path);
      if (found !== null) return { name, route, parameters: found.groups ?? {} };
    }
    return undefined;
  };
}
