import { AppError } from '@sallyport/schema';
import { type Clock, type Egress, withinBytes } from '@sallyport/schema/platform';
import {
  createRemoteJWKSet,
  customFetch as joseFetch,
  decodeJwt,
  decodeProtectedHeader,
  type JWTVerifyGetKey,
} from 'jose';
import * as oidc from 'openid-client';
import { z } from 'zod';
import {
  exchangeGrant,
  outcomeOf,
  scopeParameter,
  type TokenOutcome,
  tokenTypes,
} from '../../credentials/token-outcome.ts';
import type { Claims } from './claims.ts';
import type { IdentityProviderRow } from './identity-provider.tables.ts';

/** Metadata of a provider is read again after this time, in milliseconds. */
const metadataLifetimeMs = 10 * 60_000;
/** Keys are asked for at most this often whatever key ids tokens name, in milliseconds. */
const keysCooldownMs = 30_000;
const requestTimeoutSeconds = 10;
/** Of metadata, keys, tokens, and of the groups of one user. */
const answerBytesMax = 4 * 1024 * 1024;
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

/** What a provider gave at a login besides the claims. */
export interface GivenTokens {
  readonly idToken: string;
  readonly refreshToken: string | null;
  /** Milliseconds since the epoch. */
  readonly idTokenExpiresAt: number;
}

/** An assertion that is asked for (draft-ietf-oauth-identity-assertion-authz-grant §4.3). */
export interface AssertionRequest {
  readonly idToken: string;
  /** Issuer of the authorization server that it is for. */
  readonly audience: string;
  /** Our client id there. */
  readonly clientId: string;
  readonly resource: string;
  readonly scopes: readonly string[];
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
  ): Promise<{ readonly claims: Claims; readonly given: GivenTokens }> {
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
    const { id_token: idToken, refresh_token: refreshToken } = tokens;
    if (claims === undefined || idToken === undefined) {
      throw new AppError('UNAUTHENTICATED', { internal: 'the answer held no ID token' });
    }
    return { claims, given: { idToken, refreshToken: refreshToken ?? null, idTokenExpiresAt: claims.exp * 1000 } };
  }

  /**
   * Another ID token of the same user (OpenID Connect Core §12). Never rejects: what came of it decides whether the refresh
   * token may be used again.
   */
  async renew(
    provider: IdentityProviderRow,
    refreshToken: string,
    subject: string,
  ): Promise<Exclude<TokenOutcome, { kind: 'tokens' }> | { readonly kind: 'tokens'; readonly given: GivenTokens }> {
    const outcome = await this.#outcome(provider, (configuration) =>
      oidc.refreshTokenGrant(configuration, refreshToken),
    );
    if (outcome.kind !== 'tokens') return outcome;
    const { idToken, refreshToken: next } = outcome.tokens;
    if (idToken === null) return { kind: 'refused', error: 'no ID token' };
    const { sub, exp = 0 } = decodeJwt(idToken);
    if (sub !== subject) return { kind: 'refused', error: 'another subject' };
    return { kind: 'tokens', given: { idToken, refreshToken: next, idTokenExpiresAt: exp * 1000 } };
  }

  /**
   * An assertion of who the user is, for one authorization server. That it is what was asked for is looked at here; its
   * signature is for that server to verify.
   */
  async assertion(provider: IdentityProviderRow, request: AssertionRequest): Promise<TokenOutcome> {
    const { idToken, audience, resource, scopes } = request;
    const outcome = await this.#outcome(provider, (configuration) =>
      oidc.genericGrantRequest(configuration, exchangeGrant, {
        requested_token_type: tokenTypes.identityAssertion,
        subject_token: idToken,
        subject_token_type: tokenTypes.idToken,
        audience,
        resource,
        ...scopeParameter(scopes),
      }),
    );
    if (outcome.kind !== 'tokens') return outcome;
    const { accessToken: assertion, issuedTokenType } = outcome.tokens;
    if (issuedTokenType !== tokenTypes.identityAssertion) return { kind: 'refused', error: 'issued_token_type' };
    const problem = assertionProblem(assertion, { ...request, issuer: provider.issuer });
    return problem === undefined ? outcome : { kind: 'refused', error: problem };
  }

  #outcome(provider: IdentityProviderRow, ask: Parameters<typeof outcomeOf>[1]): Promise<TokenOutcome> {
    return outcomeOf(async () => {
      const { configuration } = await this.#connection(provider);
      return this.#configured(provider, configuration.serverMetadata());
    }, ask);
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
    const response = await this.#fetch(groupsUrl.replaceAll('{subject}', encodeURIComponent(subject)), {
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
    const fetchGuarded = this.#fetch;
    const found = await oidc.discovery(new URL(provider.issuer), provider.clientId, undefined, oidc.None(), {
      [oidc.customFetch]: fetchGuarded,
      timeout: requestTimeoutSeconds,
      // Only loopback can be registered with http.
      execute: provider.issuer.startsWith('http:') ? [oidc.allowInsecureRequests] : [],
    });
    const configuration = this.#configured(provider, found.serverMetadata());
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

  readonly #fetch = async (url: string, init?: object): Promise<Response> =>
    withinBytes(await this.#options.egress.fetch(url, bodyOf(init ?? {})), answerBytesMax);

  /** The client that we are at a provider. */
  #configured(provider: IdentityProviderRow, metadata: oidc.ServerMetadata): oidc.Configuration {
    const secret = this.#options.secretOf(provider);
    const configuration = new oidc.Configuration(
      metadata,
      provider.clientId,
      { [oidc.clockTolerance]: clockToleranceSeconds, ...(secret === undefined ? {} : { client_secret: secret }) },
      secret === undefined ? oidc.None() : undefined,
    );
    configuration.timeout = requestTimeoutSeconds;
    configuration[oidc.customFetch] = this.#fetch;
    if (provider.issuer.startsWith('http:')) oidc.allowInsecureRequests(configuration);
    // Else the library takes the connection to the provider for proof enough, and looks at no signature.
    oidc.enableNonRepudiationChecks(configuration);
    return configuration;
  }
}

/** Why an assertion is none that was asked for; undefined where it is. */
function assertionProblem(
  assertion: string,
  asked: Pick<AssertionRequest, 'audience' | 'clientId' | 'resource'> & { readonly issuer: string },
): string | undefined {
  try {
    const { typ } = decodeProtectedHeader(assertion);
    const { iss, aud, client_id: clientId, resource } = decodeJwt(assertion);
    if (typ?.toLowerCase() !== 'oauth-id-jag+jwt') return 'typ of the assertion';
    if (iss !== asked.issuer) return 'iss of the assertion';
    if (aud !== asked.audience) return 'aud of the assertion';
    if (clientId !== asked.clientId) return 'client_id of the assertion';
    return resource === undefined || resource === asked.resource ? undefined : 'resource of the assertion';
  } catch {
    return 'the assertion is no JWT';
  }
}

/** The guarded client takes bodies as text. */
function bodyOf(init: RequestInit): RequestInit {
  return init.body instanceof URLSearchParams ? { ...init, body: init.body.toString() } : init;
}
