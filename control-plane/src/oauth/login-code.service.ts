import { AppError, sha256 } from '@sallyport/schema';
import { type Clock, randomSecret, uuidv7 } from '@sallyport/schema/platform';
import { and, eq, gt, isNull, lt } from 'drizzle-orm';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import type { Database, Drizzle } from '../database/client.ts';
import { isUuid, mutate, type MutationOptions } from '../database/mutation.ts';
import { Violations } from '../database/violations.ts';
import type { ApiKeyService } from '../identity/api-key.service.ts';
import { usablePrincipal } from '../identity/principal.service.ts';
import { loginCodes } from './oauth.tables.ts';

const codePrefix = 'spl_';
const lifetimeSecondsDefault = 15 * 60;
export const loginCodeLifetimeSecondsMax = 24 * 3600;

export interface CreateLoginCode extends MutationOptions {
  readonly userId: string;
  readonly lifetimeSeconds?: number | null | undefined;
}
export interface IssuedLoginCode {
  readonly expiresAt: Date;
  /** Null on a dry run. */
  readonly code: string | null;
}

/**
 * How a user logs in whom no identity provider vouches for: with a code that an administrator made, once. There are no
 * passwords here (decision 0027).
 */
export class LoginCodeService {
  private readonly database: Database;
  private readonly apiKeys: Pick<ApiKeyService, 'assertMayIssue'>;
  private readonly clock: Clock;

  constructor(database: Database, apiKeys: Pick<ApiKeyService, 'assertMayIssue'>, clock: Clock) {
    this.database = database;
    this.apiKeys = apiKeys;
    this.clock = clock;
  }

  /** Whoever holds the code acts as the user, so it takes what making an API key for the user takes. */
  async create(ctx: Context, input: CreateLoginCode): Promise<IssuedLoginCode> {
    ctx.authorize('apiKey:write');
    const now = ctx.clock.now();
    const lifetimeSeconds = input.lifetimeSeconds ?? lifetimeSecondsDefault;
    return mutate(this.database, input, async (tx) => {
      const found = new Violations();
      const user = isUuid(input.userId) ? await usablePrincipal(tx, input.userId, now) : undefined;
      if (user?.kind !== 'user') found.add('input.userId', 'must be the id of an active user');
      if (lifetimeSeconds < 1 || lifetimeSeconds > loginCodeLifetimeSecondsMax) {
        found.add('input.lifetimeSeconds', `must be between 1 and ${loginCodeLifetimeSecondsMax}`);
      }
      found.assertNone();
      await this.apiKeys.assertMayIssue(tx, ctx, input.userId, { scopes: ['mcp'], networks: null });
      const id = uuidv7(now);
      const code = randomSecret(codePrefix);
      const expiresAt = new Date(now + lifetimeSeconds * 1000);
      const values = { id, principalId: input.userId, expiresAt };
      await tx.insert(loginCodes).values({ ...values, hash: sha256(code), createdAt: new Date(now) });
      const object = { kind: 'loginCode', id };
      await recordMutation(tx, ctx, { action: 'loginCode.create', object, after: values });
      return { expiresAt, code: input.dryRun === true ? null : code };
    });
  }

  /** The user whose code it is, which is used up by this. Unknown, used, expired, of a disabled user: all undefined. */
  async redeem(code: string): Promise<{ readonly id: string; readonly name: string } | undefined> {
    const now = new Date(this.clock.now());
    return this.database.db.transaction(async (tx) => {
      const [used] = await tx
        .update(loginCodes)
        .set({ usedAt: now })
        .where(and(eq(loginCodes.hash, sha256(code)), isNull(loginCodes.usedAt), gt(loginCodes.expiresAt, now)))
        .returning();
      const user = used && (await usablePrincipal(tx, used.principalId, now.getTime()));
      return user?.kind === 'user' ? { id: user.id, name: user.name } : undefined;
    });
  }

  async user(id: string): Promise<{ readonly id: string; readonly name: string }> {
    const user = await usablePrincipal(this.database.db, id, this.clock.now());
    if (user === undefined) throw new AppError('UNAUTHENTICATED');
    return user;
  }
}

/** Drops codes that open nothing any longer; run by a timer. */
export async function forgetLoginCodes(db: Drizzle, nowMs: number): Promise<void> {
  await db.delete(loginCodes).where(lt(loginCodes.expiresAt, new Date(nowMs)));
}
