import type { IncomingMessage, ServerResponse } from 'node:http';
import { AppError, canonicalJson, oauthRoutes, routeMatcher, sha256, toAppError } from '@sallyport/schema';
import type { Clock, Egress, Log } from '@sallyport/schema/platform';
import type { Provider } from 'oidc-provider';
import { type Database, isConnectionFailure } from '../database/client.ts';
import type { ConnectionService } from '../credentials/connection.service.ts';
import type { LoginTokens } from '../credentials/login-tokens.service.ts';
import type { UpstreamKeys } from '../credentials/upstream-keys.service.ts';
import type { PublicUrls } from '../fleet/compile-snapshot.ts';
import type { SigningKeyService } from '../fleet/signing-keys.ts';
import type { BackChannelLogoutService } from '../identity/idp/back-channel-logout.service.ts';
import { attemptLifetimeMs, type FederatedLoginService } from '../identity/idp/federated-login.service.ts';
import type { IdentityProviderService } from '../identity/idp/identity-provider.service.ts';
import type { OidcConnections } from '../identity/idp/oidc-connection.ts';
import type { GuardedAuthentication } from '../identity/guarded-authentication.ts';
import { usablePrincipal } from '../identity/principal.service.ts';
import { type RequestLimits, retryAfterOf } from '../request-limits.ts';
import type { StepUpService } from './step-up.service.ts';
import { AccessTokenRevocation } from './access-token-revocation.ts';
import { AccountPages } from './account.ts';
import { Authorizations, loginOf } from './authorizations.ts';
import type { ClientService } from './client.service.ts';
import type { ConsentService } from './consent.service.ts';
import { ConnectPages } from './connect.ts';
import { IdentityAssertions } from './identity-assertion.ts';
import { cookieOf, OwnForms, readForm, redirect, secureOf, send } from './forms.ts';
import { Interactions } from './interaction.ts';
import type { LoginCodeService } from './login-code.service.ts';
import type { ObjectStore } from './object-store.service.ts';
import { errorPage } from './pages.ts';
import { cookieNames, createProvider, defaultScope, derivedKey, resourceServerOf } from './provider.ts';
import type { OAuthSettingsService } from './settings.service.ts';
import { sendUpstreamDocument, type UpstreamDocument } from './upstream-documents.ts';

/** How soon a process follows a change of keys or settings, in milliseconds. */
const refreshMs = 1_000;

export interface AuthorizationServerOptions {
  readonly urls: PublicUrls;
  readonly secretKey: string;
  readonly database: Pick<Database, 'db'>;
  readonly signingKeys: SigningKeyService;
  readonly settings: OAuthSettingsService;
  readonly store: ObjectStore;
  readonly clients: ClientService;
  readonly consents: ConsentService;
  readonly loginCodes: LoginCodeService;
  readonly providers: IdentityProviderService;
  readonly connections: OidcConnections;
  /** Accounts of users at upstreams. */
  readonly userConnections: ConnectionService;
  /** Sign toward upstreams. */
  readonly upstreamKeys: UpstreamKeys;
  readonly loginTokens: Pick<LoginTokens, 'end'>;
  readonly logins: FederatedLoginService;
  readonly logouts: BackChannelLogoutService;
  readonly egress: Pick<Egress, 'fetch'>;
  readonly stepUp: StepUpService;
  readonly limits: RequestLimits;
  readonly authentication: Pick<GuardedAuthentication, 'assertMayTry' | 'failed'>;
  /** Who asks; null where that cannot be told. */
  readonly addressOf: (request: IncomingMessage) => string | null;
  readonly clock: Clock;
  readonly log: Log;
}

const matchRoute = routeMatcher<keyof typeof oauthRoutes>(oauthRoutes);

/**
 * The authorization server: the OAuth library with storage, pages and keys of ours. Every replica can serve every
 * request; what is under way lies in the database.
 */
export class AuthorizationServer {
  readonly #options: AuthorizationServerOptions;
  readonly #interactions: Interactions;
  readonly #account: AccountPages;
  readonly #connect: ConnectPages;
  readonly #authorizations: Authorizations;
  readonly #assertions: IdentityAssertions;
  readonly #revocation: AccessTokenRevocation;
  #current: { readonly provider: Provider; readonly fingerprint: string } | undefined;
  #checkedAt = Number.NEGATIVE_INFINITY;

