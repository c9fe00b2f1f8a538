import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject, randomBytes } from 'node:crypto';
import { accessTokenLifetimeMs, AppError, tokenClockSkewMs } from '@sallyport/schema';
import type { Clock } from '@sallyport/schema/platform';
import { and, asc, eq, isNotNull, isNull, lt } from 'drizzle-orm';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import type { Database, Transaction } from '../database/client.ts';
import { bumpConfigGeneration } from '../database/config-generation.ts';
import { mutate } from '../database/mutation.ts';
import { type FleetVault, withFleetLock } from './fleet-keys.ts';
import { oauthSigningKeys, type OAuthSigningKeyRow } from './fleet.tables.ts';
import { everyNodeHas } from './sealing-keys.ts';

const keyIdBytes = 9;
/** A key verifies for this long after another took over: what it signed last has expired by then on every clock. */
const verifyAfterRetirementMs = 2 * (accessTokenLifetimeMs + tokenClockSkewMs);

/** A key as administrators see it. */
export type SigningKeyRow = Omit<OAuthSigningKeyRow, 'sealedPrivateKey'>;

/** A key that signs or will sign access tokens, opened. */
export interface SigningKey {
  readonly id: string;
  readonly use: OAuthSigningKeyRow['use'];
  readonly privateKey: KeyObject;
}

function purposeOf(id: string): string {
  return `sallyport.oauthSigningKey.v1|${id}`;
}

async function insertSigningKey(
  tx: Transaction,
  vault: FleetVault,
  clock: Clock,
  use: OAuthSigningKeyRow['use'],
): Promise<OAuthSigningKeyRow> {
  const id = randomBytes(keyIdBytes).toString('base64url');
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const { x, y } = createPublicKey(privateKey).export({ format: 'jwk' });
  const text = privateKey.export({ type: 'pkcs8', format: 'der' }).toString('base64');
  const now = new Date(clock.now());
  const [row] = await tx
    .insert(oauthSigningKeys)
    .values({
      id,
      x: x ?? '',
      y: y ?? '',
      sealedPrivateKey: vault.seal(purposeOf(id), text),
      use,
      createdAt: now,
      signingSince: use === 'sign' ? now : null,
    })
    .returning();
  if (row === undefined) throw new AppError('INTERNAL', { internal: 'signing key was not inserted' });
  return row;
}

/** Makes the first key of a deployment, which may sign at once: no token exists that nodes would miss a key for. */
export async function ensureSigningKey(database: Database, vault: FleetVault, clock: Clock): Promise<void> {
  await withFleetLock(database, () =>
    database.db.transaction(async (tx) => {
      const [row] = await tx.select({ id: oauthSigningKeys.id }).from(oauthSigningKeys).limit(1);
      if (row !== undefined) return;
      await insertSigningKey(tx, vault, clock, 'sign');
      await bumpConfigGeneration(tx);
    }),
  );
}

/** One step of key rotation, where one is due, as of the keys that seal sessions. The caller holds the fleet lock. */
export async function rotateSigningKeys(database: Pick<Database, 'db'>, clock: Clock): Promise<void> {
  await database.db.transaction(async (tx) => {
    const now = new Date(clock.now());
    const expired = await tx.delete(oauthSigningKeys).where(lt(oauthSigningKeys.retiresAt, now)).returning();
    const [next] = await tx
      .select()
      .from(oauthSigningKeys)
      .where(
        and(
          eq(oauthSigningKeys.use, 'verify'),
          isNull(oauthSigningKeys.signingSince),
          isNotNull(oauthSigningKeys.publishedRevision),
        ),
      )
      .orderBy(asc(oauthSigningKeys.createdAt))
      .limit(1);
    if (next?.publishedRevision != null && (await everyNodeHas(tx, next.publishedRevision, clock.now()))) {
      const retiresAt = new Date(clock.now() + verifyAfterRetirementMs);
      await tx.update(oauthSigningKeys).set({ use: 'verify', retiresAt }).where(eq(oauthSigningKeys.use, 'sign'));
      await tx.update(oauthSigningKeys).set({ use: 'sign', signingSince: now }).where(eq(oauthSigningKeys.id, next.id));
    }
    if (expired.length > 0) await bumpConfigGeneration(tx);
  });
}

/** The keys that sign access tokens: what administrators see of them, and what the authorization server signs with. */
export class SigningKeyService {
  private readonly database: Pick<Database, 'db'>;
  private readonly vault: FleetVault;

  constructor(database: Pick<Database, 'db'>, vault: FleetVault) {
    this.database = database;
    this.vault = vault;
  }

  /** The key that signs first, then the others, oldest first. Throws where one does not open with the secret key. */
  async opened(): Promise<readonly SigningKey[]> {
    const rows = await this.database.db.select().from(oauthSigningKeys).orderBy(asc(oauthSigningKeys.createdAt));
    const keys = rows.map(({ id, use, sealedPrivateKey }) => {
      const text = this.vault.open(purposeOf(id), sealedPrivateKey);
      if (text === undefined) {
        throw new AppError('CONFIG_INVALID', { internal: `signing key ${id} does not open with this secret key` });
      }
      const privateKey = createPrivateKey({ key: Buffer.from(text, 'base64'), format: 'der', type: 'pkcs8' });
      return { id, use, privateKey };
    });
    return keys.sort((a, b) => Number(b.use === 'sign') - Number(a.use === 'sign'));
  }

  async list(ctx: Context): Promise<SigningKeyRow[]> {
    ctx.authorize('settings:read');
    return this.database.db.select().from(oauthSigningKeys).orderBy(asc(oauthSigningKeys.createdAt));
  }

  /** Begins a rotation: the new key is published to verify with, and signs once every live node has it. */
  async rotate(ctx: Context, options: { readonly dryRun?: boolean | null | undefined }): Promise<SigningKeyRow> {
    ctx.authorize('settings:write');
    return mutate(this.database, options, async (tx) => {
      const waiting = await tx
        .select({ id: oauthSigningKeys.id })
        .from(oauthSigningKeys)
        .where(and(eq(oauthSigningKeys.use, 'verify'), isNull(oauthSigningKeys.signingSince)));
      if (waiting.length > 0) {
        throw new AppError('CONFLICT', {
          publicMessage: 'A rotation is under way: some node has not acknowledged it.',
        });
      }
      const row = await insertSigningKey(tx, this.vault, ctx.clock, 'verify');
      const object = { kind: 'signingKey', id: row.id };
      await recordMutation(tx, ctx, { action: 'signingKey.rotate', object, after: { id: row.id } });
      await bumpConfigGeneration(tx);
      return row;
    });
  }
}
