import {
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  randomBytes,
  sign,
  verify,
} from 'node:crypto';
import {
  AppError,
  type History,
  historySigningText,
  type NodeCertificate,
  nodeCertificateText,
} from '@sallyport/schema';
import {
  type Clock,
  open,
  seal,
  type SealingKey,
  sealingKeyFromSecret,
  systemClock,
  uuidv7,
} from '@sallyport/schema/platform';
import { asc, desc, sql } from 'drizzle-orm';
import { type Database, openDatabase, type Reader, type Transaction } from '../database/client.ts';
import { bumpConfigGeneration } from '../database/config-generation.ts';
import { configHistories, fleetKeys, sealingKeys, type SealingKeyRow } from './fleet.tables.ts';

/** Serializes all that may happen once in a fleet: its first keys, a publication. */
const fleetLock = 0x5350_0002;

const fleetKeyPurpose = 'sallyport.fleetKey.v1';
const sealingKeyIdBytes = 6;
const sealingSecretBytes = 32;

/** Seals and opens the secrets of this slice with SALLYPORT_SECRET_KEY. */
export class FleetVault {
  readonly #key: SealingKey;
  readonly #keys: ReadonlyMap<string, SealingKey>;

  constructor(secretKey: string) {
    this.#key = sealingKeyFromSecret(secretKey);
    this.#keys = new Map([[this.#key.id, this.#key]]);
  }

