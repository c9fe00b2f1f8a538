import type { Socket } from 'node:net';
import { AppError } from '@sallyport/schema';
import { clientAddress } from '@sallyport/schema/platform';
import type { ProxyRequest } from '../pipeline/exchange.ts';
import { GatheredBytes } from '../mcp/gathered-bytes.ts';
import type { ListenerOptions } from '../server.ts';
import { BodyDecoder } from './body-decoder.ts';
import { endOfHead, HeadReader, MalformedMessage, parseRequestHead, type RequestHead } from './message-head.ts';
import { RequestAbort } from './request-abort.ts';
import { ResponseWriter } from './response-writer.ts';
import type { TurnEnd } from './turn-end.ts';

/** What a client may send ahead while its request is answered, in bytes; then its connection is read no further. */
const aheadBytesMax = 16 * 1024;
/** Empty lines that a client may send before a request (RFC 9112 §2.2), in bytes. */
const emptyLinesBytesMax = 4;
/** How long what a client still sends is read and dropped after the last answer, so that the client gets to read it. */
const lingerMs = 2_000;
/** An idle connection is kept for longer than was announced, so that no request meets its end, as in node:http. */
const idleMarginMs = 1_000;

/** What the connections of a listener share. */
export interface ListenerState {
  readonly options: ListenerOptions;
  readonly turnEnd: TurnEnd;
  /** Bytes of request bodies held now, of all connections. */
  bodyBytes: number;
  readonly isDraining: boolean;
  /** How long a client may take nothing of what was written to it, in milliseconds. */
  readonly untakenMsMax: number;
  exchangeBegan(): void;
  exchangeEnded(): void;
}

interface BodyReader {
  readonly bytesMax: number;
  readonly gathered: GatheredBytes;
  readonly timer: NodeJS.Timeout;
  readonly resolve: (body: Buffer) => void;
  readonly reject: (error: AppError) => void;
}

/**
 * One connection of a client: requests in their order, each answered before the next is looked at. Reads no more than it
 * can hold: a body nobody asked for, and requests sent ahead, wait in the kernel.
 */
export class ClientConnection {
  readonly #socket: Socket;
  readonly #state: ListenerState;
  readonly #writer: ResponseWriter;
  readonly #remoteAddress: string | undefined;
  readonly #heads = new HeadReader(parseRequestHead);
  /** Received and not looked at yet. */
  #ahead: Buffer | undefined;
  /** Of the request under way. */
  #body: BodyDecoder | undefined;
  #abort: RequestAbort | undefined;
  #reader: BodyReader | undefined;
  /** The rest of the body is of no use to anybody. */
  #discards = false;
  /** The client asked whether to send its body, and was not told yet: what comes next may be it, or another request. */
  #mayKeepBody = false;
  #isAnswered = false;
  /** Nothing that comes is looked at any more. */
  #isEnding = false;
  /** The requests cannot be told apart any more, so the answer under way is the last. */
  #isBroken = false;
  #awaits: 'head' | 'next' | 'nothing' | 'end' = 'head';
  #deadline: number;

