import { AppError, type CredentialNeed, type LentCredential } from '@sallyport/schema';
import type { Clock, Log } from '@sallyport/schema/platform';
import { recordAccess } from '../audit/audit.service.ts';
import type { ServerRow } from '../catalog/server-row.service.ts';
import { systemContext } from '../context.ts';
import type { Database } from '../database/client.ts';
import { type AuthorizationServers, type TokenOutcome, tokenTypes } from './authorization-servers.ts';
import { canonicalResource } from './connection.service.ts';
import type { TokenExchangeSettings } from './credential-form.ts';
import { type Caller, callerOf, type IdentityTokens } from './identity-token.service.ts';
import { type HeldToken, heldToken, TokenCache } from './token-cache.ts';
import { challengedScopes, lent, wantedScopesMax } from './token-lending.service.ts';
import type { UpstreamClients } from './upstream-client.service.ts';

const tokensMax = 20_000;

export interface ExchangesDependencies {
  readonly database: Database;
  readonly servers: AuthorizationServers;
  readonly clients: UpstreamClients;
  readonly identityTokens: IdentityTokens;
  readonly clock: Clock;
  readonly log: Log;
}

/** Access tokens for the user who calls, had without asking him: by an exchange of a token that says who he is. */
export class Exchanges {
  private readonly deps: ExchangesDependencies;
  private readonly held: TokenCache;

  constructor(deps: ExchangesDependencies) {
    this.deps = deps;
    this.held = new TokenCache(deps.clock, tokensMax);
  }

  /**
   * For the mode tokenExchange (RFC 8693). What is exchanged was made for this: a token that the control plane signs for
   * the authorization server. What a client sent is no part of it.
   * @throws AppError CREDENTIAL_MISSING, CREDENTIAL_UNAVAILABLE, CONNECTION_NEEDED
   */
  async byTokenExchange(server: ServerRow, { principalId, refused }: CredentialNeed): Promise<LentCredential> {
    const { database, clients, clock } = this.deps;
    const principal = await callerOf(database, principalId, clock);
    const { id, settings, client } = await clients.exchangeClient(server);
    const resource = canonicalResource(server.url);
    const key = JSON.stringify([
      principal.id,
      principal.epoch,
      server.id,
      server.credentialRevision,
      settings.issuer,
      resource,
    ]);
    const token = await this.held.get(key, refused, async (known) => {
      const scopes = scopesFor(settings.scopes, known, refused);
      const request = { ...(await this.parties(principal, settings)), resource, audience: settings.audience, scopes };
      const outcome = await this.deps.servers.exchange(settings.issuer, client, request);
      return this.settle(outcome, server, principal, { id, issuer: settings.issuer, resource, scopes });
    });
    return lent(server, { ...token, principalId: principal.id });
  }

  private async parties(principal: Caller, { issuer, clientId, namesActor }: TokenExchangeSettings) {
    const { identityTokens } = this.deps;
    const type = tokenTypes.jwt;
    return {
      subject: { token: await identityTokens.subjectToken(principal, issuer), type },
      actor: namesActor ? { token: await identityTokens.actorToken(clientId, issuer), type } : null,
    };
  }

  /** That none was had is an event: of whom, where, and why in the server's one word. */
  private async settle(
    outcome: TokenOutcome,
    server: ServerRow,
    principal: Caller,
    of: Pick<HeldToken, 'id' | 'issuer' | 'resource' | 'scopes'>,
  ): Promise<HeldToken> {
    const { clock, database, log } = this.deps;
    if (outcome.kind === 'tokens') return heldToken(outcome.tokens, of, clock.now());
    const reason = outcome.kind === 'refused' ? outcome.error : outcome.kind;
    await database.db.transaction((tx) =>
      recordAccess(tx, systemContext('exchange', [], { clock, log }), {
        action: 'credential.fail',
        object: { kind: 'server', id: server.id },
        after: { principalId: principal.id, mode: server.credentialMode, ...of, reason },
      }),
    );
    throw new AppError('CREDENTIAL_UNAVAILABLE', { internal: `no token for ${server.id}: ${reason}` });
  }
}

/**
 * Scopes to ask for: those that were set, those of the token that is there, and where the server wants more than that, its
 * own too (basic/authorization, Scope Challenge). @throws AppError CREDENTIAL_UNAVAILABLE where all of them were asked for
 */
function scopesFor(
  set: readonly string[],
  known: HeldToken | undefined,
  refused: CredentialNeed['refused'],
): readonly string[] {
  const had = [...new Set([...set, ...(known?.scopes ?? [])])];
  if (refused?.status !== 403) return had;
  const missing = challengedScopes(refused.challenge).filter((scope) => !had.includes(scope));
  if (missing.length === 0 || had.length >= wantedScopesMax) {
    throw new AppError('CREDENTIAL_UNAVAILABLE', { internal: 'all that the server asks for was asked for' });
  }
  return [...had, ...missing].slice(0, wantedScopesMax);
}
