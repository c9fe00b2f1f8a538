import { generateKeyPairSync } from 'node:crypto';
import { AppError } from '@sallyport/schema';
import { type Clock, uuidv7 } from '@sallyport/schema/platform';
import { and, asc, eq, isNull, lt } from 'drizzle-orm';
import { importJWK, type JWTPayload, SignJWT } from 'jose';
import { z } from 'zod';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import type { Database } from '../database/client.ts';
import { mutate, type MutationOptions } from '../database/mutation.ts';
import { upstreamSigningKeys, type UpstreamSigningKeyRow } from './credential.tables.ts';
import type { CredentialVault, SecretIdentity } from './credential-vault.ts';

/** How long others may keep the published keys, in seconds. */
export const keysKeptSeconds = 300;
/** A key is published for this long before it signs, and after it signed last: far longer than anybody keeps the set. */
const publishedMs = 3_600_000;
/** How long a process goes on with the key that it opened, in milliseconds. */
const openedForMs = 10_000;

/** A key as administrators see it. */
export type UpstreamKey = Omit<UpstreamSigningKeyRow, 'sealed' | 'wrappedKey' | 'keyId'>;

interface OpenedKey {
  readonly id: string;
  /** JSON text of the private JWK, with its `kid`. */
  readonly jwk: string;
  readonly key: Awaited<ReturnType<typeof importJWK>>;
}

export interface UpstreamKeysDependencies {
  readonly database: Database;
  readonly vault: CredentialVault;
  readonly clock: Clock;
}

/**
 * The keys that sign what the gateway says toward upstreams and their authorization servers: who it is (`private_key_jwt`),
 * and who calls. They never leave the control plane, are sealed like every secret toward upstreams, and are none of those
 * that sign access tokens for nodes.
 */
export class UpstreamKeys {
  private readonly deps: UpstreamKeysDependencies;
  private opened: { readonly until: number; readonly key: Promise<OpenedKey> } | undefined;

  constructor(deps: UpstreamKeysDependencies) {
    this.deps = deps;
  }

  /** Whether there is a key-encryption key, without which there are none of these. */
  get isPossible(): boolean {
    return this.deps.vault.keys !== undefined;
  }

  /** A JWK Set (RFC 7517 §5): those that sign, will sign and have signed lately. */
  async published(): Promise<{ readonly keys: readonly object[] }> {
    const rows = await this.rows();
    return { keys: rows.map(({ id, x, y }) => ({ kty: 'EC', crv: 'P-256', x, y, kid: id, use: 'sig', alg: 'ES256' })) };
  }

  /** @throws AppError CREDENTIAL_KEY_MISSING, CREDENTIAL_UNAVAILABLE */
  async sign(claims: JWTPayload, typ: string): Promise<string> {
    const { id, key } = await this.signing();
    return new SignJWT(claims).setProtectedHeader({ alg: 'ES256', kid: id, typ }).sign(key);
  }

  /** The private key that signs, as JWK text, for the library that proves who a client is. @throws as `sign` */
  async privateJwk(): Promise<string> {
    return (await this.signing()).jwk;
  }

  async list(ctx: Context): Promise<UpstreamKey[]> {
    ctx.authorize('settings:read');
    return this.rows();
  }

  /** Begins a rotation: the new key is published, and signs an hour later. */
  async rotate(ctx: Context, options: MutationOptions): Promise<UpstreamKey> {
    ctx.authorize('settings:write');
    const made = await this.made('publish');
    return mutate(this.deps.database, options, async (tx) => {
      const [row] = await tx.insert(upstreamSigningKeys).values(made).onConflictDoNothing().returning();
      if (row === undefined) {
        throw new AppError('CONFLICT', { publicMessage: 'A rotation is under way: the new key is published already.' });
      }
      const object = { kind: 'upstreamSigningKey', id: row.id };
      await recordMutation(tx, ctx, { action: 'upstreamSigningKey.rotate', object, after: { id: row.id } });
      return row;
    });
  }