  constructor(options: AuthorizationServerOptions) {
    this.#options = options;
    this.#authorizations = new Authorizations(options.store, options.consents);
    const { issuer } = options.urls;
    const forms = new OwnForms(issuer, derivedKey(options.secretKey, 'csrf'));
    const resumed = (request: IncomingMessage): string | undefined => this.#connect.resumed(request);
    const loggedOut = (amr: readonly string[] | undefined): Promise<void> => this.#loggedOut(loginOf(amr));
    this.#account = new AccountPages({ ...options, issuer, forms, resumed, loggedOut });
    this.#connect = new ConnectPages({ issuer, forms, account: this.#account, connections: options.userConnections });
    this.#interactions = new Interactions({
      ...options,
      forms,
      authorizations: this.#authorizations,
      userOf: (provider, request, response) => this.#account.userOf(provider, request, response),
      identityProviders: () => options.providers.usable(),
    });
    this.#revocation = new AccessTokenRevocation({ ...options, issuer });
    this.#assertions = new IdentityAssertions({ ...options, ...options.urls, authorizations: this.#authorizations });
  }

  /** Answers a request for one of `oauthRoutes`; does not reject. */
  async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      const [path] = (request.url ?? '').split('?');
      const isRegistration = path === oauthRoutes.oauthRegister.path;
      this.#options.limits.assertNetworkMayAsk(this.#options.addressOf(request), isRegistration);
      await this.#dispatch(request, response);
    } catch (error) {
      if (error instanceof AppError && error.code === 'RATE_LIMITED') answerTooMany(request, response, error);
      else this.#answerFailure(response, error);
    }
  }

  async #dispatch(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? '/', this.#options.urls.issuer);
    const match = matchRoute(url.pathname);
    const uid = match?.parameters['id'] ?? '';
    const provider = await this.#provider();
    arrivedAt(request, this.#options.urls.issuer);
    switch (match?.name) {
      case 'oauthInteraction':
        return this.#interactions.show(provider, request, response, uid);
      case 'oauthLogin': {
        const from = this.#options.addressOf(request);
        this.#options.authentication.assertMayTry(from);
        const onWrong = () => this.#options.authentication.failed(from);
        return this.#interactions.enterCode(provider, request, response, uid, onWrong);
      }
      case 'oauthAccountsDue':
        return this.#interactions.changeAccounts(provider, request, response, uid);
      case 'oauthConsent':
        return this.#interactions.decide(provider, request, response, uid);
      case 'oauthProvider':
        return this.#toProvider(provider, response, uid, url.searchParams.get('id') ?? '');
      case 'oauthCallback':
        return this.#fromProvider(request, response, uid, url);
      case 'oauthLoggedIn': {
        const ticket = url.searchParams.get('ticket') ?? '';
        const login = () => this.#options.logins.redeem(ticket, uid);
        return this.#interactions.loggedIn(provider, request, response, uid, login);
      }
      case 'oauthBackChannelLogout':
        return this.#backChannelLogout(request, response, uid);
      case 'oauthAccount':
        if (request.method === 'POST') return this.#account.change(provider, request, response);
        return this.#account.show(provider, request, response, url.searchParams);
      case 'oauthConnected':
        return this.#connect.complete(provider, request, response, url);
      case 'oauthConnect':
        if (request.method === 'POST') return this.#connect.begin(provider, request, response, uid);
        return this.#connect.show(provider, request, response, uid);
      case 'oauthUpstreamClient':
        return this.#publish(response, 'client');
      case 'oauthUpstreamSignedClient':
        return this.#publish(response, 'signedClient');
      case 'oauthUpstreamKeys':
        return this.#publish(response, 'keys');
      case 'oauthUpstreamIssuer':
        return this.#publish(response, 'issuer');
      case 'oauthAuthorize':
        if ((url.searchParams.get('response_mode') ?? 'query') !== 'query') {
          const description = 'Answers are given in the query of the redirect URI alone.';
          return send(response, 400, errorPage('unsupported_response_mode', description));
        }
        request.url = `${url.pathname}?${completed(url.searchParams).toString()}`;
        break;
    }
    await provider.callback()(request, response);
  }

  async #loggedOut(loginId: string | undefined): Promise<void> {
    const { database, loginTokens } = this.#options;
    if (loginId !== undefined) await database.db.transaction((tx) => loginTokens.end(tx, loginId));
  }

  #publish(response: ServerResponse, document: UpstreamDocument): Promise<void> {
    const { urls, upstreamKeys } = this.#options;
    return sendUpstreamDocument(response, document, { issuer: urls.issuer, keys: upstreamKeys });
  }

  /** Sends the browser to an identity provider, with a cookie that binds the answer to it. */
  async #toProvider(library: Provider, response: ServerResponse, uid: string, providerId: string) {
    const { logins, urls, log } = this.#options;
    try {
      const { url, cookie } = await logins.begin(providerId, uid, await this.#interactions.needs(library, uid));
      const attributes = `Path=/; HttpOnly; SameSite=Lax; Max-Age=${attemptLifetimeMs / 1000}${secureOf(urls.issuer)}`;
      const cookies = `${cookieNames(urls.issuer).login}=${cookie}; ${attributes}`;
      redirect(response, url.href, cookies);
    } catch (error) {
      log.warn({ err: error, providerId }, 'an identity provider could not be used');
      send(response, 502, errorPage('identity_provider_unavailable', 'The identity provider does not answer.'));
    }
  }

  /** The browser is back: what went wrong is for the log, since others may have written it. */
  async #fromProvider(request: IncomingMessage, response: ServerResponse, providerId: string, url: URL) {
    const { logins, urls, log } = this.#options;
    const cookie = cookieOf(request, cookieNames(urls.issuer).login);
    const returned = await logins.returned(providerId, url, cookie).catch((error: unknown) => {
      if (isConnectionFailure(error)) throw error;
      log.warn({ err: error, providerId }, 'a login at an identity provider failed');
      return undefined;
    });
    if (returned === undefined) {
      send(response, 400, errorPage('login_failed', 'The login at the identity provider did not succeed.'));
      return;
    }
    const { interaction, ticket } = returned;
    redirect(response, `/oauth/interaction/${interaction}/logged-in?ticket=${ticket}`);
  }

  /** OpenID Connect Back-Channel Logout 1.0 §2.8. */
  async #backChannelLogout(request: IncomingMessage, response: ServerResponse, providerId: string): Promise<void> {
    const { logouts, log } = this.#options;
    try {
      await logouts.logOut(providerId, (await readForm(request)).get('logout_token') ?? '');
      response.writeHead(200, { 'cache-control': 'no-store' }).end();
    } catch (error) {
      if (isConnectionFailure(error)) throw error;
      log.warn({ err: error, providerId }, 'a logout token was refused');
      response.writeHead(400, { 'cache-control': 'no-store', 'content-type': 'application/json' });
      response.end(JSON.stringify({ error: 'invalid_request' }));
    }
  }

  /** For the keys and settings of now. */
  async #provider(): Promise<Provider> {
    const { signingKeys, settings, clock } = this.#options;
    if (this.#current !== undefined && clock.monotonic() - this.#checkedAt < refreshMs) return this.#current.provider;
    const keys = await signingKeys.opened();
    const chosen = await settings.read();
    const fingerprint = sha256(canonicalJson({ keys: keys.map(({ id, use }) => ({ id, use })), chosen }));
    if (this.#current?.fingerprint !== fingerprint) {
      const provider = this.#create({ keys, settings: chosen });
      this.#current = { provider, fingerprint };
    }
    this.#checkedAt = clock.monotonic();
    return this.#current.provider;
  }

  #create(of: Pick<Parameters<typeof createProvider>[0], 'keys' | 'settings'>): Provider {
    const { urls, secretKey, store, clients, userConnections, egress, limits, stepUp, database, clock, log } =
      this.#options;
    const provider = createProvider({
      ...of,
      urls,
      secretKey,
      store,
      clients,
      stepUp,
      clock,
      log,
      // A request object never comes: the library fetches by URL.
      fetch: (input, init) => egress.fetch(input instanceof Request ? input.url : input, init),
      admit: (holder) => limits.assertHolderMayAsk(holder),
      areAccountsDue: async (id) => (await userConnections.dueAtLogin(id, 1)).length > 0,
      epochOf: async (id) => (await usablePrincipal(database.db, id, clock.now()))?.epoch,
      grantFor: (ctx) => this.#authorizations.grantFor(ctx),
    });
    this.#revocation.register(provider, of.keys);
    this.#assertions.register(provider, resourceServerOf({ urls, keys: of.keys }));
    provider.on('server_error', (_ctx, error) => log.error({ err: error }, 'the authorization server failed'));
    return provider;
  }

  #answerFailure(response: ServerResponse, thrown: unknown): void {
    const isAway = isConnectionFailure(thrown);
    if (!isAway)
      this.#options.log.error({ err: toAppError(thrown).cause ?? thrown }, 'the authorization server failed');
    if (response.headersSent) response.destroy();
    else send(response, isAway ? 503 : 500, errorPage(isAway ? 'temporarily_unavailable' : 'server_error'));
  }
}

