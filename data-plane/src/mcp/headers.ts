import { isUtf8 } from 'node:buffer';
import type { Era } from '@sallyport/schema';

const sentinelStart = '=?base64?';
const sentinelEnd = '?=';
const canonicalBase64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

/**
 * The value a mirrored header (`Mcp-Name`, `Mcp-Param-*`) stands for, or undefined where its Base64 form is not valid.
 * @see 2026-07-28 basic/transports/streamable-http, Value Encoding
 */
export function mirroredValue(header: string): string | undefined {
  if (!header.startsWith(sentinelStart) || !header.endsWith(sentinelEnd)) return header;
  const base64 = header.slice(sentinelStart.length, -sentinelEnd.length);
  if (!canonicalBase64.test(base64)) return undefined;
  const bytes = Buffer.from(base64, 'base64');
  return isUtf8(bytes) ? bytes.toString('utf8') : undefined;
}

/** The form in which a value stands in a mirrored header; `mirroredValue` gives it back. */
export function mirroredHeader(value: string): string {
  const isPlain = /^[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?$/.test(value);
  if (isPlain && !(value.startsWith(sentinelStart) && value.endsWith(sentinelEnd))) return value;
  return `${sentinelStart}${Buffer.from(value).toString('base64')}${sentinelEnd}`;
}

/**
 * Headers whose second appearance is refused: two readers could each believe another one. Any other header that comes
 * twice has no meaning here and is not forwarded.
 */
export function mustBeSingle(name: string): boolean {
  return singleHeaders.has(name) || name.startsWith('mcp-');
}
const singleHeaders = new Set([
  'authorization',
  'content-encoding',
  'content-length',
  'content-type',
  'host',
  'last-event-id',
  'origin',
  'traceparent',
  'transfer-encoding',
]);

const mirroredParamPrefix = 'mcp-param-';

/** Whether a header mirrors an argument (2026-07-28 server/tools, `x-mcp-header`). */
export function isMirroredParam(name: string): boolean {
  return name.startsWith(mirroredParamPrefix);
}

/**
 * The headers an upstream is sent: an allow-list, empty but for what the protocol needs, so that no credential, cookie,
 * hop-by-hop or internal header of a client can pass. The session id, the event id of a stream taken up again and
 * `traceparent` are added by the caller.
 * @param name takes the place of the client's `Mcp-Name`; null where that goes on
 */
export function forwardedHeaders(
  headers: ReadonlyMap<string, string>,
  era: Era,
  httpMethod: string,
  name: string | null = null,
): string[] {
  const forwarded: string[] = [];
  switch (httpMethod) {
    case 'POST':
      forwarded.push('content-type', 'application/json', 'accept', 'application/json, text/event-stream');
      break;
    case 'GET':
      forwarded.push('accept', 'text/event-stream');
      break;
    default:
      break;
  }
  forwarded.push('accept-encoding', 'identity', 'user-agent', 'sallyport');
  const protocolRevision = headers.get('mcp-protocol-version');
  if (protocolRevision !== undefined) forwarded.push('mcp-protocol-version', protocolRevision);
  if (era === 'legacy') return forwarded;
  for (const [header, value] of headers) {
    if (header === 'mcp-name') forwarded.push(header, name ?? value);
    else if (header === 'mcp-method' || isMirroredParam(header)) forwarded.push(header, value);
  }
  return forwarded;
}

/** Whether a content type is JSON, its parameters aside; only UTF-8 is a legal charset. */
export function isJson(contentType: string | undefined): boolean {
  if (contentType === 'application/json') return true;
  return contentType !== undefined && /^application\/json\s*(?:;\s*charset="?utf-8"?\s*)?$/i.test(contentType.trim());
}

export function isEventStream(contentType: string | undefined): boolean {
  return contentType !== undefined && /^text\/event-stream\s*(?:;|$)/i.test(contentType.trim());
}

const bothAccepted = 'application/json, text/event-stream';

/**
 * Whether an `Accept` header takes a media type, exactly or by wildcard. An absent header takes everything (RFC 9110
 * §12.5.1); `q=0` refuses.
 */
export function accepts(header: string | undefined, type: string): boolean {
  if (header === undefined) return true;
  // What every SDK sends.
  if (header === bothAccepted && (type === 'application/json' || type === 'text/event-stream')) return true;
  const family = `${type.slice(0, type.indexOf('/'))}/*`;
  return header.split(',').some((part) => {
    const [range = '', ...parameters] = part.split(';');
    const name = range.trim().toLowerCase();
    if (name !== type && name !== family && name !== '*/*') return false;
    return !parameters.some((parameter) => /^\s*q\s*=\s*0(?:\.0*)?\s*$/i.test(parameter));
  });
}

const traceparentForm = /^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$/;
const zeroTraceId = '0'.repeat(32);
const zeroSpanId = '0'.repeat(16);

/** The trace a caller started, or undefined where its `traceparent` is absent or not valid (W3C Trace Context). */
export function parseTraceparent(header: string | undefined): { traceId: string; flags: string } | undefined {
  const [, traceId, spanId, flags] = traceparentForm.exec(header ?? '') ?? [];
  if (traceId === undefined || flags === undefined || traceId === zeroTraceId || spanId === zeroSpanId)
    return undefined;
  return { traceId, flags };
}

const tracestateLengthMax = 512;
const tracestateMember =
  /^[\t ]*(?:(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e])?[\t ]*$/;
const tracestateMembersMax = 32;

/** Whether it is the state of a trace (W3C Trace Context §3.3); what is not, a caller may have meant for something else. */
export function isTracestate(header: string): boolean {
  if (header.length > tracestateLengthMax) return false;
  const members = header.split(',');
  return members.length <= tracestateMembersMax && members.every((member) => tracestateMember.test(member));
}
