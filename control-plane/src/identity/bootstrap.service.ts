import { timingSafeEqual } from 'node:crypto';
import { AppError, sha256 } from '@sallyport/schema';
import { randomSecret } from '@sallyport/schema/platform';
import { eq } from 'drizzle-orm';
import { z } from 'zod';
import type { RoleService } from '../access/role.service.ts';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import type { Database, Reader, Transaction } from '../database/client.ts';
import { mutate } from '../database/mutation.ts';
import { settings } from '../database/settings.tables.ts';
import { Violations } from '../database/violations.ts';
import type { ApiKeyService } from './api-key.service.ts';
import type { PrincipalService } from './principal.service.ts';

export const bootstrapTokenPrefix = 'spb_';
export const bootstrapTokenTtlMs = 24 * 3_600_000;
const settingsKey = 'bootstrap';
const defaultLifetimeMs = 90 * 86_400_000;

const storedSchema = z.strictObject({
  /** SHA-256 of the token, hex. */
  hash: z.string(),
  expiresAt: z.number(),
  /** The token was used: it never opens again, whatever happens to the owners. */
  consumed: z.boolean(),
});
type Stored = z.infer<typeof storedSchema>;

export interface Bootstrap {
  readonly token: string;
  readonly userName: string;
  readonly userEmail?: string | null | undefined;
  readonly serviceAccountName: string;
  /** Of the service account and its key. */
  readonly expiresAt?: Date | null | undefined;
}
export interface Bootstrapped {
  readonly userId: string;
  readonly serviceAccountId: string;
  readonly apiKeyId: string;
  readonly expiresAt: Date;
  readonly secret: string;
}

/**
 * How the first owner comes to be. A token, given by the operator or made at the first start, opens once, for at most
 * 24 hours, and only while no owner can act.
 */
export class BootstrapService {
  private readonly database: Database;
  private readonly roles: RoleService;
  private readonly principals: PrincipalService;
  private readonly apiKeys: ApiKeyService;

  constructor(database: Database, roles: RoleService, principals: PrincipalService, apiKeys: ApiKeyService) {
    this.database = database;
    this.roles = roles;
    this.principals = principals;
    this.apiKeys = apiKeys;
  }

  /**
   * Arms the token at start, when there is no owner. A configured token that was seen before keeps its age.
   * @returns a token that was made now and must be shown to the operator, or undefined
   */
  async arm(ctx: Context, configured: string | undefined): Promise<string | undefined> {
    return mutate(this.database, {}, async (tx) => {
      await this.roles.owners.lock(tx);
      const now = ctx.clock.now();
      if (await this.roles.owners.exists(tx, now)) return undefined;
      const stored = await this.read(tx);
      if (configured !== undefined) {
        if (stored?.hash !== sha256(configured)) await this.write(tx, ctx, this.fresh(configured, now));
        return undefined;
      }
      if (stored !== undefined && !stored.consumed && stored.expiresAt > now) return undefined;
      const token = randomSecret(bootstrapTokenPrefix);
      await this.write(tx, ctx, this.fresh(token, now));
      return token;
    });
  }

  /** Creates the first user, a service account it answers for that is owner, and the account's key. */
  async bootstrap(ctx: Context, input: Bootstrap): Promise<Bootstrapped> {
    const armed = await this.read(this.database.db);
    // Anybody may ask: whoever has no token must not get to hold the lock that every change of a principal waits for.
    if (armed === undefined || !isToken(armed, input.token)) throw closed();
    return mutate(this.database, {}, async (tx) => {
      await this.roles.owners.lock(tx);
      const now = ctx.clock.now();
      const stored = await this.read(tx);
      const opens =
        stored !== undefined &&
        isToken(stored, input.token) &&
        stored.expiresAt > now &&
        !(await this.roles.owners.exists(tx, now));
      if (!opens) throw closed();
      const found = new Violations();
      const expiresAt = input.expiresAt ?? new Date(now + defaultLifetimeMs);
      found.text('input.userName', input.userName, 1, 128);
      found.text('input.serviceAccountName', input.serviceAccountName, 1, 128);
      found.assertNone();
      const user = await this.principals.insertUser(tx, ctx, { name: input.userName, email: input.userEmail });
      const serviceAccount = await this.principals.insertServiceAccount(tx, ctx, {
        name: input.serviceAccountName,
        description: 'Made by the bootstrap token.',
        ownerId: user.id,
        expiresAt,
      });
      await this.roles.bind(tx, ctx, { principalId: serviceAccount.id, role: 'owner' });
      const issued = await this.apiKeys.insert(tx, ctx, {
        principalId: serviceAccount.id,
        name: 'bootstrap',
        scopes: ['api'],
        expiresAt,
      });
      await this.write(tx, ctx, { ...stored, consumed: true });
      if (issued.secret === null) throw new AppError('INTERNAL', { internal: 'the first key has no secret' });
      return {
        userId: user.id,
        serviceAccountId: serviceAccount.id,
        apiKeyId: issued.apiKey.id,
        expiresAt,
        secret: issued.secret,
      };
    });
  }

  private fresh(token: string, nowMs: number): Stored {
    return { hash: sha256(token), expiresAt: nowMs + bootstrapTokenTtlMs, consumed: false };
  }

  private async read(reader: Reader): Promise<Stored | undefined> {
    const [row] = await reader.select().from(settings).where(eq(settings.key, settingsKey));
    return row === undefined ? undefined : storedSchema.parse(row.value);
  }

  private async write(tx: Transaction, ctx: Context, stored: Stored): Promise<void> {
    const updatedAt = new Date(ctx.clock.now());
    await tx
      .insert(settings)
      .values({ key: settingsKey, value: stored, updatedAt })
      .onConflictDoUpdate({ target: settings.key, set: { value: stored, updatedAt } });
    await recordMutation(tx, ctx, {
      action: stored.consumed ? 'bootstrap.consume' : 'bootstrap.arm',
      object: { kind: 'bootstrapToken', id: stored.hash.slice(0, 16) },
    });
  }
}

function isToken(stored: Stored, presented: string): boolean {
  return !stored.consumed && timingSafeEqual(Buffer.from(stored.hash), Buffer.from(sha256(presented)));
}

function closed(): AppError {
  return new AppError('UNAUTHENTICATED', { internal: 'bootstrap token does not open' });
}