/**
 * A request with the scopes it means where it names none. The library takes `acr_values` and `max_age` with `openid` alone;
 * RFC 9470 §4 knows no such bond.
 */
function completed(parameters: URLSearchParams): URLSearchParams {
  const scopes = (parameters.get('scope') ?? defaultScope).split(' ');
  const isStepUp = parameters.has('acr_values') || parameters.has('max_age');
  if (isStepUp && !scopes.includes('openid')) scopes.push('openid');
  if (parameters.getAll('scope').length < 2) parameters.set('scope', scopes.join(' '));
  return parameters;
}

/** As JSON where a program asks, as a page where a person does. */
function answerTooMany(request: IncomingMessage, response: ServerResponse, error: AppError): void {
  const headers = { 'retry-after': retryAfterOf(error), 'cache-control': 'no-store', connection: 'close' };
  if ((request.headers.accept ?? '').includes('text/html')) {
    const page = errorPage('too_many_requests', 'There were too many requests from your network. Try again shortly.');
    response.writeHead(429, { ...page.headers, ...headers }).end(page.html);
    return;
  }
  response.writeHead(429, { ...headers, 'content-type': 'application/json' });
  response.end(JSON.stringify({ error: 'temporarily_unavailable', error_description: error.publicMessage }));
}

/** What the library takes for the address of the request: the public one, whatever the request says of itself. */
function arrivedAt(request: IncomingMessage, issuer: string): void {
  const { host, protocol } = new URL(issuer);
  request.headers.host = host;
  request.headers['x-forwarded-host'] = host;
  request.headers['x-forwarded-proto'] = protocol.slice(0, -1);
}
