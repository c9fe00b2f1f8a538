import type { Socket } from 'node:net';
import type { CallController, CallHandler } from '../upstream/connections.ts';
import { BodyDecoder } from './body-decoder.ts';
import {
  endOfHead,
  fieldLines,
  HeadReader,
  MalformedMessage,
  parseResponseHead,
  type ResponseHead,
} from './message-head.ts';

/** Header block of a response, in bytes. */
const headBytesMax = 16 * 1024;
/** Interim answers (1xx) before the one that counts. */
const interimMax = 16;
/** A body up to this size is copied behind its head, so that both leave in one write, in bytes. */
const copiedBytesMax = 32 * 1024;
/** How long an idle connection is kept where the upstream does not say, and at most, in milliseconds. */
const idleMsDefault = 4_000;
const idleMsMax = 600_000;
/** An upstream that says how long it keeps a connection closes it about then: no request is to meet that. */
const idleMsMargin = 1_000;

/** What is sent: of a `DispatchOptions`, what the gateway uses. */
export interface WireRequest {
  readonly method: string;
  readonly path: string;
  /** Name, value, name, value, … */
  readonly headers: readonly string[];
  readonly body: Buffer | null;
}

export interface WireCall {
  readonly request: WireRequest;
  readonly handler: CallHandler;
}

export interface ConnectionOwner {
  /** The connection may serve another call. */
  free(connection: UpstreamConnection): void;
  gone(connection: UpstreamConnection): void;
}

/** One connection to an upstream, with one call at a time on it. Anything that does not fit ends the connection. */
export class UpstreamConnection implements CallController {
  readonly #socket: Socket;
  readonly #host: string;
  readonly #owner: ConnectionOwner;
  readonly #heads = new HeadReader(parseResponseHead);
  #call: WireCall | undefined;
  /** Of the response: received, and no whole head yet. */
  #head: Buffer | undefined;
  #body: BodyDecoder | undefined;
  #keepsAlive = false;
  #interims = 0;
  #idleMs = idleMsDefault;
  aborted = false;
  reason: Error | null = null;
  rawHeaders = null;
  rawTrailers = null;

