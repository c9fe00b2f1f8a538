import {
  createCipheriv,
  createDecipheriv,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  hkdfSync,
  type KeyObject,
} from 'node:crypto';

const ivBytes = 12;
const tagBytes = 16;
const keyBytes = 32;

/**
 * A key that texts are sealed to. One made without an argument lives as long as the process: what was sealed to it opens
 * nowhere else, and never again after.
 */
export class LendingKey {
  readonly #privateKey: KeyObject;
  /** X25519, SPKI DER in base64. */
  readonly publicKey: string;

  /** @param privateKey what `newPrivateKey` gave; absent for a key of this process alone */
  constructor(privateKey: string = newPrivateKey()) {
    const der = Buffer.from(privateKey, 'base64');
    this.#privateKey = createPrivateKey({ key: der, format: 'der', type: 'pkcs8' });
    der.fill(0);
    this.publicKey = createPublicKey(this.#privateKey).export({ type: 'spki', format: 'der' }).toString('base64');
  }

  /** What `sealTo` made for this key and context; undefined for anything else. */
  open(context: string, sealed: string): string | undefined {
    const parts = sealed.split('.');
    const [ephemeral = '', box = ''] = parts;
    const bytes = Buffer.from(box, 'base64url');
    const sender = readPublicKey(ephemeral);
    if (parts.length !== 2 || sender === undefined || bytes.length < tagBytes) return undefined;
    try {
      const shared = diffieHellman({ privateKey: this.#privateKey, publicKey: sender });
      const { key, iv } = derive(shared, [ephemeral, this.publicKey, context]);
      const decipher = createDecipheriv('aes-256-gcm', key, iv);
      decipher.setAAD(Buffer.from(context));
      decipher.setAuthTag(bytes.subarray(0, tagBytes));
      return Buffer.concat([decipher.update(bytes.subarray(tagBytes)), decipher.final()]).toString('utf8');
    } catch {
      // Another key or context, or changed on the way: one answer for all of them.
      return undefined;
    }
  }
}

/** X25519, PKCS #8 DER in base64. */
export function newPrivateKey(): string {
  return generateKeyPairSync('x25519').privateKey.export({ type: 'pkcs8', format: 'der' }).toString('base64');
}

/** Whether a text is a public key that `sealTo` takes. */
export function isLendingKey(publicKey: string): boolean {
  return readPublicKey(publicKey) !== undefined;
}

/**
 * Seals a text to a `LendingKey`: ephemeral-static X25519, HKDF-SHA256 over both public keys and the context, AES-256-GCM.
 * The key pair is fresh for each text, so key and nonce are used once. Says nothing of who sealed it: the channel does.
 * @throws Error where the key is none; check with `isLendingKey` first
 */
export function sealTo(publicKey: string, context: string, plaintext: string): string {
  const recipient = readPublicKey(publicKey);
  if (recipient === undefined) throw new Error('not a lending key');
  const pair = generateKeyPairSync('x25519');
  const ephemeral = pair.publicKey.export({ type: 'spki', format: 'der' }).toString('base64');
  const { key, iv } = derive(diffieHellman({ privateKey: pair.privateKey, publicKey: recipient }), [
    ephemeral,
    publicKey,
    context,
  ]);
  const cipher = createCipheriv('aes-256-gcm', key, iv);
  cipher.setAAD(Buffer.from(context));
  const ciphertext = Buffer.concat([cipher.update(plaintext, 'utf8'), cipher.final()]);
  return `${ephemeral}.${Buffer.concat([cipher.getAuthTag(), ciphertext]).toString('base64url')}`;
}

function derive(shared: Buffer, info: readonly string[]): { readonly key: Buffer; readonly iv: Buffer } {
  const bytes = Buffer.from(hkdfSync('sha256', shared, 'sallyport.lending.v1', info.join('|'), keyBytes + ivBytes));
  return { key: bytes.subarray(0, keyBytes), iv: bytes.subarray(keyBytes) };
}

function readPublicKey(text: string): KeyObject | undefined {
  try {
    const key = createPublicKey({ key: Buffer.from(text, 'base64'), format: 'der', type: 'spki' });
    return key.asymmetricKeyType === 'x25519' ? key : undefined;
  } catch {
    return undefined;
  }
}