  /** Makes the first key, lets one sign that was published for long enough, and forgets old ones; run by a timer. */
  async advance(): Promise<void> {
    if (!this.isPossible) return;
    const { database, clock } = this.deps;
    await this.ensure();
    const now = new Date(clock.now());
    await database.db.transaction(async (tx) => {
      await tx.delete(upstreamSigningKeys).where(lt(upstreamSigningKeys.retiresAt, now));
      const isReady = lt(upstreamSigningKeys.createdAt, new Date(now.getTime() - publishedMs));
      const waits = and(eq(upstreamSigningKeys.use, 'publish'), isNull(upstreamSigningKeys.retiresAt), isReady);
      const [next] = await tx.select().from(upstreamSigningKeys).where(waits).for('update', { skipLocked: true });
      if (next === undefined) return;
      // Out of the way first: one signs, and one waits.
      const retiresAt = new Date(now.getTime() + publishedMs);
      await tx
        .update(upstreamSigningKeys)
        .set({ use: 'publish', retiresAt })
        .where(eq(upstreamSigningKeys.use, 'sign'));
      await tx
        .update(upstreamSigningKeys)
        .set({ use: 'sign', signingSince: now })
        .where(eq(upstreamSigningKeys.id, next.id));
    });
  }

  private rows(): Promise<UpstreamSigningKeyRow[]> {
    return this.deps.database.db.select().from(upstreamSigningKeys).orderBy(asc(upstreamSigningKeys.createdAt));
  }

  /** Opened anew now and then: with a key server, that is a request. */
  private signing(): Promise<OpenedKey> {
    const now = this.deps.clock.monotonic();
    if (this.opened !== undefined && this.opened.until > now) return this.opened.key;
    const opening = { until: now + openedForMs, key: this.open() };
    this.opened = opening;
    opening.key.catch(() => {
      if (this.opened === opening) this.opened = undefined;
    });
    return opening.key;
  }

  private async open(): Promise<OpenedKey> {
    const row = await this.ensure();
    const jwk = await this.deps.vault.open(identityOf(row), row);
    return { id: row.id, jwk, key: await importJWK(privateKey.parse(JSON.parse(jwk)), 'ES256') };
  }

  /** The key that signs. The first may do so at once: nobody can know an older set. Two at once make one. */
  private async ensure(): Promise<UpstreamSigningKeyRow> {
    const { db } = this.deps.database;
    const known = () => db.select().from(upstreamSigningKeys).where(eq(upstreamSigningKeys.use, 'sign'));
    const [row] = await known();
    if (row !== undefined) return row;
    await db
      .insert(upstreamSigningKeys)
      .values(await this.made('sign'))
      .onConflictDoNothing();
    const [made] = await known();
    if (made === undefined) throw new AppError('INTERNAL', { internal: 'no key signs toward upstreams' });
    return made;
  }

  private async made(use: UpstreamSigningKeyRow['use']): Promise<typeof upstreamSigningKeys.$inferInsert> {
    const now = new Date(this.deps.clock.now());
    const jwk = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' });
    const row = { id: uuidv7(now.getTime()), x: jwk.x ?? '', y: jwk.y ?? '' };
    const sealed = await this.deps.vault.seal(identityOf(row), JSON.stringify({ ...jwk, kid: row.id }));
    return { ...row, ...sealed, use, createdAt: now, signingSince: use === 'sign' ? now : null };
  }
}

const privateKey = z.object({
  kty: z.literal('EC'),
  crv: z.literal('P-256'),
  x: z.string(),
  y: z.string(),
  d: z.string(),
});

function identityOf({ id, x, y }: Pick<UpstreamSigningKeyRow, 'id' | 'x' | 'y'>): SecretIdentity {
  return ['upstream_signing_keys', id, x, y];
}
