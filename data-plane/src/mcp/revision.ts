import {
  AppError,
  eraOf,
  isProtocolRevision,
  legacyRevisions,
  modernRevisions,
  type Era,
  type ProtocolRevision,
} from '@sallyport/schema';
import { isObject, objectMember, stringMember, type JsonObject, type Message } from './envelope.ts';
import { mirroredValue } from './headers.ts';

export const protocolVersionKey = 'io.modelcontextprotocol/protocolVersion';
export const clientCapabilitiesKey = 'io.modelcontextprotocol/clientCapabilities';
export const clientInfoKey = 'io.modelcontextprotocol/clientInfo';

/** What a legacy client that names no revision speaks (2025-06-18, Streamable HTTP, "Protocol Version Header"). */
export const assumedLegacyRevision: ProtocolRevision = '2025-03-26';

export interface Classification {
  readonly era: Era;
  /** Null where a legacy client named none. */
  readonly protocolRevision: ProtocolRevision | null;
}

export type Headers = ReadonlyMap<string, string>;

/** Whether a revision's date lies in the modern era, known or not. Dates compare as text. */
function namesModern(revision: string | undefined): revision is string {
  return revision !== undefined && revision >= modernRevisions[0];
}

export function unsupportedRevision(requested: string | null, supported: readonly string[]): AppError {
  return new AppError('UNSUPPORTED_PROTOCOL_REVISION', {
    publicMessage: `Unsupported protocol version; supported here: ${supported.join(', ')}`,
    data: requested === null ? { supported } : { supported, requested },
  });
}

function headerMismatch(text: string): AppError {
  return new AppError('HEADER_MISMATCH', { publicMessage: `Bad Request: ${text}` });
}

/** The era a client seems to speak before its body was read; only for the form of an error. */
export function eraOfHeaders(headers: Headers): Era {
  return namesModern(headers.get('mcp-protocol-version')) ? 'modern' : 'legacy';
}

/** Of a request without a body: legacy by its nature (2026-07-28 knows POST alone). */
export function classifyBodiless(headers: Headers): Classification {
  const header = headers.get('mcp-protocol-version');
  if (namesModern(header)) throw new AppError('METHOD_NOT_ALLOWED');
  return legacy(header);
}

/**
 * The era and revision of a message, from its shape alone, and for modern ones the proof that the mirrored headers
 * equal the body. The body decides; a header alone never makes a message modern, it only makes it wrong.
 *
 * @throws AppError HEADER_MISMATCH (-32020), INVALID_PARAMS (-32602, the envelope), UNSUPPORTED_PROTOCOL_REVISION (-32022)
 * @see 2026-07-28 basic/transports/streamable-http, Server Validation; basic/versioning
 */
export function classifyMessage(message: Message, headers: Headers): Classification {
  switch (message.kind) {
    case 'request':
      return classifyRequest(message, headers);
    case 'notification':
      return classifyNotification(message, headers);
    case 'response':
      return classifyResponse(headers);
    default:
      return message.kind satisfies never;
  }
}

function legacy(header: string | undefined): Classification {
  if (header === undefined) return { era: 'legacy', protocolRevision: null };
  if (!isProtocolRevision(header))
    throw unsupportedRevision(header, namesModern(header) ? modernRevisions : legacyRevisions);
  return { era: 'legacy', protocolRevision: header };
}

/** 2026-07-28 has no messages of this kind from the client; answers to server requests are legacy. */
function classifyResponse(headers: Headers): Classification {
  const header = headers.get('mcp-protocol-version');
  if (namesModern(header)) {
    throw new AppError('INVALID_REQUEST', { publicMessage: 'JSON-RPC responses cannot be posted in this revision.' });
  }
  return legacy(header);
}

