import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { Clock } from '@sallyport/schema/platform';
import type { ByteStream, ProxyResponse } from '../pipeline/exchange.ts';
import type { ListenerOptions } from '../server.ts';
import { fieldLines } from './message-head.ts';

/** A body up to this size is copied behind its head, so that both leave in one write, in bytes. */
const copiedBytesMax = 32 * 1024;
const lastChunk = Buffer.from('0\r\n\r\n');
const noBytes = Buffer.alloc(0);

/** What of a request its answer depends on. */
export interface Answered {
  readonly method: string;
  readonly isOld: boolean;
}

/** Writes the responses of one connection, one after the other, and tells each one's follower how it ended. */
export class ResponseWriter {
  readonly #socket: Socket;
  readonly #clock: Clock;
  readonly #keepAlive: string;
  #onClosed: (() => void) | undefined;
  #onDrained: (() => void) | undefined;
  /** Whether all of the answer under way was handed to the socket; set back by whoever begins another exchange. */
  isWritten = true;

  constructor(socket: Socket, { clock, limits }: ListenerOptions) {
    this.#socket = socket;
    this.#clock = clock;
    this.#keepAlive = `connection: keep-alive\r\nkeep-alive: timeout=${Math.floor(limits.connectionIdleTimeoutMs / 1000)}\r\n`;
    socket.on('drain', () => this.#wake());
  }

  /** To be called when the connection is gone. */
  closed(): void {
    this.#onClosed?.();
    this.#wake();
  }

  /**
   * Resolves when the system has all of it, or the connection is gone.
   * @param isLast asked when the head is written
   */
  write(response: ProxyResponse, answered: Answered, isLast: () => boolean): Promise<void> {
    const { body } = response;
    return body === null || Buffer.isBuffer(body)
      ? this.#writeWhole(response, body, answered, isLast)
      : this.#writeStream(response, body, answered, isLast);
  }

  /** With one promise for all of it: the way of nearly every answer. */
  #writeWhole(response: ProxyResponse, body: Buffer | null, answered: Answered, isLast: () => boolean): Promise<void> {
    const { follower, status } = response;
    if (this.#socket.destroyed) {
      follower?.ended(false, 0, null);
      return Promise.resolve();
    }
    const bytes = body?.length ?? 0;
    const firstByteAt = this.#clock.monotonic();
    return new Promise((resolve) => {
      try {
        const head = this.#head(response, status === 204 ? '' : `content-length: ${bytes}\r\n`, isLast());
        this.#send(head, answered.method === 'HEAD' ? null : body, (isComplete) => {
          follower?.ended(isComplete, bytes, firstByteAt);
          resolve();
        });
      } catch (error) {
        follower?.ended(false, bytes, firstByteAt);
        throw error;
      }
    });
  }

  async #writeStream(
    response: ProxyResponse,
    body: ByteStream,
    answered: Answered,
    isLast: () => boolean,
  ): Promise<void> {
    const { follower } = response;
    const written = { bytes: 0, firstByteAt: null as number | null };
    let isComplete = false;
    let unread: ByteStream | null = body;
    try {
      if (this.#socket.destroyed) return;
      written.firstByteAt = this.#clock.monotonic();
      const isChunked = !answered.isOld;
      const framing = isChunked ? 'transfer-encoding: chunked\r\n' : '';
      this.#socket.write(this.#head(response, framing, isLast() || answered.isOld), 'latin1');
      unread = null;
      isComplete = await this.#stream(body, isChunked, written);
    } finally {
      this.isWritten = true;
      await unread?.cancel();
      follower?.ended(isComplete, written.bytes, written.firstByteAt);
    }
  }

  #head({ status, headers }: ProxyResponse, framing: string, isLast: boolean): string {
    const connection = isLast ? 'connection: close\r\n' : this.#keepAlive;
    const line = `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\n`;
    return `${line}${fieldLines(headers)}${framing}date: ${dateAt(this.#clock.now())}\r\n${connection}\r\n`;
  }

  /** @param done is told whether the system took it all */
  #send(head: string, body: Buffer | null, done: (isComplete: boolean) => void): void {
    const onWritten = (error?: Error | null): void => done(error === undefined || error === null);
    if (body === null || body.length === 0) this.#socket.write(head, 'latin1', onWritten);
    else if (body.length <= copiedBytesMax) {
      const bytes = Buffer.allocUnsafe(head.length + body.length);
      bytes.write(head, 0, 'latin1');
      bytes.set(body, head.length);
      this.#socket.write(bytes, onWritten);
    } else {
      this.#socket.cork();
      this.#socket.write(head, 'latin1');
      this.#socket.write(body, onWritten);
      this.#socket.uncork();
    }
    this.isWritten = true;
  }

  /**
   * Writes until the stream or the client ends; reads on only when the client took what was written. Where the client
   * goes first, resolves when the source is done too.
   */
  async #stream(body: ByteStream, isChunked: boolean, written: { bytes: number }): Promise<boolean> {
    let sourceDone: Promise<void> | undefined;
    this.#onClosed = () => {
      sourceDone = body.cancel();
    };
    let isComplete = false;
    try {
      while (!this.#socket.destroyed) {
        const chunk = await body.next();
        if (chunk === undefined || this.#socket.destroyed) break;
        written.bytes += chunk.length;
        if (chunk.length > 0 && !this.#writeChunk(chunk, isChunked)) await this.#drained();
      }
      if (!this.#socket.destroyed) isComplete = await this.#sendLast(isChunked ? lastChunk : noBytes);
    } finally {
      this.#onClosed = undefined;
      // Also where the loop saw that the client is gone before its connection has said so.
      if (!isComplete) sourceDone ??= body.cancel();
      await sourceDone;
    }
    return isComplete;
  }

  /** @returns whether the system took it all */
  #sendLast(bytes: Buffer): Promise<boolean> {
    return new Promise((resolve) => {
      this.#socket.write(bytes, (error) => resolve(error === undefined || error === null));
      this.isWritten = true;
    });
  }

  #writeChunk(chunk: Buffer, isChunked: boolean): boolean {
    if (!isChunked) return this.#socket.write(chunk);
    const size = `${chunk.length.toString(16)}\r\n`;
    if (chunk.length <= copiedBytesMax) {
      const bytes = Buffer.allocUnsafe(size.length + chunk.length + 2);
      bytes.write(size, 0, 'latin1');
      chunk.copy(bytes, size.length);
      bytes.write('\r\n', size.length + chunk.length, 'latin1');
      return this.#socket.write(bytes);
    }
    this.#socket.cork();
    this.#socket.write(size, 'latin1');
    this.#socket.write(chunk);
    const goesOn = this.#socket.write('\r\n', 'latin1');
    this.#socket.uncork();
    return goesOn;
  }

  /** Resolves when the client took what was written, or is gone. */
  #drained(): Promise<void> {
    return new Promise((resolve) => {
      this.#onDrained = resolve;
      if (this.#socket.destroyed || !this.#socket.writableNeedDrain) this.#wake();
    });
  }

  #wake(): void {
    this.#onDrained?.();
    this.#onDrained = undefined;
  }
}

let dateSecond = 0;
let date = '';

/** RFC 9110 §5.6.7, made once a second. */
function dateAt(nowMs: number): string {
  const second = Math.floor(nowMs / 1000);
  if (second !== dateSecond) {
    dateSecond = second;
    date = new Date(second * 1000).toUTCString();
  }
  return date;
}
