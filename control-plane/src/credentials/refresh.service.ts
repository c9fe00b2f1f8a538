import { AppError } from '@sallyport/schema';
import { type Clock, type Log, uuidv7 } from '@sallyport/schema/platform';
import { and, eq, gt, isNull, lt, or, sql } from 'drizzle-orm';
import { z } from 'zod';
import { recordAccess } from '../audit/audit.service.ts';
import { systemContext } from '../context.ts';
import type { Database, Transaction } from '../database/client.ts';
import type { AuthorizationServers } from './authorization-servers.ts';
import type { UpstreamClient } from './client-authentication.ts';
import { type ConnectionRow, connections } from './credential.tables.ts';
import type { CredentialVault, SealedSecret, SecretIdentity } from './credential-vault.ts';
import { keptScopes, type TokenOutcome, type Tokens, unknownClient } from './token-outcome.ts';

/** Longer than a request to an authorization server may take: whoever holds the lease has heard by then, or is gone. */
const leaseMs = 20_000;
/** After a refresh that did not come about, the next attempt waits this long. */
const retryAfterMs = 5_000;
const waitStepMs = 25;

const stored = z.strictObject({ accessToken: z.string(), refreshToken: z.string().nullable() });
export type StoredTokens = z.infer<typeof stored>;

export interface RefreshDependencies {
  readonly database: Database;
  readonly vault: CredentialVault;
  readonly servers: Pick<AuthorizationServers, 'metadata' | 'refresh'>;
  readonly clientOf: (connection: ConnectionRow) => Promise<UpstreamClient>;
  /** What to do where the authorization server does not know the client; false where a human has to mend that. */
  readonly forgetClient: (connection: ConnectionRow) => Promise<boolean>;
  readonly clock: Clock;
  readonly log: Log;
}

/** What a refresh was asked with, and what keeps its outcome. */
interface Sent {
  readonly refreshToken: string;
  readonly seal: TokenSealer;
}

/** A connection with its tokens in clear. */
export interface OpenedConnection {
  readonly row: ConnectionRow;
  readonly tokens: StoredTokens;
}

/** What the tokens of a connection are bound to. */
export function connectionIdentity(
  row: Pick<ConnectionRow, 'id' | 'principalId' | 'serverId' | 'issuer' | 'resource' | 'clientId' | 'origin'>,
): SecretIdentity {
  const { id, principalId, serverId, issuer, resource, clientId, origin } = row;
  return ['connections', id, principalId, serverId, issuer, resource, clientId, origin];
}

export type TokenSealer = (tokens: StoredTokens) => SealedSecret;

/** What seals the tokens of a connection once they are there. @throws AppError CREDENTIAL_KEY_MISSING, CREDENTIAL_UNAVAILABLE */
export async function tokenSealer(
  vault: CredentialVault,
  row: Parameters<typeof connectionIdentity>[0],
): Promise<TokenSealer> {
  const seal = await vault.sealer(connectionIdentity(row));
  return ({ accessToken, refreshToken }) => seal(JSON.stringify({ accessToken, refreshToken } satisfies StoredTokens));
}

/** When an access token ends, by our clock; what a server says beyond a year, or any date, is a year. */
export function expiryOf({ expiresIn }: Tokens, nowMs: number, unknownLifeSeconds = 3_600): Date {
  return new Date(nowMs + Math.min(expiresIn ?? unknownLifeSeconds, lifeSecondsMax) * 1_000);
}
/** Of a token that cannot be renewed, and whose server does not say how long it is good: until it is refused. */
export const lifeSecondsMax = 365 * 24 * 3_600;

/**
 * Renews the tokens of connections, once for the whole fleet at a time. A refresh token may be good for one use, and using
 * it twice may cost the user his whole authorization. So:
 *
 * 1. Who renews takes a lease in the row (`refresh_id`, until a time), by one update that only one can win.
 * 2. Right before the request leaves, it marks the row (`refresh_sent_at`) by an update that fails without the lease.
 * 3. What came of it is written, with its audit event, by an update that fails where the row is another's by then.
 *
 * A holder that died before 2 costs the others the rest of the lease. One that died after it may have used the token:
 * nobody sends it again, and the user is asked to connect anew. Nothing else is touched by that.
 */
export class RefreshService {
  private readonly deps: RefreshDependencies;
  private readonly underWay = new Map<string, Promise<OpenedConnection>>();

  constructor(deps: RefreshDependencies) {
    this.deps = deps;
  }

  async open(row: ConnectionRow): Promise<OpenedConnection> {
    const text = await this.deps.vault.open(connectionIdentity(row), row);
    return { row, tokens: stored.parse(JSON.parse(text)) };
  }

