import { AppError, wholeScope } from '@sallyport/schema';
import { uuidv7 } from '@sallyport/schema/platform';
import { and, asc, eq, gt, lt, notLike } from 'drizzle-orm';
import { isPermitted } from '../access/rights.ts';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import type { Database, Drizzle, Reader, Transaction } from '../database/client.ts';
import { isUuid, mutate, type MutationOptions } from '../database/mutation.ts';
import { raiseEpoch } from '../identity/principal.service.ts';
import type { ClientService } from './client.service.ts';
import { familyAbsoluteMs } from './lifetimes.ts';
import type { ObjectStore, ServerOf } from './object-store.service.ts';
import { oauthConsents, type OAuthConsentRow } from './oauth.tables.ts';
import { anyLoopbackPort, isOwnedRedirect } from './redirect-uri.ts';

/** What a person is asked to allow. */
export interface ConsentRequest {
  readonly principalId: string;
  readonly clientId: string;
  readonly redirectUri: string;
  readonly resource: string;
  readonly scopes: readonly string[];
}

/** A consent that is asked for each time is listed for as long as tokens of the last time may live. */
const unrememberedKeptMs = familyAbsoluteMs;

export interface ConsentServiceOptions {
  readonly database: Database;
  readonly store: ObjectStore;
  readonly clients: Pick<ClientService, 'endOwnTokens'>;
  readonly serverOf: ServerOf;
}

/**
 * What users allowed clients: per user, client, redirect URI, resource and scopes; nobody inherits anybody's. It holds
 * for the server that had the endpoint then, and for no other that is given its slug.
 */
export class ConsentService {
  private readonly database: Database;
  private readonly store: ObjectStore;
  private readonly options: ConsentServiceOptions;

  constructor(options: ConsentServiceOptions) {
    this.database = options.database;
    this.store = options.store;
    this.options = options;
  }

  /** Whether all of it was allowed before, to be remembered. */
  async covers(request: ConsentRequest): Promise<boolean> {
    if (!isOwnedRedirect(request.redirectUri)) return false;
    const [row] = await this.database.db.select().from(oauthConsents).where(same(request));
    if (row === undefined || row.serverId !== (await this.options.serverOf(row.resource))) return false;
    const whole = row.scopes.includes(wholeScope);
    return request.scopes.every((scope) => row.scopes.includes(scope) || (whole && scope.startsWith(`${wholeScope}:`)));
  }

  /**
   * Keeps what the user allowed, besides what was allowed before for the same server. On loopback the port is the
   * program's choice of the day, and not kept.
   */
  async record(ctx: Context, request: ConsentRequest & { readonly clientName: string }): Promise<void> {
    const now = new Date(ctx.clock.now());
    const serverId = await this.options.serverOf(request.resource);
    await this.database.db.transaction(async (tx) => {
      const [before] = await tx.select().from(oauthConsents).where(same(request)).for('update');
      const { scopes, ...given } = request;
      const rest = { ...given, redirectUri: anyLoopbackPort(request.redirectUri) };
      const kept = before?.serverId === serverId ? before.scopes : [];
      const united = [...new Set([...kept, ...scopes])].sort();
      const values = { clientName: request.clientName, scopes: united, serverId, updatedAt: now };
      const { principalId, clientId, redirectUri, resource } = oauthConsents;
      const [row] = await tx
        .insert(oauthConsents)
        .values({ ...rest, ...values, id: uuidv7(now.getTime()), createdAt: now })
        .onConflictDoUpdate({ target: [principalId, clientId, redirectUri, resource], set: values })
        .returning();
      if (row === undefined) throw new AppError('INTERNAL', { internal: 'consent was not stored' });
      const object = { kind: 'oauthConsent', id: row.id };
      await recordMutation(tx, ctx, { action: 'oauthConsent.give', object, before, after: row });
    });
  }

