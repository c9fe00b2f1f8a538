import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { AppError } from '@sallyport/schema';
import { type KeyProvider, unavailable, type WrappedKey } from './key-provider.ts';

const keyBytes = 32;
const ivBytes = 12;
const tagBytes = 16;
const format = 'v1.';

/** A secret as a row holds it. */
export interface SealedSecret extends WrappedKey {
  readonly sealed: string;
}
type StoredSecret = { readonly [Name in keyof SealedSecret]: string | null };

/**
 * Every column that says whose secret it is, the table first: the additional data of its encryption. A text that is moved
 * to another row, or whose row is said to be about something else, does not open.
 */
export type SecretIdentity = readonly [table: string, id: string, ...columns: (string | null)[]];

/** Seals secrets toward upstreams: AES-256-GCM, a fresh data key for each, wrapped by the key-encryption key. */
export class CredentialVault {
  readonly #keys: KeyProvider | undefined;

  /** @param keys undefined where none is configured: nothing is stored then, and nothing opens */
  constructor(keys: KeyProvider | undefined) {
    this.#keys = keys;
  }

  /** Undefined where none is configured. */
  get keys(): KeyProvider | undefined {
    return this.#keys;
  }

  /** @throws AppError CREDENTIAL_KEY_MISSING, CREDENTIAL_UNAVAILABLE */
  async seal(identity: SecretIdentity, secret: string): Promise<SealedSecret> {
    return (await this.sealer(identity))(secret);
  }

  /**
   * Seals in two steps, for a secret that is paid for with something that is good once (a code, a refresh token): all that can
   * fail is done before that is spent.
   * @returns what seals one secret, for the row, without asking anybody
   * @throws AppError as `seal`
   */
  async sealer(identity: SecretIdentity): Promise<(secret: string) => SealedSecret> {
    if (this.#keys === undefined) throw new AppError('CREDENTIAL_KEY_MISSING');
    const dataKey = randomBytes(keyBytes);
    const wrapped = await this.#keys.wrap(dataKey);
    let isUsed = false;
    return (secret) => {
      if (isUsed) throw new AppError('INTERNAL', { internal: 'a data key is for one secret' });
      isUsed = true;
      const iv = randomBytes(ivBytes);
      const cipher = createCipheriv('aes-256-gcm', dataKey, iv);
      cipher.setAAD(additionalData(identity));
      const ciphertext = Buffer.concat([cipher.update(secret, 'utf8'), cipher.final()]);
      dataKey.fill(0);
      return {
        ...wrapped,
        sealed: `${format}${Buffer.concat([iv, cipher.getAuthTag(), ciphertext]).toString('base64url')}`,
      };
    };
  }

  /** @throws AppError CREDENTIAL_UNAVAILABLE: no key, another key, another row, or changed; never a secret of another row */
  async open(identity: SecretIdentity, { sealed, wrappedKey }: StoredSecret): Promise<string> {
    if (this.#keys === undefined) throw unavailable('no key-encryption key is configured');
    if (sealed === null || wrappedKey === null) throw unavailable('the row holds no secret');
    const bytes = Buffer.from(sealed.slice(format.length), 'base64url');
    if (!sealed.startsWith(format) || bytes.length < ivBytes + tagBytes) throw unavailable('a sealed secret is cut');
    const dataKey = await this.#keys.unwrap(wrappedKey);
    const decipher = createDecipheriv('aes-256-gcm', dataKey, bytes.subarray(0, ivBytes));
    decipher.setAAD(additionalData(identity));
    decipher.setAuthTag(bytes.subarray(ivBytes, ivBytes + tagBytes));
    try {
      const opened = Buffer.concat([decipher.update(bytes.subarray(ivBytes + tagBytes)), decipher.final()]);
      return opened.toString('utf8');
    } catch (cause) {
      throw unavailable(`the secret of ${identity[0]} ${identity[1]} does not open`, cause);
    }
  }
}

function additionalData(identity: SecretIdentity): Buffer {
  return Buffer.from(JSON.stringify(['sallyport.credential.v1', ...identity]));
}