  /**
   * The connection with tokens newer than `than`, be it by this call or by another's.
   * @throws AppError CONNECTION_NEEDED where the user has to connect anew, CREDENTIAL_UNAVAILABLE where later may do
   */
  renew(id: string, than: number): Promise<OpenedConnection> {
    const underWay = this.underWay.get(id);
    if (underWay !== undefined)
      return underWay.then((opened) => (isNewer(opened.row, than) ? opened : this.renew(id, than)));
    const renewing = this.attempt(id, than).finally(() => this.underWay.delete(id));
    this.underWay.set(id, renewing);
    return renewing;
  }

  private async attempt(id: string, than: number): Promise<OpenedConnection> {
    const { clock } = this.deps;
    const deadline = clock.monotonic() + leaseMs + retryAfterMs;
    for (;;) {
      const row = await this.read(id);
      if (row?.status !== 'active') throw needsConnection(row);
      if (isNewer(row, than)) return this.open(row);
      if (row.refreshSentAt !== null && isOver(row.refreshLeaseUntil, clock.now())) {
        await this.giveUp(row, 'refreshOutcomeUnknown');
        throw needsConnection(row);
      }
      if (!row.canRefresh) {
        await this.giveUp(row, 'accessTokenEnded');
        throw needsConnection(row);
      }
      if (!isOver(row.refreshNotBefore, clock.now())) throw later('the last refresh did not come about');
      const leased = await this.lease(row);
      if (leased !== undefined) return this.refresh(leased);
      if (clock.monotonic() > deadline) throw later('another process renews it');
      await new Promise((resolve) => setTimeout(resolve, waitStepMs));
    }
  }

  private async read(id: string): Promise<ConnectionRow | undefined> {
    const [row] = await this.deps.database.db.select().from(connections).where(eq(connections.id, id));
    return row;
  }

  private async lease(row: ConnectionRow): Promise<ConnectionRow | undefined> {
    const now = this.deps.clock.now();
    const [leased] = await this.deps.database.db
      .update(connections)
      .set({ refreshId: uuidv7(now), refreshLeaseUntil: new Date(now + leaseMs) })
      .where(
        and(
          eq(connections.id, row.id),
          eq(connections.status, 'active'),
          eq(connections.tokenRevision, row.tokenRevision),
          isNull(connections.refreshSentAt),
          or(isNull(connections.refreshLeaseUntil), lt(connections.refreshLeaseUntil, new Date(now))),
        ),
      )
      .returning();
    return leased;
  }

  private async refresh(leased: ConnectionRow): Promise<OpenedConnection> {
    const { servers, clientOf } = this.deps;
    let client: UpstreamClient;
    let refreshToken: string | null;
    let seal: TokenSealer;
    try {
      ({ refreshToken } = (await this.open(leased)).tokens);
      client = await clientOf(leased);
      // Without a key nothing could be kept of what comes, and what was sent is used up.
      seal = await tokenSealer(this.deps.vault, leased);
      // All that can be asked for before is: whoever dies over it has sent nothing yet.
      await servers.metadata(leased.issuer).catch((error: unknown) => {
        throw later(String(error));
      });
    } catch (error) {
      await this.putOff(leased, 'refreshNotBegun');
      throw error;
    }
    if (refreshToken === null || !(await this.markSent(leased))) throw later('the lease ended before the request left');
    const outcome = await servers.refresh(leased.issuer, client, refreshToken, leased.resource);
    return this.settle(leased, outcome, { refreshToken, seal });
  }

  private async markSent(leased: ConnectionRow): Promise<boolean> {
    const nowMs = this.deps.clock.now();
    const now = new Date(nowMs);
    const marked = await this.deps.database.db
      .update(connections)
      .set({ refreshSentAt: now, refreshLeaseUntil: new Date(nowMs + leaseMs) })
      .where(and(this.held(leased), gt(connections.refreshLeaseUntil, now)))
      .returning({ id: connections.id });
    return marked.length === 1;
  }

  private async settle(leased: ConnectionRow, outcome: TokenOutcome, sent: Sent): Promise<OpenedConnection> {
    switch (outcome.kind) {
      case 'tokens':
        return this.store(leased, outcome.tokens, sent);
      case 'notSent':
        if (outcome.reason === unknownClient && (await this.deps.forgetClient(leased))) {
          await this.giveUp(leased, 'clientForgotten');
          throw needsConnection(leased);
        }
        this.deps.log.warn({ connectionId: leased.id, reason: outcome.reason }, 'a refresh did not come about');
        await this.putOff(leased, 'refreshNotSent');
        throw later(outcome.reason);
      case 'refused':
        await this.giveUp(leased, 'refreshRefused');
        throw needsConnection(leased);
      case 'unknown':
        await this.giveUp(leased, 'refreshOutcomeUnknown');
        throw needsConnection(leased);
    }
  }