  /** Consents of one principal, or of all; one's own need no permission. */
  async list(
    ctx: Context,
    principalId: string | null | undefined,
    page: { readonly limit: number; readonly after: readonly string[] | undefined },
  ): Promise<OAuthConsentRow[]> {
    if (principalId !== ctx.actor.principalId) ctx.authorize('user:read');
    if (typeof principalId === 'string' && !isUuid(principalId)) return [];
    const [after] = page.after ?? [];
    return this.database.db
      .select()
      .from(oauthConsents)
      .where(
        and(
          typeof principalId === 'string' ? eq(oauthConsents.principalId, principalId) : undefined,
          after === undefined ? undefined : gt(oauthConsents.id, after),
        ),
      )
      .orderBy(asc(oauthConsents.id))
      .limit(page.limit + 1);
  }

  /**
   * Withdraws a consent: the client's tokens for this user are void on every node. One's own needs no permission, and of
   * another's nothing is told to who has none.
   */
  async revoke(ctx: Context, input: MutationOptions & { readonly id: string }): Promise<OAuthConsentRow> {
    return mutate(this.database, input, async (tx) => {
      const row = await this.find(tx, input.id);
      if (row.principalId !== ctx.actor.principalId && !isPermitted(ctx.actor, 'user:write')) {
        throw new AppError('NOT_FOUND', { internal: `${ctx.actor.principalId} lacks user:write` });
      }
      await this.remove(tx, ctx, row);
      return row;
    });
  }

  /** What was allowed at the endpoint of a server that is being deleted ends, so that its slug inherits nothing. */
  async endWithServer(tx: Transaction, ctx: Context, serverId: string): Promise<void> {
    const rows = await tx
      .delete(oauthConsents)
      .where(eq(oauthConsents.serverId, serverId))
      .returning({ id: oauthConsents.id });
    const authorizations = await this.store.endFamilies(tx, { serverId });
    if (rows.length + authorizations === 0) return;
    const object = { kind: 'server', id: serverId };
    const after = { consents: rows.length, authorizations };
    await recordMutation(tx, ctx, { action: 'oauthConsent.endWithServer', object, after });
  }

  /**
   * Ends every browser session, legacy session and token of a principal, also those that clients got by themselves for
   * a service account; its API keys stay. One's own need no permission.
   */
  async endSessions(ctx: Context, input: MutationOptions & { readonly principalId: string }) {
    const { principalId } = input;
    if (!isUuid(principalId)) throw new AppError('NOT_FOUND');
    if (principalId !== ctx.actor.principalId) ctx.authorize('user:write');
    return mutate(this.database, input, async (tx) => {
      await raiseEpoch(tx, principalId);
      const authorizations =
        (await this.store.endFamilies(tx, { principalId })) +
        (await this.options.clients.endOwnTokens(tx, ctx, principalId));
      const object = { kind: 'principal', id: principalId };
      await recordMutation(tx, ctx, { action: 'principal.endSessions', object, after: { authorizations } });
      return { authorizations };
    });
  }

  private async remove(tx: Transaction, ctx: Context, row: OAuthConsentRow): Promise<void> {
    await tx.delete(oauthConsents).where(eq(oauthConsents.id, row.id));
    await this.store.endFamilies(tx, { principalId: row.principalId, clientId: row.clientId });
    const object = { kind: 'oauthConsent', id: row.id };
    await recordMutation(tx, ctx, { action: 'oauthConsent.revoke', object, before: row });
  }

  private async find(reader: Reader, id: string): Promise<OAuthConsentRow> {
    const [row] = isUuid(id)
      ? await reader.select().from(oauthConsents).where(eq(oauthConsents.id, id)).for('update')
      : [];
    if (row === undefined) throw new AppError('NOT_FOUND');
    return row;
  }
}

function same({ principalId, clientId, redirectUri, resource }: Omit<ConsentRequest, 'scopes'>) {
  return and(
    eq(oauthConsents.principalId, principalId),
    eq(oauthConsents.clientId, clientId),
    eq(oauthConsents.redirectUri, anyLoopbackPort(redirectUri)),
    eq(oauthConsents.resource, resource),
  );
}

/** Drops consents that are asked for each time and by which nothing can be held any longer; run by a timer. */
export async function forgetConsents(db: Drizzle, nowMs: number): Promise<void> {
  const isUnremembered = notLike(oauthConsents.redirectUri, 'https:%');
  await db
    .delete(oauthConsents)
    .where(and(isUnremembered, lt(oauthConsents.updatedAt, new Date(nowMs - unrememberedKeptMs))));
}