  constructor(socket: Socket, host: string, owner: ConnectionOwner) {
    this.#socket = socket;
    this.#host = host;
    this.#owner = owner;
    socket.on('data', this.#onData);
    socket.on('end', this.#onEnd);
    socket.on('close', this.#onClose);
    socket.on('error', (error) => (this.reason ??= error));
  }

  get isUsable(): boolean {
    return !this.#socket.destroyed && this.#socket.writable && !this.#socket.readableEnded;
  }

  /** How long the connection may wait for its next call, in milliseconds. */
  get idleMs(): number {
    return this.#idleMs;
  }

  get paused(): boolean {
    return this.#socket.isPaused();
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  abort(reason: Error): void {
    this.aborted = true;
    this.reason = reason;
    this.#call = undefined;
    this.#socket.destroy();
  }

  /** Ends a connection without a call. */
  close(): void {
    this.#socket.destroy();
  }

  /** @returns false where the call was refused before anything was written: the connection is as good as before */
  run(call: WireCall): boolean {
    const { request, handler } = call;
    let head: string;
    try {
      head = this.#requestHead(request);
      handler.onRequestStart?.(this, null);
    } catch (error) {
      handler.onResponseError?.(this, error instanceof Error ? error : new Error(String(error)));
      return false;
    }
    this.#call = call;
    this.#interims = 0;
    this.#send(head, request.body);
    return true;
  }

  #requestHead({ method, path, headers, body }: WireRequest): string {
    if (!/^[\x21-\x7e]+$/.test(path)) throw new TypeError('the path cannot be written');
    const length =
      body === null ? (method === 'POST' ? 'content-length: 0\r\n' : '') : `content-length: ${body.length}\r\n`;
    return `${method} ${path} HTTP/1.1\r\nhost: ${this.#host}\r\nconnection: keep-alive\r\n${fieldLines(headers)}${length}\r\n`;
  }

  #send(head: string, body: Buffer | null): void {
    if (body === null) this.#socket.write(head, 'latin1');
    else if (body.length <= copiedBytesMax) {
      const bytes = Buffer.allocUnsafe(head.length + body.length);
      bytes.write(head, 0, 'latin1');
      body.copy(bytes, head.length);
      this.#socket.write(bytes);
    } else {
      this.#socket.cork();
      this.#socket.write(head, 'latin1');
      this.#socket.write(body);
      this.#socket.uncork();
    }
  }

  readonly #onData = (chunk: Buffer): void => {
    // Nobody asked: what it says could be taken for the answer to the next call.
    if (this.#call === undefined) return void this.#socket.destroy();
    try {
      this.#read(chunk);
    } catch (error) {
      this.#fail(error instanceof Error ? error : new Error(String(error)));
    }
  };

  #read(chunk: Buffer): void {
    let bytes = chunk;
    let at = 0;
    while (this.#body === undefined) {
      if (this.#head !== undefined) bytes = Buffer.concat([this.#head, chunk]);
      const end = endOfHead(bytes, at);
      if ((end < 0 ? bytes.length : end) - at > headBytesMax) throw new MalformedMessage('a header block too large');
      this.#head = end < 0 ? bytes.subarray(at) : undefined;
      if (end < 0) return;
      this.#headCame(this.#heads.read(bytes, at, end));
      at = end;
      if (this.#call === undefined) return;
      if (this.#body === undefined && at === bytes.length) return;
    }
    const body = this.#body;
    if (!body.done) at = body.push(bytes, at, this.#onPart);
    if (body.done && this.#call !== undefined) this.#end(at < bytes.length);
  }

  readonly #onPart = (part: Buffer): void => {
    this.#call?.handler.onResponseData?.(this, part);
  };

  #headCame({ status, headers, framing, keepsAlive }: ResponseHead): void {
    if (status < 200) {
      if (status < 102 || ++this.#interims > interimMax)
        throw new MalformedMessage('an interim answer nobody asked for');
      return;
    }
    this.#body = new BodyDecoder(framing);
    this.#keepsAlive = keepsAlive;
    const hint = headers['keep-alive'];
    if (hint !== undefined) this.#idleMs = idleMsOf(String(hint));
    this.#call?.handler.onResponseStart?.(this, status, headers, '');
  }

  #end(hasMore: boolean): void {
    const call = this.#call;
    this.#call = undefined;
    this.#body = undefined;
    if (this.#socket.isPaused()) this.#socket.resume();
    // A body that was not taken whole before the answer might be taken for the next request.
    const isUsable = this.#keepsAlive && !hasMore && this.#socket.writableLength === 0 && this.isUsable;
    if (!isUsable) this.#socket.destroy();
    call?.handler.onResponseEnd?.(this, {});
    if (isUsable) this.#owner.free(this);
  }

  #fail(error: Error): void {
    const call = this.#call;
    this.#call = undefined;
    this.#socket.destroy();
    call?.handler.onResponseError?.(this, error);
  }

  readonly #onEnd = (): void => {
    if (this.#call !== undefined && this.#body?.endsWithConnection === true) this.#end(false);
    else this.#socket.destroy();
  };

  readonly #onClose = (): void => {
    if (this.#call !== undefined) this.#fail(this.reason ?? new Error('the upstream closed the connection'));
    this.#owner.gone(this);
  };
}

/** `Keep-Alive: timeout=5`, in milliseconds that may be used of it. */
function idleMsOf(hint: string): number {
  const seconds = /(?:^|[,\s])timeout=(\d{1,6})/i.exec(hint)?.[1];
  return seconds === undefined
    ? idleMsDefault
    : Math.min(idleMsMax, Math.max(0, Number(seconds) * 1000 - idleMsMargin));
}
