import { randomBytes } from 'node:crypto';
import { AppError, oauthRoutes, sha256, type StepUpNeeds } from '@sallyport/schema';
import { type Clock, type Log, randomSecret, uuidv7 } from '@sallyport/schema/platform';
import { and, eq, gt, isNull, lt } from 'drizzle-orm';
import { z } from 'zod';
import { recordAccess, recordMutation } from '../../audit/audit.service.ts';
import { type Context, systemContext } from '../../context.ts';
import type { Database, Drizzle, Reader, Transaction } from '../../database/client.ts';
import { bumpConfigGeneration } from '../../database/config-generation.ts';
import { isUuid } from '../../database/mutation.ts';
import type { FleetVault } from '../../fleet/fleet-keys.ts';
import { principals } from '../identity.tables.ts';
import { isUsable } from '../principal.service.ts';
import { authenticatedAtOf, type Claims, groupClaim, groupsByRules, profileOf, subjectOf } from './claims.ts';
import type { IdentityProviderService } from './identity-provider.service.ts';
import {
  identityProviderLogins,
  type IdentityProviderRow,
  loginAttempts,
  usedProviderTokens,
} from './identity-provider.tables.ts';
import type { GivenTokens, LoginSecrets, OidcConnections } from './oidc-connection.ts';
import type { ProvidedGroupService } from './provided-groups.service.ts';

/** From leaving for the provider until the end of the login here, in milliseconds. */
export const attemptLifetimeMs = 10 * 60_000;
/** Logins are remembered this long; no session or token of theirs lives longer. */
const loginKeptMs = 31 * 24 * 3_600_000;

const secretsSchema = z.object({
  verifier: z.string(),
  nonce: z.string(),
  freshSince: z.number().nullable().default(null),
});

/**
 * Where a provider sends the browser back to. One for each: an answer that arrives at another's address is none, so that
 * no provider gets at the answer of one that does not say who it is (mix-up, RFC 9700 §4.4.2.2).
 */
export function callbackUrl(issuer: string, providerId: string): string {
  return `${issuer}${oauthRoutes.oauthCallback.path.replace('{id}', providerId)}`;
}

export interface FederatedLoginOptions {
  /** Of this authorization server; undefined where there is none. */
  readonly issuer: string | undefined;
  readonly database: Database;
  readonly vault: Pick<FleetVault, 'seal' | 'open'>;
  readonly providers: IdentityProviderService;
  readonly connections: OidcConnections;
  readonly groups: ProvidedGroupService;
  /** Keeps what the provider gave, where some server is called with it; does not reject. */
  readonly keep: (
    provider: IdentityProviderRow,
    login: { readonly principalId: string; readonly loginId: string; readonly subject: string },
    given: GivenTokens,
  ) => Promise<void>;
  readonly clock: Clock;
  readonly log: Log;
}

/** Where a login comes back to in the interaction it was begun in. */
export interface Returned {
  readonly interaction: string;
  /** Opens the login once, in the browser that holds the interaction's cookie. */
  readonly ticket: string;
}

export interface FederatedLogin {
  readonly principalId: string;
  readonly loginId: string;
  readonly acr: string | undefined;
  /** Seconds since the epoch; undefined where the provider did not say. */
  readonly authenticatedAt: number | undefined;
}

/** Login at an identity provider: the OpenID Connect code flow with PKCE, nonce and state, for a user here. */
export class FederatedLoginService {
  private readonly options: FederatedLoginOptions;

  constructor(options: FederatedLoginOptions) {
    this.options = options;
  }

  /**
   * Begins a login for an interaction, which must be as it needs.
   * @returns where to send the browser, and the value of the cookie that binds the answer to it
   */
  async begin(providerId: string, interaction: string, needs: StepUpNeeds): Promise<{ url: URL; cookie: string }> {
    const { issuer, database, vault, providers, connections, clock } = this.options;
    const provider = await providers.usableById(providerId);
    if (provider === undefined || issuer === undefined) throw new AppError('NOT_FOUND');
    const redirectUri = callbackUrl(issuer, provider.id);
    const state = randomSecret('');
    const cookie = randomSecret('');
    const secrets: LoginSecrets = {
      verifier: randomBytes(32).toString('base64url'),
      nonce: randomSecret(''),
      freshSince: needs.maxAgeSeconds === null ? null : Math.floor(clock.now() / 1000),
    };
    const stateHash = sha256(state);
    const url = await connections.authorizationUrl(provider, redirectUri, state, secrets, needs.acrValues);
    await database.db.insert(loginAttempts).values({
      stateHash,
      identityProviderId: provider.id,
      interaction,
      browserHash: sha256(cookie),
      sealed: vault.seal(purposeOf(stateHash), JSON.stringify(secrets)),
      expiresAt: new Date(clock.now() + attemptLifetimeMs),
    });
    return { url, cookie };
  }

