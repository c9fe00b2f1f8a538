import { AppError } from '@sallyport/schema';
import type { Clock, Egress } from '@sallyport/schema/platform';
import { createRemoteJWKSet, customFetch as joseFetch, type JWTVerifyGetKey } from 'jose';
import * as oidc from 'openid-client';
import { z } from 'zod';
import type { Claims } from './claims.ts';
import type { IdentityProviderRow } from './identity-provider.tables.ts';

/** Metadata of a provider is read again after this time, in milliseconds. */
const metadataLifetimeMs = 10 * 60_000;
/** Keys are asked for at most this often whatever key ids tokens name, in milliseconds. */
const keysCooldownMs = 30_000;
const requestTimeoutSeconds = 10;
/** How far the clock of a provider may be off, in seconds. */
export const clockToleranceSeconds = 60;

const groupsAnswerSchema = z.looseObject({ value: z.array(z.string()).max(20_000) });

/** What a login needs to remember while the browser is at the provider. */
export interface LoginSecrets {
  readonly verifier: string;
  readonly nonce: string;
  /** From when on the user must log in anew there, whatever session there is, in seconds since the epoch; else null. */
  readonly freshSince: number | null;
}

interface Connection {
  readonly configuration: oidc.Configuration;
  readonly keys: JWTVerifyGetKey;
}

export interface OidcConnectionsOptions {
  readonly egress: Pick<Egress, 'fetch'>;
  /** The client secret, opened; undefined where there is none. */
  readonly secretOf: (provider: IdentityProviderRow) => string | undefined;
  readonly clock: Clock;
}

/** Talks to identity providers through the guarded egress client. */
export class OidcConnections {
  readonly #options: OidcConnectionsOptions;
  readonly #known = new Map<string, { readonly at: number; readonly connection: Promise<Connection> }>();

  constructor(options: OidcConnectionsOptions) {
    this.#options = options;
  }

  /** Where to send the browser. */
  async authorizationUrl(
    provider: IdentityProviderRow,
    redirectUri: string,
    state: string,
    secrets: LoginSecrets,
    acrValues: readonly string[],
  ): Promise<URL> {
    const { configuration } = await this.#connection(provider);
    const acrs = acrValues.length > 0 ? acrValues : provider.acrValues;
    return oidc.buildAuthorizationUrl(configuration, {
      redirect_uri: redirectUri,
      scope: provider.scopes.join(' '),
      state,
      nonce: secrets.nonce,
      code_challenge: await oidc.calculatePKCECodeChallenge(secrets.verifier),
      code_challenge_method: 'S256',
      ...(acrs.length === 0 ? {} : { acr_values: acrs.join(' ') }),
      ...(secrets.freshSince !== null ? { prompt: 'login', max_age: '0' } : {}),
    });
  }

  /**
   * Claims of the ID token that the code gives. The library checks state, `iss` of the answer (RFC 9207), signature,
   * issuer, audience, times and nonce; before all that, no request leaves for an answer of another issuer.
   */
  async redeem(
    provider: IdentityProviderRow,
    answer: URL,
    state: string,
    { verifier, nonce, freshSince }: LoginSecrets,
  ): Promise<Claims> {
    const { configuration } = await this.#connection(provider);
    const tokens = await oidc.authorizationCodeGrant(configuration, answer, {
      pkceCodeVerifier: verifier,
      expectedNonce: nonce,
      expectedState: state,
      idTokenExpected: true,
      // The provider must say when (OpenID Connect Core §3.1.2.1): since it was asked.
      ...(freshSince === null ? {} : { maxAge: Math.max(0, Math.ceil(this.#options.clock.now() / 1000 - freshSince)) }),
    });
    const claims = tokens.claims();
    if (claims === undefined) throw new AppError('UNAUTHENTICATED', { internal: 'the answer held no ID token' });
    return claims;
  }

  /** All groups of the user, from the configured place and with a token of the application's own. */
  async groups(provider: IdentityProviderRow, subject: string): Promise<readonly string[]> {
    const { groupsUrl, groupsUrlScope } = provider;
    if (groupsUrl === null) {
      throw new AppError('UNAUTHENTICATED', { internal: 'groups are not all in the token, and no groupsUrl is set' });
    }
    const { configuration } = await this.#connection(provider);
    const parameters: Record<string, string> = groupsUrlScope === null ? {} : { scope: groupsUrlScope };
    const { access_token: token } = await oidc.clientCredentialsGrant(configuration, parameters);
    const response = await this.#options.egress.fetch(groupsUrl.replaceAll('{subject}', encodeURIComponent(subject)), {
      method: 'POST',
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json', accept: 'application/json' },
      body: JSON.stringify({ securityEnabledOnly: false }),
      signal: AbortSignal.timeout(requestTimeoutSeconds * 1000),
    });
    if (!response.ok) throw new AppError('UNAUTHENTICATED', { internal: `groupsUrl answered ${response.status}` });
    return groupsAnswerSchema.parse(await response.json()).value;
  }

  /** Keys that verify what the provider signs; fetched when one is unknown, and seldom. */
  async keys(provider: IdentityProviderRow): Promise<JWTVerifyGetKey> {
    return (await this.#connection(provider)).keys;
  }

  #connection(provider: IdentityProviderRow): Promise<Connection> {
    const id = `${provider.id}/${provider.revision}`;
    const known = this.#known.get(id);
    const now = this.#options.clock.monotonic();
    if (known !== undefined && now - known.at < metadataLifetimeMs) return known.connection;
    const connection = this.#connect(provider);
    this.#known.set(id, { at: now, connection });
    for (const other of this.#known.keys()) {
      if (other !== id && other.startsWith(`${provider.id}/`)) this.#known.delete(other);
    }
    // A provider that was away is asked again by the next login.
    connection.catch(() => this.#known.delete(id));
    return connection;
  }

  async #connect(provider: IdentityProviderRow): Promise<Connection> {
    const secret = this.#options.secretOf(provider);
    const fetchGuarded = (url: string, init?: object): Promise<Response> =>
      this.#options.egress.fetch(url, bodyOf(init ?? {}));
    const configuration = await oidc.discovery(
      new URL(provider.issuer),
      provider.clientId,
      { [oidc.clockTolerance]: clockToleranceSeconds, ...(secret === undefined ? {} : { client_secret: secret }) },
      secret === undefined ? oidc.None() : undefined,
      {
        [oidc.customFetch]: fetchGuarded,
        timeout: requestTimeoutSeconds,
        // Only loopback can be registered with http.
        execute: provider.issuer.startsWith('http:') ? [oidc.allowInsecureRequests] : [],
      },
    );
    configuration[oidc.customFetch] = fetchGuarded;
    // Else the library takes the connection to the provider for proof enough, and looks at no signature.
    oidc.enableNonRepudiationChecks(configuration);
    const { issuer, jwks_uri: jwksUri } = configuration.serverMetadata();
    if (issuer !== provider.issuer || jwksUri === undefined) {
      throw new AppError('UPSTREAM_PROTOCOL', { internal: `the metadata of ${provider.issuer} is not its own` });
    }
    const keys = createRemoteJWKSet(new URL(jwksUri), {
      [joseFetch]: fetchGuarded,
      cooldownDuration: keysCooldownMs,
      timeoutDuration: requestTimeoutSeconds * 1000,
    });
    return { configuration, keys };
  }
}

/** The guarded client takes bodies as text. */
function bodyOf(init: RequestInit): RequestInit {
  return init.body instanceof URLSearchParams ? { ...init, body: init.body.toString() } : init;
}
