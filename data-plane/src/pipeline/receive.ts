import { hash } from 'node:crypto';
import { AppError, type LimitsDocument, nodeRoutes, routeMatcher } from '@sallyport/schema';
import { isBatch, readBatch } from '../mcp/batch.ts';
import { objectMember, parseMessage, stringMember, type Message } from '../mcp/envelope.ts';
import { accepts, isJson, mustBeSingle } from '../mcp/headers.ts';
import { checkOrigin, type AccessRules } from '../mcp/origin.ts';
import { classifyBodiless, classifyMessage, clientInfoKey, eraOfHeaders } from '../mcp/revision.ts';
import type { Exchange, Received } from './exchange.ts';
import type { AccessTokens } from './access-token.ts';
import { identify } from './credential.ts';

export interface ReceiveSettings {
  readonly access: AccessRules;
  /** How long a body may take to arrive, in milliseconds. */
  readonly requestBodyTimeoutMs: number;
  readonly tokens: AccessTokens;
  /** The control plane's time, milliseconds since the epoch. */
  readonly now: () => number;
}

const matchRoute = routeMatcher<keyof typeof nodeRoutes>(nodeRoutes);
/** What is kept of a client's name for itself, in characters. */
const clientInfoLengthMax = 128;
/** Held of a body whose sender presents no key or token that holds, in bytes. */
const strangerBodyBytesMax = 64 * 1024;
const empty = Buffer.alloc(0);

/**
 * Takes a request in: refuses what a web page or a misread header smuggled, reads the body within its limits, parses
 * the JSON-RPC message once, decides the era from its shape and compares mirrored headers with the body.
 * Whom it comes from and what it may do is not looked at. Answers at once where the body is there.
 */
export function receive(
  exchange: Exchange,
  limits: LimitsDocument,
  settings: ReceiveSettings,
): Received | Promise<Received> {
  const { request } = exchange;
  const match = matchRoute(request.path);
  const slug = match?.name === 'endpoint' ? match.parameters['slug'] : undefined;
  exchange.slug = slug ?? null;
  // RFC 9112, section 3.2.
  if (!request.headers.has('host')) {
    throw new AppError('INVALID_REQUEST', { publicMessage: 'The header host is missing.' });
  }
  checkOrigin(settings.access, request.headers);
  const repeated = request.repeatedHeaders.find(mustBeSingle);
  if (repeated !== undefined) {
    throw new AppError('INVALID_REQUEST', { publicMessage: `The header ${repeated} must be sent once.` });
  }
  if (slug === undefined) throw new AppError('NOT_FOUND');
  switch (request.method) {
    case 'POST':
      return receiveMessage(exchange, slug, limits, settings);
    case 'GET':
      if (!accepts(request.headers.get('accept'), 'text/event-stream')) throw new AppError('NOT_ACCEPTABLE');
      return receiveBodiless(exchange, slug, 'stream');
    case 'DELETE':
      return receiveBodiless(exchange, slug, 'endSession');
    default:
      throw new AppError('METHOD_NOT_ALLOWED');
  }
}

function receiveBodiless(exchange: Exchange, slug: string, kind: 'stream' | 'endSession'): Received {
  const { request } = exchange;
  const { era, protocolRevision } = classifyBodiless(request.headers);
  exchange.era = era;
  exchange.protocolRevision = protocolRevision;
  return {
    exchange,
    request,
    kind,
    slug,
    era,
    statedRevision: protocolRevision,
    message: null,
    body: empty,
    batch: null,
  };
}