  seal(purpose: string, text: string): string {
    return seal(this.#key, purpose, text);
  }

  /** Undefined where the text was sealed with another secret key, for another purpose, or changed. */
  open(purpose: string, sealed: string): string | undefined {
    return open(this.#keys, purpose, sealed)?.toString('utf8');
  }

  /** The base64 secret of a sealing key. */
  openSealingKey(row: Pick<SealingKeyRow, 'id' | 'sealedSecret'>): string | undefined {
    return this.open(sealingKeyPurpose(row.id), row.sealedSecret);
  }
}

function sealingKeyPurpose(id: string): string {
  return `sallyport.sealingKey.v1|${id}`;
}

/** The key that signs histories and node keys; the same for as long as the fleet lives. */
export class FleetKey {
  readonly #privateKey: KeyObject;
  /** Ed25519, SPKI DER in base64. */
  readonly publicKey: string;

  constructor(privateKeyBase64: string) {
    this.#privateKey = createPrivateKey({ key: Buffer.from(privateKeyBase64, 'base64'), format: 'der', type: 'pkcs8' });
    this.publicKey = createPublicKey(this.#privateKey).export({ type: 'spki', format: 'der' }).toString('base64');
  }

  history(id: string, startedAt: number): History {
    return { id, startedAt, signature: this.#sign(historySigningText({ id, startedAt })) };
  }

  certify(nodeId: string, publicKey: string, issuedAt: number): NodeCertificate {
    return { issuedAt, signature: this.#sign(nodeCertificateText(nodeId, publicKey, issuedAt)) };
  }

  certified(nodeId: string, publicKey: string, certificate: NodeCertificate): boolean {
    const text = nodeCertificateText(nodeId, publicKey, certificate.issuedAt);
    return signedBy(this.publicKey, text, certificate.signature);
  }

  /** Signs a checkpoint of the audit trail, in base64; its text names its purpose. */
  signAudit(text: string): string {
    return this.#sign(text);
  }

  #sign(text: string): string {
    return sign(null, Buffer.from(text), this.#privateKey).toString('base64');
  }
}

/** Whether the text carries an Ed25519 signature by this key; any malformed key or signature is a no. */
export function signedBy(publicKey: string, text: string, signature: string): boolean {
  try {
    const key = createPublicKey({ key: Buffer.from(publicKey, 'base64'), format: 'der', type: 'spki' });
    if (key.asymmetricKeyType !== 'ed25519') return false;
    return verify(null, Buffer.from(text), key, Buffer.from(signature, 'base64'));
  } catch {
    return false;
  }
}

/** Runs `work` while no other process publishes or founds; a session lock, so `work` may open its own transactions. */
export async function withFleetLock<Result>(
  database: Pick<Database, 'raw'>,
  work: () => Promise<Result>,
): Promise<Result> {
  const connection = await database.raw.reserve();
  try {
    await connection`select pg_advisory_lock(${fleetLock})`;
    try {
      return await work();
    } finally {
      await connection`select pg_advisory_unlock(${fleetLock})`;
    }
  } finally {
    connection.release();
  }
}

/**
 * The fleet's key; the first start of a deployment makes it, with the first history and the first sealing key.
 * Throws CONFIG_INVALID where the stored key was sealed with another SALLYPORT_SECRET_KEY.
 */
export async function openFleet(database: Database, vault: FleetVault, clock: Clock): Promise<FleetKey> {
  return withFleetLock(database, async () => {
    const stored = (await database.db.select().from(fleetKeys).orderBy(asc(fleetKeys.createdAt)).limit(1))[0];
    if (stored !== undefined) {
      const privateKey = vault.open(fleetKeyPurpose, stored.sealedPrivateKey);
      if (privateKey !== undefined) return new FleetKey(privateKey);
      throw new AppError('CONFIG_INVALID', { internal: 'the fleet key does not open with this SALLYPORT_SECRET_KEY' });
    }
    const pair = generateKeyPairSync('ed25519');
    const privateKey = pair.privateKey.export({ type: 'pkcs8', format: 'der' }).toString('base64');
    const fleetKey = new FleetKey(privateKey);
    await database.db.transaction(async (tx) => {
      await tx.insert(fleetKeys).values({
        id: uuidv7(clock.now()),
        publicKey: fleetKey.publicKey,
        sealedPrivateKey: vault.seal(fleetKeyPurpose, privateKey),
      });
      await insertHistory(tx, fleetKey, clock);
      await insertSealingKey(tx, vault, clock, 'seal');
      await bumpConfigGeneration(tx);
    });
    return fleetKey;
  });
}

/** The history in force. */
export async function currentHistory(reader: Reader): Promise<History> {
  const row = (await reader.select().from(configHistories).orderBy(desc(configHistories.startedAt)).limit(1))[0];
  if (row === undefined) throw new AppError('INTERNAL', { internal: 'the fleet has no history' });
  return { id: row.id, startedAt: row.startedAt.getTime(), signature: row.signature };
}

/**
 * Begins a new history, after a restore from backup: nodes may have been at revisions the restored database does not
 * know, and take lower ones only in a younger history that the fleet key signed.
 * @returns the id of the new history
 */
export async function startNewHistory(databaseUrl: string, secretKey: string): Promise<string> {
  const database = openDatabase({ url: databaseUrl, connectionsMax: 2 });
  try {
    const fleetKey = await openFleet(database, new FleetVault(secretKey), systemClock);
    return await withFleetLock(database, () =>
      database.db.transaction(async (tx) => {
        const id = await insertHistory(tx, fleetKey, systemClock);
        await bumpConfigGeneration(tx);
        return id;
      }),
    );
  } finally {
    await database.close();
  }
}

async function insertHistory(tx: Transaction, fleetKey: FleetKey, clock: Clock): Promise<string> {
  const newest = (await tx.select().from(configHistories).orderBy(desc(configHistories.startedAt)).limit(1))[0];
  // Younger than the one before also where this machine's clock is behind the one that made it.
  const startedAt = Math.max(clock.now(), (newest?.startedAt.getTime() ?? 0) + 1);
  const id = uuidv7(startedAt);
  const { signature } = fleetKey.history(id, startedAt);
  await tx.insert(configHistories).values({ id, startedAt: new Date(startedAt), signature });
  return id;
}

/** A new key to seal what nodes hand out; the caller bumps the generation. */
export async function insertSealingKey(
  tx: Transaction,
  vault: FleetVault,
  clock: Clock,
  use: SealingKeyRow['use'],
): Promise<string> {
  const id = randomBytes(sealingKeyIdBytes).toString('hex');
  const secret = randomBytes(sealingSecretBytes).toString('base64');
  const now = new Date(clock.now());
  await tx.insert(sealingKeys).values({
    id,
    sealedSecret: vault.seal(sealingKeyPurpose(id), secret),
    use,
    createdAt: now,
    sealingSince: use === 'seal' ? now : null,
  });
  return id;
}

/** The purpose a configuration document with secrets is sealed for. */
export function documentPurpose(hash: string): string {
  return `sallyport.configDocument.v1|${hash}`;
}

/** Notified after each publication; without payload. */
export const manifestChannel = 'sallyport_manifest';

export async function notifyManifest(tx: Transaction): Promise<void> {
  await tx.execute(sql`select pg_notify(${manifestChannel}, '')`);
}
