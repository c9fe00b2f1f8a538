import { readFile } from 'node:fs/promises';
import type { Clock } from '@sallyport/schema/platform';
import { z } from 'zod';
import { type KeyProvider, unavailable, type WrappedKey } from './key-provider.ts';

const requestTimeoutMs = 5_000;
const keyBytes = 32;
/** How long an unwrapped data key is remembered, and how many: Transit is not asked for each call. */
const rememberedMs = 60_000;
const rememberedMax = 2_000;

export interface TransitOptions {
  /** Of the Vault server, such as https://vault.example.com:8200. */
  readonly url: string;
  readonly mount: string;
  readonly keyName: string;
  readonly namespace: string | undefined;
  /** Holds the token; read for each request, since agents renew it. */
  readonly tokenFile: string;
}

const encrypted = z.object({ data: z.object({ ciphertext: z.string().regex(/^vault:v\d+:/) }) });
const decrypted = z.object({ data: z.object({ plaintext: z.base64() }) });

/**
 * The transit engine of HashiCorp Vault or OpenBao (https://developer.hashicorp.com/vault/api-docs/secret/transit): the
 * key-encryption key never leaves it. Needs a policy that allows `update` on `<mount>/encrypt/<key>`, `decrypt` and
 * `rewrap`. The address is the operator's own, so it is not dialled through the guarded egress; redirects are errors.
 */
export class TransitKeys implements KeyProvider {
  readonly name = 'transit';
  readonly #options: TransitOptions;
  readonly #clock: Clock;
  readonly #remembered = new Map<string, { readonly key: Buffer; readonly until: number }>();

  constructor(options: TransitOptions, clock: Clock) {
    this.#options = options;
    this.#clock = clock;
  }

  /** What encrypting says: reading the key's description would need a right more. */
  async currentKeyId(): Promise<string> {
    return (await this.wrap(Buffer.alloc(keyBytes))).keyId;
  }

  async wrap(dataKey: Buffer): Promise<WrappedKey> {
    const answer = await this.#ask('encrypt', { plaintext: dataKey.toString('base64') }, encrypted);
    return this.#wrapped(answer.data.ciphertext);
  }

  async unwrap(wrappedKey: string): Promise<Buffer> {
    const known = this.#remembered.get(wrappedKey);
    if (known !== undefined && known.until > this.#clock.monotonic()) return known.key;
    const answer = await this.#ask('decrypt', { ciphertext: wrappedKey }, decrypted);
    const key = Buffer.from(answer.data.plaintext, 'base64');
    if (key.length !== keyBytes) throw unavailable('Transit answered with a key of another length');
    this.#remember(wrappedKey, key);
    return key;
  }

  async rewrap(wrappedKey: string): Promise<WrappedKey> {
    const answer = await this.#ask('rewrap', { ciphertext: wrappedKey }, encrypted);
    return this.#wrapped(answer.data.ciphertext);
  }

  #wrapped(ciphertext: string): WrappedKey {
    const keyVersion = ciphertext.split(':')[1] ?? '';
    const { mount, keyName } = this.#options;
    return { wrappedKey: ciphertext, keyId: `transit:${mount}/${keyName}:${keyVersion}` };
  }

  #remember(wrappedKey: string, key: Buffer): void {
    this.#remembered.delete(wrappedKey);
    this.#remembered.set(wrappedKey, { key, until: this.#clock.monotonic() + rememberedMs });
    const [oldest] = this.#remembered.keys();
    if (this.#remembered.size > rememberedMax && oldest !== undefined) this.#remembered.delete(oldest);
  }

  async #ask<T>(verb: 'encrypt' | 'decrypt' | 'rewrap', body: object, answer: z.ZodType<T>): Promise<T> {
    const { url, mount, keyName, namespace, tokenFile } = this.#options;
    try {
      const token = (await readFile(tokenFile, 'utf8')).trim();
      const response = await fetch(`${url.replace(/\/+$/, '')}/v1/${mount}/${verb}/${encodeURIComponent(keyName)}`, {
        method: 'POST',
        headers: {
          'content-type': 'application/json',
          'x-vault-request': 'true',
          'x-vault-token': token,
          ...(namespace === undefined ? {} : { 'x-vault-namespace': namespace }),
        },
        body: JSON.stringify(body),
        redirect: 'error',
        signal: AbortSignal.timeout(requestTimeoutMs),
      });
      // Its words are for Vault's own log: they may repeat what was sent.
      if (!response.ok) throw unavailable(`Transit answered ${response.status} to ${verb}`);
      return answer.parse(await response.json());
    } catch (cause) {
      throw unavailable(`Transit could not ${verb} a data key`, cause);
    }
  }
}
