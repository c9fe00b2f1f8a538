import { randomBytes } from 'node:crypto';
import { AppError, sha256 } from '@sallyport/schema';
import { type Clock, type Log, uuidv7 } from '@sallyport/schema/platform';
import { and, asc, eq, gt, lt, ne } from 'drizzle-orm';
import { recordAccess, recordMutation } from '../audit/audit.service.ts';
import { currentServer, discoverAgain, lockServer, type ServerRow } from '../catalog/server-row.service.ts';
import type { Context } from '../context.ts';
import type { Database, Transaction } from '../database/client.ts';
import { isUuid, mutate, type MutationOptions } from '../database/mutation.ts';
import type { FleetVault } from '../fleet/fleet-keys.ts';
import type { Page } from '../graphql-connection.ts';
import { usablePrincipal } from '../identity/principal.service.ts';
import type { AuthorizationServers } from './authorization-servers.ts';
import type { UpstreamClient } from './client-authentication.ts';
import { isUnknownClient, keptScopes, type Tokens } from './token-outcome.ts';
import { connectAttempts, type ConnectionRow, connections } from './credential.tables.ts';
import type { CredentialVault, SealedSecret } from './credential-vault.ts';
import { endConnections } from './forgotten.service.ts';
import type { LoginTokens } from './login-tokens.service.ts';
import { expiryOf, lifeSecondsMax, tokenSealer } from './refresh.service.ts';
import { requiredAtLogin, requiredAtLoginMax } from './server-credential.service.ts';
import type { UpstreamClients } from './upstream-client.service.ts';

export type { ConnectionRow } from './credential.tables.ts';

/** How long a link to connect is good, and how long a user may stay at the authorization server. */
const linkLifetimeMs = 3_600_000;
const attemptLifetimeMs = 10 * 60_000;

export interface ConnectionServiceDependencies {
  readonly database: Database;
  readonly vault: CredentialVault;
  /** Seals links and what is remembered of users who are away at an authorization server. */
  readonly seals: Pick<FleetVault, 'seal' | 'open'>;
  readonly servers: AuthorizationServers;
  /** Where no account is connected, and a login is what is needed. */
  readonly logins: Pick<LoginTokens, 'of'>;
  readonly clients: UpstreamClients;
  /** Whether a user may use anything of a server. */
  readonly isUserOf: (principalId: string, serverId: string) => Promise<boolean>;
  /** Public URL of the control plane; undefined: users cannot connect. */
  readonly issuer: string | undefined;
  readonly clock: Clock;
  readonly log: Log;
}

/** A page's view of what a user is about to connect. */
export interface Connecting {
  readonly server: ServerRow;
  readonly isConnected: boolean;
  /** What the server is called with: an account that he connects, or his login at the identity provider. */
  readonly by: 'account' | 'login';
}

/** Why a link or an answer does nothing; the page shows no more than this. */
export class ConnectRefused extends Error {
  /** Of the login that the connecting is part of, where it may be gone on with. */
  readonly interactionId: string | null;

  constructor(message: string, interactionId: string | null = null) {
    super(message);
    this.interactionId = interactionId;
  }
}

const linkPurpose = 'sallyport.connectLink.v1';
const attemptPurpose = (stateHash: string): string => `sallyport.connectAttempt.v1|${stateHash}`;
export const connectPath = '/oauth/connect';

/** The accounts of users at upstreams: connecting, listing, ending. */
export class ConnectionService {
  private readonly deps: ConnectionServiceDependencies;

  constructor(deps: ConnectionServiceDependencies) {
    this.deps = deps;
  }

  /** Where a user connects his account; null where there are no pages. Of use to him alone. */
  linkTo(principalId: string, serverId: string): string | null {
    const { issuer, seals, clock } = this.deps;
    if (issuer === undefined) return null;
    const text = JSON.stringify([principalId, serverId, clock.now() + linkLifetimeMs]);
    return `${issuer}${connectPath}/${seals.seal(linkPurpose, text)}`;
  }

  async linkFor(ctx: Context, serverId: string): Promise<string> {
    const found = await this.connectable(ctx.actor.principalId, serverId);
    const link = found === undefined ? null : this.linkTo(ctx.actor.principalId, serverId);
    if (link === null) throw new AppError('NOT_FOUND');
    return link;
  }

