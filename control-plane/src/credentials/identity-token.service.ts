import { AppError, type CredentialNeed, type LentCredential } from '@sallyport/schema';
import { type Clock, uuidv7 } from '@sallyport/schema/platform';
import type { ServerRow } from '../catalog/server-row.service.ts';
import type { Database } from '../database/client.ts';
import { groupNamesOf } from '../identity/group.service.ts';
import { usablePrincipal } from '../identity/principal.service.ts';
import { canonicalResource } from './authorization-servers.ts';
import type { IdentityClaim } from './credential-form.ts';
import { storedCredentialOf } from './server-credential.service.ts';
import { lent } from './token-lending.service.ts';
import type { UpstreamKeys } from './upstream-keys.service.ts';

/** Explicit typing (RFC 8725 §3.11): what says who calls is no access token of anybody's, and no ID token. */
const identityType = 'sallyport-identity+jwt';
/** A user in more groups is said to have some, as identity providers do: the token would not fit into a header. */
const groupsMax = 100;

/** Where what the gateway signs toward upstreams is described, under its public URL. */
export const upstreamIssuerPath = '/oauth/upstream';
export const upstreamKeysPath = `${upstreamIssuerPath}/jwks`;

export interface IdentityTokensDependencies {
  readonly database: Database;
  readonly keys: UpstreamKeys;
  /** Public URL of the control plane; undefined: nobody could verify anything. */
  readonly issuer: string | undefined;
  readonly clock: Clock;
}

/** What a token says. */
interface Statement {
  readonly principal: Caller;
  readonly audience: string;
  readonly lifetimeSeconds: number;
  readonly claims: readonly IdentityClaim[];
  readonly typ: string;
}

/**
 * What verifiers read of the issuer (OpenID Connect Discovery 1.0 §3, as far as it is one): workload identity federations
 * and libraries find the keys by it.
 */
export function upstreamIssuerMetadata(publicUrl: string): object {
  const issuer = `${publicUrl}${upstreamIssuerPath}`;
  return {
    issuer,
    jwks_uri: `${publicUrl}${upstreamKeysPath}`,
    response_types_supported: ['id_token'],
    subject_types_supported: ['public'],
    id_token_signing_alg_values_supported: ['ES256'],
    claims_supported: ['iss', 'sub', 'aud', 'iat', 'exp', 'jti', 'sub_id', 'principal_kind', 'name', 'email', 'groups'],
  };
}

/** Says who calls, to upstreams of the organization's own and to authorization servers that exchange it. */
export class IdentityTokens {
  private readonly deps: IdentityTokensDependencies;

  constructor(deps: IdentityTokensDependencies) {
    this.deps = deps;
  }

  /** For the mode identityToken. @throws AppError CREDENTIAL_MISSING, CREDENTIAL_UNAVAILABLE, CONNECTION_NEEDED */
  async ofUser(server: ServerRow, { principalId }: CredentialNeed): Promise<LentCredential> {
    const { database, clock } = this.deps;
    const { id, settings } = await storedCredentialOf(database.db, server, 'identityToken');
    const principal = await callerOf(database, principalId, clock);
    const { lifetimeSeconds, claims } = settings;
    const audience = settings.audience ?? canonicalResource(server.url);
    const expiresAt = (Math.floor(clock.now() / 1000) + lifetimeSeconds) * 1000;
    const accessToken = await this.sign({ principal, audience, lifetimeSeconds, claims, typ: identityType });
    const { issuer } = this;
    return lent(server, { id, accessToken, principalId: principal.id, issuer, resource: audience, expiresAt });
  }

  /** A principal's token for one exchange at an authorization server, which is its audience. */
  subjectToken(principal: Caller, audience: string): Promise<string> {
    return this.sign({ principal, audience, lifetimeSeconds: 60, claims: ['name', 'email'], typ: 'JWT' });
  }

  /** Says that the gateway itself acts, under the id that it has as a client there. */
  actorToken(clientId: string, audience: string): Promise<string> {
    return this.deps.keys.sign({ ...this.stamp(60), sub: clientId, aud: audience }, 'JWT');
  }

  private get issuer(): string {
    const { issuer } = this.deps;
    if (issuer === undefined) throw new AppError('CREDENTIAL_MISSING', { internal: 'SALLYPORT_PUBLIC_URL is not set' });
    return `${issuer}${upstreamIssuerPath}`;
  }

  /** What every token says: who says it, and when. */
  private stamp(lifetimeSeconds: number) {
    const now = this.deps.clock.now();
    const iat = Math.floor(now / 1000);
    return { iss: this.issuer, iat, exp: iat + lifetimeSeconds, jti: uuidv7(now) };
  }

  private async sign({ principal, audience, lifetimeSeconds, claims, typ }: Statement): Promise<string> {
    const { id, kind, issuer, subject } = principal;
    return this.deps.keys.sign(
      {
        ...this.stamp(lifetimeSeconds),
        sub: id,
        aud: audience,
        principal_kind: kind,
        // RFC 9493 §3.2.4: who it is at the identity provider.
        ...(issuer === null || subject === null ? {} : { sub_id: { format: 'iss_sub', iss: issuer, sub: subject } }),
        ...(await this.chosen(principal, claims)),
      },
      typ,
    );
  }

  private async chosen(principal: Caller, claims: readonly IdentityClaim[]): Promise<Record<string, unknown>> {
    const { name, email } = principal;
    const said: Record<string, unknown> = {};
    if (claims.includes('name')) said['name'] = name;
    if (claims.includes('email') && email !== null) said['email'] = email;
    if (!claims.includes('groups')) return said;
    const groups = await groupNamesOf(this.deps.database.db, principal.id, groupsMax + 1);
    // None of them rather than some: who is let in by a group that is missing would be let in at random.
    return groups.length > groupsMax ? { ...said, hasgroups: true } : { ...said, groups };
  }
}

/** A principal who may act. */
export type Caller = NonNullable<Awaited<ReturnType<typeof usablePrincipal>>>;

/** Who a credential of his own is for. @throws AppError CONNECTION_NEEDED */
export async function callerOf(
  { db }: Pick<Database, 'db'>,
  principalId: string | null,
  clock: Clock,
): Promise<Caller> {
  const principal = principalId === null ? undefined : await usablePrincipal(db, principalId, clock.now());
  if (principal === undefined) throw new AppError('CONNECTION_NEEDED', { internal: 'nobody to be lent anything' });
  return principal;
}
