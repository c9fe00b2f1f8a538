import { AppError, sha256 } from '@sallyport/schema';
import type { Clock } from '@sallyport/schema/platform';
import { and, eq, inArray, isNull, lt, sql } from 'drizzle-orm';
import { type Adapter, type AdapterPayload, errors } from 'oidc-provider';
import type { Database, Drizzle, Transaction } from '../database/client.ts';
import type { FleetVault } from '../fleet/fleet-keys.ts';
import { hasNotEnded } from '../identity/idp/federated-login.service.ts';
import { usablePrincipal } from '../identity/principal.service.ts';
import { loginOf } from './authorizations.ts';
import type { ClientService } from './client.service.ts';
import { oauthObjects, type OAuthObjectRow } from './oauth.tables.ts';
import { revokeFamilies, type TokenFamily } from './token-family.service.ts';

/**
 * A refresh token that was used is taken again for this long, and gives the same successor: an answer may be lost, and
 * programs that share a token race. Used later, it voids its family (RFC 9700 §4.14).
 */
export const refreshRetryMs = 30_000;

export interface ObjectStoreOptions {
  readonly database: Pick<Database, 'db'>;
  readonly vault: FleetVault;
  readonly clients: Pick<ClientService, 'metadataOf' | 'register' | 'noteLogin'>;
  readonly serverOf: ServerOf;
  readonly clock: Clock;
}

/** The id of the server whose endpoint the resource is now; null where there is none. */
export type ServerOf = (resource: string) => Promise<string | null>;

/** Which families to end: all that fit every member given. */
export interface FamilyFilter {
  readonly family?: string;
  readonly principalId?: string;
  readonly clientId?: string;
  readonly loginId?: string;
  readonly serverId?: string;
}

/**
 * Storage of the OAuth library in PostgreSQL, the same for all replicas. What is found has not expired, and belongs to a
 * principal that may act and whose epoch is still the one it was made in; a grant is for the server that has its
 * endpoint.
 */
export class ObjectStore {
  readonly #options: ObjectStoreOptions;

  constructor(options: ObjectStoreOptions) {
    this.#options = options;
  }

  /** The library asks for one per model, such as `RefreshToken`. */
  adapter(model: string): Adapter {
    const { clients } = this.#options;
    const none = () => Promise.resolve(undefined);
    return {
      upsert: (id, payload, expiresIn) =>
        model === 'Client' ? clients.register(id, payload) : this.#upsert(model, id, payload, expiresIn),
      find: (id) =>
        model === 'Client' ? clients.metadataOf(id) : this.#find(model, eq(oauthObjects.hash, sha256(id))),
      findByUid: (uid) => this.#find(model, eq(oauthObjects.uid, uid)),
      findByUserCode: none,
      consume: (id) => this.#consume(model, id),
      destroy: (id) => this.#destroy(model, id),
      // Called for each kind of token of a family; one of them ends it as a whole.
      revokeByGrantId: model === 'AccessToken' ? (family) => this.#endOne(family) : none,
    };
  }

  /**
   * Says what a grant is for, so that it ends with the server that has the endpoint now, and which login at an identity
   * provider is behind it, so that it ends with that.
   */
  async bind(grantId: string, resource: string, loginId: string | undefined): Promise<void> {
    const { database, serverOf } = this.#options;
    const serverId = await serverOf(resource);
    await database.db
      .update(oauthObjects)
      .set({ resource, serverId, loginId: loginId ?? null })
      .where(and(eq(oauthObjects.model, 'Grant'), eq(oauthObjects.hash, sha256(grantId))));
    // Asked again after it was stored: whoever ended either meanwhile has not seen the grant.
    const isOfNow = (await serverOf(resource)) === serverId;
    if (isOfNow && (loginId === undefined || (await hasNotEnded(database.db, loginId)))) return;
    await this.#endOne(grantId);
    throw new errors.AccessDenied();
  }

  /**
   * Ends authorizations: nothing of them can be refreshed or redeemed from the commit on, and nodes are told to refuse
   * their access tokens. With a login or a principal alone, browser sessions end too.
   * @returns how many families ended
   */
  async endFamilies(tx: Transaction, filter: FamilyFilter): Promise<number> {
    const { family, principalId, clientId, loginId, serverId } = filter;
    const matches = and(
      family === undefined ? undefined : eq(oauthObjects.family, family),
      principalId === undefined ? undefined : eq(oauthObjects.principalId, principalId),
      clientId === undefined ? undefined : eq(oauthObjects.clientId, clientId),
      loginId === undefined ? undefined : eq(oauthObjects.loginId, loginId),
      serverId === undefined ? undefined : eq(oauthObjects.serverId, serverId),
    );
    if (matches === undefined) throw new AppError('INTERNAL', { internal: 'no authorizations were named' });
    const ended = await tx
      .delete(oauthObjects)
      .where(matches)
      .returning({ family: oauthObjects.family, principalId: oauthObjects.principalId });
    const families = new Map<string, TokenFamily>();
    for (const row of ended) {
      if (row.family === null || row.principalId === null) continue;
      families.set(row.family, { family: row.family, principalId: row.principalId });
    }
    if (families.size > 0 && family === undefined) {
      // Codes and refresh tokens do not carry the login: they go with their family.
      await tx.delete(oauthObjects).where(inArray(oauthObjects.family, [...families.keys()]));
    }
    await revokeFamilies(tx, [...families.values()], this.#options.clock.now());
    return families.size;
  }

  async #endOne(family: string): Promise<void> {
    await this.#options.database.db.transaction((tx) => this.endFamilies(tx, { family }));
  }