  constructor(socket: Socket, state: ListenerState) {
    this.#socket = socket;
    this.#state = state;
    this.#remoteAddress = socket.remoteAddress;
    this.#writer = new ResponseWriter(socket, state.options, state.turnEnd);
    this.#deadline = this.#after(state.options.limits.requestHeadersTimeoutMs);
    socket.on('data', this.#onData);
    socket.on('end', this.#onEnd);
    socket.on('timeout', this.#onTimeout);
    socket.on('close', this.#onClose);
    // A reset is seen by 'close'; without a listener it would end the process.
    socket.on('error', () => undefined);
  }

  get isIdle(): boolean {
    return this.#abort === undefined && this.#ahead === undefined;
  }

  destroy(): void {
    // At once: the requests sent ahead are nobody's now.
    this.#isEnding = true;
    this.#ahead = undefined;
    this.#socket.destroy();
  }

  /** To be called now and then with the monotonic time. */
  check(now: number): void {
    const untakenMsMax = this.#socket.writableLength > 0 ? this.#state.untakenMsMax : 0;
    if ((this.#socket.timeout ?? 0) !== untakenMsMax) this.#socket.setTimeout(untakenMsMax);
    if (now < this.#deadline) return;
    if (this.#awaits === 'head' && this.#abort === undefined && !this.#isEnding) this.#refuse('REQUEST_TIMEOUT');
    else this.destroy();
  }

  #after(ms: number): number {
    return this.#state.options.clock.monotonic() + ms;
  }

  #await(what: 'head' | 'next' | 'nothing' | 'end', ms = Infinity): void {
    this.#awaits = what;
    this.#deadline = ms === Infinity ? Infinity : this.#after(ms);
  }

  readonly #onData = (chunk: Buffer): void => {
    if (this.#isEnding) return;
    this.#ahead = this.#ahead === undefined ? chunk : Buffer.concat([this.#ahead, chunk]);
    try {
      if (this.#abort === undefined) this.#readRequests();
      else this.#readBodyBytes();
    } catch (error) {
      // A fault of ours must not end the process, and with it the connections of everybody else.
      this.#state.options.log.error({ err: error }, 'a connection failed');
      this.destroy();
    }
  };

  /**
   * A client that will send nothing more takes its request back (as node:http has it), and those it sent ahead: their
   * answers could not be sent any more.
   */
  readonly #onEnd = (): void => {
    // The last answer is under way.
    if (this.#isEnding && this.#abort === undefined) return;
    this.#isEnding = true;
    this.#ahead = undefined;
    if (this.#abort === undefined || this.#writer.isWritten) {
      this.#writer.flush();
      this.#socket.end();
    } else this.destroy();
  };

  /** A client that takes nothing of its answer would hold it, and its place, for ever. */
  readonly #onTimeout = (): void => {
    if (this.#socket.writableLength > 0) this.destroy();
  };

  readonly #onClose = (): void => {
    this.#isEnding = true;
    this.#await('nothing');
    this.#ahead = undefined;
    this.#failBody(new AppError('INVALID_REQUEST', { internal: 'the body broke off' }));
    this.#writer.closed();
    if (!this.#isAnswered) this.#abort?.abort();
  };

  #readRequests(): void {
    while (this.#ahead !== undefined && this.#abort === undefined && !this.#isEnding) {
      if (this.#awaits === 'next') this.#await('head', this.#state.options.limits.requestHeadersTimeoutMs);
      const head = this.#takeHead();
      if (head === undefined) return;
      void this.#serve(head);
    }
  }

  #takeHead(): RequestHead | undefined {
    const bytes = this.#ahead;
    if (bytes === undefined) return undefined;
    let from = 0;
    while (from < emptyLinesBytesMax && bytes[from] === 0x0d && bytes[from + 1] === 0x0a) from += 2;
    const end = endOfHead(bytes, from);
    const { requestHeaderBytesMax } = this.#state.options.limits;
    if ((end < 0 ? bytes.length : end) - from > requestHeaderBytesMax) {
      this.#refuse('HEADERS_TOO_LARGE');
      return undefined;
    }
    if (end < 0) return undefined;
    try {
      const head = this.#heads.read(bytes, from, end);
      this.#ahead = end === bytes.length ? undefined : bytes.subarray(end);
      return head;
    } catch (error) {
      if (!(error instanceof MalformedMessage)) throw error;
      this.#refuse('INVALID_REQUEST', error.message);
      return undefined;
    }
  }

  async #serve(head: RequestHead): Promise<void> {
    const { options } = this.#state;
    this.#await('nothing');
    this.#abort = new RequestAbort();
    this.#body = new BodyDecoder(head.framing);
    this.#discards = false;
    this.#mayKeepBody = head.framing !== 0 && asksToContinue(head);
    this.#isAnswered = false;
    this.#writer.isWritten = false;
    this.#state.exchangeBegan();
    try {
      const response = await options.handle(this.#request(head, this.#abort));
      this.#beforeAnswer();
      const isLast = (): boolean =>
        !head.keepsAlive || this.#isBroken || this.#state.isDraining || response.status === 408;
      await this.#writer.write(response, head, isLast);
      this.#isAnswered = true;
      if (isLast()) this.#end();
    } catch (error) {
      options.log.error({ err: error }, 'a response could not be written');
      this.destroy();
    } finally {
      this.#state.exchangeEnded();
    }
    this.#next();
  }

  #beforeAnswer(): void {
    // Before it is written, so that a client that writes first and reads then gets to read.
    if (this.#body?.done === false && this.#reader === undefined) this.#discardBody();
    if (this.#mayKeepBody) this.#isBroken = true;
  }

  /** On to the next request, as soon as the rest of the body of this one was read. */
  #next(): void {
    if (this.#isEnding || this.#body?.done === false) return;
    this.#abort = undefined;
    this.#body = undefined;
    if (this.#state.isDraining) return this.#end();
    this.#await('next', this.#state.options.limits.connectionIdleTimeoutMs + idleMarginMs);
    this.#socket.resume();
    this.#readRequests();
  }

  #request(head: RequestHead, signal: RequestAbort): ProxyRequest {
    const { target } = head;
    const query = target.indexOf('?');
    const { trustedProxies } = this.#state.options;
    return {
      method: head.method,
      path: query < 0 ? target : target.slice(0, query),
      query: query < 0 ? '' : target.slice(query + 1),
      headers: head.headers,
      repeatedHeaders: head.repeated,
      remoteAddress: clientAddress(this.#remoteAddress, head.headers.get('x-forwarded-for'), trustedProxies),
      signal,
      readBody: (bytesMax, timeoutMs) => this.#readBody(head, bytesMax, timeoutMs),
    };
  }

  #readBody(head: RequestHead, bytesMax: number, timeoutMs: number): Buffer | Promise<Buffer> {
    if (head.framing > bytesMax) {
      this.#discardBody();
      return Promise.reject(new AppError('BODY_TOO_LARGE'));
    }
    const ahead = this.#ahead;
    const isAsked = this.#mayKeepBody && ahead === undefined;
    this.#mayKeepBody = false;
    // All there, as with nearly every message: no timer, no copy and no wait.
    if (head.framing >= 0 && (ahead?.length ?? 0) >= head.framing) return this.#wholeBody();
    if (isAsked) this.#socket.write('HTTP/1.1 100 Continue\r\n\r\n');
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.#failBody(new AppError('REQUEST_TIMEOUT')), timeoutMs);
      this.#reader = { bytesMax, gathered: new GatheredBytes(), timer, resolve, reject };
      this.#readBodyBytes();
    });
  }

  #wholeBody(): Buffer {
    let body: Buffer = Buffer.alloc(0);
    const bytes = this.#ahead;
    if (bytes === undefined) return body;
    const end = this.#body?.push(bytes, 0, (part) => (body = part)) ?? 0;
    this.#ahead = end === bytes.length ? undefined : bytes.subarray(end);
    return body;
  }

  /** Looks at what came of the body of the request under way, and holds back what comes after it. */
  #readBodyBytes(): void {
    const body = this.#body;
    const bytes = this.#ahead;
    if (body === undefined || (bytes === undefined && !body.done)) return;
    if (body.done || (this.#reader === undefined && !this.#discards)) {
      if ((bytes?.length ?? 0) > aheadBytesMax) this.#socket.pause();
      return;
    }
    this.#socket.resume();
    try {
      const end = bytes === undefined ? 0 : body.push(bytes, 0, this.#takePart);
      this.#ahead = bytes === undefined || end === bytes.length ? undefined : bytes.subarray(end);
    } catch (error) {
      if (!(error instanceof MalformedMessage)) throw error;
      this.#isBroken = true;
      this.#isEnding = true;
      this.#failBody(new AppError('INVALID_REQUEST', { internal: error.message }));
      if (this.#isAnswered) this.#end();
      return;
    }
    if (body.done) this.#bodyEnded();
  }

  #bodyEnded(): void {
    const reader = this.#reader;
    if (reader !== undefined) {
      this.#closeReader(reader);
      reader.resolve(reader.gathered.whole());
    } else if (this.#isAnswered) this.#next();
    else this.#await('nothing');
  }

  readonly #takePart = (part: Buffer): void => {
    const reader = this.#reader;
    if (reader === undefined) return;
    const { bytesMax, gathered } = reader;
    if (gathered.length + part.length > bytesMax) this.#failBody(new AppError('BODY_TOO_LARGE'));
    else if (this.#state.bodyBytes + part.length > this.#state.options.limits.requestBodiesBytesMax) {
      this.#failBody(new AppError('OVERLOADED'));
    } else {
      gathered.push(part);
      this.#state.bodyBytes += part.length;
    }
  };

  #failBody(error: AppError): void {
    const reader = this.#reader;
    if (reader === undefined) return;
    this.#closeReader(reader);
    this.#discardBody();
    reader.reject(error);
  }

  #closeReader(reader: BodyReader): void {
    clearTimeout(reader.timer);
    this.#state.bodyBytes -= reader.gathered.length;
    this.#reader = undefined;
  }

  /** The rest is read and dropped, within the time that a body has, so that the client gets to read its answer. */
  #discardBody(): void {
    if (this.#discards || this.#isEnding) return;
    this.#discards = true;
    this.#await('end', this.#state.options.limits.requestBodyTimeoutMs);
    // Not from within the decoder, which is at work where a part was too much.
    queueMicrotask(() => this.#readBodyBytes());
  }

  /** Answers bytes that are no request: the last answer of the connection. */
  #refuse(code: 'INVALID_REQUEST' | 'HEADERS_TOO_LARGE' | 'REQUEST_TIMEOUT', reason = ''): void {
    const { options } = this.#state;
    this.#isEnding = true;
    this.#ahead = undefined;
    const address = clientAddress(this.#remoteAddress, undefined, options.trustedProxies);
    options.log.debug({ code, reason, address }, 'unreadable request refused');
    if (code === 'REQUEST_TIMEOUT') {
      // One that only did not come in time is no request yet: a log line.
      this.#socket.write('HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n');
      this.#end();
      return;
    }
    const publicMessage = code === 'INVALID_REQUEST' ? 'The request is not valid HTTP.' : undefined;
    const refusal = new AppError(code, publicMessage === undefined ? {} : { publicMessage });
    this.#await('end', lingerMs);
    options
      .refuse(refusal, address)
      .then((response) => this.#writer.write(response, { method: '', isOld: false }, () => true))
      .catch((error: unknown) => options.log.error({ err: error }, 'a refusal could not be written'))
      .finally(() => this.#end());
  }

  #end(): void {
    this.#isEnding = true;
    this.#ahead = undefined;
    this.#socket.end();
    // Bytes left unread would make the kernel reset the connection, and the client lose the answer.
    this.#socket.resume();
    this.#await('end', lingerMs);
  }
}

/** RFC 9110 §10.1.1. */
function asksToContinue(head: RequestHead): boolean {
  return !head.isOld && head.headers.get('expect')?.toLowerCase() === '100-continue';
}
