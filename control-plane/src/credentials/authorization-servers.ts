import { AppError } from '@sallyport/schema';
import { type Clock, type Egress, withinBytes } from '@sallyport/schema/platform';
import * as oauth from 'openid-client';
import { z } from 'zod';
import { authenticationOf, type UpstreamClient } from './client-authentication.ts';
import {
  exchangeGrant,
  jwtBearerGrant,
  outcomeOf,
  scopeParameter,
  scopesOf,
  type TokenOutcome,
  type Tokens,
  tokensOf,
  tokenTypes,
} from './token-outcome.ts';

const requestTimeoutSeconds = 10;
const documentBytesMax = 256 * 1024;
/** Metadata is read again after this time, in milliseconds; known for this many issuers. */
const metadataLifetimeMs = 10 * 60_000;
const knownMax = 1_000;

const protectedResource = z.looseObject({
  resource: z.url(),
  authorization_servers: z.array(z.url()).min(1).max(16),
  scopes_supported: z.array(z.string()).max(200).optional(),
});

const serverMetadata = z.looseObject({
  issuer: z.url(),
  authorization_endpoint: z.url().optional(),
  token_endpoint: z.url(),
  revocation_endpoint: z.url().optional(),
  registration_endpoint: z.url().optional(),
  code_challenge_methods_supported: z.array(z.string()).optional(),
  scopes_supported: z.array(z.string()).optional(),
  token_endpoint_auth_methods_supported: z.array(z.string()).optional(),
  client_id_metadata_document_supported: z.boolean().optional(),
  authorization_response_iss_parameter_supported: z.boolean().optional(),
});
/** How a client that the gateway registers proves itself, as we like it best. */
const registeredMethods = ['none', 'client_secret_basic', 'client_secret_post'] as const;
const registration = z.looseObject({
  client_id: z.string().min(1).max(2048),
  client_secret: z.string().optional(),
  token_endpoint_auth_method: z.enum(registeredMethods).optional(),
});
export type ServerMetadata = z.infer<typeof serverMetadata>;

/** What a server says of who issues tokens for it. */
export interface ProtectedResource {
  /** Canonical URI, for the parameter `resource`. */
  readonly resource: string;
  readonly issuer: string;
  readonly scopes: readonly string[];
}

/** A token exchange (RFC 8693 §2.1). */
export interface ExchangeRequest {
  readonly subject: { readonly token: string; readonly type: string };
  /** Who acts for the subject; null where nobody is named. */
  readonly actor: { readonly token: string; readonly type: string } | null;
  readonly resource: string;
  readonly audience: string | null;
  readonly scopes: readonly string[];
}

export function discoveryProblem(internal: string, publicMessage?: string): AppError {
  return new AppError('UPSTREAM_PROTOCOL', { internal, ...(publicMessage === undefined ? {} : { publicMessage }) });
}

