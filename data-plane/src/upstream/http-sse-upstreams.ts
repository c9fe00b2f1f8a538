/**
 * Upstreams that speak HTTP+SSE (2024-11-05 basic/transports), in the form of Streamable HTTP: what is above knows one
 * transport. A session is one event stream that this node holds; its id names the node, so that others can find it.
 */
import { AppError, type LimitsDocument } from '@sallyport/schema';
import { randomSecret } from '@sallyport/schema/platform';
import { FairShares } from '../bridge/fair-shares.ts';
import { isObject, type JsonObject } from '../mcp/envelope.ts';
import { isEventStream } from '../mcp/headers.ts';
import { SseParser, type SseEvent } from '../mcp/sse.ts';
import type { Cancellation, Connections, UpstreamRequest, UpstreamResponse } from './connections.ts';
import { HttpSseSession } from './http-sse-session.ts';
import { TranslatedResponse } from './translated-response.ts';

/** Sessions held at once on this node; each is a connection. */
const sessionsMax = 4_000;
/** Of one principal; beyond, those it does not use make room. */
export const sessionsPerPrincipalMax = 256;
/** A session that nobody used for this long is closed, in milliseconds. */
const idleMsMax = 30 * 60_000;
const sweepIntervalMs = 60_000;
const ownerSeparator = '~';

export interface HttpSseUpstreamsOptions {
  readonly connections: Pick<Connections, 'send'>;
  readonly nodeId: string;
  readonly limits: () => LimitsDocument | undefined;
  readonly clock: { monotonic(): number };
}

/** The node that holds a session, by its id; undefined where it is none of this kind. */
export function ownerOfSession(upstreamSessionId: string): string | undefined {
  const at = upstreamSessionId.indexOf(ownerSeparator);
  return at > 0 ? upstreamSessionId.slice(0, at) : undefined;
}

export class HttpSseUpstreams {
  readonly #options: HttpSseUpstreamsOptions;
  readonly #sessions = new FairShares<HttpSseSession>();
  readonly #timer: NodeJS.Timeout;
  #opening = 0;

  constructor(options: HttpSseUpstreamsOptions) {
    this.#options = options;
    this.#timer = setInterval(() => this.#sweep(), sweepIntervalMs);
    this.#timer.unref();
  }

  get size(): number {
    return this.#sessions.size;
  }

  /**
   * Sends a request of Streamable HTTP. `initialize` opens a session; anything else needs one.
   * @throws AppError UPSTREAM_…, RATE_LIMITED where the principal has too many sessions in use, OVERLOADED
   */
  async send(request: UpstreamRequest, cancelled: Cancellation | null): Promise<UpstreamResponse> {
    const sessionId = headerOf(request.headers, 'mcp-session-id');
    const message = messageOf(request.body);
    if (sessionId === undefined) {
      return message?.['method'] === 'initialize' ? await this.#open(request, message) : refusal(400, 'no session');
    }
    const session = this.#sessions.get(sessionId);
    if (session === undefined) return refusal(404, 'no such session');
    session.usedAt = this.#options.clock.monotonic();
    switch (request.method) {
      case 'POST':
        return message === undefined ? refusal(400, 'no message') : await session.post(request, message, cancelled);
      case 'GET':
        return session.listen(cancelled);
      case 'DELETE':
        session.close(new AppError('SESSION_NOT_FOUND', { internal: 'the client ended it' }));
        return TranslatedResponse.bare(200);
      default:
        return request.method satisfies never;
    }
  }

