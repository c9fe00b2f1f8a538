import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto';

/** 32 bytes for AES-256-GCM, with an id that travels in the sealed text so that keys can be rotated. */
export interface SealingKey {
  readonly id: string;
  readonly secret: Uint8Array;
}

/** First byte of what is sealed, so that another construction can follow this one. */
const sealedFormat = 1;
const ivBytes = 12;
const tagBytes = 16;

/**
 * Seals bytes with AES-256-GCM. The result is `<key id>.<base64url(format ‖ iv ‖ tag ‖ ciphertext)>`.
 * `purpose` is authenticated and not stored: opening with another purpose fails, so a token made for one place is
 * useless in another. Does NOT hide the length of the text and does NOT prevent replay: put an expiry inside.
 */
export function seal(key: SealingKey, purpose: string, plaintext: Uint8Array | string): string {
  const iv = randomBytes(ivBytes);
  const cipher = createCipheriv('aes-256-gcm', key.secret, iv);
  cipher.setAAD(Buffer.from(`${key.id}|${purpose}`));
  const ciphertext = Buffer.concat([cipher.update(plaintext), cipher.final()]);
  return `${key.id}.${Buffer.concat([Buffer.from([sealedFormat]), iv, cipher.getAuthTag(), ciphertext]).toString('base64url')}`;
}

/** Opens what `seal` made, or returns undefined: unknown key, other purpose, changed, cut or not ours at all. */
export function open(keys: ReadonlyMap<string, SealingKey>, purpose: string, sealed: string): Buffer | undefined {
  const dot = sealed.indexOf('.');
  const key = dot > 0 ? keys.get(sealed.slice(0, dot)) : undefined;
  if (key === undefined) return undefined;
  const bytes = Buffer.from(sealed.slice(dot + 1), 'base64url');
  if (bytes.length < 1 + ivBytes + tagBytes || bytes[0] !== sealedFormat) return undefined;
  const decipher = createDecipheriv('aes-256-gcm', key.secret, bytes.subarray(1, 1 + ivBytes));
  decipher.setAAD(Buffer.from(`${key.id}|${purpose}`));
  decipher.setAuthTag(bytes.subarray(1 + ivBytes, 1 + ivBytes + tagBytes));
  try {
    return Buffer.concat([decipher.update(bytes.subarray(1 + ivBytes + tagBytes)), decipher.final()]);
  } catch {
    return undefined;
  }
}

/** A sealing key from a configured secret of any length ≥ 32 characters; its id is derived, so equal secrets agree. */
export function sealingKeyFromSecret(secret: string): SealingKey {
  const digest = createHash('sha512').update(`sallyport.sealing.v1|${secret}`).digest();
  return { id: digest.subarray(32, 40).toString('hex'), secret: digest.subarray(0, 32) };
}