/** What has to be true of an address that an upstream named, before anything is sent there. */
function checkEndpoint(text: string, issuer: URL, what: string): URL {
  const url = URL.parse(text);
  if (url === null) throw discoveryProblem(`${what} is no address`);
  const isSafe = url.protocol === 'https:' || (url.protocol === 'http:' && issuer.protocol === 'http:');
  if (!isSafe || url.username !== '' || url.password !== '' || url.hash !== '' || /["'`\\$();|<>\s]/.test(text)) {
    throw discoveryProblem(`${what} is no address to send anything to`);
  }
  return url;
}

/** What tokens for a server are asked for. */
export interface TokenTarget {
  readonly issuer: string;
  /** For the parameter `resource`. */
  readonly resource: string;
  /** To ask for where nobody chose any: what the server's challenge names, else all that it knows. */
  readonly scopes: readonly string[];
}

/** Talks to the authorization servers of upstreams, through the guarded egress alone. */
export class AuthorizationServers {
  readonly #egress: Pick<Egress, 'fetch'>;
  readonly #clock: Clock;
  readonly #known = new Map<string, { readonly at: number; readonly metadata: Promise<ServerMetadata> }>();

  constructor(egress: Pick<Egress, 'fetch'>, clock: Clock) {
    this.#egress = egress;
    this.#clock = clock;
  }

  /**
   * RFC 9728, in the order of the specification (basic/authorization, Authorization Server Discovery): the address in the
   * challenge of a 401, then the well-known one with the path, then without.
   * @throws AppError UPSTREAM_PROTOCOL, UPSTREAM_UNREACHABLE
   */
  async protectedResource(serverUrl: string): Promise<ProtectedResource> {
    const url = new URL(serverUrl);
    const path = url.pathname === '/' ? '' : url.pathname;
    const challenge = await this.#challenge(url);
    const wellKnown = '/.well-known/oauth-protected-resource';
    const candidates = [challenge.metadata, `${url.origin}${wellKnown}${path}`, `${url.origin}${wellKnown}`];
    for (const candidate of new Set(candidates)) {
      const found = candidate === undefined ? undefined : await this.#document(candidate, protectedResource);
      if (found === undefined) continue;
      if (!isResourceOf(found.resource, serverUrl)) {
        throw discoveryProblem('the protected resource metadata is of another resource');
      }
      const [issuer = ''] = found.authorization_servers;
      // A server behind TLS does not have tokens asked for in clear.
      checkEndpoint(issuer, url, 'issuer');
      // What the challenge names is what is needed (basic/authorization, Scope Selection Strategy).
      const scopes = challenge.scopes.length > 0 ? challenge.scopes : (found.scopes_supported ?? []);
      return { resource: found.resource, issuer, scopes };
    }
    throw discoveryProblem('no protected resource metadata', 'The MCP server does not say who issues tokens for it.');
  }

  /**
   * Who issues tokens for a server, and what for. An administrator who names the issuer may do without what the server says
   * of itself.
   * @throws AppError UPSTREAM_PROTOCOL, UPSTREAM_UNREACHABLE
   */
  async targetOf(serverUrl: string, issuer: string | null): Promise<TokenTarget> {
    try {
      const named = await this.protectedResource(serverUrl);
      return { ...named, issuer: issuer ?? named.issuer };
    } catch (error) {
      if (issuer === null) throw error;
      return { issuer, resource: canonicalResource(serverUrl), scopes: [] };
    }
  }

  /**
   * RFC 8414 and OpenID Connect Discovery, in the order of the specification; the `issuer` in it must be the very one asked
   * for.
   * @throws AppError UPSTREAM_PROTOCOL, UPSTREAM_UNREACHABLE
   */
  metadata(issuer: string): Promise<ServerMetadata> {
    const known = this.#known.get(issuer);
    const now = this.#clock.monotonic();
    if (known !== undefined && now - known.at < metadataLifetimeMs) return known.metadata;
    const metadata = this.#readMetadata(issuer);
    this.#known.set(issuer, { at: now, metadata });
    metadata.catch(() => this.#known.delete(issuer));
    const [oldest] = this.#known.keys();
    if (this.#known.size > knownMax && oldest !== undefined) this.#known.delete(oldest);
    return metadata;
  }

  /** Where to send the browser. @throws AppError UPSTREAM_PROTOCOL where PKCE with S256 is not offered */
  async authorizationUrl(
    issuer: string,
    client: UpstreamClient,
    request: {
      readonly redirectUri: string;
      readonly scopes: readonly string[];
      readonly resource: string;
      readonly state: string;
      readonly verifier: string;
      /** Hosts besides the issuer's own that an administrator allowed. */
      readonly hosts: readonly string[];
    },
  ): Promise<URL> {
    const metadata = await this.metadata(issuer);
    if (metadata.code_challenge_methods_supported?.includes('S256') !== true) {
      throw discoveryProblem('no PKCE with S256', 'The authorization server of the MCP server does not offer PKCE.');
    }
    const endpoint = checkEndpoint(metadata.authorization_endpoint ?? '', new URL(issuer), 'authorization_endpoint');
    if (endpoint.hostname !== new URL(issuer).hostname && !request.hosts.includes(endpoint.hostname)) {
      throw discoveryProblem('the authorization endpoint is on another host than its issuer');
    }
    // Calls go on while the user is away, where the server offers that.
    const isOffered = metadata.scopes_supported?.includes('offline_access') === true;
    const scopes = [...new Set([...request.scopes, ...(isOffered ? ['offline_access'] : [])])];
    return oauth.buildAuthorizationUrl(await this.#configuration(issuer, client), {
      redirect_uri: request.redirectUri,
      response_type: 'code',
      ...scopeParameter(scopes),
      resource: request.resource,
      state: request.state,
      code_challenge: await oauth.calculatePKCECodeChallenge(request.verifier),
      code_challenge_method: 'S256',
    });
  }

  /**
   * Tokens for the code in an answer. State and `iss` (RFC 9207) are compared before any request leaves.
   * @param answer the whole address that the browser came back to
   */
  async redeem(
    issuer: string,
    client: UpstreamClient,
    answer: URL,
    expected: { readonly state: string; readonly verifier: string; readonly resource: string },
  ): Promise<Tokens> {
    const configuration = await this.#configuration(issuer, client);
    const checks = { expectedState: expected.state, pkceCodeVerifier: expected.verifier };
    return tokensOf(await oauth.authorizationCodeGrant(configuration, answer, checks, { resource: expected.resource }));
  }

  /** RFC 6749 §6; never rejects, since what came of it decides whether it may be tried again. */
  async refresh(issuer: string, client: UpstreamClient, refreshToken: string, resource: string): Promise<TokenOutcome> {
    return this.#outcome(issuer, client, (configuration) =>
      oauth.refreshTokenGrant(configuration, refreshToken, { resource }),
    );
  }

  /** RFC 6749 §4.4. */
  async clientCredentials(
    issuer: string,
    client: UpstreamClient,
    request: { readonly resource: string; readonly scopes: readonly string[] },
  ): Promise<TokenOutcome> {
    const parameters = {
      resource: request.resource,
      ...scopeParameter(request.scopes),
    };
    return this.#outcome(issuer, client, (configuration) => oauth.clientCredentialsGrant(configuration, parameters));
  }

  /**
   * RFC 8693. An answer with a token of a kind that was not asked for counts as a refusal: it is good for something else
   * than calling a server.
   */
  async exchange(issuer: string, client: UpstreamClient, request: ExchangeRequest): Promise<TokenOutcome> {
    const { subject, actor, resource, audience, scopes } = request;
    const parameters = {
      subject_token: subject.token,
      subject_token_type: subject.type,
      ...(actor === null ? {} : { actor_token: actor.token, actor_token_type: actor.type }),
      requested_token_type: tokenTypes.accessToken,
      resource,
      ...(audience === null ? {} : { audience }),
      ...scopeParameter(scopes),
    };
    const outcome = await this.#outcome(issuer, client, (configuration) =>
      oauth.genericGrantRequest(configuration, exchangeGrant, parameters),
    );
    if (outcome.kind !== 'tokens') return outcome;
    const { issuedTokenType } = outcome.tokens;
    // A JWT that is issued for a resource is an access token that says how it is written.
    if (issuedTokenType === tokenTypes.accessToken || issuedTokenType === tokenTypes.jwt) return outcome;
    return { kind: 'refused', error: 'issued_token_type' };
  }

  /** RFC 7523 §2.1, with an assertion of the user's identity provider. */
  async byAssertion(
    issuer: string,
    client: UpstreamClient,
    request: { readonly assertion: string; readonly resource: string; readonly scopes: readonly string[] },
  ): Promise<TokenOutcome> {
    const { assertion, resource, scopes } = request;
    const parameters = { assertion, resource, ...scopeParameter(scopes) };
    return this.#outcome(issuer, client, (configuration) =>
      oauth.genericGrantRequest(configuration, jwtBearerGrant, parameters),
    );
  }

  /** RFC 7009. @returns false where the server offers none @throws whatever kept it from being told */
  async revoke(issuer: string, client: UpstreamClient, token: string): Promise<boolean> {
    const { revocation_endpoint: endpoint } = await this.metadata(issuer);
    if (endpoint === undefined) return false;
    await oauth.tokenRevocation(await this.#configuration(issuer, client), token);
    return true;
  }

  /** RFC 7591: a client of a kind that any authorization server knows. @throws AppError UPSTREAM_PROTOCOL */
  async register(issuer: string, redirectUri: string): Promise<UpstreamClient> {
    const { registration_endpoint: endpoint, token_endpoint_auth_methods_supported: methods } =
      await this.metadata(issuer);
    if (endpoint === undefined) throw discoveryProblem('no registration endpoint');
    // A server that names none takes any; one that takes no public client gets one with a secret.
    const method = registeredMethods.find((one) => methods?.includes(one) ?? true) ?? 'none';
    const response = await this.#ask(checkEndpoint(endpoint, new URL(issuer), 'registration_endpoint'), {
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'application/json' },
      body: JSON.stringify({
        client_name: 'Sallyport',
        redirect_uris: [redirectUri],
        grant_types: ['authorization_code', 'refresh_token'],
        response_types: ['code'],
        token_endpoint_auth_method: method,
        application_type: 'web',
      }),
    });
    if (!response.ok) {
      await response.body?.cancel();
      throw discoveryProblem(`registration answered ${response.status}`);
    }
    const answered = registration.safeParse(parseJson(await bounded(response)));
    if (!answered.success) throw discoveryProblem('the answer to the registration is not valid');
    const { client_id: clientId, client_secret: secret = null } = answered.data;
    // What the server decided counts, whatever was asked for (RFC 7591 §3.2.1).
    const decided = answered.data.token_endpoint_auth_method ?? (secret === null ? 'none' : method);
    if (decided === 'none') return { clientId, secret: null, authentication: 'none' };
    if (secret === null) throw discoveryProblem('the client that was registered has no secret');
    return {
      clientId,
      secret,
      authentication: decided === 'client_secret_post' ? 'clientSecretPost' : 'clientSecretBasic',
    };
  }

  #outcome(issuer: string, client: UpstreamClient, ask: Parameters<typeof outcomeOf>[1]): Promise<TokenOutcome> {
    return outcomeOf(() => this.#configuration(issuer, client), ask);
  }

  async #configuration(issuer: string, client: UpstreamClient): Promise<oauth.Configuration> {
    const metadata = await this.metadata(issuer);
    const configuration = new oauth.Configuration(
      metadata as oauth.ServerMetadata,
      client.clientId,
      undefined,
      await authenticationOf(client),
    );
    configuration.timeout = requestTimeoutSeconds;
    // An administrator named it so, or registered a server without TLS that does.
    if (issuer.startsWith('http:')) oauth.allowInsecureRequests(configuration);
    configuration[oauth.customFetch] = async (url, options) =>
      withinBytes(await this.#egress.fetch(url, bodyAsText(options as unknown as RequestInit)), documentBytesMax);
    return configuration;
  }

  async #challenge(url: URL): Promise<{ readonly metadata: string | undefined; readonly scopes: readonly string[] }> {
    const response = await this.#ask(url, {
      method: 'POST',
      headers: { 'content-type': 'application/json', accept: 'application/json, text/event-stream' },
      body: '{"jsonrpc":"2.0","id":0,"method":"ping"}',
    });
    await response.body?.cancel();
    const challenge = response.status === 401 ? response.headers.get('www-authenticate') : null;
    const named = /resource_metadata="([^"\s]{1,2048})"/i.exec(challenge ?? '')?.[1];
    const metadata = named === undefined ? undefined : checkEndpoint(named, url, 'resource_metadata').href;
    return { metadata, scopes: challengedScopes(challenge) };
  }

  async #readMetadata(issuer: string): Promise<ServerMetadata> {
    const url = checkEndpoint(issuer, new URL(issuer), 'issuer');
    const path = url.pathname.replace(/\/+$/, '');
    const [rfc, oidc] = ['/.well-known/oauth-authorization-server', '/.well-known/openid-configuration'];
    const places = path === '' ? [rfc, oidc] : [`${rfc}${path}`, `${oidc}${path}`, `${path}${oidc}`];
    for (const place of places) {
      const found = await this.#document(`${url.origin}${place}`, serverMetadata);
      if (found === undefined) continue;
      if (found.issuer !== issuer) throw discoveryProblem('the metadata is of another issuer');
      checkEndpoint(found.token_endpoint, url, 'token_endpoint');
      if (found.revocation_endpoint !== undefined) checkEndpoint(found.revocation_endpoint, url, 'revocation_endpoint');
      return found;
    }
    throw discoveryProblem(
      'no authorization server metadata',
      'The authorization server of the MCP server does not say where its endpoints are.',
    );
  }

  /** For what is not a request for tokens. @throws AppError of the upstream, whatever went wrong */
  async #ask(url: string | URL, init: RequestInit): Promise<Response> {
    try {
      return await this.#egress.fetch(url, { ...init, signal: AbortSignal.timeout(requestTimeoutSeconds * 1000) });
    } catch (error) {
      throw ofUpstream(error);
    }
  }

  /** A JSON document; undefined where there is none. What is there and is not valid is an error, not a reason to go on. */
  async #document<T>(url: string, schema: z.ZodType<T>): Promise<T | undefined> {
    const response = await this.#ask(url, { headers: { accept: 'application/json' } });
    if (!response.ok) {
      await response.body?.cancel();
      if (response.status >= 500) throw discoveryProblem(`metadata answered ${response.status}`);
      return undefined;
    }
    const parsed = schema.safeParse(parseJson(await bounded(response)));
    if (!parsed.success) throw discoveryProblem('metadata is not valid');
    return parsed.data;
  }
}

