import { createHmac, hkdfSync } from 'node:crypto';
import { accessTokenLifetimeMs, AppError, oauthScopes, partScopes, resourceUrl } from '@sallyport/schema';
import type { Clock, Log } from '@sallyport/schema/platform';
import {
  type Configuration,
  errors,
  interactionPolicy,
  type KoaContextWithOIDC,
  Provider,
  type ResourceServer,
} from 'oidc-provider';
import type { PublicUrls } from '../fleet/compile-snapshot.ts';
import type { SigningKey } from '../fleet/signing-keys.ts';
import { retryAfterOf } from '../request-limits.ts';
import { accountClient, accountClientId } from './account.ts';
import { loginFactsOf } from './authorizations.ts';
import { type ClientService, isSecretOf } from './client.service.ts';
import { isAllowedClientHost } from './client-domains.ts';
import {
  codeLifetimeMs,
  familyAbsoluteMs,
  interactionLifetimeMs,
  metadataDocumentKeptMs,
  refreshIdleMs,
  sessionAbsoluteMs,
  sessionIdleMs,
} from './lifetimes.ts';
import type { ObjectStore } from './object-store.service.ts';
import { errorPage } from './pages.ts';
import { redirectUriMatches, redirectUriProblem } from './redirect-uri.ts';
import type { OAuthSettings } from './settings.service.ts';
import type { StepUpService } from './step-up.service.ts';

const seconds = (ms: number): number => Math.floor(ms / 1000);
const metadataDocumentBytesMax = 16 * 1024;
const jwksBytesMax = 64 * 1024;
/** How far the clock of a client may be off where it signs assertions, in seconds. */
const clockToleranceSeconds = 60;

/** Paths of the authorization server; the rows of `oauthRoutes` name the same. */
export const oauthPaths = {
  authorization: '/oauth/authorize',
  token: '/oauth/token',
  revocation: '/oauth/revoke',
  registration: '/oauth/register',
  jwks: '/oauth/jwks',
  end_session: '/oauth/session/end',
} as const;

/** Whom tokens speak for. */
export interface TokenSubject {
  readonly principalId: string;
  readonly epoch: number;
  readonly family: string;
}

export interface ProviderOptions {
  readonly urls: PublicUrls;
  readonly secretKey: string;
  readonly keys: readonly SigningKey[];
  readonly settings: OAuthSettings;
  readonly store: ObjectStore;
  readonly clients: Pick<ClientService, 'actsAs'>;
  /** Guarded: client metadata and key sets are at addresses that strangers chose. */
  readonly fetch: typeof fetch;
  readonly stepUp: Pick<StepUpService, 'neededFor' | 'isMet' | 'allows'>;
  /** Throws RATE_LIMITED where this client gets too many tokens for this principal. */
  readonly admit: (holder: string) => void;
  /** Whether a user has accounts to connect when he logs in. */
  readonly areAccountsDue: (principalId: string) => Promise<boolean>;
  /** The epoch of a principal that may act; undefined where it may not. */
  readonly epochOf: (principalId: string) => Promise<number | undefined>;
  /** A grant from a consent that was given before, or by this interaction. */
  readonly grantFor: (ctx: KoaContextWithOIDC) => Promise<string | undefined>;
  readonly clock: Clock;
  readonly log: Log;
}

/** Keys of this purpose, derived from SALLYPORT_SECRET_KEY. */
export function derivedKey(secretKey: string, purpose: string): Buffer {
  return Buffer.from(hkdfSync('sha256', secretKey, '', `sallyport.oauth.${purpose}.v1`, 32));
}

/** The slug of the server whose endpoint the resource is, or undefined. Says nothing of whether there is such a server. */
export function slugOfResource(nodesUrl: string, resource: string): string | undefined {
  const prefix = resourceUrl(nodesUrl, '');
  if (!resource.startsWith(prefix)) return undefined;
  const slug = resource.slice(prefix.length);
  return /^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$/.test(slug) ? slug : undefined;
}

/** The names of cookies; the prefixes bind them to this host over TLS (RFC 6265bis §4.1.3). */
export function cookieNames(issuer: string) {
  const secure = issuer.startsWith('https:');
  return {
    session: secure ? '__Host-sallyport_session' : 'sallyport_session',
    // These lie on paths of their own, which `__Host-` does not allow.
    interaction: secure ? '__Secure-sallyport_interaction' : 'sallyport_interaction',
    resume: secure ? '__Secure-sallyport_resume' : 'sallyport_resume',
    login: secure ? '__Host-sallyport_login' : 'sallyport_login',
  };
}

