import { AppError } from '@sallyport/schema';
import { type Clock, type Log, uuidv7 } from '@sallyport/schema/platform';
import { and, desc, eq, gt, inArray, isNull, sql } from 'drizzle-orm';
import { z } from 'zod';
import { recordAccess } from '../audit/audit.service.ts';
import { systemContext } from '../context.ts';
import type { Database, Transaction } from '../database/client.ts';
import { hasNotEnded } from '../identity/idp/federated-login.service.ts';
import type { IdentityProviderService } from '../identity/idp/identity-provider.service.ts';
import type { GivenTokens, OidcConnections } from '../identity/idp/oidc-connection.ts';
import { loginTokens, type LoginTokensRow } from './credential.tables.ts';
import type { CredentialVault, SealedSecret, SecretIdentity } from './credential-vault.ts';
import { notifyForgotten } from './forgotten.service.ts';
import type { Caller } from './identity-token.service.ts';
import { anyServerIsCalledBy } from './server-credential.service.ts';

/** Whatever comes of a login ends after this. */
const keptMs = 30 * 24 * 3_600_000;
/** An ID token that ends sooner is renewed first. */
const usableMs = 30_000;
/** Longer than a request to a provider may take: whoever sent it has heard by then, or is gone. */
const sentMs = 20_000;
const waitStepMs = 50;
/** Logins that are dropped by one transaction, with their events. */
const forgottenAtOnce = 500;

const stored = z.strictObject({ idToken: z.string(), refreshToken: z.string().nullable() });

type Provider = NonNullable<Awaited<ReturnType<IdentityProviderService['usableById']>>>;

/** A login that is of use. */
export interface UsableLogin {
  readonly provider: Provider;
  readonly row: LoginTokensRow;
}

export interface LoginTokensDependencies {
  readonly database: Database;
  readonly vault: CredentialVault;
  readonly providers: Pick<IdentityProviderService, 'usableById'>;
  readonly idp: Pick<OidcConnections, 'renew'>;
  readonly clock: Clock;
  readonly log: Log;
}

/**
 * What identity providers gave at logins: the proof that lets the gateway ask for assertions of a user. Kept only while some
 * server is called with it, sealed, ended by logout, by the end of the user and after thirty days.
 *
 * A refresh token of a provider may be good for one use, so it is sent once (as in decision 0071): the row is marked before
 * the request leaves. Who finds a mark that is older than any request throws the tokens away, and the user logs in again.
 */
export class LoginTokens {
  private readonly deps: LoginTokensDependencies;
  private readonly underWay = new Map<string, Promise<string>>();

  constructor(deps: LoginTokensDependencies) {
    this.deps = deps;
  }

  /** After a login. That nothing can be kept does not keep anybody from logging in. */
  async keep(
    provider: Provider,
    login: { readonly principalId: string; readonly loginId: string; readonly subject: string },
    tokens: GivenTokens,
  ): Promise<void> {
    const { database, vault, clock, log } = this.deps;
    if (!(await anyServerIsCalledBy(database.db, 'identityAssertion'))) return;
    try {
      const now = clock.now();
      const { principalId, loginId, subject } = login;
      const row = {
        id: uuidv7(now),
        loginId,
        principalId,
        identityProviderId: provider.id,
        clientId: provider.clientId,
      };
      const secret = (await sealer(vault, { ...row, subject }))(tokens);
      await database.db.transaction(async (tx) => {
        await tx.insert(loginTokens).values({
          ...row,
          ...secret,
          subject,
          epoch: sql`(select epoch from principals where id = ${principalId}::uuid)`,
          idTokenExpiresAt: new Date(tokens.idTokenExpiresAt),
          canRefresh: tokens.refreshToken !== null,
          createdAt: new Date(now),
          endsAt: new Date(now + keptMs),
        });
        // Logged out at the provider meanwhile: whoever ended the login found nothing to end.
        if (!(await hasNotEnded(tx, loginId))) throw new AppError('UNAUTHENTICATED', { internal: 'the login ended' });
        await this.record(tx, 'loginTokens.keep', row, {});
      });
    } catch (error) {
      log.warn({ err: error, loginId: login.loginId }, 'what an identity provider gave was not kept');
    }
  }

