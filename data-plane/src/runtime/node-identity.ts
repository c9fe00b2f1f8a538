import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject, sign, verify } from 'node:crypto';
import { type History, historySigningText, type NodeCertificate } from '@sallyport/schema';
import { z } from 'zod';
import type { SealedFiles } from './sealed-files.ts';

const fileName = 'identity';

const identitySchema = z.strictObject({
  nodeId: z.string(),
  publicKey: z.string(),
  /** PKCS #8 DER in base64. */
  privateKey: z.string(),
  certificate: z.strictObject({ issuedAt: z.number(), signature: z.string() }),
  keyExpiresAt: z.number(),
  /** Pinned when the node joined. */
  fleetPublicKey: z.string(),
  /** The youngest history whose signature this node has verified. */
  newestHistory: z.strictObject({ id: z.string(), startedAt: z.number() }),
});
type IdentityRecord = z.infer<typeof identitySchema>;

/** A key pair that is not registered yet. */
export class NodeKey {
  /** Ed25519, SPKI DER in base64. */
  readonly publicKey: string;
  readonly privateKey: KeyObject;

  constructor(privateKey: KeyObject) {
    this.privateKey = privateKey;
    this.publicKey = createPublicKey(privateKey).export({ type: 'spki', format: 'der' }).toString('base64');
  }

  static generate(): NodeKey {
    return new NodeKey(generateKeyPairSync('ed25519').privateKey);
  }

  /** Ed25519 in base64. */
  sign(text: string): string {
    return sign(null, Buffer.from(text), this.privateKey).toString('base64');
  }
}

export interface Registration {
  readonly nodeId: string;
  readonly key: NodeKey;
  readonly certificate: NodeCertificate;
  readonly keyExpiresAt: number;
  readonly fleetPublicKey: string;
  readonly history: History;
}

/** Who this node is to its fleet, kept sealed on disk so that a restart needs no join token. */
export class NodeIdentity {
  readonly #files: SealedFiles;
  #record: IdentityRecord | undefined;
  #key: NodeKey | undefined;
  /** An identity file that the node's secret does not open. */
  readonly unreadable: boolean;

  constructor(files: SealedFiles) {
    this.#files = files;
    const read = files.readSync(fileName);
    this.unreadable = read.state === 'unreadable';
    if (read.state !== 'read') return;
    this.#record = identitySchema.parse(JSON.parse(read.text));
    this.#key = new NodeKey(
      createPrivateKey({ key: Buffer.from(this.#record.privateKey, 'base64'), format: 'der', type: 'pkcs8' }),
    );
  }

  get nodeId(): string | undefined {
    return this.#record?.nodeId;
  }
  get key(): NodeKey | undefined {
    return this.#key;
  }
  get certificate(): NodeCertificate | undefined {
    return this.#record?.certificate;
  }
  get keyExpiresAt(): number | undefined {
    return this.#record?.keyExpiresAt;
  }
  get fleetPublicKey(): string | undefined {
    return this.#record?.fleetPublicKey;
  }

  /** Takes up a registered key; durable when it returns. Does NOT check the pin: `SyncClient` did. */
  register(registration: Registration): void {
    this.#write(
      {
        nodeId: registration.nodeId,
        publicKey: registration.key.publicKey,
        privateKey: registration.key.privateKey.export({ type: 'pkcs8', format: 'der' }).toString('base64'),
        certificate: registration.certificate,
        keyExpiresAt: registration.keyExpiresAt,
        fleetPublicKey: registration.fleetPublicKey,
        newestHistory: this.#record?.newestHistory ?? {
          id: registration.history.id,
          startedAt: registration.history.startedAt,
        },
      },
      registration.key,
    );
  }

  /** Takes up a renewed key of a node that has joined; durable when it returns. */
  renew(key: NodeKey, certificate: NodeCertificate, keyExpiresAt: number): void {
    if (this.#record === undefined) throw new Error('a node that has not joined has no key to renew');
    const privateKey = key.privateKey.export({ type: 'pkcs8', format: 'der' }).toString('base64');
    this.#write({ ...this.#record, publicKey: key.publicKey, privateKey, certificate, keyExpiresAt }, key);
  }

  /**
   * Whether configurations of this history may be taken: it is the youngest seen, or is younger and signed by the
   * pinned fleet key. A younger one is remembered before this returns true.
   */
  acceptsHistory(history: History): boolean {
    const record = this.#record;
    if (record === undefined || this.#key === undefined) return false;
    if (!signedByFleet(record.fleetPublicKey, historySigningText(history), history.signature)) return false;
    const newest = record.newestHistory;
    if (history.id === newest.id) return history.startedAt === newest.startedAt;
    if (history.startedAt <= newest.startedAt) return false;
    this.#write({ ...record, newestHistory: { id: history.id, startedAt: history.startedAt } }, this.#key);
    return true;
  }

  #write(record: IdentityRecord, key: NodeKey): void {
    this.#files.writeSync(fileName, JSON.stringify(record));
    this.#record = record;
    this.#key = key;
  }
}

/** Whether the text carries an Ed25519 signature by this key; any malformed key or signature is a no. */
export function signedByFleet(fleetPublicKey: string, text: string, signature: string): boolean {
  try {
    const key = createPublicKey({ key: Buffer.from(fleetPublicKey, 'base64'), format: 'der', type: 'spki' });
    return verify(null, Buffer.from(text), key, Buffer.from(signature, 'base64'));
  } catch {
    return false;
  }
}