  /** A server that somebody may connect his account to: he may use something of it, or it is looked at with his account. */
  private async connectable(
    principalId: string,
    serverId: string,
  ): Promise<Pick<Connecting, 'server' | 'by'> | undefined> {
    const server = await currentServer(this.deps.database.db, serverId);
    const by = wayOf(server);
    if (server === undefined || by === undefined) return undefined;
    const isHis = server.discoveredAs === principalId || (await this.deps.isUserOf(principalId, serverId));
    return isHis ? { server, by } : undefined;
  }

  /** Servers to be connected when somebody logs in, that he did not connect yet; with none or some of them, `limit` at most. */
  async dueAtLogin(principalId: string, limit = requiredAtLoginMax): Promise<ServerRow[]> {
    const { db } = this.deps.database;
    const due: ServerRow[] = [];
    if (this.deps.issuer === undefined) return due;
    const required = await requiredAtLogin(db);
    if (required.length === 0) return due;
    const isConnected = and(eq(connections.principalId, principalId), eq(connections.status, 'active'));
    const connected = await db.select({ serverId: connections.serverId }).from(connections).where(isConnected);
    for (const serverId of required) {
      if (due.length >= limit) break;
      if (connected.some((one) => one.serverId === serverId)) continue;
      const found = await this.connectable(principalId, serverId);
      if (found?.by === 'account') due.push(found.server);
    }
    return due;
  }

  /** That somebody goes on without having connected what is due. */
  async postpone(ctx: Context): Promise<void> {
    for (const { id } of await this.dueAtLogin(ctx.actor.principalId))
      await this.record(ctx, 'connection.postpone', id, {});
  }

  /** Of an account of one's own, what a page shows of its server. */
  async serverOf({ serverId }: ConnectionRow): Promise<Pick<ServerRow, 'title' | 'url'> | undefined> {
    return currentServer(this.deps.database.db, serverId);
  }

  async list(
    ctx: Context,
    filter: { readonly principalId?: string | null | undefined; readonly serverId?: string | null | undefined },
    page: Page,
  ): Promise<ConnectionRow[]> {
    const principalId = filter.principalId ?? ctx.actor.principalId;
    if (principalId !== ctx.actor.principalId) ctx.authorize('credential:read');
    if (!isUuid(principalId) || (typeof filter.serverId === 'string' && !isUuid(filter.serverId))) return [];
    const [after] = page.after ?? [];
    return this.deps.database.db
      .select()
      .from(connections)
      .where(
        and(
          eq(connections.principalId, principalId),
          ne(connections.status, 'ended'),
          typeof filter.serverId === 'string' ? eq(connections.serverId, filter.serverId) : undefined,
          after === undefined ? undefined : gt(connections.id, after),
        ),
      )
      .orderBy(asc(connections.id))
      .limit(page.limit + 1);
  }

  /** Ends a connection at once on nodes, and at its authorization server as soon as that answers. */
  async disconnect(ctx: Context, input: MutationOptions & { readonly accountId: string }): Promise<ConnectionRow> {
    if (!isUuid(input.accountId)) throw new AppError('NOT_FOUND');
    return mutate(this.deps.database, input, async (tx) => {
      const isLive = and(eq(connections.id, input.accountId), ne(connections.status, 'ended'));
      const [before] = await tx.select().from(connections).where(isLive).for('update');
      const isOwn = before?.principalId === ctx.actor.principalId;
      // Another's looks as if it did not exist to whom may not see it.
      if (before === undefined || !(isOwn || ctx.actor.permissions.has('credential:read')))
        throw new AppError('NOT_FOUND');
      if (!isOwn) ctx.authorize('credential:write');
      const [row] = await endConnections(tx, this.now(), eq(connections.id, before.id));
      if (row === undefined) throw new AppError('NOT_FOUND');
      const object = { kind: 'connection', id: row.id };
      await recordMutation(tx, ctx, { action: 'connection.end', object, before: shown(before) });
      return row;
    });
  }

  /**
   * For the catalog, when a server goes, moves to another origin, or is called with something else. Users who are at its
   * authorization server just then have to begin anew: it may not be the server's any more.
   */
  async endForServer(tx: Transaction, ctx: Context, serverId: string): Promise<void> {
    await tx.delete(connectAttempts).where(eq(connectAttempts.serverId, serverId));
    const ended = await endConnections(tx, this.now(), eq(connections.serverId, serverId));
    for (const row of ended) {
      const object = { kind: 'connection', id: row.id };
      await recordMutation(tx, ctx, { action: 'connection.end', object, before: shown(row) });
    }
  }

