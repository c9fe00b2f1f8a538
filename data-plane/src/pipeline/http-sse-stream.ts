import { AppError } from '@sallyport/schema';
import { isObject, stringMember } from '../mcp/envelope.ts';
import { arrayElements } from '../mcp/json-scanner.ts';
import { keepAliveComment, messageEvent, SseParser } from '../mcp/sse.ts';
import type { Authorized, ByteStream, ProxyRequest, ProxyResponse, Received } from './exchange.ts';
import type { OpenStream } from './open-streams.ts';
import { keepAliveIntervalMs } from './sse-relay.ts';

/** Written ahead of a slow client before what comes is held back, in bytes. */
const aheadBytesMax = 64 * 1024;
/** How often one broken answer is taken up again, and after which pause in milliseconds (2025-11-25, Resumability). */
const resumptionsMax = 5;
const resumptionDelayMs = 200;
/** The pause before the session's own stream is asked for again, in milliseconds. */
const listenAgainMs = 5_000;

export interface HttpSseStreamOptions {
  readonly authorized: Authorized;
  readonly handle: (request: ProxyRequest) => Promise<ProxyResponse>;
  readonly onEnd: () => void;
}

/** The message that an answer belongs to; null for the session's own stream and for what has no answer. */
type Carried = { readonly id: unknown; readonly method: string | null } | null;
/** Several messages, each with an answer of its own. */
const batch: Carried = { id: undefined, method: null };

/** One client's event stream, with the session of Streamable HTTP that its messages make. */
export class HttpSseStream implements ByteStream, OpenStream {
  readonly #options: HttpSseStreamOptions;
  readonly #ended = new AbortController();
  readonly #queue: Buffer[] = [];
  #queueBytes = 0;
  #reader: (() => void) | undefined;
  #room = Promise.withResolvers<void>();
  #keepAlive: NodeJS.Timeout | undefined;
  #age: NodeJS.Timeout | undefined;
  #underWay = 0;
  #draining = false;
  #listening = false;
  /** `Mcp-Session-Id` and `MCP-Protocol-Version`, since the answer to `initialize`. */
  #session: string | undefined;
  #protocolRevision: string | undefined;
  /** As decided last; replaced when the configuration changes. */
  authorized: Authorized;

  constructor(options: HttpSseStreamOptions) {
    this.#options = options;
    this.authorized = options.authorized;
  }

  begin(event: Buffer): void {
    // Its client opens another, as that of any stream does; what is under way is answered first.
    this.#age = setTimeout(() => this.endGracefully(), this.authorized.routed.runtime.limits.streamAgeMsMax);
    this.#push(event);
  }

  async next(): Promise<Buffer | undefined> {
    while (!this.#ended.signal.aborted || this.#queue.length > 0) {
      const chunk = this.#queue.shift();
      if (chunk !== undefined) {
        this.#queueBytes -= chunk.length;
        if (this.#queueBytes <= aheadBytesMax / 2) this.#release();
        return chunk;
      }
      this.#keepAlive ??= setTimeout(this.#onQuiet, keepAliveIntervalMs);
      this.#keepAlive.refresh();
      await new Promise<void>((resolve) => {
        this.#reader = resolve;
      });
    }
    return undefined;
  }

  /** The client went away, and its session with it; calls under way go on and are recorded, as for any legacy client. */
  cancel(): Promise<void> {
    this.#queue.length = 0;
    this.#end();
    return Promise.resolve();
  }

  end(_error: AppError): void {
    this.#end();
  }

  /** The session's own stream, which is carried here, is told. */
  listsChanged(): void {}

  endGracefully(): void {
    this.#draining = true;
    if (this.#underWay === 0) this.#end();
  }

  /** Sends a message on its way. Its HTTP answer says only whether it was taken. */
  async post(received: Received): Promise<ProxyResponse> {
    const { request, message, body } = received;
    if (this.#draining && message?.kind === 'request') throw new AppError('SESSION_NOT_FOUND');
    const accepted = Promise.withResolvers<'accepted'>();
    const answered = this.#send(request, {
      method: 'POST',
      readBody: (bytesMax) =>
        body.length > bytesMax ? Promise.reject(new AppError('BODY_TOO_LARGE')) : Promise.resolve(body),
      onForward: () => accepted.resolve('accepted'),
    });
    this.#underWay++;
    const first = await Promise.race([answered, accepted.promise]);
    if (first !== 'accepted' && first.status >= 400) {
      this.#answered();
      return first;
    }
    const carried = received.batch !== null ? batch : message?.kind === 'request' ? message : null;
    void this.#carry(answered, request, carried).finally(() => this.#answered());
    if (message?.method === 'notifications/initialized' && this.#protocolRevision !== undefined)
      void this.#listen(request);
    return { status: 202, headers: ['cache-control', 'no-store'], body: null, follower: null };
  }

  #answered(): void {
    this.#underWay--;
    if (this.#draining && this.#underWay === 0) this.#end();
  }

  /**
   * Brings what came of a message onto the stream. Never rejects: where an answer fails, as one whose end cannot be
   * recorded, the stream ends, so that its client does not wait for ever.
   */
  async #carry(answered: Promise<ProxyResponse>, request: ProxyRequest, message: Carried): Promise<void> {
    const response = await answered;
    try {
      await this.#carryAnswer(response, request, message);
    } catch {
      this.#end();
      response.follower?.ended(false, 0, null);
    }
  }

  async #carryAnswer(response: ProxyResponse, request: ProxyRequest, message: Carried): Promise<void> {
    let bytes = 0;
    const { body, follower } = response;
    const put = async (text: string): Promise<void> => {
      if (message?.method === 'initialize') this.#opened(response, text);
      const event = messageEvent(text);
      bytes += event.length;
      await this.#write(event);
    };
    if (Buffer.isBuffer(body) && message !== null) for (const text of messagesIn(body, message)) await put(text);
    else if (body !== null && !Buffer.isBuffer(body)) await this.#carryStream(body, request, message?.id, put);
    follower?.ended(!this.#ended.signal.aborted, bytes, null);
  }

  async #carryStream(
    body: ByteStream,
    request: ProxyRequest,
    requestId: unknown,
    put: (text: string) => Promise<void>,
  ): Promise<void> {
    const stopped = this.#onEnd(() => void body.cancel());
    let lastEventId: string | null = null;
    let isAnswered = requestId === undefined;
    const parser = new SseParser(Number.POSITIVE_INFINITY);
    for (let chunk = await body.next(); chunk !== undefined; chunk = await body.next()) {
      for (const { data: bytes, id } of parser.push(chunk)) {
        if (id !== null && id !== '') lastEventId = id;
        if (bytes === null || bytes.length === 0) continue;
        const data = bytes.toString('utf8');
        isAnswered ||= answers(data, requestId);
        await put(data);
      }
    }
    stopped();
    if (!isAnswered && lastEventId !== null) await this.#resume(lastEventId, request, requestId, put);
  }

