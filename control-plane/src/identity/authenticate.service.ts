import { timingSafeEqual } from 'node:crypto';
import { AppError, sha256 } from '@sallyport/schema';
import type { Clock, Log } from '@sallyport/schema/platform';
import { and, eq, isNull, lt, or } from 'drizzle-orm';
import type { RoleService } from '../access/role.service.ts';
import type { Actor } from '../context.ts';
import type { Database } from '../database/client.ts';
import { apiKeyPrefix } from './api-key.service.ts';
import { apiKeys, principals } from './identity.tables.ts';
import { accountOwners, isUsable } from './principal.service.ts';

/** A key's last use is written at most this often. */
const lastUsedIntervalMs = 60_000;
const apiKeyLengthMax = 128;

interface Dependencies {
  readonly database: Database;
  readonly roles: RoleService;
  readonly clock: Clock;
  readonly log: Log;
}

/** Who holds an API key, for the GraphQL API. Reads the database every time, so a revoked key ends with its row. */
export class AuthenticateService {
  private readonly deps: Dependencies;

  constructor(deps: Dependencies) {
    this.deps = deps;
  }

  /**
   * The actor for a presented key. Unknown, revoked, expired, of a principal that may not act, without the `api`
   * scope: all are UNAUTHENTICATED alike.
   */
  async actorFor(presented: string): Promise<Actor> {
    const { database, clock, roles } = this.deps;
    const nowMs = clock.now();
    if (!presented.startsWith(apiKeyPrefix) || presented.length > apiKeyLengthMax) throw refused('not a key');
    const hash = sha256(presented);
    const [row] = await database.db
      .select({ key: apiKeys, principal: principals, owner: accountOwners })
      .from(apiKeys)
      .innerJoin(principals, eq(principals.id, apiKeys.principalId))
      .leftJoin(accountOwners, eq(accountOwners.id, principals.ownerId))
      .where(eq(apiKeys.hash, hash));
    if (row === undefined || !timingSafeEqual(Buffer.from(row.key.hash), Buffer.from(hash))) throw refused('unknown');
    const { key, principal, owner } = row;
    if (key.revokedAt !== null) throw refused(`key ${key.id} is revoked`);
    if (key.expiresAt.getTime() <= nowMs) throw refused(`key ${key.id} has expired`);
    if (!key.scopes.includes('api')) throw refused(`key ${key.id} lacks the scope api`);
    if (owner !== null && !isUsable(owner, nowMs)) throw refused(`the owner of ${principal.id} may not act`);
    if (!isUsable(principal, nowMs)) throw refused(`principal ${principal.id} may not act`);
    this.noteUse(key.id, key.lastUsedAt, nowMs);
    return {
      principalId: principal.id,
      name: principal.name,
      kind: principal.kind,
      keyId: key.id,
      ...(await roles.rightsOf(database.db, principal.id)),
    };
  }

  /** Not awaited: a request does not wait for it, nor fail by it. */
  private noteUse(keyId: string, lastUsedAt: Date | null, nowMs: number): void {
    const before = new Date(nowMs - lastUsedIntervalMs);
    if (lastUsedAt !== null && lastUsedAt > before) return;
    this.deps.database.db
      .update(apiKeys)
      .set({ lastUsedAt: new Date(nowMs) })
      .where(and(eq(apiKeys.id, keyId), or(isNull(apiKeys.lastUsedAt), lt(apiKeys.lastUsedAt, before))))
      .catch((error: unknown) => this.deps.log.warn({ err: error, keyId }, 'last use of a key was not recorded'));
  }
}

function refused(why: string): AppError {
  return new AppError('UNAUTHENTICATED', { internal: why });
}