  /** What a link is about. @throws ConnectRefused for anybody but the user it was made for */
  async open(ctx: Context, token: string): Promise<Connecting> {
    const [principalId, serverId, until] = this.readLink(token);
    if (principalId !== ctx.actor.principalId) {
      await this.record(ctx, 'connection.foreignLink', serverId, { madeFor: principalId });
      throw new ConnectRefused('This link was made for somebody else.');
    }
    const found = until > this.deps.clock.now() ? await this.connectable(principalId, serverId) : undefined;
    if (found === undefined) throw new ConnectRefused('This link is not good any longer.');
    const { server, by } = found;
    if (by === 'login') {
      const user = await usablePrincipal(this.deps.database.db, principalId, this.deps.clock.now());
      const login = user && (await this.deps.logins.of(user));
      return { server, by, isConnected: login !== undefined };
    }
    const [connected] = await this.list(ctx, { serverId }, { limit: 1, after: undefined });
    return { server, by, isConnected: connected?.status === 'active' };
  }

  /**
   * Sends a user who opened a link to the authorization server of an upstream.
   * @returns undefined where the server wants a login, and no account
   * @throws as `open` and `beginAt`
   */
  async begin(ctx: Context, token: string, browser: string): Promise<URL | undefined> {
    const { server, by } = await this.open(ctx, token);
    return by === 'account' ? this.beginAt(ctx, server, browser, null) : undefined;
  }

  /** The same for one of the servers that are due when he logs in. @param interactionId of that login */
  async beginAtLogin(ctx: Context, serverId: string, browser: string, interactionId: string): Promise<URL> {
    const server = (await this.dueAtLogin(ctx.actor.principalId)).find(({ id }) => id === serverId);
    if (server === undefined) throw new ConnectRefused('This account need not be connected now.');
    return this.beginAt(ctx, server, browser, interactionId);
  }

  /**
   * @param browser what the answer must come back with: the browser session
   * @returns where the browser is to go
   * @throws ConnectRefused where the authorization server cannot be used, with words that hold nothing of it
   */
  private async beginAt(ctx: Context, server: ServerRow, browser: string, interactionId: string | null): Promise<URL> {
    try {
      return await this.attempt(ctx, server, browser, interactionId);
    } catch (error) {
      if (!(error instanceof AppError)) throw error;
      const isPassing = error.code === 'CREDENTIAL_UNAVAILABLE';
      if (!isPassing && !['upstream', 'config'].includes(error.entry.owner)) throw error;
      this.deps.log.warn({ err: error, serverId: server.id }, 'an account could not be connected');
      await this.record(ctx, 'connection.fail', server.id, { reason: 'notBegun' });
      throw new ConnectRefused('The authorization server of the MCP server cannot be used just now.', interactionId);
    }
  }

  private async attempt(ctx: Context, server: ServerRow, browser: string, interactionId: string | null): Promise<URL> {
    const { servers, clients, seals, clock, database } = this.deps;
    const settings = await clients.settingsOf(server);
    const { issuer, resource, scopes: named } = await servers.targetOf(server.url, settings.issuer);
    const client = await clients.clientFor(server, issuer, this.redirectUri());
    const [live] = await this.list(ctx, { serverId: server.id }, { limit: 1, after: undefined });
    const base = settings.scopes.length > 0 ? settings.scopes : named;
    // Stepping up asks for all that was allowed before, too; what is wanted comes first, should there be too much of it.
    const earlier = live?.issuer === issuer ? [...live.wantedScopes, ...live.scopes] : [];
    const scopes = keptScopes(base, earlier);
    const state = randomBytes(32).toString('base64url');
    const verifier = randomBytes(32).toString('base64url');
    const url = await servers.authorizationUrl(issuer, client, {
      redirectUri: this.redirectUri(),
      scopes,
      resource,
      state,
      verifier,
      hosts: settings.authorizationHosts,
    });
    const stateHash = sha256(state);
    await database.db.insert(connectAttempts).values({
      stateHash,
      principalId: ctx.actor.principalId,
      serverId: server.id,
      browserHash: sha256(browser),
      issuer,
      resource,
      clientId: client.clientId,
      scopes,
      sealed: seals.seal(attemptPurpose(stateHash), verifier),
      interactionId,
      expiresAt: new Date(clock.now() + attemptLifetimeMs),
    });
    return url;
  }