  /** Takes up an answer that its server let go of. */
  async #resume(
    lastEventId: string,
    request: ProxyRequest,
    requestId: unknown,
    put: (text: string) => Promise<void>,
    resumptions = 1,
  ): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, resumptionDelayMs));
    if (this.#ended.signal.aborted || resumptions > resumptionsMax) return;
    const { body, follower } = await this.#send(request, { method: 'GET', lastEventId });
    if (body !== null && !Buffer.isBuffer(body)) await this.#carryStream(body, request, requestId, put);
    follower?.ended(true, 0, null);
  }

  /** The session's own stream, as long as the upstream offers one. */
  async #listen(request: ProxyRequest): Promise<void> {
    if (this.#listening) return;
    this.#listening = true;
    for (let isOffered = true; isOffered && !this.#ended.signal.aborted; ) {
      const response = await this.#send(request, { method: 'GET' });
      isOffered = response.status < 300 && response.body !== null && !Buffer.isBuffer(response.body);
      await this.#carry(Promise.resolve(response), request, null);
      if (isOffered) await this.#pause(listenAgainMs);
    }
  }

  #opened({ headers }: ProxyResponse, text: string): void {
    const at = headers.indexOf('mcp-session-id');
    if (at >= 0) this.#session = headers[at + 1];
    const answer: unknown = JSON.parse(text);
    const result = isObject(answer) ? answer['result'] : undefined;
    if (isObject(result)) this.#protocolRevision = stringMember(result, 'protocolVersion');
  }

  /** A request of Streamable HTTP with the client's own headers, in the session. */
  #send(
    from: ProxyRequest,
    sent: Pick<ProxyRequest, 'method'> & Partial<ProxyRequest> & { readonly lastEventId?: string },
  ): Promise<ProxyResponse> {
    const { lastEventId, ...request } = sent;
    const headers = new Map(from.headers);
    headers.set('accept', 'application/json, text/event-stream');
    for (const [name, value] of [
      ['mcp-session-id', this.#session],
      ['mcp-protocol-version', this.#protocolRevision],
      ['last-event-id', lastEventId],
    ] as const) {
      if (value === undefined) headers.delete(name);
      else headers.set(name, value);
    }
    return this.#options.handle({ ...from, query: '', headers, signal: this.#ended.signal, ...request });
  }

  async #write(event: Buffer): Promise<void> {
    if (this.#ended.signal.aborted) return;
    this.#push(event);
    if (this.#queueBytes > aheadBytesMax) await this.#room.promise;
  }

  #push(event: Buffer): void {
    this.#queue.push(event);
    this.#queueBytes += event.length;
    this.#wake();
  }

  readonly #onQuiet = (): void => {
    if (!this.#ended.signal.aborted) this.#push(keepAliveComment);
  };

  #end(): void {
    if (this.#ended.signal.aborted) return;
    const { exchange, request } = this.authorized.routed.received;
    exchange.outcome ??= 'success';
    clearTimeout(this.#keepAlive);
    clearTimeout(this.#age);
    // Before the signal, so that the upstream hears that its session ended.
    if (this.#session !== undefined) void this.#endSession(request);
    this.#ended.abort();
    this.#options.onEnd();
    this.#release();
    this.#wake();
  }

  async #endSession(request: ProxyRequest): Promise<void> {
    const { follower } = await this.#send(request, { method: 'DELETE', signal: new AbortController().signal });
    follower?.ended(true, 0, null);
  }

  #onEnd(listener: () => void): () => void {
    const { signal } = this.#ended;
    signal.addEventListener('abort', listener, { once: true });
    return () => signal.removeEventListener('abort', listener);
  }

  async #pause(ms: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#onEnd(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  #release(): void {
    this.#room.resolve();
    this.#room = Promise.withResolvers<void>();
  }

  #wake(): void {
    const reader = this.#reader;
    this.#reader = undefined;
    reader?.();
  }
}

/** A body's messages, with their very bytes: on the stream each is an event of its own. */
function messagesIn(body: Buffer, carried: Carried): string[] {
  const members = carried === batch ? arrayElements(body, { start: 0, end: body.length }) : undefined;
  return (members ?? [{ start: 0, end: body.length }]).map(({ start, end }) => body.toString('utf8', start, end));
}

function answers(data: string, requestId: unknown): boolean {
  const message: unknown = JSON.parse(data);
  return isObject(message) && !('method' in message) && message['id'] === requestId;
}