  /** With a login, of whatever reason: what nodes were lent by it is forgotten too. */
  async end(tx: Transaction, loginId: string): Promise<void> {
    const gone = await tx.delete(loginTokens).where(eq(loginTokens.loginId, loginId)).returning();
    for (const row of gone) {
      await notifyForgotten(tx, null, row.principalId);
      await this.record(tx, 'loginTokens.end', row, {});
    }
  }

  /** The latest login of a principal that is of use; undefined where he has to log in. */
  async of(principal: Caller): Promise<UsableLogin | undefined> {
    const { database, providers, clock } = this.deps;
    const now = new Date(clock.now());
    const rows = await database.db
      .select()
      .from(loginTokens)
      .where(
        and(
          eq(loginTokens.principalId, principal.id),
          eq(loginTokens.epoch, principal.epoch),
          gt(loginTokens.endsAt, now),
        ),
      )
      .orderBy(desc(loginTokens.createdAt))
      .limit(loginsTried);
    for (const row of rows) {
      if (!row.canRefresh && row.idTokenExpiresAt.getTime() - usableMs <= now.getTime()) continue;
      const provider = await providers.usableById(row.identityProviderId);
      // Tokens are told to the client that they were given to, and to nobody who took its place.
      if (provider?.clientId === row.clientId) return { provider, row };
    }
    return undefined;
  }

  /**
   * An ID token that is good for a while.
   * @throws AppError CONNECTION_NEEDED where the user has to log in, CREDENTIAL_UNAVAILABLE where later may do
   */
  idToken(login: UsableLogin): Promise<string> {
    const { id } = login.row;
    const underWay = this.underWay.get(id);
    if (underWay !== undefined) return underWay;
    const asked = this.fresh(login).finally(() => this.underWay.delete(id));
    this.underWay.set(id, asked);
    return asked;
  }

  /** The provider does not take what it gave any more. */
  async refused(row: LoginTokensRow, reason: string): Promise<AppError> {
    this.deps.log.warn({ loginId: row.loginId, reason }, 'a user has to log in again');
    await this.deps.database.db.transaction(async (tx) => {
      const gone = await tx.delete(loginTokens).where(eq(loginTokens.id, row.id)).returning({ id: loginTokens.id });
      if (gone.length > 0) await this.record(tx, 'loginTokens.fail', row, { reason });
    });
    return needsLogin(reason);
  }

  /** Drops what has ended, what belongs to users who may not act, and all where no server is called with it; by a timer. */
  async forget(): Promise<void> {
    const { database, clock } = this.deps;
    const isNeeded = await anyServerIsCalledBy(database.db, 'identityAssertion');
    const isVoid = sql`${loginTokens.endsAt} < ${new Date(clock.now()).toISOString()}::timestamptz or not exists (select 1
      from principals p where p.id = ${loginTokens.principalId} and p.status = 'active' and p.deleted_at is null
      and p.epoch = ${loginTokens.epoch})`;
    const reason = isNeeded ? 'over' : 'notNeeded';
    let gone: number;
    do {
      gone = await database.db.transaction(async (tx) => {
        const some = await tx
          .select({ id: loginTokens.id })
          .from(loginTokens)
          .where(isNeeded ? isVoid : undefined)
          .limit(forgottenAtOnce)
          .for('update', { skipLocked: true });
        const ids = some.map(({ id }) => id);
        const rows = await tx.delete(loginTokens).where(inArray(loginTokens.id, ids)).returning();
        for (const row of rows) await this.record(tx, 'loginTokens.end', row, { reason });
        return rows.length;
      });
    } while (gone === forgottenAtOnce);
  }

  private async fresh({ provider, row: { id } }: UsableLogin): Promise<string> {
    const { database, vault, clock } = this.deps;
    const deadline = clock.monotonic() + sentMs;
    for (;;) {
      const [row] = await database.db.select().from(loginTokens).where(eq(loginTokens.id, id));
      if (row === undefined) throw needsLogin('the login ended');
      const now = clock.now();
      if (row.idTokenExpiresAt.getTime() - usableMs > now) return (await opened(vault, row)).idToken;
      if (!row.canRefresh) throw await this.refused(row, 'idTokenEnded');
      if (row.refreshSentAt === null) {
        // What can fail without a request having left comes first.
        const { refreshToken } = await opened(vault, row);
        const seal = await sealer(vault, row);
        if (await this.mark(row)) return this.renew(provider, row, refreshToken ?? '', seal);
      } else if (row.refreshSentAt.getTime() + sentMs < now) {
        throw await this.refused(row, 'refreshOutcomeUnknown');
      }
      if (clock.monotonic() > deadline) throw later('another process renews it');
      await new Promise((resolve) => setTimeout(resolve, waitStepMs));
    }
  }