  /**
   * The browser is back. The state is used up by this, whatever comes of it; the issuer and the state are compared before
   * any request for tokens.
   * @returns the login that it is part of; null for none
   * @throws ConnectRefused with words that hold nothing of what came
   */
  async complete(ctx: Context, answer: URL, browser: string): Promise<string | null> {
    const { seals, clock, database } = this.deps;
    const state = answer.searchParams.get('state') ?? '';
    const stateHash = sha256(state);
    const [attempt] = await database.db
      .delete(connectAttempts)
      .where(eq(connectAttempts.stateHash, stateHash))
      .returning();
    if (attempt === undefined || attempt.expiresAt.getTime() <= clock.now()) {
      throw new ConnectRefused('This answer was not asked for, or came too late. Begin anew.');
    }
    if (attempt.principalId !== ctx.actor.principalId || attempt.browserHash !== sha256(browser)) {
      await this.record(ctx, 'connection.foreignAnswer', attempt.serverId, { begunBy: attempt.principalId });
      throw new ConnectRefused('Somebody else began this.');
    }
    const verifier = seals.open(attemptPurpose(stateHash), attempt.sealed) ?? '';
    const { interactionId } = attempt;
    const found = await this.connectable(attempt.principalId, attempt.serverId);
    if (found?.by !== 'account') throw new ConnectRefused('The server wants no connection any longer.', interactionId);
    const { server } = found;
    const given = await this.redeem(ctx, server, attempt, { answer, state, verifier });
    try {
      await this.store(ctx, server, given);
    } catch (error) {
      this.deps.log.warn({ err: error, serverId: server.id }, 'what an authorization server gave was not kept');
      await this.giveBack(ctx, given);
      throw new ConnectRefused('What the authorization server gave could not be kept. Begin anew.', interactionId);
    }
    return interactionId;
  }

  /** @throws ConnectRefused where there are no tokens, or nothing to keep them by: then the code is not spent */
  private async redeem(
    ctx: Context,
    server: ServerRow,
    attempt: typeof connectAttempts.$inferSelect,
    { answer, ...expected }: { readonly answer: URL; readonly state: string; readonly verifier: string },
  ): Promise<Given> {
    const { servers, clients, vault, clock, log } = this.deps;
    const { principalId, serverId, issuer, resource, clientId } = attempt;
    const id = uuidv7(clock.now());
    const row = { id, principalId, serverId, issuer, resource, clientId, origin: new URL(server.url).origin };
    try {
      const client = await clients.clientFor(server, issuer, this.redirectUri());
      if (client.clientId !== clientId) throw new Error('the client changed meanwhile');
      const seal = await tokenSealer(vault, row);
      const tokens = await servers.redeem(issuer, client, answer, { ...expected, resource });
      return { client, tokens, values: valuesOf({ ...row, ...seal(tokens) }, attempt, tokens, clock.now()) };
    } catch (error) {
      log.warn({ err: error, serverId }, 'an account was not connected');
      if (isUnknownClient(error)) await clients.forget(attempt);
      const isKeyAway = error instanceof AppError && error.code === 'CREDENTIAL_UNAVAILABLE';
      await this.record(ctx, 'connection.fail', serverId, { reason: isKeyAway ? 'keyUnavailable' : 'notConnected' });
      const message = isKeyAway
        ? 'Nothing can be kept of your account just now. Begin anew in a while.'
        : 'The authorization server of the MCP server did not give access.';
      throw new ConnectRefused(message, attempt.interactionId);
    }
  }

  private async store(ctx: Context, server: ServerRow, { values }: Given): Promise<void> {
    const { principalId, serverId } = values;
    await this.deps.database.db.transaction(async (tx) => {
      // Whoever changes a server ends what is connected to it: this is among that, or does not come about.
      const { credentialRevision } = await lockServer(tx, serverId);
      if (credentialRevision !== server.credentialRevision) {
        throw new AppError('CONFLICT', { internal: 'the server changed while an account was connected to it' });
      }
      await this.replace(tx, ctx, values);
      const [made] = await tx.insert(connections).values(values).returning();
      if (made === undefined) throw new AppError('INTERNAL', { internal: 'a connection was not inserted' });
      await discoverAgain(tx, serverId, principalId);
      const object = { kind: 'connection', id: made.id };
      await recordMutation(tx, ctx, { action: 'connection.create', object, after: shown(made) });
    });
  }

