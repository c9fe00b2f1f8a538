import type { AppError } from '@sallyport/schema';
import type { Exchange } from './exchange.ts';

/** What a server of 2026-07-28 says over 400 or 404 (basic/index, Error Codes); anything else there is no such server's. */
const modernRefusals: ReadonlySet<number> = new Set([-32700, -32600, -32601, -32602, -32603, -32020, -32021, -32022]);
/** "Not in this revision", which no server says of one that it speaks. */
const revisionRefusals: ReadonlySet<number> = new Set([-32020, -32022]);
const handshakes: ReadonlySet<string> = new Set(['initialize', 'server/discover']);
/** Statuses that speak of the request's form, as against right, load or failure. */
const formStatuses: ReadonlySet<number> = new Set([400, 404, 405, 406, 415]);

/**
 * Whether an upstream's answer says that it does not speak the era it is published with, so that it is worth another
 * discovery: it was upgraded, or set back. A guess that costs one discovery where it is wrong; nothing is decided by it.
 * @param status of the upstream's answer
 */
export function contradictsEra(exchange: Exchange, status: number): boolean {
  const { era, server, message, rpcErrorCode } = exchange;
  if (server === null || message === null) return false;
  const isHandshake = handshakes.has(message.method ?? '');
  if (rpcErrorCode !== null && (isHandshake || revisionRefusals.has(rpcErrorCode))) return true;
  if (!formStatuses.has(status)) return false;
  // A legacy upstream that forgot a session says 404, and means it.
  if (era === 'legacy') return status !== 404 || isHandshake;
  return rpcErrorCode === null || !modernRefusals.has(rpcErrorCode);
}

/** The same of an exchange that failed after it was sent. */
export function failureContradictsEra(exchange: Exchange, error: AppError): boolean {
  return exchange.forwarded && exchange.server !== null && error.code === 'UPSTREAM_PROTOCOL';
}
