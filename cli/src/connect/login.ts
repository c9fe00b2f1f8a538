import { setTimeout as delay } from 'node:timers/promises';
import {
  auth,
  type AuthProvider,
  extractWWWAuthenticateParams,
  type OAuthClientInformationContext,
  type OAuthClientMetadata,
  type OAuthClientProvider,
  type StoredOAuthClientInformation,
  type StoredOAuthTokens,
} from '@modelcontextprotocol/client';
import { randomSecret } from '@sallyport/schema/platform';
import type { CredentialStore } from './credential-store.ts';
import { type LoopbackListener, startLoopbackListener } from './loopback-listener.ts';

type UnauthorizedContext = Parameters<NonNullable<AuthProvider['onUnauthorized']>>[0];
type Discovered = Parameters<NonNullable<OAuthClientProvider['saveDiscoveryState']>>[0];

/** How long a person may take to log in, in milliseconds. */
const loginTimeoutMs = 10 * 60_000;

export interface LoginOptions {
  readonly endpoint: URL;
  readonly store: CredentialStore;
  /** A client that the authorization server knows already; undefined: registers itself, where it may. */
  readonly clientId: string | undefined;
  /** Shows a person the page to log in at. */
  readonly show: (page: URL) => void;
}

/**
 * Logs a person in at the authorization server of an endpoint, keeps what came of it, and refreshes it. Asks for nothing
 * as long as the stored tokens do. Logins of one process share one flow.
 */
export class Login implements AuthProvider {
  readonly #options: LoginOptions;
  #running: Promise<void> | undefined;

  constructor(options: LoginOptions) {
    this.#options = options;
  }

  async token(): Promise<string | undefined> {
    return this.#options.store.read()?.tokens?.access_token;
  }

  onUnauthorized({ response, fetchFn }: UnauthorizedContext): Promise<void> {
    this.#running ??= this.#logIn(extractWWWAuthenticateParams(response), fetchFn).finally(() => {
      this.#running = undefined;
    });
    return this.#running;
  }

  async #logIn(
    challenge: ReturnType<typeof extractWWWAuthenticateParams>,
    fetchFn: UnauthorizedContext['fetchFn'],
  ): Promise<void> {
    const { endpoint, show } = this.#options;
    const { resourceMetadataUrl, scope } = challenge;
    if (resourceMetadataUrl === undefined) {
      throw new Error('the endpoint takes no logins: ask an administrator, or use an API key');
    }
    const listener = await startLoopbackListener();
    const deadline = new AbortController();
    try {
      const flow = new Flow(this.#options, listener, show);
      const asked = { serverUrl: endpoint, resourceMetadataUrl, fetchFn, ...(scope === undefined ? {} : { scope }) };
      if ((await auth(flow, asked)) === 'AUTHORIZED') return;
      const late = delay(loginTimeoutMs, undefined, { ref: false, signal: deadline.signal }).then(() => {
        throw new Error('nobody logged in within ten minutes');
      });
      const answer = await Promise.race([listener.answer(flow.state()), late]);
      const error = answer.get('error');
      // Its description is text of whoever sent it, and is not shown (RFC 9207 §2.4).
      if (error !== null) throw new Error(`the login was refused (${error.slice(0, 64).replace(/[^\w.-]/g, '?')})`);
      const iss = answer.get('iss');
      const code = { authorizationCode: answer.get('code') ?? '', ...(iss === null ? {} : { iss }) };
      await auth(flow, { ...asked, ...code });
    } finally {
      deadline.abort();
      listener.close();
    }
  }
}

/** One login, as the SDK drives it. */
class Flow implements OAuthClientProvider {
  readonly #options: Pick<LoginOptions, 'store' | 'clientId'>;
  readonly #listener: LoopbackListener;
  readonly #show: (page: URL) => void;
  readonly #state = randomSecret('');
  #verifier = '';
  #discovered: Discovered | undefined;

  constructor(options: LoginOptions, listener: LoopbackListener, show: (page: URL) => void) {
    this.#options = options;
    this.#listener = listener;
    this.#show = show;
  }

  get redirectUrl(): string {
    return this.#listener.redirectUrl;
  }

  get clientMetadata(): OAuthClientMetadata {
    return {
      client_name: 'sallyport connect',
      redirect_uris: [this.redirectUrl],
      grant_types: ['authorization_code', 'refresh_token'],
      response_types: ['code'],
      token_endpoint_auth_method: 'none',
      application_type: 'native',
    };
  }

  state(): string {
    return this.#state;
  }

  clientInformation(ctx?: OAuthClientInformationContext): StoredOAuthClientInformation | undefined {
    const clientId = this.#options.clientId ?? this.#stored(ctx)?.clientId;
    if (clientId === undefined) return undefined;
    return { client_id: clientId, ...(ctx === undefined ? {} : { issuer: ctx.issuer }) };
  }

  saveClientInformation(client: StoredOAuthClientInformation, ctx?: OAuthClientInformationContext): void {
    this.#write(ctx, { clientId: client.client_id });
  }

  tokens(ctx?: OAuthClientInformationContext): StoredOAuthTokens | undefined {
    return this.#stored(ctx)?.tokens;
  }

  saveTokens(tokens: StoredOAuthTokens, ctx?: OAuthClientInformationContext): void {
    this.#write(ctx, { tokens });
  }

  redirectToAuthorization(page: URL): void {
    assertLoginPage(page);
    this.#show(page);
  }

  saveCodeVerifier(verifier: string): void {
    this.#verifier = verifier;
  }

  codeVerifier(): string {
    return this.#verifier;
  }

  /** The authorization server that the page is of: the code goes to no other (SEP-2352). */
  saveDiscoveryState(discovered: Discovered): void {
    this.#discovered = discovered;
  }

  discoveryState(): Discovered | undefined {
    return this.#discovered;
  }

  invalidateCredentials(what: 'all' | 'client' | 'tokens' | 'verifier' | 'discovery'): void {
    const stored = this.#options.store.read();
    if (what === 'all' || what === 'discovery') this.#discovered = undefined;
    if (stored === undefined || what === 'verifier' || what === 'discovery') return;
    const { tokens: _tokens, clientId, ...rest } = stored;
    const keepsClient = what === 'tokens' && clientId !== undefined;
    this.#options.store.write(keepsClient ? { ...rest, clientId } : rest);
  }

  /** Credentials are of one authorization server: another one never sees them. */
  #stored(ctx: OAuthClientInformationContext | undefined) {
    const stored = this.#options.store.read();
    return ctx === undefined || stored?.issuer === ctx.issuer ? stored : undefined;
  }

  #write(ctx: OAuthClientInformationContext | undefined, changed: { clientId?: string; tokens?: StoredOAuthTokens }) {
    const issuer = ctx?.issuer ?? this.#options.store.read()?.issuer ?? '';
    this.#options.store.write({ ...this.#stored({ issuer }), issuer, ...changed });
  }
}

/** The page is the authorization server's to name, and is given to a program of the system: see CVE-2025-6514. */
function assertLoginPage(page: URL): void {
  const isLocal = ['127.0.0.1', 'localhost', '[::1]'].includes(page.hostname);
  if (page.protocol !== 'https:' && !(page.protocol === 'http:' && isLocal)) {
    throw new Error('the authorization server named a page to log in at that is not https');
  }
  if (page.username !== '' || page.password !== '') throw new Error('the page to log in at must not hold a password');
}