  /**
   * The browser came back to the provider's address. Undefined where the answer fits no login of this browser at this
   * provider, or not any longer: nothing is asked of anybody then.
   */
  async returned(providerId: string, answer: URL, cookie: string | undefined): Promise<Returned | undefined> {
    const { database, vault, providers, connections, clock } = this.options;
    const state = answer.searchParams.get('state');
    if (state === null || cookie === undefined || !isUuid(providerId)) return undefined;
    const now = new Date(clock.now());
    const stateHash = sha256(state);
    const [attempt] = await database.db
      .update(loginAttempts)
      .set({ returnedAt: now })
      .where(
        and(
          eq(loginAttempts.stateHash, stateHash),
          eq(loginAttempts.identityProviderId, providerId),
          eq(loginAttempts.browserHash, sha256(cookie)),
          isNull(loginAttempts.returnedAt),
          gt(loginAttempts.expiresAt, now),
        ),
      )
      .returning();
    const provider = attempt && (await providers.usableById(attempt.identityProviderId));
    const opened = attempt && vault.open(purposeOf(stateHash), attempt.sealed);
    if (attempt === undefined || provider === undefined || opened === undefined) return undefined;
    const secrets = secretsSchema.parse(JSON.parse(opened));
    const { claims, given } = await connections.redeem(provider, answer, state, secrets);
    const login = await this.accept(provider, claims);
    await this.options.keep(provider, { ...login, subject: String(claims['sub']) }, given);
    const ticket = randomSecret('');
    await database.db
      .update(loginAttempts)
      .set({
        ticketHash: sha256(ticket),
        ...login,
        acr: login.acr ?? null,
        authenticatedAt: login.authenticatedAt ?? null,
      })
      .where(eq(loginAttempts.stateHash, stateHash));
    return { interaction: attempt.interaction, ticket };
  }

  /** The login of a ticket, once and in its interaction alone. */
  async redeem(ticket: string, interaction: string): Promise<FederatedLogin | undefined> {
    const [attempt] = await this.options.database.db
      .delete(loginAttempts)
      .where(
        and(
          eq(loginAttempts.ticketHash, sha256(ticket)),
          eq(loginAttempts.interaction, interaction),
          gt(loginAttempts.expiresAt, new Date(this.options.clock.now())),
        ),
      )
      .returning();
    if (attempt === undefined || attempt.principalId === null || attempt.loginId === null) return undefined;
    // Logged out at the provider before the browser came back here.
    if (!(await hasNotEnded(this.options.database.db, attempt.loginId))) return undefined;
    const { principalId, loginId, acr, authenticatedAt } = attempt;
    return { principalId, loginId, acr: acr ?? undefined, authenticatedAt: authenticatedAt ?? undefined };
  }

