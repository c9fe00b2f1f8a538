import { AppError, toAppError } from '@sallyport/schema';
import { sealSession } from '../bridge/sealed-session.ts';
import { isEventStream, isJson } from '../mcp/headers.ts';
import type { UpstreamResponse } from '../upstream/connections.ts';
import type { Answer, Authorized, Forwarded } from './exchange.ts';
import type { OpenStreams } from './open-streams.ts';
import { refuseUpstream, type UpstreamSender } from './refuse-upstream.ts';
import type { Inspector } from './inspector.ts';
import { ResponseScreen, type Screened } from './response-screen.ts';
import type { Reviewed } from './review-message.ts';
import { SseRelay } from './sse-relay.ts';

export interface InspectResponseContext {
  readonly streams: OpenStreams;
  /** The decision as the running configuration has it; throws where it says no. */
  readonly recheck: (authorized: Authorized) => Authorized;
  /** The control plane's time, milliseconds since the epoch. */
  readonly now: () => number;
  /** Is told what was found in each message of the upstream's. */
  readonly observe: (authorized: Authorized, reviewed: Reviewed) => void;
  readonly inspector: Pick<Inspector, 'inspect' | 'note'>;
  /** For answers to what an upstream asks and may not. */
  readonly upstream: UpstreamSender;
}

const noStore: readonly string[] = ['cache-control', 'no-store'];
const jsonNoStore: readonly string[] = ['content-type', 'application/json', ...noStore];
const streamHeaders: readonly string[] = ['content-type', 'text/event-stream', ...noStore, 'x-accel-buffering', 'no'];

/**
 * Turns the upstream's response into the client's: lists filtered, capabilities honest, the session sealed, streams
 * relayed event by event; every other body byte for byte. Of the headers only the content type and what the protocol
 * needs go on. Whoever was revoked while the upstream took its time gets no answer any more. Answers at once where all
 * of it is there and nothing has to be waited for.
 * @throws AppError UPSTREAM_…, UNSUPPORTED_PROTOCOL_REVISION, and those of authorize
 */
export function inspectResponse(forwarded: Forwarded, context: InspectResponseContext): Answer | Promise<Answer> {
  const { response, authorized } = forwarded;
  const { status } = response;
  if (status === 401 || status === 403) {
    throw discard(response, new AppError('UPSTREAM_REFUSED', { internal: `the upstream answered ${status}` }));
  }
  if (status >= 300 && status < 400) {
    throw discard(response, new AppError('UPSTREAM_PROTOCOL', { internal: `redirects are not followed (${status})` }));
  }
  const encoding = response.header('content-encoding');
  if (encoding !== undefined && encoding.toLowerCase() !== 'identity') {
    throw discard(
      response,
      new AppError('UPSTREAM_PROTOCOL', { internal: `content-encoding ${encoding} was not asked for` }),
    );
  }
  if (status === 200 && isEventStream(response.header('content-type'))) return streamed(forwarded, context);
  const { limits } = authorized.routed.runtime;
  const body = response.collect({
    bytesMax: limits.responseBodyBytesMax,
    idleTimeoutMs: limits.upstreamIdleTimeoutMs,
  });
  return body instanceof Promise
    ? body.then((late) => whole(late, forwarded, context.recheck(authorized), context))
    : whole(body, forwarded, context.recheck(authorized), context);
}

/** For a stream; a body that was collected needs no connection to be closed. */
function rechecked({ response, authorized }: Forwarded, context: InspectResponseContext): Authorized {
  try {
    return context.recheck(authorized);
  } catch (error) {
    throw discard(response, toAppError(error));
  }
}

function discard(response: UpstreamResponse, error: AppError): AppError {
  response.abort(error);
  return error;
}

function streamed(forwarded: Forwarded, context: InspectResponseContext): Answer | Promise<Answer> {
  const { response } = forwarded;
  const { received, runtime } = forwarded.authorized.routed;
  if (received.kind === 'endSession' || (received.message !== null && received.message.kind !== 'request')) {
    throw discard(response, new AppError('UPSTREAM_PROTOCOL', { internal: 'an event stream where none belongs' }));
  }
  const authorized = rechecked(forwarded, context);
  const relay: SseRelay = new SseRelay({
    response,
    authorized,
    eventBytesMax: runtime.limits.sseEventBytesMax,
    screen: screenOf(forwarded, context),
    refuse: refuseUpstream(forwarded, context.upstream),
    onEnd: () => context.streams.remove(relay),
  });
  context.streams.add(relay);
  if (received.message?.method !== 'initialize') return { status: 200, headers: streamHeaders, body: relay };
  // The session's header goes out first, and what it seals stands in the answer.
  return relay.untilAnswered().then(() => ({
    status: 200,
    headers: [...streamHeaders, ...sessionHeaders(forwarded, authorized, relay.negotiated, context)],
    body: relay,
  }));
}

