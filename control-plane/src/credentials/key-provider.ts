import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { AppError } from '@sallyport/schema';

/** A data key as a key-encryption key wrapped it, and which one that was. */
export interface WrappedKey {
  readonly wrappedKey: string;
  /** Names provider, key and version; compared, never parsed. */
  readonly keyId: string;
}

/**
 * Where the key-encryption key lives. It wraps data keys of 32 bytes and never leaves. Another provider (a cloud's KMS, a
 * hardware module) implements these four and is chosen in `createKeyProvider`; what was wrapped by one provider does not
 * open with another, so changing it means setting the credentials anew.
 */
export interface KeyProvider {
  /** Shown to operators. */
  readonly name: string;
  /** The version that wraps now. A row with another `keyId` is due to be wrapped anew. @throws AppError CREDENTIAL_UNAVAILABLE */
  currentKeyId(): Promise<string>;
  /** @throws AppError CREDENTIAL_UNAVAILABLE */
  wrap(dataKey: Buffer): Promise<WrappedKey>;
  /** With whichever version wrapped it, as long as that is kept. @throws AppError CREDENTIAL_UNAVAILABLE */
  unwrap(wrappedKey: string): Promise<Buffer>;
  /** The same data key under the current version. @throws AppError CREDENTIAL_UNAVAILABLE */
  rewrap(wrappedKey: string): Promise<WrappedKey>;
}

export function unavailable(internal: string, cause?: unknown): AppError {
  return new AppError('CREDENTIAL_UNAVAILABLE', { internal, ...(cause === undefined ? {} : { cause }) });
}

const keyLine = /^([A-Za-z0-9][A-Za-z0-9._-]{0,63})\s+([A-Za-z0-9+/]{43}=)$/;
const keyBytes = 32;
const ivBytes = 12;
const tagBytes = 16;
const fileBytesMax = 64 * 1024;

/** Keys by their ids, the one that wraps first. */
export type KeyFile = ReadonlyMap<string, Buffer>;

/**
 * A file of keys: a line each, `<id> <32 bytes in base64>`; the first wraps, all unwrap. Blank lines and lines that begin
 * with # mean nothing.
 * @returns the keys, or what is wrong with the file, without any of its content
 */
export function parseKeyFile(text: string): { readonly keys: KeyFile } | { readonly problem: string } {
  const keys = new Map<string, Buffer>();
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    if (line.trim() === '' || line.startsWith('#')) continue;
    const [, id, secret] = keyLine.exec(line.trim()) ?? [];
    if (id === undefined || secret === undefined) {
      return {
        problem: `line ${index + 1} is not an id and 32 bytes in base64, such as made by: openssl rand -base64 32`,
      };
    }
    if (keys.has(id)) return { problem: `line ${index + 1} has the id ${id} for a second time` };
    keys.set(id, Buffer.from(secret, 'base64'));
  }
  return keys.size === 0 ? { problem: 'holds no key' } : { keys };
}

/** Keys from a file, which is read again for each use: a new first line takes effect without a restart. */
export class FileKeys implements KeyProvider {
  readonly name = 'file';
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  async currentKeyId(): Promise<string> {
    return keyIdOf((await this.#current()).id);
  }

  async wrap(dataKey: Buffer): Promise<WrappedKey> {
    const { id, key } = await this.#current();
    const iv = randomBytes(ivBytes);
    const cipher = createCipheriv('aes-256-gcm', key, iv);
    cipher.setAAD(Buffer.from(`sallyport.wrappedKey.v1|${id}`));
    const ciphertext = Buffer.concat([cipher.update(dataKey), cipher.final()]);
    const box = Buffer.concat([iv, cipher.getAuthTag(), ciphertext]).toString('base64url');
    return { wrappedKey: `${id}:${box}`, keyId: keyIdOf(id) };
  }

  async unwrap(wrappedKey: string): Promise<Buffer> {
    const at = wrappedKey.indexOf(':');
    const id = wrappedKey.slice(0, Math.max(0, at));
    const key = (await this.#read()).get(id);
    if (key === undefined) throw unavailable(`the key file has no key ${id}, with which a credential is sealed`);
    const bytes = Buffer.from(wrappedKey.slice(at + 1), 'base64url');
    if (bytes.length !== ivBytes + tagBytes + keyBytes) throw unavailable('a wrapped key has another length');
    const decipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(0, ivBytes));
    decipher.setAAD(Buffer.from(`sallyport.wrappedKey.v1|${id}`));
    decipher.setAuthTag(bytes.subarray(ivBytes, ivBytes + tagBytes));
    try {
      return Buffer.concat([decipher.update(bytes.subarray(ivBytes + tagBytes)), decipher.final()]);
    } catch (cause) {
      throw unavailable(`a data key does not open with key ${id}`, cause);
    }
  }

  async rewrap(wrappedKey: string): Promise<WrappedKey> {
    return this.wrap(await this.unwrap(wrappedKey));
  }

  async #current(): Promise<{ readonly id: string; readonly key: Buffer }> {
    for (const [id, key] of await this.#read()) return { id, key };
    throw unavailable('the key file holds no key');
  }

  async #read(): Promise<KeyFile> {
    let text: string;
    try {
      text = await readFile(this.#path, 'utf8');
    } catch (cause) {
      throw unavailable('the key file cannot be read', cause);
    }
    const parsed = text.length > fileBytesMax ? { problem: 'is too large' } : parseKeyFile(text);
    if ('problem' in parsed) throw unavailable(`the key file ${parsed.problem}`);
    return parsed.keys;
  }
}

function keyIdOf(id: string): string {
  return `file:${id}`;
}
