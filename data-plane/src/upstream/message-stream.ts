import { AppError, type LimitsDocument } from '@sallyport/schema';
import { objectMember, type JsonObject } from '../mcp/envelope.ts';
import { isEventStream, isJson } from '../mcp/headers.ts';
import { parseUpstreamMessage } from '../mcp/lossless-json.ts';
import { SseParser } from '../mcp/sse.ts';
import type { UpstreamResponse } from './connections.ts';
import type { MessageStream, RpcRefusal } from './legacy-channel.ts';
import { refusalOf } from './upstream-refusal.ts';

type ReadingLimits = Pick<LimitsDocument, 'responseBodyBytesMax' | 'upstreamIdleTimeoutMs' | 'sseEventBytesMax'>;

/** The messages of an answer, and where to take it up again should it break off. */
export interface ResponseMessages extends MessageStream {
  /** Whether the answer is an event stream: it may take its time. */
  readonly isStream: boolean;
  /** Null where it is no error, or comes as an event. */
  readonly refusal: RpcRefusal | null;
  /** The id of the last event that had one. */
  readonly lastEventId: string | null;
  /** What the upstream wants waited before that, in milliseconds; null where it did not say. */
  readonly retryMs: number | null;
}

/**
 * Reads an upstream's answer to a POST or GET as messages, be it JSON or an event stream; none where it has no body.
 * @throws AppError UPSTREAM_REFUSED, UPSTREAM_PROTOCOL, UPSTREAM_RESPONSE_TOO_LARGE, UPSTREAM_TIMEOUT, and
 *   SESSION_NOT_FOUND for a 404 without a JSON-RPC error the sender could have meant for the message
 */
export async function readMessages(response: UpstreamResponse, limits: ReadingLimits): Promise<ResponseMessages> {
  const { status } = response;
  const encoding = response.header('content-encoding');
  const refusal = refusalOf(response);
  if (refusal !== undefined) throw discard(response, 'UPSTREAM_REFUSED', `the upstream answered ${refusal.status}`);
  if (status >= 300 && status < 400) throw discard(response, 'UPSTREAM_PROTOCOL', 'redirects are not followed');
  if (encoding !== undefined && encoding.toLowerCase() !== 'identity') {
    throw discard(response, 'UPSTREAM_PROTOCOL', `content-encoding ${encoding} was not asked for`);
  }
  const type = response.header('content-type');
  if (status === 200 && isEventStream(type)) return new EventMessages(response, limits.sseEventBytesMax);
  const body = await response.collect({
    bytesMax: limits.responseBodyBytesMax,
    idleTimeoutMs: limits.upstreamIdleTimeoutMs,
  });
  if (isJson(type) && body.length > 0) return new SingleMessage(parseUpstreamMessage(body.toString('utf8')), status);
  if (status === 404) throw new AppError('SESSION_NOT_FOUND', { internal: 'the upstream answered 404' });
  if (status >= 400)
    throw new AppError('UPSTREAM_PROTOCOL', { internal: `status ${status} with ${type ?? 'no body'}` });
  return new SingleMessage(undefined, status);
}

function discard(
  response: UpstreamResponse,
  code: 'UPSTREAM_REFUSED' | 'UPSTREAM_PROTOCOL',
  internal: string,
): AppError {
  const error = new AppError(code, { internal });
  response.abort(error);
  return error;
}

/** How long a stream that nobody reads may take to end, in milliseconds. */
const lingerMs = 1_000;

class SingleMessage implements ResponseMessages {
  readonly isStream = false;
  readonly lastEventId = null;
  readonly retryMs = null;
  readonly refusal: RpcRefusal | null;
  #message: JsonObject | undefined;

  constructor(message: JsonObject | undefined, status: number) {
    this.#message = message;
    const rpcErrorCode = objectMember(message ?? {}, 'error')?.['code'];
    this.refusal = typeof rpcErrorCode === 'number' ? { status, rpcErrorCode } : null;
  }

  next(): Promise<JsonObject | undefined> {
    const message = this.#message;
    this.#message = undefined;
    return Promise.resolve(message);
  }

  close(): void {
    this.#message = undefined;
  }
}

class EventMessages implements ResponseMessages {
  readonly isStream = true;
  readonly refusal = null;
  readonly #response: UpstreamResponse;
  readonly #parser: SseParser;
  readonly #queue: string[] = [];
  lastEventId: string | null = null;
  retryMs: number | null = null;

  constructor(response: UpstreamResponse, eventBytesMax: number) {
    this.#response = response;
    this.#parser = new SseParser(eventBytesMax);
  }

  async next(): Promise<JsonObject | undefined> {
    for (;;) {
      const text = this.#queue.shift();
      if (text !== undefined) return parseUpstreamMessage(text);
      const chunk = await this.#response.next();
      if (chunk === undefined) return undefined;
      for (const event of this.#parser.push(chunk)) {
        if (event.id !== null && event.id !== '') this.lastEventId = event.id;
        this.retryMs = event.retryMs ?? this.retryMs;
        if (event.data !== null && event.data.length > 0) this.#queue.push(event.data.toString('utf8'));
      }
    }
  }

  /** Reads on for a moment: most streams end with their response, and the connection can be used again then. */
  close(): void {
    this.#queue.length = 0;
    const response = this.#response;
    const timer = setTimeout(() => {
      response.abort(new AppError('UPSTREAM_UNREACHABLE', { internal: 'no longer read' }));
    }, lingerMs);
    const drain = async (): Promise<void> => {
      while ((await response.next()) !== undefined);
    };
    // Whatever it fails of, nobody waits for it.
    drain()
      .catch(() => undefined)
      .finally(() => clearTimeout(timer));
  }
}
