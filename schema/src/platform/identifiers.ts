import { randomBytes, randomFillSync } from 'node:crypto';

/** Drawn at once: asking the system for each few bytes costs more than all else about an identifier. */
const drawn = Buffer.alloc(4096);
let drawnUsed = drawn.length;

/** Random bytes in lower-case hex, for identifiers; at most 4096 bytes. Not for secrets, which are not kept in advance. */
export function randomHex(bytes: number): string {
  if (drawnUsed + bytes > drawn.length) {
    randomFillSync(drawn);
    drawnUsed = 0;
  }
  const from = drawnUsed;
  drawnUsed += bytes;
  return drawn.toString('hex', from, drawnUsed);
}

/**
 * A UUID of version 7 (RFC 9562 §5.7): 48 bits of milliseconds, then randomness, so that ids sort roughly by creation.
 * @param nowMs milliseconds since the epoch
 */
export function uuidv7(nowMs: number): string {
  const time = Math.floor(nowMs).toString(16).padStart(12, '0');
  const random = randomHex(10);
  // Version 7, and the variant's two bits before two random ones.
  const variant = '89ab'.charAt(Number.parseInt(random.charAt(3), 16) & 3);
  const middle = `7${random.slice(0, 3)}-${variant}${random.slice(4, 7)}`;
  return `${time.slice(0, 8)}-${time.slice(8)}-${middle}-${random.slice(8)}`;
}

/** A secret with 256 bits of randomness and a prefix that secret scanners can recognize, such as `sp_`. */
export function randomSecret(prefix: string): string {
  return `${prefix}${randomBytes(32).toString('base64url')}`;
}