/** RFC 9470 §5: another login where the present one is too weak or too old for what is asked. */
function stepUpCheck(stepUp: ProviderOptions['stepUp']) {
  const problem = 'the endpoint needs a stronger or fresher login';
  return new interactionPolicy.Check('step_up', problem, 'login_required', async ({ oidc }) => {
    // Whether the login that just ended is enough was asked when it ended.
    if (oidc.session?.accountId === undefined || oidc.result?.login !== undefined) return false;
    const login = loginFactsOf(oidc.session, oidc.session.authTime());
    return !stepUp.isMet(await stepUp.neededFor(oidc.params ?? {}), login);
  });
}

/** The prompt in which users connect their accounts at MCP servers, before the client gets its code. */
export const accountsPrompt = 'accounts';

/** Asked once in each authorization, of people who can see pages: a silent one (`prompt=none`) goes on without. */
function accountsDue(isDue: ProviderOptions['areAccountsDue']) {
  const problem = 'accounts at MCP servers are to be connected';
  const check = new interactionPolicy.Check('accounts_due', problem, 'interaction_required', async ({ oidc }) => {
    const accountId = oidc.session?.accountId;
    if (accountId === undefined || oidc.client?.clientId === accountClientId || oidc.prompts.has('none')) return false;
    return oidc.result?.[accountsPrompt] === undefined && (await isDue(accountId));
  });
  return new interactionPolicy.Prompt({ name: accountsPrompt, requestable: false }, check);
}

function policy({ stepUp, areAccountsDue }: Pick<ProviderOptions, 'stepUp' | 'areAccountsDue'>) {
  const prompts = interactionPolicy.base();
  prompts.get('login')?.checks.add(stepUpCheck(stepUp));
  // Whether a consent may be remembered is for `grantFor` to say, which looks at where the code goes.
  prompts.get('consent')?.checks.remove('native_client_prompt');
  prompts.add(accountsDue(areAccountsDue));
  return prompts;
}

/** What a token for the resource is like. */
export type ResourceServerOf = (resource: string) => ResourceServer;

/** Throws where the resource is no endpoint of the nodes. */
export function resourceServerOf({ urls, keys }: Pick<ProviderOptions, 'urls' | 'keys'>): ResourceServerOf {
  const kid = keys.find(({ use }) => use === 'sign')?.id;
  const sign = { alg: 'ES256' as const, ...(kid === undefined ? {} : { kid }) };
  return (resource) => {
    if (slugOfResource(urls.nodesUrl, resource) === undefined) {
      throw new errors.InvalidTarget('the resource is not an MCP endpoint of this organization');
    }
    return {
      scope: oauthScopes.join(' '),
      audience: resource,
      accessTokenFormat: 'jwt',
      accessTokenTTL: seconds(accessTokenLifetimeMs),
      jwt: { sign },
    };
  };
}

function resourceIndicators(options: Pick<ProviderOptions, 'urls' | 'keys'>) {
  const serverOf = resourceServerOf(options);
  return {
    enabled: true,
    defaultResource: (_ctx: unknown, client: { clientId: string }, oneOf?: readonly string[]): string | string[] => {
      // The page of users has no endpoint.
      if (client.clientId === accountClientId) return [];
      if (oneOf !== undefined) throw new errors.InvalidTarget('name one resource');
      throw new errors.InvalidTarget('the parameter "resource" must name the MCP endpoint (RFC 8707)');
    },
    useGrantedResource: () => true,
    getResourceServerInfo: (_ctx: unknown, resource: string, client: { clientId: string }) => {
      if (client.clientId === accountClientId) throw new errors.InvalidTarget('this client is for no resource');
      return serverOf(resource);
    },
  };
}

function metadataDocuments({ settings, log }: Pick<ProviderOptions, 'settings' | 'log'>) {
  return {
    // Not promised where no client could be named: one that can do otherwise does.
    enabled: settings.clientDomains.length > 0,
    ack: 'draft-02',
    allowFetch: (_ctx: unknown, clientId: string) => {
      const isAllowed = isAllowedClientHost(settings.clientDomains, clientId);
      if (!isAllowed) log.info({ clientId }, 'a client is named by a document at none of clientDomains');
      return isAllowed;
    },
    allowClient: (_ctx: unknown, client: { clientId: string; redirectUris?: readonly string[] | undefined }) =>
      isAllowedClientHost(settings.clientDomains, client.clientId) &&
      (client.redirectUris ?? []).every((uri) => redirectUriProblem(uri) === undefined),
    cacheDuration: { min: 60, max: seconds(metadataDocumentKeptMs) },
  };
}

