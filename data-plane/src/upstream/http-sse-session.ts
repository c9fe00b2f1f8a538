import { AppError, toAppError } from '@sallyport/schema';
import { isObject, objectMember, type JsonObject } from '../mcp/envelope.ts';
import { arrayElements, scanJson } from '../mcp/json-scanner.ts';
import type { SseEvent, SseParser } from '../mcp/sse.ts';
import type { Cancellation, Connections, UpstreamRequest, UpstreamResponse } from './connections.ts';
import { TranslatedResponse } from './translated-response.ts';

/** An answer that takes longer becomes an event stream, so that comments keep it alive; in milliseconds. */
const openAfterMs = 1_000;
/** Messages kept for a stream that nobody reads yet, in number and in characters; the oldest go first. */
const unreadMax = 64;
export const unreadLengthMax = 256 * 1024;
/** What an upstream may say to a POST, which is not the answer, in bytes. */
const acknowledgementBytesMax = 64 * 1024;
const acknowledgementTimeoutMs = 10_000;

/** A request that waits for its answer on the session's stream. */
interface Pending {
  readonly progressToken: unknown;
  deliver(text: string): Promise<void>;
  answer(text: string): void;
  fail(error: AppError): void;
}

export interface HttpSseSessionOptions {
  readonly id: string;
  readonly response: UpstreamResponse;
  readonly parser: SseParser;
  readonly events: readonly SseEvent[];
  readonly endpoint: URL;
  /** The request that opened it: what the session says of itself goes out with its credential and in its trace. */
  readonly opener: UpstreamRequest;
  readonly connections: Pick<Connections, 'send'>;
  readonly onClose: () => void;
}

/**
 * One session with an upstream over HTTP+SSE: requests are posted, and all answers come on one stream, from where each
 * finds its exchange by its id. What belongs to no request goes to the session's own stream where a client listens, else
 * along with the request under way that was sent last.
 */
export class HttpSseSession {
  readonly #options: HttpSseSessionOptions;
  readonly #pending = new Map<string, Pending>();
  readonly #unread: string[] = [];
  #listener: TranslatedResponse | undefined;
  #closed: AppError | undefined;
  /** Of a clock that never goes back, milliseconds. */
  usedAt = 0;

  constructor(options: HttpSseSessionOptions) {
    this.#options = options;
    void this.#read();
  }

  get isIdle(): boolean {
    return this.#pending.size === 0 && this.#listener === undefined;
  }

