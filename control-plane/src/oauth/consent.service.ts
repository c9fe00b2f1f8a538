import { AppError, wholeScope } from '@sallyport/schema';
import { uuidv7 } from '@sallyport/schema/platform';
import { and, asc, eq, gt } from 'drizzle-orm';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import type { Database, Reader, Transaction } from '../database/client.ts';
import { isUuid, mutate, type MutationOptions } from '../database/mutation.ts';
import type { ObjectStore } from './object-store.service.ts';
import { oauthConsents, type OAuthConsentRow } from './oauth.tables.ts';

/** What a person is asked to allow. */
export interface ConsentRequest {
  readonly principalId: string;
  readonly clientId: string;
  readonly redirectUri: string;
  readonly resource: string;
  readonly scopes: readonly string[];
}

/** What users allowed clients: per user, client, redirect URI, resource and scopes; nobody inherits anybody's. */
export class ConsentService {
  private readonly database: Database;
  private readonly store: ObjectStore;

  constructor(database: Database, store: ObjectStore) {
    this.database = database;
    this.store = store;
  }

  /** Whether all of it was allowed before. */
  async covers(request: ConsentRequest): Promise<boolean> {
    const [row] = await this.database.db.select().from(oauthConsents).where(same(request));
    if (row === undefined) return false;
    const whole = row.scopes.includes(wholeScope);
    return request.scopes.every((scope) => row.scopes.includes(scope) || (whole && scope.startsWith(`${wholeScope}:`)));
  }

  /** Remembers what the user allowed, besides what was allowed before. */
  async remember(ctx: Context, request: ConsentRequest & { readonly clientName: string }): Promise<void> {
    const now = new Date(ctx.clock.now());
    await this.database.db.transaction(async (tx) => {
      const [before] = await tx.select().from(oauthConsents).where(same(request)).for('update');
      const { scopes, ...rest } = request;
      const united = [...new Set([...(before?.scopes ?? []), ...scopes])].sort();
      const values = { clientName: request.clientName, scopes: united, updatedAt: now };
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

  /** Withdraws a consent: the client's tokens for this user are void on every node. One's own needs no permission. */
  async revoke(ctx: Context, input: MutationOptions & { readonly id: string }): Promise<OAuthConsentRow> {
    return mutate(this.database, input, async (tx) => {
      const row = await this.find(tx, input.id);
      if (row.principalId !== ctx.actor.principalId) ctx.authorize('user:write');
      await this.remove(tx, ctx, row);
      return row;
    });
  }

  /** Ends every browser session and every token of a principal; its API keys stay. One's own need no permission. */
  async endSessions(ctx: Context, input: MutationOptions & { readonly principalId: string }) {
    const { principalId } = input;
    if (!isUuid(principalId)) throw new AppError('NOT_FOUND');
    if (principalId !== ctx.actor.principalId) ctx.authorize('user:write');
    return mutate(this.database, input, async (tx) => {
      const authorizations = await this.store.endFamilies(tx, { principalId });
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
    eq(oauthConsents.redirectUri, redirectUri),
    eq(oauthConsents.resource, resource),
  );
}