function whole(
  body: Buffer,
  forwarded: Forwarded,
  authorized: Authorized,
  context: InspectResponseContext,
): Answer | Promise<Answer> {
  const { response } = forwarded;
  const { status } = response;
  const { received } = authorized.routed;
  const { exchange, message } = received;
  if (isJson(response.header('content-type')) && body.length > 0) {
    if (message?.kind !== 'request') return unasked(body, forwarded, authorized, context);
    const screened = screenWhole(body, status, forwarded, authorized, context);
    return screened instanceof Promise
      ? screened.then((late) => answered(late, forwarded, authorized, context))
      : answered(screened, forwarded, authorized, context);
  }
  if (isForgotten(status, authorized)) throw new AppError('SESSION_NOT_FOUND', { internal: 'forgotten upstream' });
  if (message?.kind === 'request' || status >= 500) {
    throw new AppError('UPSTREAM_PROTOCOL', {
      internal: `status ${status} with ${response.header('content-type') ?? 'no body'}`,
    });
  }
  if (received.kind === 'stream' && status < 300) {
    throw new AppError('UPSTREAM_PROTOCOL', { internal: `status ${status} and no event stream` });
  }
  // A notification, a response, the end of a session, or a stream that is not offered: the status says it all.
  exchange.outcome = status < 400 ? 'success' : 'error';
  const allow = response.header('allow');
  return { status, headers: [...noStore, ...(allow === undefined ? [] : ['allow', allow])], body: null };
}

/** A body that answers no request. */
async function unasked(
  body: Buffer,
  forwarded: Forwarded,
  authorized: Authorized,
  context: InspectResponseContext,
): Promise<Answer> {
  const { response } = forwarded;
  const { status } = response;
  const inspected = await screenOf(forwarded, context).body(body, authorized);
  authorized.routed.received.exchange.outcome = status < 400 ? 'success' : 'error';
  return { status, headers: jsonHeaders(response), body: inspected };
}

function answered(
  screened: Screened,
  forwarded: Forwarded,
  authorized: Authorized,
  context: InspectResponseContext,
): Answer {
  const { response } = forwarded;
  const { exchange, message } = authorized.routed.received;
  if (screened.refusal !== null) throw screened.refusal;
  if (!screened.isAnswer || screened.bytes === null) {
    throw new AppError('UPSTREAM_PROTOCOL', { internal: 'the answer belongs to another request' });
  }
  exchange.outcome = screened.isError ? 'error' : 'success';
  exchange.rpcErrorCode = screened.rpcErrorCode;
  const headers = jsonHeaders(response);
  return {
    status: response.status,
    headers:
      message?.method === 'initialize'
        ? [...headers, ...sessionHeaders(forwarded, authorized, screened.negotiated, context)]
        : headers,
    body: screened.bytes,
  };
}

function screenOf({ isBridged }: Forwarded, { inspector, observe }: InspectResponseContext): ResponseScreen {
  return new ResponseScreen({ inspector, observe, isBridged });
}

function screenWhole(
  body: Buffer,
  status: number,
  forwarded: Forwarded,
  authorized: Authorized,
  context: InspectResponseContext,
): Screened | Promise<Screened> {
  try {
    return screenOf(forwarded, context).screen(body, authorized);
  } catch (error) {
    // Some servers say 404 in words of their own; what matters to the client is to begin anew.
    throw isForgotten(status, authorized) ? new AppError('SESSION_NOT_FOUND', { cause: error }) : error;
  }
}

/** Whether the upstream no longer knows the session (2025-11-25 basic/transports, Session Management). */
function isForgotten(status: number, { routed }: Authorized): boolean {
  return status === 404 && routed.session !== null;
}

function jsonHeaders(response: UpstreamResponse): readonly string[] {
  const value = response.header('retry-after');
  return value !== undefined && /^[\x20-\x7e]{1,64}$/.test(value)
    ? [...jsonNoStore, 'retry-after', value]
    : jsonNoStore;
}

/** The client's `Mcp-Session-Id`; none where the upstream keeps no session. */
function sessionHeaders(
  { response, opens }: Forwarded,
  { routed }: Authorized,
  negotiated: Reviewed['negotiated'],
  context: InspectResponseContext,
): string[] {
  const upstreamSessionId = response.header('mcp-session-id');
  if (upstreamSessionId === undefined || negotiated === null || routed.received.era !== 'legacy') return [];
  const { principal } = routed.authenticated;
  const token = sealSession(routed.runtime, {
    upstreamSessionId,
    principalId: principal.id,
    principalEpoch: principal.epoch,
    serverId: routed.server.document.id,
    protocolRevision: negotiated,
    clientInfo: routed.received.exchange.clientInfo,
    expiresAt: context.now() + routed.runtime.limits.sessionTtlMs,
    client: opens,
  });
  return ['mcp-session-id', token];
}