/** What a token says beyond the library's claims. Throws where the principal may not act (any longer). */
async function subjectOf(options: ProviderOptions, token: unknown): Promise<TokenSubject> {
  const { kind, accountId, grantId, clientId } = token as Record<string, string | undefined>;
  if (kind === 'ClientCredentials') {
    const subject = await options.clients.actsAs(clientId ?? '');
    if (subject === undefined) throw new errors.UnauthorizedClient('the client acts for no active service account');
    return subject;
  }
  const epoch = accountId === undefined ? undefined : await options.epochOf(accountId);
  if (accountId === undefined || grantId === undefined || epoch === undefined) {
    throw new errors.InvalidGrant('the user may not act');
  }
  return { principalId: accountId, epoch, family: grantId };
}

/** Claims of the login behind a token (RFC 9470 §6.1). Throws where it is not what the endpoint needs any longer. */
async function loginOfToken({ stepUp }: ProviderOptions, { oidc }: KoaContextWithOIDC, token: unknown) {
  const { kind, aud } = token as { kind?: string; aud?: unknown };
  if (kind === 'ClientCredentials') return {};
  const from = oidc.entities.AuthorizationCode ?? oidc.entities.RefreshToken;
  const { acr, authenticatedAt } = loginFactsOf(from, from?.authTime);
  if (!(await stepUp.allows(aud, { acr, authenticatedAt }))) {
    throw new errors.InvalidGrant('the endpoint needs a stronger or fresher login');
  }
  return {
    ...(acr === undefined ? {} : { acr }),
    ...(authenticatedAt === undefined ? {} : { auth_time: authenticatedAt }),
  };
}

/** Refuses with a status that clients wait on; a refresh token that was used for it is taken again. */
function admit(options: ProviderOptions, ctx: KoaContextWithOIDC, holder: string): void {
  try {
    options.admit(holder);
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    ctx.set('retry-after', retryAfterOf(error));
    const refusal = new errors.TemporarilyUnavailable('too many tokens for this client');
    throw Object.assign(refusal, { status: 429, statusCode: 429 });
  }
}

/** What it speaks: no more than clients of MCP need. */
function protocol({ urls, secretKey, keys, settings, ...options }: ProviderOptions): Configuration {
  const secure = urls.issuer.startsWith('https:');
  const { login: _login, ...names } = cookieNames(urls.issuer);
  const cookie = { httpOnly: true, sameSite: 'lax', secure, signed: true } as const;
  const published = { use: 'sig', alg: 'ES256' };
  return {
    jwks: {
      keys: keys.map(({ id, privateKey }) => ({ ...privateKey.export({ format: 'jwk' }), kid: id, ...published })),
    },
    routes: oauthPaths,
    scopes: ['offline_access', ...oauthScopes],
    claims: {},
    responseTypes: ['code'],
    clientAuthMethods: ['none', 'client_secret_basic', 'client_secret_post', 'private_key_jwt'],
    clientDefaults: { id_token_signed_response_alg: 'ES256', response_types: ['code'] },
    enabledJWA: {
      idTokenSigningAlgValues: ['ES256'],
      clientAuthSigningAlgValues: ['ES256', 'RS256', 'PS256', 'Ed25519', 'EdDSA'],
    },
    clockTolerance: clockToleranceSeconds,
    pkce: { required: () => true },
    // A request that does not say where to answer is answered nowhere.
    allowOmittingSingleRegisteredRedirectUri: false,
    cookies: {
      names,
      keys: [derivedKey(secretKey, 'cookies').toString('base64url')],
      long: { ...cookie, path: '/' },
      short: cookie,
    },
    features: {
      devInteractions: { enabled: false },
      userinfo: { enabled: false },
      rpInitiatedLogout: { enabled: false },
      introspection: { enabled: false },
      // Nodes take bearer tokens, and no route leads to pushed requests: neither is promised in the metadata.
      dPoP: { enabled: false },
      pushedAuthorizationRequests: { enabled: false },
      clientCredentials: { enabled: true },
      revocation: { enabled: true, allowedPolicy: (_ctx, client, token) => token.clientId === client.clientId },
      resourceIndicators: resourceIndicators({ urls, keys }),
      registration: { enabled: settings.dynamicRegistration, issueRegistrationAccessToken: false },
      clientIdMetadataDocument: metadataDocuments({ settings, log: options.log }),
    },
    fetchResponseBodyLimits: {
      'client_id metadata document': metadataDocumentBytesMax,
      jwks_uri: jwksBytesMax,
      sector_identifier_uri: jwksBytesMax,
    },
    fetch: options.fetch,
  };
}

