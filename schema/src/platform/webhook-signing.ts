import { createHmac, createPrivateKey, createPublicKey, randomBytes, sign } from 'node:crypto';
import type { WebhookAlgorithm, WebhookSigningKey } from '../inspection/webhook.ts';

const secretBytes = 32;
const seedBytes = 32;
/** Standard Webhooks 1.0: 24 to 64 bytes. */
const secretBytesMin = 24;
const secretBytesMax = 64;
/** PKCS #8 of an Ed25519 key is this and its seed (RFC 8410). */
const pkcs8Prefix = Buffer.from('302e020100300506032b657004220420', 'hex');
const spkiPrefixBytes = 12;

/** `whsec_` and the secret in base64, as receivers are configured with it. */
export const webhookSecretPrefix = 'whsec_';
const publicKeyPrefix = 'whpk_';

/** A new key, in base64: a secret of 32 bytes, or the seed of an Ed25519 key. */
export function newWebhookKey(algorithm: WebhookAlgorithm): string {
  return randomBytes(algorithm === 'hmac' ? secretBytes : seedBytes).toString('base64');
}

/** The base64 of a secret that is written `whsec_…`; undefined where it is none of 24 to 64 bytes. */
export function readWebhookSecret(text: string): string | undefined {
  if (!text.startsWith(webhookSecretPrefix)) return undefined;
  const base64 = text.slice(webhookSecretPrefix.length);
  const bytes = Buffer.from(base64, 'base64');
  const isCanonical = bytes.toString('base64') === base64;
  return isCanonical && bytes.length >= secretBytesMin && bytes.length <= secretBytesMax ? base64 : undefined;
}

/** The public key of an Ed25519 seed, written `whpk_…` as receivers are configured with it. */
export function webhookPublicKey(seed: string): string {
  const spki = createPublicKey(privateKeyOf(seed)).export({ type: 'spki', format: 'der' });
  return `${publicKeyPrefix}${spki.subarray(spkiPrefixBytes).toString('base64')}`;
}

export interface SignedHeaders {
  readonly 'webhook-id': string;
  /** Seconds since the epoch. */
  readonly 'webhook-timestamp': string;
  readonly 'webhook-signature': string;
}

/**
 * The headers of Standard Webhooks 1.0: a signature by each key that has not ended, over id, time and body.
 * @param nowMs milliseconds since the epoch
 * @returns undefined where every key has ended
 */
export function signWebhook(
  algorithm: WebhookAlgorithm,
  keys: readonly WebhookSigningKey[],
  id: string,
  nowMs: number,
  body: Buffer,
): SignedHeaders | undefined {
  const timestamp = String(Math.floor(nowMs / 1000));
  const signed = Buffer.concat([Buffer.from(`${id}.${timestamp}.`), body]);
  const signatures = keys
    .filter(({ notAfter }) => notAfter === null || notAfter > nowMs)
    .map(({ secret }) =>
      algorithm === 'hmac'
        ? `v1,${createHmac('sha256', Buffer.from(secret, 'base64')).update(signed).digest('base64')}`
        : `v1a,${sign(null, signed, privateKeyOf(secret)).toString('base64')}`,
    );
  if (signatures.length === 0) return undefined;
  return { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': signatures.join(' ') };
}

function privateKeyOf(seed: string) {
  const der = Buffer.concat([pkcs8Prefix, Buffer.from(seed, 'base64')]);
  return createPrivateKey({ key: der, format: 'der', type: 'pkcs8' });
}