function classifyRequest(message: Message, headers: Headers): Classification {
  const header = headers.get('mcp-protocol-version');
  const meta = objectMember(message.params, '_meta');
  const claimed = meta !== undefined && Object.hasOwn(meta, protocolVersionKey);
  if (message.method === 'initialize' && !(claimed && isValidEnvelope(meta) && namesModern(claimOf(meta)))) {
    if (namesModern(header)) throw headerMismatch('initialize belongs to revisions before 2026-07-28.');
    const requested = stringMember(message.params, 'protocolVersion');
    return {
      era: 'legacy',
      protocolRevision: isProtocolRevision(requested) && eraOf(requested) === 'legacy' ? requested : legacyRevisions[0],
    };
  }
  if (!claimed) {
    if (!namesModern(header)) return legacy(header);
    throw envelopeProblem(meta === undefined ? '_meta is missing' : `${protocolVersionKey} is missing`);
  }
  const problem = envelopeProblemOf(meta);
  if (problem !== undefined) throw envelopeProblem(problem);
  const claim = claimOf(meta) ?? '';
  if (header !== undefined && header !== claim) {
    throw headerMismatch('MCP-Protocol-Version does not equal the protocol version in _meta.');
  }
  checkMethodHeader(message, headers);
  if (!isProtocolRevision(claim) || eraOf(claim) !== 'modern') throw unsupportedRevision(claim, modernRevisions);
  if (header === undefined) throw headerMismatch('MCP-Protocol-Version is required.');
  if (!headers.has('mcp-method')) throw headerMismatch('Mcp-Method is required.');
  checkNameHeader(message, headers);
  return { era: 'modern', protocolRevision: claim };
}

function classifyNotification(message: Message, headers: Headers): Classification {
  const header = headers.get('mcp-protocol-version');
  const meta = objectMember(message.params, '_meta');
  if (meta === undefined || !Object.hasOwn(meta, protocolVersionKey)) {
    if (!namesModern(header)) return legacy(header);
    checkMethodHeader(message, headers);
    if (!isProtocolRevision(header))
      throw unsupportedRevision(header, namesModern(header) ? modernRevisions : legacyRevisions);
    return { era: 'modern', protocolRevision: header };
  }
  const claim = claimOf(meta);
  if (claim === undefined) throw envelopeProblem(`${protocolVersionKey} is not a string`);
  if (header !== undefined && header !== claim) {
    throw headerMismatch('MCP-Protocol-Version does not equal the protocol version in _meta.');
  }
  checkMethodHeader(message, headers);
  if (!isProtocolRevision(claim) || eraOf(claim) !== 'modern') throw unsupportedRevision(claim, modernRevisions);
  return { era: 'modern', protocolRevision: claim };
}

function claimOf(meta: JsonObject | undefined): string | undefined {
  return meta === undefined ? undefined : stringMember(meta, protocolVersionKey);
}

function isValidEnvelope(meta: JsonObject | undefined): boolean {
  return meta !== undefined && envelopeProblemOf(meta) === undefined;
}

function envelopeProblem(text: string): AppError {
  return new AppError('INVALID_PARAMS', { publicMessage: `Invalid params: ${text}` });
}

/** What is wrong with the required part of a modern `_meta` (basic/index, _meta), or undefined. */
function envelopeProblemOf(meta: JsonObject): string | undefined {
  if (stringMember(meta, protocolVersionKey) === undefined) return `${protocolVersionKey} is not a string`;
  if (!Object.hasOwn(meta, clientCapabilitiesKey)) return `${clientCapabilitiesKey} is missing`;
  if (!isObject(meta[clientCapabilitiesKey])) return `${clientCapabilitiesKey} is not an object`;
  if (!Object.hasOwn(meta, clientInfoKey)) return undefined;
  const info = objectMember(meta, clientInfoKey);
  if (info === undefined || stringMember(info, 'name') === undefined || stringMember(info, 'version') === undefined) {
    return `${clientInfoKey} is not an object with name and version`;
  }
  return undefined;
}

function checkMethodHeader(message: Message, headers: Headers): void {
  const header = headers.get('mcp-method');
  if (header !== undefined && header !== message.method) throw headerMismatch('Mcp-Method does not equal the method.');
}

/** The member of `params` that `Mcp-Name` mirrors, by method. */
export const nameSources: ReadonlyMap<string, string> = new Map([
  ['tools/call', 'name'],
  ['prompts/get', 'name'],
  ['resources/read', 'uri'],
  ['tasks/get', 'taskId'],
  ['tasks/update', 'taskId'],
  ['tasks/cancel', 'taskId'],
]);

function checkNameHeader(message: Message, headers: Headers): void {
  const source = nameSources.get(message.method ?? '');
  if (source === undefined) return;
  const value = stringMember(message.params, source);
  const header = headers.get('mcp-name');
  if (header === undefined) {
    if (value !== undefined) throw headerMismatch('Mcp-Name is required.');
    return;
  }
  const decoded = mirroredValue(header);
  if (decoded === undefined) throw headerMismatch('Mcp-Name is not valid Base64.');
  if (value !== undefined && decoded !== value) throw headerMismatch(`Mcp-Name does not equal params.${source}.`);
}