  /**
   * The user whom verified claims are of, with name and groups as they say; an assertion says nothing of these. Throws
   * where they let nobody in.
   */
  async accept(
    provider: IdentityProviderRow,
    claims: Claims,
    { isAssertion = false }: { readonly isAssertion?: boolean } = {},
  ): Promise<FederatedLogin> {
    const { database, clock, log } = this.options;
    const subject = subjectOf(claims, provider);
    // The network comes before the transaction.
    const groupIds = isAssertion ? undefined : await this.groupsOf(provider, claims, subject);
    const ctx = systemContext(`login at ${provider.name}`, [], { clock, log });
    const acr = typeof claims['acr'] === 'string' ? claims['acr'] : undefined;
    const authenticatedAt = authenticatedAtOf(claims, clock.now());
    return database.db.transaction(async (tx) => {
      const user = await this.user(tx, ctx, provider, subject, isAssertion ? undefined : claims);
      if (!isUsable(user, clock.now())) {
        throw new AppError('UNAUTHENTICATED', { internal: `user ${user.id} may not act` });
      }
      if (groupIds !== undefined) await this.options.groups.setMemberships(tx, ctx, provider.id, user.id, groupIds);
      const id = uuidv7(clock.now());
      await tx.insert(identityProviderLogins).values({
        id,
        identityProviderId: provider.id,
        principalId: user.id,
        subject: typeof claims['sub'] === 'string' ? claims['sub'] : subject,
        sessionId: typeof claims['sid'] === 'string' ? claims['sid'] : null,
        createdAt: new Date(clock.now()),
      });
      const after = { identityProviderId: provider.id, loginId: id, acr, authenticatedAt, groupIds };
      await recordAccess(tx, ctx, { action: 'user.login', object: { kind: 'user', id: user.id }, after });
      return { principalId: user.id, loginId: id, acr, authenticatedAt };
    });
  }

  /** The user of the issuer and subject, with the name and address of the token unless a directory says them. */
  private async user(
    tx: Transaction,
    ctx: Context,
    provider: IdentityProviderRow,
    subject: string,
    claims: Claims | undefined,
  ) {
    const { issuer } = provider;
    const now = new Date(ctx.clock.now());
    const profile = profileOf(claims ?? {});
    const [known] = await tx
      .select()
      .from(principals)
      .where(and(eq(principals.issuer, issuer), eq(principals.subject, subject), isNull(principals.deletedAt)))
      .for('update');
    const isAsBefore = known?.name === profile.name && known.email === profile.email;
    if (known !== undefined && (claims === undefined || known.directoryId !== null || isAsBefore)) return known;
    if (known === undefined && !provider.createsUsers) {
      throw new AppError('UNAUTHENTICATED', { internal: `${provider.name} makes no users, and this one is unknown` });
    }
    const id = known?.id ?? uuidv7(now.getTime());
    const values = { ...profile, revision: (known?.revision ?? 0) + 1, updatedAt: now };
    const [row] =
      known === undefined
        ? await tx
            .insert(principals)
            .values({ ...values, id, kind: 'user', issuer, subject, createdAt: now })
            .returning()
        : await tx.update(principals).set(values).where(eq(principals.id, id)).returning();
    if (row === undefined) throw new AppError('INTERNAL', { internal: 'user was not written' });
    const action = known === undefined ? 'user.create' : 'user.update';
    await recordMutation(tx, ctx, { action, object: { kind: 'user', id }, before: known, after: row });
    await bumpConfigGeneration(tx, { principalIds: [id] });
    return row;
  }

  /** Ids of the groups that the claims give; undefined where the provider fills no groups. */
  private async groupsOf(
    provider: IdentityProviderRow,
    claims: Claims,
    subject: string,
  ): Promise<readonly string[] | undefined> {
    if (provider.groupsClaim === null) return provider.groupRules.length === 0 ? undefined : [];
    const said = groupClaim(claims, provider.groupsClaim);
    const values = said.kind === 'values' ? said.values : await this.options.connections.groups(provider, subject);
    return groupsByRules(provider.groupRules, values);
  }
}

function purposeOf(stateHash: string): string {
  return `sallyport.loginAttempt.v1|${stateHash}`;
}

/**
 * Whether a login has not ended since. To be asked after what came of it is stored: whoever ends the login holds its
 * row, and finds what was stored before.
 */
export async function hasNotEnded(reader: Reader, loginId: string): Promise<boolean> {
  const [login] = await reader
    .select({ endedAt: identityProviderLogins.endedAt })
    .from(identityProviderLogins)
    .where(eq(identityProviderLogins.id, loginId))
    .for('share');
  return login?.endedAt === null;
}

/** Drops what has expired; run by a timer. */
export async function forgetLogins(db: Drizzle, nowMs: number): Promise<void> {
  const now = new Date(nowMs);
  await db.delete(loginAttempts).where(lt(loginAttempts.expiresAt, now));
  await db.delete(usedProviderTokens).where(lt(usedProviderTokens.expiresAt, now));
  await db.delete(identityProviderLogins).where(lt(identityProviderLogins.createdAt, new Date(nowMs - loginKeptMs)));
}
