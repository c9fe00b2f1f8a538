import { timingSafeEqual } from 'node:crypto';
import { AppError, isInNetworks, parseNetworks, type Permission, readPermissions, sha256 } from '@sallyport/schema';
import type { Clock } from '@sallyport/schema/platform';
import { eq } from 'drizzle-orm';
import { restrictRights } from '../access/rights.ts';
import type { RoleService } from '../access/role.service.ts';
import type { Actor } from '../context.ts';
import type { Database } from '../database/client.ts';
import { apiKeyPrefix } from './api-key.service.ts';
import { accountOwners, type ApiKeyRow, apiKeys, principals } from './identity.tables.ts';
import type { KeyUses } from './key-uses.service.ts';
import { isUsable } from './principal.service.ts';

const apiKeyLengthMax = 128;

/** Who asks, as far as the connection tells. */
export interface Origin {
  /** Network address of the client, beyond trusted proxies; null where it is not known. */
  readonly address: string | null;
}

interface Dependencies {
  readonly database: Database;
  readonly roles: RoleService;
  readonly uses: Pick<KeyUses, 'note'>;
  readonly clock: Clock;
}

/** Who is behind a bearer token, for the API. Reads the database every time, so a revoked key ends with its row. */
export class AuthenticateService {
  private readonly deps: Dependencies;

  constructor(deps: Dependencies) {
    this.deps = deps;
  }

  /**
   * The actor for a presented token. Whatever is wrong with it is UNAUTHENTICATED alike. A kind of token is told by its
   * prefix; each has a method of its own here.
   */
  async actorFor(presented: string, origin: Origin): Promise<Actor> {
    if (!presented.startsWith(apiKeyPrefix) || presented.length > apiKeyLengthMax) throw refused('not a key');
    return this.actorOfKey(presented, origin);
  }

  /**
   * The actor of an API key: the rights of its holder now, within what the key opens. Unknown, revoked, expired, of a
   * principal that may not act, without a scope of the API, from another network: all are refused alike. The key is found
   * by its digest, so how long that takes tells nothing of it.
   */
  private async actorOfKey(presented: string, { address }: Origin): Promise<Actor> {
    const { database, clock, roles, uses } = this.deps;
    const nowMs = clock.now();
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
    const allowed = permissionsOfKey(key);
    if (allowed === undefined) throw refused(`key ${key.id} has no scope of the API`);
    if (key.networks !== null && !isInNetworks(parseNetworks(key.networks), address)) {
      throw refused(`key ${key.id} is not for use from ${address}`);
    }
    if (owner !== null && !isUsable(owner, nowMs)) throw refused(`the owner of ${principal.id} may not act`);
    if (!isUsable(principal, nowMs)) throw refused(`principal ${principal.id} may not act`);
    uses.note(key.id, nowMs);
    const rights = await roles.rightsOf(database.db, principal.id);
    return {
      principalId: principal.id,
      name: principal.name,
      kind: principal.kind,
      keyId: key.id,
      ...(allowed === null ? rights : restrictRights(rights, allowed)),
    };
  }
}

/** What a key may be used for at the API: null for all that its holder may do, undefined for nothing at all. */
function permissionsOfKey({ scopes, permissions }: ApiKeyRow): ReadonlySet<Permission> | null | undefined {
  if (scopes.includes('api')) return permissions === null ? null : new Set(permissions);
  if (!scopes.includes('apiRead')) return undefined;
  const named = new Set(permissions ?? readPermissions);
  return new Set(readPermissions.filter((permission) => named.has(permission)));
}

function refused(why: string): AppError {
  return new AppError('UNAUTHENTICATED', { internal: why });
}
