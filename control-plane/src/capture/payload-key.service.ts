import { AppError, toAppError } from '@sallyport/schema';
import { type Clock, LendingKey, type Log, newPrivateKey, uuidv7 } from '@sallyport/schema/platform';
import { and, desc, eq, isNull, lt, sql } from 'drizzle-orm';
import type { CredentialVault, SecretIdentity } from '../credentials/credential-vault.ts';
import type { Database, Reader } from '../database/client.ts';
import { bumpConfigGeneration } from '../database/config-generation.ts';
import { retentionDaysMax } from '../inspection/capture-form.ts';
import { type PayloadKeyRow, payloadKeys, payloads } from './capture.tables.ts';

const dayMs = 86_400_000;
/** Nodes seal to a new key after this long. */
const keyAgeMsMax = 30 * dayMs;
/** A key that nothing is sealed to any more is kept for what a spool may still hold. */
const keptAfterRetirementMs = (retentionDaysMax + 30) * dayMs;

export interface PayloadKeyDependencies {
  readonly database: Database;
  readonly vault: CredentialVault;
  readonly clock: Clock;
  readonly log: Log;
}

/**
 * The keys that nodes seal captured messages to. A node has the public half and cannot open what it sealed; the private
 * half is a secret of the vault, so nobody opens anything without the key-encryption key.
 */
export class PayloadKeyService {
  private readonly deps: PayloadKeyDependencies;

  constructor(deps: PayloadKeyDependencies) {
    this.deps = deps;
  }

  /** Why nothing can be captured; undefined where it can. */
  async problem(): Promise<string | undefined> {
    const { keys } = this.deps.vault;
    if (keys === undefined) {
      return (
        'needs a key to seal payloads with, and none is configured: set SALLYPORT_CREDENTIAL_KEY_FILE or ' +
        'SALLYPORT_TRANSIT_URL on the control plane'
      );
    }
    try {
      await keys.currentKeyId();
      return undefined;
    } catch (error) {
      this.deps.log.warn({ err: toAppError(error) }, 'the key-encryption key cannot be had');
      return 'needs the key-encryption key, which cannot be had just now: look at credentialKeys, then try again';
    }
  }

  /** Makes the first key, where there is none. Outside of transactions: the key may be asked for over the network. */
  async ensure(): Promise<void> {
    const { database, clock } = this.deps;
    if ((await this.inUse(database.db)) !== undefined) return;
    const values = await this.newKey(clock.now());
    // Another process may have been first; either key will do.
    await database.db.insert(payloadKeys).values(values).onConflictDoNothing();
  }

  async inUse(reader: Reader): Promise<PayloadKeyRow | undefined> {
    const [row] = await reader
      .select()
      .from(payloadKeys)
      .where(isNull(payloadKeys.retiredAt))
      .orderBy(desc(payloadKeys.createdAt))
      .limit(1);
    return row;
  }

  /** @throws AppError CREDENTIAL_UNAVAILABLE: the key is gone, or does not open now */
  async open(id: string): Promise<LendingKey> {
    const [row] = await this.deps.database.db.select().from(payloadKeys).where(eq(payloadKeys.id, id));
    if (row === undefined) throw new AppError('CREDENTIAL_UNAVAILABLE', { internal: `payload key ${id} is gone` });
    return new LendingKey(await this.deps.vault.open(identityOf(row), row));
  }

  /** One step of rotation, where one is due: an old key gives way to a new one, and one without any use is destroyed. */
  async rotate(): Promise<void> {
    const { database, clock, log } = this.deps;
    const now = clock.now();
    await database.db
      .delete(payloadKeys)
      .where(
        and(
          lt(payloadKeys.retiredAt, new Date(now - keptAfterRetirementMs)),
          sql`not exists (select 1 from ${payloads} where ${payloads.payloadKeyId} = ${payloadKeys.id}::text)`,
        ),
      );
    const current = await this.inUse(database.db);
    if (current === undefined || current.createdAt.getTime() > now - keyAgeMsMax) return;
    const values = await this.newKey(now);
    await database.db.transaction(async (tx) => {
      const retired = await tx
        .update(payloadKeys)
        .set({ retiredAt: new Date(now) })
        .where(and(eq(payloadKeys.id, current.id), isNull(payloadKeys.retiredAt)))
        .returning({ id: payloadKeys.id });
      if (retired.length === 0) return;
      await tx.insert(payloadKeys).values(values);
      await bumpConfigGeneration(tx, {});
      log.info({ retired: current.id, keyId: values.id }, 'payloads are sealed to a new key');
    });
  }

  private async newKey(nowMs: number): Promise<typeof payloadKeys.$inferInsert> {
    const privateKey = newPrivateKey();
    const { publicKey } = new LendingKey(privateKey);
    const key = { id: uuidv7(nowMs), publicKey };
    return { ...key, ...(await this.deps.vault.seal(identityOf(key), privateKey)), createdAt: new Date(nowMs) };
  }
}

function identityOf({ id, publicKey }: Pick<PayloadKeyRow, 'id' | 'publicKey'>): SecretIdentity {
  return ['payload_keys', id, publicKey];
}