  /** By one update that only one can win; false for all others. */
  private async mark(row: LoginTokensRow): Promise<boolean> {
    const marked = await this.deps.database.db
      .update(loginTokens)
      .set({ refreshSentAt: new Date(this.deps.clock.now()) })
      .where(and(eq(loginTokens.id, row.id), eq(loginTokens.revision, row.revision), isNull(loginTokens.refreshSentAt)))
      .returning({ id: loginTokens.id });
    return marked.length === 1;
  }

  private async renew(provider: Provider, row: LoginTokensRow, refreshToken: string, seal: Sealer): Promise<string> {
    const { database, idp, log } = this.deps;
    const outcome = await idp.renew(provider, refreshToken, row.subject);
    if (outcome.kind === 'notSent') {
      log.warn({ loginId: row.loginId, reason: outcome.reason }, 'a login was not renewed');
      await database.db.update(loginTokens).set({ refreshSentAt: null }).where(eq(loginTokens.id, row.id));
      throw later(outcome.reason);
    }
    if (outcome.kind !== 'tokens') {
      throw await this.refused(row, outcome.kind === 'refused' ? 'refreshRefused' : 'refreshOutcomeUnknown');
    }
    const { given } = outcome;
    const kept = { ...given, refreshToken: given.refreshToken ?? refreshToken };
    const secret = seal(kept);
    const isStored = await database.db.transaction(async (tx) => {
      const stored = await tx
        .update(loginTokens)
        .set({
          ...secret,
          idTokenExpiresAt: new Date(given.idTokenExpiresAt),
          revision: row.revision + 1,
          refreshSentAt: null,
        })
        .where(and(eq(loginTokens.id, row.id), eq(loginTokens.revision, row.revision)))
        .returning({ id: loginTokens.id });
      if (stored.length > 0) await this.record(tx, 'loginTokens.refresh', row, {});
      return stored.length > 0;
    });
    // The user logged out meanwhile.
    if (!isStored) throw needsLogin('the login ended');
    return given.idToken;
  }

  private record(
    tx: Transaction,
    action: string,
    row: Pick<LoginTokensRow, 'loginId' | 'principalId' | 'identityProviderId'>,
    more: object,
  ): Promise<void> {
    const { loginId, principalId, identityProviderId } = row;
    return recordAccess(tx, systemContext('logins', [], this.deps), {
      action,
      object: { kind: 'user', id: principalId },
      after: { loginId, identityProviderId, ...more },
    });
  }
}
/** A user may have logged in with several browsers. */
const loginsTried = 10;

type Sealable = Pick<LoginTokensRow, 'id' | 'loginId' | 'principalId' | 'identityProviderId' | 'clientId' | 'subject'>;

function identityOf({ id, loginId, principalId, identityProviderId, clientId, subject }: Sealable): SecretIdentity {
  return ['login_tokens', id, loginId, principalId, identityProviderId, clientId, subject];
}

type Sealer = (tokens: z.infer<typeof stored>) => SealedSecret;

async function sealer(vault: CredentialVault, row: Sealable): Promise<Sealer> {
  const seal = await vault.sealer(identityOf(row));
  return ({ idToken, refreshToken }) =>
    seal(JSON.stringify({ idToken, refreshToken } satisfies z.infer<typeof stored>));
}

async function opened(vault: CredentialVault, row: LoginTokensRow): Promise<z.infer<typeof stored>> {
  return stored.parse(JSON.parse(await vault.open(identityOf(row), row)));
}

function later(internal: string): AppError {
  return new AppError('CREDENTIAL_UNAVAILABLE', { internal });
}

function needsLogin(internal: string): AppError {
  return new AppError('CONNECTION_NEEDED', { internal: `no login is of use: ${internal}` });
}
