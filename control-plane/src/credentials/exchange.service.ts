import { AppError, type CredentialNeed, type LentCredential } from '@sallyport/schema';
import type { Clock } from '@sallyport/schema/platform';
import type { ServerRow } from '../catalog/server-row.service.ts';
import type { Database } from '../database/client.ts';
import {
  type AuthorizationServers,
  canonicalResource,
  challengedScopes,
  type TokenTarget,
} from './authorization-servers.ts';
import { type TokenOutcome, tokenTypes } from './token-outcome.ts';
import type { UpstreamClient } from './client-authentication.ts';
import type { TokenExchangeSettings } from './credential-form.ts';
import type { CredentialFailures } from './failure.service.ts';
import { type Caller, callerOf, type IdentityTokens } from './identity-token.service.ts';
import type { LoginTokens, UsableLogin } from './login-tokens.service.ts';
import { type HeldToken, heldToken, TokenCache, type TokenUse } from './token-cache.ts';
import { lent, wantedScopesMax } from './token-lending.service.ts';
import type { OidcConnections } from '../identity/idp/oidc-connection.ts';
import { storedCredentialOf } from './server-credential.service.ts';
import type { UpstreamClients } from './upstream-client.service.ts';

const tokensMax = 20_000;
/** What servers say of who issues tokens for them is read again after this time. */
const targetKeptMs = 10 * 60_000;
const targetsMax = 2_000;

export interface ExchangesDependencies {
  readonly database: Database;
  readonly servers: AuthorizationServers;
  readonly clients: UpstreamClients;
  readonly identityTokens: IdentityTokens;
  readonly logins: LoginTokens;
  readonly idp: Pick<OidcConnections, 'assertion'>;
  readonly failures: CredentialFailures;
  readonly clock: Clock;
}

/** Access tokens for the user who calls, had without asking him: by an exchange of a token that says who he is. */
export class Exchanges {
  private readonly deps: ExchangesDependencies;
  private readonly held: TokenCache;
  private readonly targets = new Map<string, { readonly at: number; readonly target: Promise<TokenTarget> }>();

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
    const { database, clients, servers, clock } = this.deps;
    const principal = await callerOf(database, principalId, clock);
    const stored = await storedCredentialOf(database.db, server, 'tokenExchange');
    const { id, settings } = stored;
    const { issuer, audience } = settings;
    const resource = canonicalResource(server.url);
    const token = await this.held.get(keyOf(principal, server, issuer, resource), refused, async (known) => {
      const client = await clients.confidentialClient(stored);
      const scopes = scopesFor(settings.scopes, known, refused);
      const request = { ...(await this.parties(principal, settings)), resource, audience, scopes };
      const outcome = await servers.exchange(issuer, client, request);
      return this.settle(outcome, server, principal, { id, issuer, resource, scopes });
    });
    return lent(server, { ...token, principalId: principal.id });
  }

  /**
   * For the mode identityAssertion (enterprise-managed authorization): the identity provider that the user logged in with says
   * who he is to the authorization server of the server, and that gives a token.
   * @throws AppError CREDENTIAL_MISSING, CREDENTIAL_UNAVAILABLE, CONNECTION_NEEDED where the user has to log in there
   */
  async byIdentityAssertion(server: ServerRow, { principalId, refused }: CredentialNeed): Promise<LentCredential> {
    const { database, clients, logins, clock } = this.deps;
    const principal = await callerOf(database, principalId, clock);
    const login = await logins.of(principal);
    if (login === undefined) throw new AppError('CONNECTION_NEEDED', { internal: 'no login of use is known' });
    const stored = await storedCredentialOf(database.db, server, 'identityAssertion');
    const { id, settings } = stored;
    const target = await this.target(server, settings.issuer, refused?.status === 401);
    const { issuer, resource } = target;
    const chosen = settings.scopes.length > 0 ? settings.scopes : target.scopes;
    const key = keyOf(principal, server, issuer, resource, login.row.id);
    const token = await this.held.get(key, refused, async (known) => {
      const scopes = scopesFor(chosen, known, refused);
      const of = { id, issuer, resource, scopes };
      const client = await clients.assertionClient(stored, issuer);
      const outcome = await this.asserted(server, principal, { login, client }, of);
      return this.settle(outcome, server, principal, of);
    });
    return lent(server, { ...token, principalId: principal.id });
  }

  private async asserted(
    server: ServerRow,
    principal: Caller,
    { login, client }: { readonly login: UsableLogin; readonly client: UpstreamClient },
    of: TokenUse,
  ): Promise<TokenOutcome> {
    const { servers, logins, idp } = this.deps;
    const { issuer, resource, scopes } = of;
    const idToken = await logins.idToken(login);
    const { clientId } = client;
    const said = await idp.assertion(login.provider, { idToken, audience: issuer, clientId, resource, scopes });
    if (said.kind === 'tokens') {
      return servers.byAssertion(issuer, client, { assertion: said.tokens.accessToken, resource, scopes });
    }
    // The login is over at the provider; whatever else it says, another login would not change.
    if (said.kind !== 'refused' || said.error !== 'invalid_grant') return said;
    const over = { kind: 'refused', error: 'the login is over' } as const;
    await this.deps.failures.noToken(server, { ...of, principalId: principal.id }, over);
    throw await logins.refused(login.row, 'assertionRefused');
  }

  /** Who issues tokens for a server, and what it is called there; asked anew where the server refuses a token. */
  private async target(server: ServerRow, issuer: string | null, isRefused: boolean): Promise<TokenTarget> {
    const key = `${server.id}|${server.credentialRevision}|${server.url}`;
    const known = this.targets.get(key);
    const now = this.deps.clock.monotonic();
    if (known !== undefined && !isRefused && now - known.at < targetKeptMs) return known.target;
    const target = this.deps.servers.targetOf(server.url, issuer);
    this.targets.delete(key);
    this.targets.set(key, { at: now, target });
    target.catch(() => this.targets.delete(key));
    const [oldest] = this.targets.keys();
    if (this.targets.size > targetsMax && oldest !== undefined) this.targets.delete(oldest);
    return target;
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
  private async settle(outcome: TokenOutcome, server: ServerRow, principal: Caller, of: TokenUse): Promise<HeldToken> {
    if (outcome.kind === 'tokens') return heldToken(outcome.tokens, of, this.deps.clock.now());
    throw await this.deps.failures.noToken(server, { ...of, principalId: principal.id }, outcome);
  }
}

/** Of everything that a token of somebody is for, and of the login that it is had by. */
function keyOf(
  { id, epoch }: Caller,
  server: ServerRow,
  issuer: string,
  resource: string,
  loginId: string | null = null,
): string {
  return JSON.stringify([id, epoch, server.id, server.credentialRevision, issuer, resource, loginId]);
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