  close(): void {
    clearInterval(this.#timer);
    for (const session of [...this.#sessions.values()])
      session.close(new AppError('NOT_READY', { internal: 'the node stops' }));
  }

  async #open(request: UpstreamRequest, initialize: JsonObject): Promise<UpstreamResponse> {
    const limits = this.#options.limits();
    if (limits === undefined) throw new AppError('NOT_READY');
    const { principalId } = request;
    this.#makeRoom(principalId);
    this.#opening++;
    try {
      const stream = await openStream(this.#options.connections, request, limits);
      if ('refused' in stream) return stream.refused;
      const id = `${this.#options.nodeId}${ownerSeparator}${randomSecret('sse_')}`;
      const session = new HttpSseSession({
        ...stream,
        id,
        opener: request,
        connections: this.#options.connections,
        onClose: () => this.#sessions.delete(id),
      });
      session.usedAt = this.#options.clock.monotonic();
      this.#sessions.set(principalId, id, session);
      return await session.initialize(request, initialize);
    } finally {
      this.#opening--;
    }
  }

  /** Who has too many gives one up that is not in use; where the node has too many, who has most. */
  #makeRoom(principalId: string): void {
    const isOver = this.#sessions.countOf(principalId) >= sessionsPerPrincipalMax;
    if (isOver && !this.#closeUnused(principalId)) throw new AppError('RATE_LIMITED');
    if (this.#sessions.size + this.#opening < sessionsMax) return;
    const most = this.#sessions.largest();
    if (most === undefined || !this.#closeUnused(most)) throw new AppError('OVERLOADED');
  }

  #closeUnused(principalId: string): boolean {
    for (const [, session] of this.#sessions.heldBy(principalId)) {
      if (!session.isIdle) continue;
      session.close(new AppError('SESSION_NOT_FOUND', { internal: 'made room for another' }));
      return true;
    }
    return false;
  }

  #sweep(): void {
    const before = this.#options.clock.monotonic() - idleMsMax;
    for (const session of [...this.#sessions.values()]) {
      if (session.usedAt < before && session.isIdle) {
        session.close(new AppError('SESSION_NOT_FOUND', { internal: 'nobody used it' }));
      }
    }
  }
}

function headerOf(headers: readonly string[], name: string): string | undefined {
  for (let at = 0; at + 1 < headers.length; at += 2) if (headers[at] === name) return headers[at + 1];
  return undefined;
}

function messageOf(body: Buffer | null): JsonObject | undefined {
  const value: unknown = body === null ? undefined : JSON.parse(body.toString('utf8'));
  return isObject(value) ? value : undefined;
}

function refusal(status: number, message: string): UpstreamResponse {
  return TranslatedResponse.json(status, { jsonrpc: '2.0', id: null, error: { code: -32000, message } });
}

export interface OpenedStream {
  readonly response: UpstreamResponse;
  readonly parser: SseParser;
  /** Events that came with the first one. */
  readonly events: readonly SseEvent[];
  /** Where messages are posted to; of the stream's own origin. */
  readonly endpoint: URL;
}

/** Opens the event stream and waits for its first event, which names the endpoint. */
async function openStream(
  connections: Pick<Connections, 'send'>,
  request: UpstreamRequest,
  limits: LimitsDocument,
): Promise<OpenedStream | { readonly refused: UpstreamResponse }> {
  const response = await connections.send(
    {
      ...request,
      method: 'GET',
      headers: streamHeaders(request.headers),
      body: null,
      totalTimeoutMs: limits.streamAgeMsMax,
    },
    null,
  );
  // Denials and redirects mean to the caller what they always do.
  if (response.status === 401 || response.status === 403 || (response.status >= 300 && response.status < 400))
    return { refused: response };
  const fail = (internal: string, code: 'UPSTREAM_PROTOCOL' | 'UPSTREAM_TIMEOUT' = 'UPSTREAM_PROTOCOL'): AppError => {
    const error = new AppError(code, { internal });
    response.abort(error);
    return error;
  };
  if (response.status !== 200 || !isEventStream(response.header('content-type'))) {
    throw fail(`status ${response.status} and no event stream`);
  }
  const parser = new SseParser(limits.sseEventBytesMax);
  const timer = setTimeout(
    () => fail('the endpoint did not come in time', 'UPSTREAM_TIMEOUT'),
    request.firstByteTimeoutMs,
  );
  try {
    for (let chunk = await response.next(); chunk !== undefined; chunk = await response.next()) {
      const [first, ...events] = parser.push(chunk).filter(({ data }) => data !== null);
      if (first === undefined) continue;
      if (first.event !== 'endpoint' || first.data === null) throw fail('the first event is no endpoint');
      return { response, parser, events, endpoint: endpointOf(first.data.toString('utf8'), request.url, fail) };
    }
    throw fail('the stream ended before its endpoint came');
  } finally {
    clearTimeout(timer);
  }
}

/** The address messages go to: an upstream that names another origin would have us send its clients' calls there. */
function endpointOf(text: string, url: URL, fail: (internal: string) => AppError): URL {
  const endpoint = URL.parse(text, url.href);
  if (endpoint === null) throw fail('the endpoint is no URL');
  if (endpoint.origin !== url.origin || endpoint.username !== '' || endpoint.password !== '') {
    throw fail('the endpoint is of another origin');
  }
  return endpoint;
}

/** Of the exchange that opens it: trace context. */
function streamHeaders(headers: readonly string[]): string[] {
  const kept = ['accept', 'text/event-stream'];
  for (let at = 0; at + 1 < headers.length; at += 2) {
    const name = headers[at] ?? '';
    if (name !== 'accept' && name !== 'content-type' && !name.startsWith('mcp-'))
      kept.push(name, headers[at + 1] ?? '');
  }
  return kept;
}
