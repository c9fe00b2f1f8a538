import { oauthScopes } from '@sallyport/schema';
import type { Clock } from '@sallyport/schema/platform';
import { decodeJwt, jwtVerify } from 'jose';
import { errors, type KoaContextWithOIDC, type Provider } from 'oidc-provider';
import { z } from 'zod';
import type { Database } from '../database/client.ts';
import { signingAlgorithms, useOnce } from '../identity/idp/back-channel-logout.service.ts';
import type { FederatedLoginService } from '../identity/idp/federated-login.service.ts';
import type { IdentityProviderService } from '../identity/idp/identity-provider.service.ts';
import { clockToleranceSeconds, type OidcConnections } from '../identity/idp/oidc-connection.ts';
import type { Authorizations } from './authorizations.ts';
import { jwtBearerGrant } from './client.service.ts';
import { type ResourceServerOf, slugOfResource } from './provider.ts';

/** Media type of an Identity Assertion JWT Authorization Grant (draft-ietf-oauth-identity-assertion-authz-grant). */
const assertionType = 'oauth-id-jag+jwt';
const assertionAgeSecondsMax = 10 * 60;
const assertionLengthMax = 16 * 1024;

const claimsSchema = z.looseObject({
  jti: z.string().min(1).max(512),
  exp: z.number(),
  sub: z.string().min(1),
  /** One string: an assertion for several servers is for none. */
  aud: z.string(),
  client_id: z.string(),
  resource: z.string(),
  scope: z.string().optional(),
});

export interface IdentityAssertionOptions {
  readonly issuer: string;
  readonly nodesUrl: string;
  readonly database: Pick<Database, 'db'>;
  readonly providers: IdentityProviderService;
  readonly connections: OidcConnections;
  readonly logins: FederatedLoginService;
  readonly authorizations: Authorizations;
  readonly clock: Clock;
}

type Claims = z.infer<typeof claimsSchema>;
type AcceptedProvider = NonNullable<Awaited<ReturnType<IdentityProviderService['usableByIssuer']>>>;

/** Why is for the log alone. */
function refusal(internal: string, cause?: unknown): errors.InvalidGrant {
  return Object.assign(new errors.InvalidGrant(internal), { cause });
}

function refuse(internal: string): never {
  throw refusal(internal);
}

function scopesOf(asked: string | undefined, allowed: string | undefined): readonly string[] {
  const known = oauthScopes.filter((scope) => allowed === undefined || allowed.split(' ').includes(scope));
  const scopes = asked === undefined ? known : known.filter((scope) => asked.split(' ').includes(scope));
  if (scopes.length === 0) throw new errors.InvalidScope('the assertion allows none of the scopes', asked ?? '');
  return scopes;
}

/**
 * The grant type of enterprise-managed authorization: an assertion of the organization's identity provider gives an
 * access token, without a page. No refresh token: the provider decides again each time.
 */
export class IdentityAssertions {
  private readonly options: IdentityAssertionOptions;

  constructor(options: IdentityAssertionOptions) {
    this.options = options;
  }

  register(provider: Provider, serverOf: ResourceServerOf): void {
    const parameters = ['assertion', 'scope', 'resource'];
    provider.registerGrantType(jwtBearerGrant, (ctx) => this.grant(provider, serverOf, ctx), parameters, []);
  }

  private async grant(provider: Provider, serverOf: ResourceServerOf, ctx: KoaContextWithOIDC): Promise<void> {
    const { client, params } = ctx.oidc;
    const assertion = params?.['assertion'];
    if (client === undefined || client.clientAuthMethod === 'none') {
      throw new errors.InvalidClient('the client must authenticate for this grant type');
    }
    if (typeof assertion !== 'string' || assertion.length > assertionLengthMax) {
      throw new errors.InvalidRequest('the parameter "assertion" must hold the assertion');
    }
    const { claims, from } = await this.verify(assertion, client.clientId);
    const asked = params?.['resource'];
    if (asked !== undefined && asked !== claims.resource) refuse('the assertion is for another resource');
    const scope = params?.['scope'];
    const scopes = scopesOf(typeof scope === 'string' ? scope : undefined, claims.scope);
    const login = await this.options.logins.accept(from, claims, { isAssertion: true }).catch((cause: unknown) => {
      throw refusal('the user may not act', cause);
    });
    const request = { principalId: login.principalId, clientId: client.clientId, redirectUri: '', scopes };
    const { resource } = claims;
    const grantId = await this.options.authorizations.grant(provider, { ...request, resource }, login.loginId);
    const token = new provider.AccessToken({
      accountId: login.principalId,
      client,
      grantId,
      gty: jwtBearerGrant,
    } as never);
    token.resourceServer = new provider.ResourceServer(resource, serverOf(resource));
    token.scope = scopes.join(' ');
    ctx.body = {
      access_token: await token.save(),
      token_type: 'Bearer',
      expires_in: token.expiration,
      scope: token.scope,
    };
  }

  /** Checks type, issuer, signature, audience, client, resource, times and that it is used for the first time. */
  private async verify(assertion: string, clientId: string): Promise<{ claims: Claims; from: AcceptedProvider }> {
    const { issuer, nodesUrl, database, providers, connections, clock } = this.options;
    const from = await providers.usableByIssuer(issuerOf(assertion));
    if (from === undefined || !from.acceptsAssertions) return refuse('its issuer is not accepted');
    const verified = await jwtVerify(assertion, await connections.keys(from), {
      typ: assertionType,
      issuer: from.issuer,
      audience: issuer,
      algorithms: signingAlgorithms,
      clockTolerance: clockToleranceSeconds,
      maxTokenAge: assertionAgeSecondsMax,
      currentDate: new Date(clock.now()),
    }).catch((cause: unknown) => {
      throw refusal('the assertion is not valid', cause);
    });
    const parsed = claimsSchema.safeParse(verified.payload);
    if (!parsed.success) return refuse('the assertion lacks a claim');
    const claims = parsed.data;
    if (claims.aud !== issuer) refuse('the assertion is for others too');
    if (claims.client_id !== clientId) refuse('the assertion is for another client');
    if (slugOfResource(nodesUrl, claims.resource) === undefined) refuse('the assertion is for no endpoint of ours');
    const keptUntil = new Date((claims.exp + 2 * clockToleranceSeconds) * 1000);
    const isFirst = await database.db.transaction((tx) => useOnce(tx, from, `assertion|${claims.jti}`, keptUntil));
    if (!isFirst) refuse('the assertion was used before');
    return { claims, from };
  }
}

function issuerOf(assertion: string): string {
  try {
    return decodeJwt(assertion).iss ?? '';
  } catch {
    return refuse('the assertion is no JWT');
  }
}