/** Scopes that a server says it wants (RFC 6750 §3), in its challenge. */
export function challengedScopes(challenge: string | null): readonly string[] {
  return scopesOf(/scope="([^"]{1,1024})"/.exec(challenge ?? '')?.[1] ?? '');
}

/** Whether a server is, or is part of, a protected resource; both by their URLs. */
export function isResourceOf(resourceUrl: string, serverUrl: string): boolean {
  const [resource, server] = [new URL(resourceUrl), new URL(serverUrl)];
  return resource.origin === server.origin && isWithin(server.pathname, resource.pathname);
}

/** Whether a path lies under another, segment by segment. */
function isWithin(path: string, under: string): boolean {
  const base = under.endsWith('/') ? under : `${under}/`;
  return path === under || path.startsWith(base) || `${path}/` === base;
}

async function bounded(response: Response): Promise<string> {
  try {
    return Buffer.from(await withinBytes(response, documentBytesMax).arrayBuffer()).toString('utf8');
  } catch (error) {
    throw ofUpstream(error);
  }
}

/** That an upstream does not answer, breaks off, or names what may not be dialled, is its failure and none of ours. */
function ofUpstream(error: unknown): AppError {
  if (error instanceof AppError && error.entry.owner === 'upstream') return error;
  if (error instanceof AppError) return discoveryProblem(error.message);
  const isLate = error instanceof Error && error.name === 'TimeoutError';
  return new AppError(isLate ? 'UPSTREAM_TIMEOUT' : 'UPSTREAM_UNREACHABLE', { cause: error });
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The guarded client takes bodies as text. */
function bodyAsText(init: RequestInit): RequestInit {
  return init.body instanceof URLSearchParams ? { ...init, body: init.body.toString() } : init;
}

/** RFC 8707 §2: without a fragment; as an MCP client names the server. */
export function canonicalResource(serverUrl: string): string {
  const url = new URL(serverUrl);
  url.hash = '';
  return url.pathname === '/' && url.search === '' ? url.origin : url.href;
}
