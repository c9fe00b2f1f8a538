import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { type LendingKey, sealTo } from './lending.ts';

const dataKeyBytes = 32;
const ivBytes = 12;
const tagBytes = 16;
const format = 'v1.';

export interface SealedPayload {
  /** The data key, sealed to the public key. */
  readonly wrappedKey: string;
  readonly content: string;
}

/**
 * Seals a text with AES-256-GCM under a data key of its own, and that key to a public key (see `sealTo`): whoever seals
 * cannot open. `identity` is authenticated with both and stored with neither. Does NOT hide the length of the text.
 * @throws Error where the public key is none; check with `isLendingKey` first
 */
export function sealPayload(publicKey: string, identity: string, plaintext: string): SealedPayload {
  const dataKey = randomBytes(dataKeyBytes);
  const iv = randomBytes(ivBytes);
  const cipher = createCipheriv('aes-256-gcm', dataKey, iv);
  cipher.setAAD(Buffer.from(identity));
  const ciphertext = Buffer.concat([cipher.update(plaintext, 'utf8'), cipher.final()]);
  const wrappedKey = sealTo(publicKey, identity, dataKey.toString('base64'));
  dataKey.fill(0);
  return {
    wrappedKey,
    content: `${format}${Buffer.concat([iv, cipher.getAuthTag(), ciphertext]).toString('base64url')}`,
  };
}

/** Opens what `sealPayload` made; undefined for another key, another identity, and what was cut or changed. */
export function openPayload(
  key: LendingKey,
  identity: string,
  { wrappedKey, content }: SealedPayload,
): string | undefined {
  const opened = key.open(identity, wrappedKey);
  const bytes = Buffer.from(content.slice(format.length), 'base64url');
  if (opened === undefined || !content.startsWith(format) || bytes.length < ivBytes + tagBytes) return undefined;
  const dataKey = Buffer.from(opened, 'base64');
  try {
    const decipher = createDecipheriv('aes-256-gcm', dataKey, bytes.subarray(0, ivBytes));
    decipher.setAAD(Buffer.from(identity));
    decipher.setAuthTag(bytes.subarray(ivBytes, ivBytes + tagBytes));
    return Buffer.concat([decipher.update(bytes.subarray(ivBytes + tagBytes)), decipher.final()]).toString('utf8');
  } catch {
    return undefined;
  } finally {
    dataKey.fill(0);
  }
}
