import { AppError, sha256 } from '@sallyport/schema';
import type { Clock, Log } from '@sallyport/schema/platform';
import { and, eq, isNull, or } from 'drizzle-orm';
import { jwtVerify } from 'jose';
import { z } from 'zod';
import { recordAccess } from '../../audit/audit.service.ts';
import { systemContext } from '../../context.ts';
import type { Database, Transaction } from '../../database/client.ts';
import type { IdentityProviderService } from './identity-provider.service.ts';
import { identityProviderLogins, type IdentityProviderRow, usedProviderTokens } from './identity-provider.tables.ts';
import { clockToleranceSeconds, type OidcConnections } from './oidc-connection.ts';

const logoutEvent = 'http://schemas.openid.net/event/backchannel-logout';
const tokenAgeSecondsMax = 10 * 60;
export const signingAlgorithms = ['RS256', 'PS256', 'ES256', 'ES384', 'RS384', 'RS512', 'PS384', 'PS512', 'EdDSA'];

/** OpenID Connect Back-Channel Logout 1.0 §2.4, §2.6; `nonce` is forbidden, so that an ID token is none. */
const logoutClaimsSchema = z
  .looseObject({
    jti: z.string().min(1),
    iat: z.number(),
    sub: z.string().optional(),
    sid: z.string().optional(),
    nonce: z.undefined().optional(),
    events: z.looseObject({ [logoutEvent]: z.looseObject({}) }),
  })
  .refine(({ sub, sid }) => sub !== undefined || sid !== undefined);

/** Notes that a token of a provider was used; false where it had been. The caller's transaction decides. */
export async function useOnce(
  tx: Transaction,
  provider: Pick<IdentityProviderRow, 'id'>,
  tokenId: string,
  expiresAt: Date,
): Promise<boolean> {
  const inserted = await tx
    .insert(usedProviderTokens)
    .values({ identityProviderId: provider.id, tokenHash: sha256(tokenId), expiresAt })
    .onConflictDoNothing()
    .returning({ hash: usedProviderTokens.tokenHash });
  return inserted.length === 1;
}

/** Ends the logins at a provider that fit, with all that came of them. */
export async function endLogins(
  tx: Transaction,
  endLogin: (tx: Transaction, loginId: string) => Promise<unknown>,
  now: Date,
  which: {
    readonly providerId: string;
    readonly subject?: string | undefined;
    readonly sessionId?: string | undefined;
  },
): Promise<readonly string[]> {
  const { providerId, subject, sessionId } = which;
  const { identityProviderId, subject: subjects, sessionId: sessions } = identityProviderLogins;
  const ended = await tx
    .update(identityProviderLogins)
    .set({ endedAt: now })
    .where(
      and(
        eq(identityProviderId, providerId),
        isNull(identityProviderLogins.endedAt),
        subject === undefined ? undefined : eq(subjects, subject),
        // A login that named no session, such as an assertion's, is of any session of its subject.
        sessionId === undefined
          ? undefined
          : or(eq(sessions, sessionId), subject === undefined ? undefined : isNull(sessions)),
      ),
    )
    .returning({ id: identityProviderLogins.id });
  for (const { id } of ended) await endLogin(tx, id);
  return ended.map(({ id }) => id);
}

export interface BackChannelLogoutOptions {
  readonly database: Database;
  readonly providers: IdentityProviderService;
  readonly connections: OidcConnections;
  readonly endLogin: (tx: Transaction, loginId: string) => Promise<unknown>;
  readonly clock: Clock;
  readonly log: Log;
}

/** Logout at an identity provider ends the sessions and tokens that came of the login there. */
export class BackChannelLogoutService {
  private readonly options: BackChannelLogoutOptions;

  constructor(options: BackChannelLogoutOptions) {
    this.options = options;
  }

  /** Takes a logout token. Throws where it is none of this provider's, is too old, or was taken before. */
  async logOut(providerId: string, token: string): Promise<void> {
    const { database, providers, connections, clock, log } = this.options;
    const provider = await providers.usableById(providerId);
    if (provider === undefined) throw new AppError('NOT_FOUND');
    const { payload, protectedHeader } = await jwtVerify(token, await connections.keys(provider), {
      issuer: provider.issuer,
      audience: provider.clientId,
      algorithms: signingAlgorithms,
      clockTolerance: clockToleranceSeconds,
      maxTokenAge: tokenAgeSecondsMax,
      currentDate: new Date(clock.now()),
    });
    const { typ } = protectedHeader;
    if (typ !== undefined && !['logout+jwt', 'jwt'].includes(typ.toLowerCase())) {
      throw new AppError('INVALID_INPUT', { internal: `a ${typ} is no logout token` });
    }
    const claims = logoutClaimsSchema.parse(payload);
    const ctx = systemContext(`logout at ${provider.name}`, [], { clock, log });
    await database.db.transaction(async (tx) => {
      const keptMs = (tokenAgeSecondsMax + 2 * clockToleranceSeconds) * 1000;
      if (!(await useOnce(tx, provider, `logout|${claims.jti}`, new Date(clock.now() + keptMs)))) {
        throw new AppError('INVALID_INPUT', { internal: 'the logout token was taken before' });
      }
      const which = { providerId: provider.id, subject: claims.sub, sessionId: claims.sid };
      const loginIds = await endLogins(tx, this.options.endLogin, new Date(clock.now()), which);
      const object = { kind: 'identityProvider', id: provider.id };
      const after = { loginIds, subject: claims.sub, sessionId: claims.sid };
      await recordAccess(tx, ctx, { action: 'identityProvider.logout', object, after });
    });
  }
}