  /** The first request; without its answer there is no session. */
  async initialize(request: UpstreamRequest, message: JsonObject): Promise<UpstreamResponse> {
    try {
      const response = await this.post(request, message, null, this.#options.id);
      if (response.status >= 400) this.close(new AppError('UPSTREAM_PROTOCOL', { internal: 'initialize was refused' }));
      return response;
    } catch (error) {
      this.close(toAppError(error));
      throw error;
    }
  }

  /**
   * Sends one message. @param sessionId told to the client with the answer to its `initialize`
   * @throws AppError UPSTREAM_…
   */
  async post(
    request: UpstreamRequest,
    message: JsonObject,
    cancelled: Cancellation | null,
    sessionId?: string,
  ): Promise<UpstreamResponse> {
    const { id } = message;
    if (!('method' in message) || (typeof id !== 'string' && typeof id !== 'number')) {
      return await this.#deliver(request, cancelled);
    }
    const key = keyOf(id);
    if (this.#pending.has(key)) {
      const error = { code: -32600, message: 'A request with this id is under way.' };
      return TranslatedResponse.json(200, { jsonrpc: '2.0', id, error });
    }
    const exchange = new PendingExchange({
      progressToken: progressTokenOf(message),
      sessionId,
      totalTimeoutMs: request.totalTimeoutMs,
      onEnd: () => this.#pending.delete(key),
    });
    this.#pending.set(key, exchange);
    cancelled?.addEventListener('abort', exchange.onCancelled, { once: true });
    try {
      const refused = await this.#deliver(request, cancelled);
      if (refused.status >= 400) {
        exchange.fail(new AppError('UPSTREAM_PROTOCOL', { internal: `status ${refused.status} to a POST` }));
        return refused;
      }
    } catch (error) {
      exchange.fail(toAppError(error));
    }
    return await exchange.response;
  }

  /** What belongs to no request. One at a time: another takes its place. */
  listen(cancelled: Cancellation | null): UpstreamResponse {
    this.#listener?.end();
    const listener: TranslatedResponse = new TranslatedResponse({
      status: 200,
      type: 'text/event-stream',
      onAbort: () => this.#unlisten(listener),
    });
    this.#listener = listener;
    cancelled?.addEventListener(
      'abort',
      () => listener.abort(new AppError('UPSTREAM_UNREACHABLE', { internal: 'cancelled' })),
      { once: true },
    );
    for (const text of this.#unread.splice(0)) void listener.writeText(text);
    return listener;
  }

  close(error: AppError): void {
    if (this.#closed !== undefined) return;
    this.#closed = error;
    this.#options.onClose();
    this.#options.response.abort(error);
    this.#listener?.end();
    for (const pending of [...this.#pending.values()]) pending.fail(error);
  }

  #unlisten(listener: TranslatedResponse): void {
    if (this.#listener === listener) this.#listener = undefined;
  }

  /** Posts to the endpoint; the answer, if there is one, comes on the stream. */
  async #deliver(request: UpstreamRequest, cancelled: Cancellation | null): Promise<UpstreamResponse> {
    const { connections, endpoint } = this.#options;
    const response = await connections.send(
      { ...request, url: endpoint, headers: postHeaders(request.headers) },
      cancelled,
    );
    const { status } = response;
    if (status === 401 || status === 403 || (status >= 300 && status < 400)) return response;
    await response.collect({ bytesMax: acknowledgementBytesMax, idleTimeoutMs: acknowledgementTimeoutMs });
    if (status !== 404) return TranslatedResponse.bare(status < 300 ? 202 : status);
    this.close(new AppError('SESSION_NOT_FOUND', { internal: 'the upstream forgot the session' }));
    return TranslatedResponse.bare(404);
  }

  /** Reads the stream to its end. Never rejects. */
  async #read(): Promise<void> {
    const { response, parser, events } = this.#options;
    try {
      for (const event of events) await this.#dispatch(event);
      for (let chunk = await response.next(); chunk !== undefined; chunk = await response.next()) {
        for (const event of parser.push(chunk)) await this.#dispatch(event);
      }
      this.close(new AppError('UPSTREAM_UNREACHABLE', { internal: 'the event stream ended' }));
    } catch (error) {
      this.close(toAppError(error));
    }
  }

  /** One message, or several at once as 2025-03-26 has it. */
  async #dispatch({ data: bytes, event }: SseEvent): Promise<void> {
    if (bytes === null || bytes.length === 0 || (event !== null && event !== 'message')) return;
    const data = bytes.toString('utf8');
    for (const text of data.trimStart().startsWith('[') ? membersOf(data) : [data]) await this.#told(text);
  }

  /** Waits where its reader has enough; the readers of a session are one client's. */
  async #told(data: string): Promise<void> {
    const message = parse(data);
    if (!('method' in message)) {
      this.#pending.get(keyOf(message['id']))?.answer(data);
      return;
    }
    if (message['method'] === 'ping' && message['id'] !== undefined) {
      this.#answerPing(message['id']);
      return;
    }
    const params = objectMember(message, 'params');
    const token = message['method'] === 'notifications/progress' ? params?.['progressToken'] : undefined;
    const all = [...this.#pending.values()];
    const own = token === undefined ? undefined : all.find(({ progressToken }) => progressToken === token);
    if (own !== undefined) await own.deliver(data);
    else if (this.#listener !== undefined) await this.#listener.writeText(data);
    else if (all.length > 0) await all.at(-1)?.deliver(data);
    else this.#keep(data);
  }

  #keep(data: string): void {
    this.#unread.push(data);
    let length = this.#unread.reduce((sum, text) => sum + text.length, 0);
    while (this.#unread.length > unreadMax || length > unreadLengthMax) length -= this.#unread.shift()?.length ?? 0;
  }

  /** The connection is ours, and so is the word that it lives. */
  #answerPing(id: unknown): void {
    const request = {
      ...this.#options.opener,
      method: 'POST' as const,
      body: Buffer.from(JSON.stringify({ jsonrpc: '2.0', id, result: {} })),
      firstByteTimeoutMs: acknowledgementTimeoutMs,
      totalTimeoutMs: acknowledgementTimeoutMs,
      beforeWrite: () => undefined,
    };
    // Whether it was taken shows on the stream.
    this.#deliver(request, null).catch(() => undefined);
  }
}

/** One request's answer: JSON where it is all there is to say and comes soon, else an event stream. */
class PendingExchange implements Pending {
  readonly progressToken: unknown;
  readonly onCancelled = (): void => this.fail(new AppError('UPSTREAM_UNREACHABLE', { internal: 'cancelled' }));
  readonly #sessionId: string | undefined;
  readonly #onEnd: () => void;
  readonly #begun = Promise.withResolvers<UpstreamResponse>();
  readonly #opening: NodeJS.Timeout;
  readonly #deadline: NodeJS.Timeout;
  #stream: TranslatedResponse | undefined;
  #ended = false;

  constructor(options: {
    readonly progressToken: unknown;
    readonly sessionId: string | undefined;
    readonly totalTimeoutMs: number;
    readonly onEnd: () => void;
  }) {
    this.progressToken = options.progressToken;
    this.#sessionId = options.sessionId;
    this.#onEnd = options.onEnd;
    this.#opening = setTimeout(() => this.#open(), openAfterMs);
    this.#deadline = setTimeout(() => this.fail(new AppError('UPSTREAM_TIMEOUT')), options.totalTimeoutMs);
    // It may fail before its POST is answered, when nobody waits for it yet.
    this.#begun.promise.catch(() => undefined);
  }

  get response(): Promise<UpstreamResponse> {
    return this.#begun.promise;
  }

  async deliver(text: string): Promise<void> {
    if (!this.#ended) await this.#open().writeText(text);
  }

  answer(text: string): void {
    if (!this.#end()) return;
    if (this.#stream === undefined) {
      this.#begun.resolve(TranslatedResponse.jsonText(200, text, this.#sessionId));
      return;
    }
    void this.#stream.writeText(text);
    this.#stream.end();
  }

  fail(error: AppError): void {
    if (!this.#end()) return;
    if (this.#stream === undefined) this.#begun.reject(error);
    else this.#stream.fail(error);
  }

  #open(): TranslatedResponse {
    this.#stream ??= new TranslatedResponse({
      status: 200,
      type: 'text/event-stream',
      sessionId: this.#sessionId,
      onAbort: () => void this.#end(),
    });
    this.#begun.resolve(this.#stream);
    return this.#stream;
  }

  #end(): boolean {
    if (this.#ended) return false;
    this.#ended = true;
    clearTimeout(this.#opening);
    clearTimeout(this.#deadline);
    this.#onEnd();
    return true;
  }
}

/** The messages of a batch, with their very bytes. */
function membersOf(data: string): string[] {
  const bytes = Buffer.from(data);
  const scan = scanJson(bytes);
  const elements = scan.ok ? arrayElements(bytes, scan.root) : undefined;
  if (elements === undefined) throw new AppError('UPSTREAM_PROTOCOL', { internal: 'an event is not JSON' });
  return elements.map(({ start, end }) => bytes.toString('utf8', start, end));
}

function parse(data: string): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(data);
  } catch (cause) {
    throw new AppError('UPSTREAM_PROTOCOL', { internal: 'an event is not JSON', cause });
  }
  if (!isObject(value)) throw new AppError('UPSTREAM_PROTOCOL', { internal: 'an event is no message' });
  return value;
}

/** Ids keep their JSON type: `1` and `"1"` are two. */
function keyOf(id: unknown): string {
  return JSON.stringify(id) ?? '';
}

function progressTokenOf(message: JsonObject): unknown {
  const params = objectMember(message, 'params');
  return params === undefined ? undefined : objectMember(params, '_meta')?.['progressToken'];
}

function postHeaders(headers: readonly string[]): string[] {
  const kept = ['content-type', 'application/json'];
  for (let at = 0; at + 1 < headers.length; at += 2) {
    const name = headers[at] ?? '';
    if (name !== 'content-type' && name !== 'mcp-session-id') kept.push(name, headers[at + 1] ?? '');
  }
  return kept;
}