  /** Before the new access token is used for the first time: with it the old refresh token may have ended. */
  private async store(leased: ConnectionRow, tokens: Tokens, sent: Sent): Promise<OpenedConnection> {
    const { clock, database } = this.deps;
    const now = clock.now();
    const kept = { accessToken: tokens.accessToken, refreshToken: tokens.refreshToken ?? sent.refreshToken };
    const secret = sent.seal(kept);
    const row = await database.db.transaction(async (tx) => {
      const [renewed] = await tx
        .update(connections)
        .set({
          ...secret,
          ...released,
          tokenRevision: leased.tokenRevision + 1,
          accessExpiresAt: expiryOf(tokens, now),
          accessIssuedAt: new Date(now),
          refreshNotBefore: null,
          updatedAt: new Date(now),
          // Asked for and not given stays so: a server that wants it again has nothing to ask the user for.
          ...(tokens.scopes === null ? {} : { scopes: keptScopes(leased.scopes, tokens.scopes) }),
        })
        .where(this.held(leased))
        .returning();
      if (renewed !== undefined) await this.record(tx, 'connection.refresh', renewed, {});
      return renewed;
    });
    if (row === undefined) {
      await this.keepForRevocation(leased, secret);
      throw needsConnection(leased);
    }
    return { row, tokens: kept };
  }

  /** Somebody ended the connection meanwhile: what is revoked then are these tokens, which took the place of the others. */
  private async keepForRevocation(leased: ConnectionRow, secret: SealedSecret): Promise<void> {
    await this.deps.database.db
      .update(connections)
      .set({ ...secret, refreshSentAt: null, revokeNotBefore: new Date(this.deps.clock.now()) })
      .where(
        and(
          eq(connections.id, leased.id),
          eq(connections.status, 'ended'),
          eq(connections.tokenRevision, leased.tokenRevision),
        ),
      );
  }

  /** For another try; an event where the last refresh came about, so that an outage is one event of each connection. */
  private async putOff(leased: ConnectionRow, reason: string): Promise<void> {
    const refreshNotBefore = new Date(this.deps.clock.now() + retryAfterMs);
    await this.deps.database.db.transaction(async (tx) => {
      const put = await tx
        .update(connections)
        .set({ ...released, refreshNotBefore })
        .where(this.held(leased))
        .returning({ id: connections.id });
      if (put.length > 0 && leased.refreshNotBefore === null) {
        await this.record(tx, 'connection.refreshDelay', leased, { reason });
      }
    });
  }

  /** This connection alone; that it ended is an event. */
  private async giveUp(row: ConnectionRow, reason: string): Promise<void> {
    const isEnded = await this.deps.database.db.transaction(async (tx) => {
      const ended = await tx
        .update(connections)
        .set({ ...released, status: 'reauthRequired', reason })
        .where(
          and(
            eq(connections.id, row.id),
            eq(connections.status, 'active'),
            eq(connections.tokenRevision, row.tokenRevision),
            row.refreshId === null ? isNull(connections.refreshId) : eq(connections.refreshId, row.refreshId),
          ),
        )
        .returning({ id: connections.id });
      if (ended.length > 0) await this.record(tx, 'connection.fail', row, { reason });
      return ended.length > 0;
    });
    if (isEnded) this.deps.log.warn({ connectionId: row.id, reason }, 'a connection needs its user');
  }

  private held(leased: ConnectionRow) {
    return and(eq(connections.id, leased.id), sql`${connections.refreshId} = ${leased.refreshId}::uuid`);
  }

  private record(tx: Transaction, action: string, row: ConnectionRow, more: object): Promise<void> {
    const { id, principalId, serverId, issuer } = row;
    return recordAccess(tx, systemContext('refresh', [], this.deps), {
      action,
      object: { kind: 'connection', id },
      after: { principalId, serverId, issuer, ...more },
    });
  }
}

const released = { refreshId: null, refreshLeaseUntil: null, refreshSentAt: null } as const;

function isNewer(row: ConnectionRow, than: number): boolean {
  return row.tokenRevision > than;
}

function isOver(until: Date | null, nowMs: number): boolean {
  return until === null || until.getTime() <= nowMs;
}

function later(internal: string): AppError {
  return new AppError('CREDENTIAL_UNAVAILABLE', { internal });
}

function needsConnection(row: ConnectionRow | undefined): AppError {
  return new AppError('CONNECTION_NEEDED', { internal: `connection ${row?.id ?? ''} is not of use` });
}