  /**
   * Ends what the user had connected before. What the same client was given is destroyed, and not revoked: an authorization
   * server that keeps one grant for a user and a client would take back with it what it has just given.
   */
  private async replace(tx: Transaction, ctx: Context, by: Given['values']): Promise<void> {
    const { principalId, serverId, issuer } = by;
    const isHis = [eq(connections.principalId, principalId), eq(connections.serverId, serverId)] as const;
    for (const { id, ...row } of await endConnections(tx, this.now(), ...isHis)) {
      if (row.issuer !== issuer || row.clientId !== by.clientId) continue;
      await tx.delete(connections).where(eq(connections.id, id));
      const after = { principalId, serverId, issuer, isRevoked: false, reason: 'replaced' };
      await recordMutation(tx, ctx, { action: 'connection.destroy', object: { kind: 'connection', id }, after });
    }
  }

  /** Tokens that nobody will use are revoked now; where their authorization server does not answer, as those of ended ones. */
  private async giveBack(ctx: Context, { client, tokens, values }: Given): Promise<void> {
    const { servers, database, log } = this.deps;
    const { serverId, issuer } = values;
    const isRevoked = await servers
      .revoke(issuer, client, tokens.refreshToken ?? tokens.accessToken)
      .catch((error: unknown) => {
        log.warn({ err: error, serverId }, 'an authorization server was not told of a revocation');
        return undefined;
      });
    await database.db.transaction(async (tx) => {
      if (isRevoked === undefined) {
        await tx.insert(connections).values({ ...values, status: 'ended', revokeNotBefore: this.now() });
      }
      const after = { reason: 'notKept', isRevoked: isRevoked === true };
      await recordAccess(tx, ctx, { action: 'connection.fail', object: { kind: 'server', id: serverId }, after });
    });
  }

  /** Drops attempts past their time; run by a timer. */
  async forgetAttempts(): Promise<void> {
    const { database, clock } = this.deps;
    await database.db.delete(connectAttempts).where(lt(connectAttempts.expiresAt, new Date(clock.now())));
  }

  private now(): Date {
    return new Date(this.deps.clock.now());
  }

  private redirectUri(): string {
    return `${this.deps.issuer ?? ''}${connectPath}/callback`;
  }

  private readLink(token: string): readonly [principalId: string, serverId: string, until: number] {
    const text = this.deps.seals.open(linkPurpose, token);
    const parsed: unknown = text === undefined ? undefined : JSON.parse(text);
    if (!Array.isArray(parsed)) throw new ConnectRefused('This is no link of ours.');
    return [String(parsed[0]), String(parsed[1]), Number(parsed[2])];
  }

  private async record(ctx: Context, action: string, serverId: string, after: object): Promise<void> {
    await this.deps.database.db.transaction((tx) =>
      recordAccess(tx, ctx, { action, object: { kind: 'server', id: serverId }, after }),
    );
  }
}

/** What came of a consent, and the row that keeps it. */
interface Given {
  readonly client: UpstreamClient;
  readonly tokens: Tokens;
  readonly values: typeof connections.$inferInsert;
}

function valuesOf(
  row: Pick<
    typeof connections.$inferInsert,
    'id' | 'principalId' | 'serverId' | 'issuer' | 'resource' | 'clientId' | 'origin' | keyof SealedSecret
  >,
  attempt: Pick<typeof connectAttempts.$inferSelect, 'scopes'>,
  tokens: Tokens,
  nowMs: number,
): Given['values'] {
  const now = new Date(nowMs);
  return {
    ...row,
    // Asked for and not given: asking again would give no more.
    scopes: keptScopes(attempt.scopes, tokens.scopes ?? []),
    status: 'active',
    // Without a refresh token nothing but the user could bring another: it is used until it is refused.
    accessExpiresAt: expiryOf(tokens, nowMs, tokens.refreshToken === null ? lifeSecondsMax : undefined),
    accessIssuedAt: now,
    canRefresh: tokens.refreshToken !== null,
    createdAt: now,
    updatedAt: now,
  };
}

/** What of a user a server is called with; undefined where it is nothing that he could bring about. */
function wayOf(server: ServerRow | undefined): Connecting['by'] | undefined {
  if (server?.credentialMode === 'userOAuth') return 'account';
  return server?.credentialMode === 'identityAssertion' ? 'login' : undefined;
}

function shown({ id, principalId, serverId, issuer, resource, scopes, status }: ConnectionRow): object {
  return { id, principalId, serverId, issuer, resource, scopes, status };
}