function configuration(options: ProviderOptions): Configuration {
  return {
    ...protocol(options),
    adapter: (model) => options.store.adapter(model),
    clients: [accountClient(options.urls.issuer)],
    interactions: { policy: policy(options), url: (_ctx, { uid }) => `/oauth/interaction/${uid}` },
    findAccount: async (_ctx, accountId) =>
      (await options.epochOf(accountId)) === undefined
        ? undefined
        : { accountId, claims: () => Promise.resolve({ sub: accountId }) },
    loadExistingGrant: async (ctx) => {
      const grantId = await options.grantFor(ctx);
      return grantId === undefined ? undefined : ctx.oidc.provider.Grant.find(grantId);
    },
    extraTokenClaims: async (ctx, token) => {
      const { principalId, epoch, family } = await subjectOf(options, token);
      const login = await loginOfToken(options, ctx, token);
      admit(options, ctx, `${token.clientId}|${principalId}`);
      return { epoch, family, ...login };
    },
    formats: {
      customizers: {
        jwt: async (_ctx, token, { payload }) => {
          if (payload !== undefined) payload['sub'] = (await subjectOf(options, token)).principalId;
        },
      },
    },
    issueRefreshToken: (_ctx, client) => Promise.resolve(client.grantTypeAllowed('refresh_token')),
    rotateRefreshToken: true,
    expiresWithSession: () => Promise.resolve(false),
    renderError: (ctx, out) => {
      ctx.type = 'html';
      const page = errorPage(out.error, out.error_description);
      ctx.set(page.headers);
      ctx.body = page.html;
    },
    ttl: lifetimes(options.clock),
  };
}

function lifetimes(clock: Clock): NonNullable<Configuration['ttl']> {
  /** What is left of the idle time, or of the whole time since the beginning, in seconds. */
  const left = (idleMs: number, wholeMs: number, beganAt: number | undefined): number => {
    const age = beganAt === undefined ? 0 : seconds(clock.now()) - beganAt;
    return Math.max(1, Math.min(seconds(idleMs), seconds(wholeMs) - age));
  };
  return {
    AuthorizationCode: seconds(codeLifetimeMs),
    ClientCredentials: seconds(accessTokenLifetimeMs),
    AccessToken: seconds(accessTokenLifetimeMs),
    Grant: (_ctx, { clientId }) => seconds(clientId === accountClientId ? codeLifetimeMs : familyAbsoluteMs),
    Interaction: seconds(interactionLifetimeMs),
    RefreshToken: (_ctx, token) => left(refreshIdleMs, familyAbsoluteMs, token.iiat),
    Session: (_ctx, session) => left(sessionIdleMs, sessionAbsoluteMs, session.loginTs),
  };
}

/**
 * An instance of the OAuth library for these keys and settings; there is a new one when they change. Two of its models
 * are changed: client secrets are compared by hash, and the successor of a refresh token is computed from it, so that
 * a request that is repeated or races with itself gives the same successor (decision 0026).
 */
export function createProvider(options: ProviderOptions): Provider {
  const provider = new Provider(options.urls.issuer, configuration(options));
  // Requests are told where they came in, by the public URL and not by headers of theirs.
  provider.proxy = true;
  // The library's page for `form_post` would be the one page here that runs a script.
  provider.use(async (ctx, next) => {
    await next();
    if (ctx.oidc?.route === 'discovery') Object.assign(ctx.body as object, { response_modes_supported: ['query'] });
  });
  const client = provider.Client.prototype;
  client.compareClientSecret = function compare(actual: string) {
    return this.clientSecret !== undefined && isSecretOf(this.clientSecret, actual);
  };
  client.redirectUriAllowed = function allowed(uri: string) {
    return redirectUriMatches(this.redirectUris ?? [], uri);
  };
  // Of the library's models, which its types do not tell; the tests of rotation hold it in place.
  const refreshToken = provider.RefreshToken.prototype as unknown as { generateTokenId: () => string };
  const random = refreshToken.generateTokenId;
  const successorKey = derivedKey(options.secretKey, 'refreshSuccessor');
  refreshToken.generateTokenId = function successor() {
    const rotated = Provider.ctx?.oidc.entities.RotatedRefreshToken?.jti;
    if (rotated === undefined) return random.call(this);
    return createHmac('sha256', successorKey).update(rotated).digest('base64url');
  };
  return provider;
}

/** What a request asks for that names no scopes. */
export const defaultScope = partScopes.join(' ');