  async #upsert(model: string, id: string, payload: AdapterPayload, expiresIn: number | undefined): Promise<void> {
    const { database, vault, clock } = this.#options;
    const now = clock.now();
    const hash = sha256(id);
    const { accountId } = payload;
    const principal = accountId === undefined ? undefined : await usablePrincipal(database.db, accountId, now);
    if (accountId !== undefined && principal === undefined) throw new errors.AccessDenied();
    const values = {
      sealed: vault.seal(purposeOf(model, hash), JSON.stringify(payload)),
      uid: payload.uid ?? null,
      principalId: principal?.id ?? null,
      ...(model === 'Session' ? { loginId: loginOf(payload.amr) ?? null } : {}),
      expiresAt: new Date(now + (expiresIn ?? 0) * 1000),
    };
    const family = model === 'Grant' ? id : (payload.grantId ?? null);
    const fixed = { model, hash, family, epoch: principal?.epoch ?? null, clientId: payload.clientId ?? null };
    const insert = database.db.insert(oauthObjects).values({ ...values, ...fixed, createdAt: new Date(now) });
    if (model === 'ReplayDetection' || model === 'RefreshToken') {
      const inserted = await insert.onConflictDoNothing().returning({ hash: oauthObjects.hash });
      // The same successor of a refresh token, made by a request that raced with this one, is as good.
      if (inserted.length === 0 && model === 'ReplayDetection') throw new errors.InvalidRequest('it was used before');
      return;
    }
    // A session that another user logs in to is of that user's epoch.
    const epoch = sql`case when ${oauthObjects.principalId} is not distinct from excluded.principal_id
      then ${oauthObjects.epoch} else excluded.epoch end`;
    await insert.onConflictDoUpdate({ target: [oauthObjects.model, oauthObjects.hash], set: { ...values, epoch } });
    if (model === 'Grant' && payload.clientId !== undefined) await this.#options.clients.noteLogin(payload.clientId);
    const loginId = model === 'Session' ? loginOf(payload.amr) : undefined;
    if (loginId !== undefined && !(await hasNotEnded(this.#options.database.db, loginId))) {
      await this.#destroy(model, id);
      throw new errors.AccessDenied();
    }
  }

  async #find(model: string, which: ReturnType<typeof eq>): Promise<AdapterPayload | undefined> {
    const { database, vault, clock } = this.#options;
    const [row] = await database.db
      .select()
      .from(oauthObjects)
      .where(and(eq(oauthObjects.model, model), which));
    if (row === undefined || row.expiresAt.getTime() <= clock.now() || !(await this.#isOfNow(row))) return undefined;
    const text = vault.open(purposeOf(model, row.hash), row.sealed);
    if (text === undefined) return undefined;
    const payload = JSON.parse(text) as AdapterPayload;
    const { consumedAt } = row;
    if (consumedAt !== null && !(model === 'RefreshToken' && consumedAt.getTime() > clock.now() - refreshRetryMs)) {
      payload.consumed = Math.floor(consumedAt.getTime() / 1000);
    }
    return payload;
  }

  async #isOfNow({ principalId, epoch, resource, serverId }: OAuthObjectRow): Promise<boolean> {
    if (resource !== null && (await this.#options.serverOf(resource)) !== serverId) return false;
    if (principalId === null) return true;
    const principal = await usablePrincipal(this.#options.database.db, principalId, this.#options.clock.now());
    return principal?.epoch === epoch;
  }

  async #consume(model: string, id: string): Promise<void> {
    const consumed = await this.#options.database.db
      .update(oauthObjects)
      .set({ consumedAt: new Date(this.#options.clock.now()) })
      .where(and(eq(oauthObjects.model, model), eq(oauthObjects.hash, sha256(id)), isNull(oauthObjects.consumedAt)))
      .returning({ hash: oauthObjects.hash });
    // Two requests with one code: the library checks before it consumes, and here one of them is first.
    if (consumed.length === 0 && model === 'AuthorizationCode') throw new errors.InvalidGrant('code already consumed');
  }

  async #destroy(model: string, id: string): Promise<void> {
    await this.#options.database.db
      .delete(oauthObjects)
      .where(and(eq(oauthObjects.model, model), eq(oauthObjects.hash, sha256(id))));
  }
}

function purposeOf(model: string, hash: string): string {
  return `sallyport.oauth.v1|${model}|${hash}`;
}

/** Drops what has expired; run by a timer. */
export async function forgetOAuthObjects(db: Drizzle, nowMs: number): Promise<void> {
  await db.delete(oauthObjects).where(lt(oauthObjects.expiresAt, new Date(nowMs)));
}
