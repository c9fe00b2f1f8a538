import { AppError, type CredentialNeed, type LentCredential } from '@sallyport/schema';
import type { Clock } from '@sallyport/schema/platform';
import { and, eq, ne } from 'drizzle-orm';
import type { ServerRow } from '../catalog/server-row.service.ts';
import type { Database } from '../database/client.ts';
import { usablePrincipal } from '../identity/principal.service.ts';
import {
  type AuthorizationServers,
  canonicalResource,
  challengedScopes,
  isResourceOf,
} from './authorization-servers.ts';
import { type ConnectionRow, connections } from './credential.tables.ts';
import type { CredentialFailures } from './failure.service.ts';
import type { OpenedConnection, RefreshService } from './refresh.service.ts';
import { storedCredentialOf } from './server-credential.service.ts';
import { type HeldToken, heldToken, renewAheadMs, TokenCache, usableMs } from './token-cache.ts';
import { keptScopesMax } from './token-outcome.ts';
import type { UpstreamClients } from './upstream-client.service.ts';

const serviceTokensMax = 2_000;

export interface TokenLendingDependencies {
  readonly database: Database;
  readonly servers: AuthorizationServers;
  readonly clients: UpstreamClients;
  readonly refreshes: RefreshService;
  readonly failures: CredentialFailures;
  readonly clock: Clock;
}

/** Access tokens for calls: of the gateway itself, and of users. */
export class TokenLending {
  private readonly deps: TokenLendingDependencies;
  private readonly ofServices: TokenCache;

  constructor(deps: TokenLendingDependencies) {
    this.deps = deps;
    this.ofServices = new TokenCache(deps.clock, serviceTokensMax);
  }

  /** @throws AppError CREDENTIAL_MISSING, CREDENTIAL_UNAVAILABLE */
  async ofService(server: ServerRow, { refused }: CredentialNeed): Promise<LentCredential> {
    const key = JSON.stringify([server.id, server.credentialRevision, canonicalResource(server.url)]);
    const token = await this.ofServices.get(key, refused, () => this.getService(server));
    return lent(server, { ...token, principalId: null });
  }

  private async getService(server: ServerRow): Promise<HeldToken> {
    const { database, clients, servers, failures, clock } = this.deps;
    const stored = await storedCredentialOf(database.db, server, 'clientCredentials');
    const client = await clients.confidentialClient(stored);
    const { id } = stored;
    const { issuer, scopes } = stored.settings;
    const resource = canonicalResource(server.url);
    const outcome = await servers.clientCredentials(issuer, client, { resource, scopes });
    const use = { id, issuer, resource, scopes };
    if (outcome.kind === 'tokens') return heldToken(outcome.tokens, use, clock.now());
    throw await failures.noToken(server, { ...use, principalId: null }, outcome);
  }

  /** @throws AppError CONNECTION_NEEDED, CREDENTIAL_UNAVAILABLE */
  async ofUser(server: ServerRow, { principalId, refused }: CredentialNeed): Promise<LentCredential> {
    const { database, refreshes, clock } = this.deps;
    const now = clock.now();
    const principal = principalId === null ? undefined : await usablePrincipal(database.db, principalId, now);
    if (principal === undefined) throw new AppError('CONNECTION_NEEDED', { internal: 'nobody to be lent anything' });
    const [row] = await database.db
      .select()
      .from(connections)
      .where(
        and(
          eq(connections.principalId, principal.id),
          eq(connections.serverId, server.id),
          ne(connections.status, 'ended'),
        ),
      );
    // A server may have moved since, to where the token is not for.
    const isFor = row?.origin === new URL(server.url).origin && isResourceOf(row.resource, server.url);
    if (row?.status !== 'active' || !isFor) throw new AppError('CONNECTION_NEEDED');
    if (refused?.status === 403) await this.stepUp(row, refused.challenge);
    return lentToUser(server, await this.fresh(refreshes, row, refused));
  }

  private async fresh(
    refreshes: RefreshService,
    row: ConnectionRow,
    refused: CredentialNeed['refused'],
  ): Promise<OpenedConnection> {
    const now = this.deps.clock.now();
    const ends = row.accessExpiresAt?.getTime() ?? 0;
    const isRefused = refused?.status === 401 && refused.expiresAt === ends;
    // One that cannot be renewed is good to its end.
    const aheadMs = row.canRefresh ? renewAheadMs(ends - row.accessIssuedAt.getTime()) : usableMs;
    if (!isRefused && now < ends - aheadMs) return refreshes.open(row);
    try {
      return await refreshes.renew(row.id, row.tokenRevision);
    } catch (error) {
      // Ahead of time: what is there is good for a while yet.
      const isPassing = error instanceof AppError && error.code === 'CREDENTIAL_UNAVAILABLE';
      if (!isPassing || isRefused || now >= ends - usableMs) throw error;
      return refreshes.open(row);
    }
  }

  /**
   * A server wants scopes beyond those that were given (basic/authorization, Scope Challenge): the user is asked for all of
   * them together. Scopes that he was asked for already cannot be what is missing, until it is worth asking him again; and a
   * server that wants others each time has him asked until as many are known of it as are kept.
   */
  private async stepUp(row: ConnectionRow, challenge: string | null): Promise<void> {
    const { database, clock } = this.deps;
    const isAskedLately = clock.now() < row.createdAt.getTime() + askAgainAfterMs;
    const known = new Set([...row.scopes, ...row.wantedScopes]);
    const isFull = known.size >= keptScopesMax;
    const missing = challengedScopes(challenge).filter(
      (scope) => (!isAskedLately || !row.scopes.includes(scope)) && (!isFull || known.has(scope)),
    );
    if (missing.length === 0)
      throw new AppError('CREDENTIAL_UNAVAILABLE', { internal: 'all that is asked for was asked for' });
    const wanted = [...new Set([...row.wantedScopes, ...missing])].slice(0, wantedScopesMax);
    if (wanted.length > row.wantedScopes.length)
      await database.db.update(connections).set({ wantedScopes: wanted }).where(eq(connections.id, row.id));
    throw new AppError('CONNECTION_NEEDED', { internal: 'the server asks for further scopes' });
  }
}
/** What was given may have been taken back since, and what was refused may be given now. */
const askAgainAfterMs = 24 * 3_600_000;
/** A server cannot have more than these asked for. */
export const wantedScopesMax = 64;

function lentToUser(server: ServerRow, { row, tokens }: OpenedConnection): LentCredential {
  const { id, principalId, issuer, resource, accessExpiresAt } = row;
  const expiresAt = accessExpiresAt?.getTime() ?? null;
  return lent(server, { id, accessToken: tokens.accessToken, principalId, issuer, resource, expiresAt });
}

/** A bearer token for the origin that the server has. */
export function lent(
  server: ServerRow,
  token: Pick<LentCredential, 'id' | 'principalId' | 'issuer' | 'resource' | 'expiresAt'> & {
    readonly accessToken: string;
  },
): LentCredential {
  const { id, accessToken, principalId, issuer, resource, expiresAt } = token;
  return {
    id,
    serverId: server.id,
    principalId,
    issuer,
    resource,
    revision: server.credentialRevision,
    origin: new URL(server.url).origin,
    headers: [['authorization', `Bearer ${accessToken}`]],
    expiresAt,
    renewable: true,
  };
}