function receiveMessage(
  exchange: Exchange,
  slug: string,
  limits: LimitsDocument,
  settings: ReceiveSettings,
): Received | Promise<Received> {
  const { headers } = exchange.request;
  if (
    (headers.get('content-encoding') ?? 'identity').toLowerCase() !== 'identity' ||
    !isJson(headers.get('content-type'))
  ) {
    throw new AppError('UNSUPPORTED_MEDIA_TYPE');
  }
  // node:http takes any list that ends in `chunked`, and would hand over the body still compressed.
  if ((headers.get('transfer-encoding') ?? 'chunked').toLowerCase() !== 'chunked') {
    throw new AppError('INVALID_REQUEST', { publicMessage: 'The only transfer encoding accepted is chunked.' });
  }
  const accept = headers.get('accept');
  if (!accepts(accept, 'application/json') || !accepts(accept, 'text/event-stream'))
    throw new AppError('NOT_ACCEPTABLE');
  const body = readBody(exchange, limits, settings);
  return body instanceof Promise
    ? body.then((late) => receiveBody(exchange, slug, late))
    : receiveBody(exchange, slug, body);
}

function receiveBody(exchange: Exchange, slug: string, body: Buffer): Received {
  const { request } = exchange;
  exchange.requestBytes = body.length;
  if (isBatch(body)) return receiveBatch(exchange, slug, body);
  const message = parseMessage(body);
  exchange.message = message;
  exchange.clientInfo = clientInfoOf(message);
  if (message.paramsRange !== null) {
    exchange.paramsDigest = hash('sha256', body.subarray(message.paramsRange.start, message.paramsRange.end));
  }
  const { era, protocolRevision } = classifyMessage(message, request.headers);
  exchange.era = era;
  exchange.protocolRevision = protocolRevision;
  return {
    exchange,
    request,
    kind: 'message',
    slug,
    era,
    statedRevision: protocolRevision,
    message,
    body,
    batch: null,
  };
}

/** Batches were in 2025-03-26 alone, and so are legacy. Whether the client's session is of that revision shows later. */
function receiveBatch(exchange: Exchange, slug: string, body: Buffer): Received {
  const { request } = exchange;
  if (eraOfHeaders(request.headers) === 'modern') {
    throw new AppError('INVALID_REQUEST', {
      publicMessage: 'A message of this revision is one request or notification.',
    });
  }
  const { era, protocolRevision } = classifyBodiless(request.headers);
  exchange.protocolRevision = protocolRevision;
  const batch = readBatch(body);
  const received = { exchange, request, kind: 'message', slug, era, message: null, body, batch } as const;
  return { ...received, statedRevision: protocolRevision };
}

/**
 * The body, within its limit. Without a key or token that holds no more than a little is held, so that strangers cannot take
 * the memory that all bodies of the node share.
 */
function readBody(exchange: Exchange, limits: LimitsDocument, settings: ReceiveSettings): Buffer | Promise<Buffer> {
  const { request, runtime } = exchange;
  const mayBeLarge = !(Number(request.headers.get('content-length') ?? Infinity) <= strangerBodyBytesMax);
  const isStranger =
    mayBeLarge && (runtime === null || identify(request, runtime, settings.tokens, settings.now()) === undefined);
  const bytesMax = isStranger ? Math.min(strangerBodyBytesMax, limits.requestBodyBytesMax) : limits.requestBodyBytesMax;
  const body = request.readBody(bytesMax, settings.requestBodyTimeoutMs);
  if (!isStranger || !(body instanceof Promise)) return body;
  return body.catch((error: unknown) => {
    if (error instanceof AppError && error.code === 'BODY_TOO_LARGE') throw new AppError('UNAUTHENTICATED');
    throw error;
  });
}

/** "name/version" as the client says: in `_meta` of a modern request, in `params` of a legacy `initialize`. */
function clientInfoOf(message: Message): string | null {
  const meta = objectMember(message.params, '_meta');
  const info =
    (meta === undefined ? undefined : objectMember(meta, clientInfoKey)) ??
    (message.method === 'initialize' ? objectMember(message.params, 'clientInfo') : undefined);
  if (info === undefined) return null;
  const text = `${stringMember(info, 'name') ?? ''}/${stringMember(info, 'version') ?? ''}`;
  return text.slice(0, clientInfoLengthMax);
}
