import type { AppError } from '@sallyport/schema';
import type { Exchange } from './exchange.ts';

/** What a server of 2026-07-28 says over 400 or 404 (basic/index, Error Codes); anything else there is no such server's. */
const modernRefusals: ReadonlySet<number> = new Set([-32700, -32600, -32601, -32602, -32603, -32020, -32021, -32022]);
/** "Not in this revision", which no server says of one that it speaks. */
const revisionRefusals: ReadonlySet<number> = new Set([-32020, -32022]);
const handshakes: ReadonlySet<string> = new Set(['initialize', 'server/discover']);
/** Statuses that speak of the request's form, as against right, load or failure. */
const formStatuses: ReadonlySet<number> = new Set([400, 404, 405, 406, 415]);

/** What the upstream answered, and the era it was asked in: over a bridge, the other than the client's. */
function answerOf(exchange: Exchange, status: number): Pick<Exchange, 'era' | 'rpcErrorCode'> & { status: number } {
  const { era, rpcErrorCode, upstreamRefusal } = exchange;
  return upstreamRefusal === null
    ? { era, rpcErrorCode, status }
    : { era: era === 'legacy' ? 'modern' : 'legacy', ...upstreamRefusal };
}

/**
 * Whether an upstream's answer says that it does not speak the era it is published with, so that it is worth another
 * discovery: it was upgraded, or set back. A guess that costs one discovery where it is wrong; nothing is decided by it.
 * @param answered the status of the answer
 */
export function contradictsEra(exchange: Exchange, answered: number): boolean {
  const { server, message } = exchange;
  const { era, rpcErrorCode, status } = answerOf(exchange, answered);
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
