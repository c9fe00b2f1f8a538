import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { Clock } from '@sallyport/schema/platform';
import type { ByteStream, ProxyResponse } from '../pipeline/exchange.ts';
import type { ListenerOptions } from '../server.ts';
import { fieldLines } from './message-head.ts';
import type { TurnEnd, TurnWriter } from './turn-end.ts';

/** A body up to this size is copied behind its head, so that both leave in one write, in bytes. */
const copiedBytesMax = 32 * 1024;
const lastChunk = '0\r\n\r\n';

/** What of a request its answer depends on. */
export interface Answered {
  readonly method: string;
  readonly isOld: boolean;
}

/** Writes the responses of one connection, one after the other, and tells each one's follower how it ended. */
export class ResponseWriter implements TurnWriter {
  readonly #socket: Socket;
  readonly #turnEnd: TurnEnd;
  readonly #clock: Clock;
  readonly #keepAlive: string;
  #onClosed: (() => void) | undefined;
  #onDrained: (() => void) | undefined;
  /** The last or only pieces of an answer, until the end of this turn. */
  #held: { readonly pieces: readonly Buffer[]; readonly done: (error?: Error | null) => void } | undefined;
  /** Whether all of the answer under way was handed over to be written; set back by whoever begins another exchange. */
  isWritten = true;

  constructor(socket: Socket, { clock, limits }: ListenerOptions, turnEnd: TurnEnd) {
    this.#socket = socket;
    this.#turnEnd = turnEnd;
    this.#clock = clock;
    this.#keepAlive = `connection: keep-alive\r\nkeep-alive: timeout=${Math.floor(limits.connectionIdleTimeoutMs / 1000)}\r\n`;
    socket.on('drain', () => this.#wake());
  }

  /** Writes what waits for the end of the turn; to be called before the connection is ended. */
  flush(): void {
    const held = this.#held;
    if (held === undefined) return;
    this.#held = undefined;
    this.#writeAll(held.pieces, held.done);
  }

  /** To be called when the connection is gone. */
  closed(): void {
    this.flush();
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
      const head = this.#head(response, framing, isLast() || answered.isOld);
      unread = null;
      isComplete = await this.#stream(body, new StreamParts(head, isChunked), written);
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
    if (body === null || body.length > copiedBytesMax) {
      const bytes = Buffer.from(head, 'latin1');
      this.#hold(body === null ? [bytes] : [bytes, body], done);
      return;
    }
    const bytes = Buffer.allocUnsafe(head.length + body.length);
    bytes.write(head, 0, 'latin1');
    bytes.set(body, head.length);
    this.#hold([bytes], done);
  }

  /** What nothing of the answer comes after. */
  #hold(pieces: readonly Buffer[], done: (isComplete: boolean) => void): void {
    this.#held = { pieces, done: (error) => done(error === undefined || error === null) };
    this.isWritten = true;
    this.#turnEnd.add(this);
  }

  /**
   * Writes until the stream or the client ends, what is there at once in one piece; writes on only when the client took
   * what was written. Where the client goes first, resolves when the source is done too.
   */
  async #stream(body: ByteStream, parts: StreamParts, written: { bytes: number }): Promise<boolean> {
    let sourceDone: Promise<void> | undefined;
    this.#onClosed = () => {
      sourceDone = body.cancel();
    };
    let isComplete = false;
    try {
      while (!this.#socket.destroyed) {
        const next = body.next();
        const mustWait = next instanceof Promise;
        // Before the wait: what is there is not held back for what may come.
        const hasRoom = !mustWait || this.#writeParts(parts);
        const chunk = mustWait ? await next : next;
        if (chunk === undefined || this.#socket.destroyed) break;
        written.bytes += chunk.length;
        if (!hasRoom) await this.#drained();
        parts.push(chunk);
        if (parts.length > copiedBytesMax && !this.#writeParts(parts)) await this.#drained();
      }
      if (!this.#socket.destroyed) isComplete = await this.#sendLast(parts);
    } finally {
      this.#onClosed = undefined;
      // Also where the loop saw that the client is gone before its connection has said so.
      if (!isComplete) sourceDone ??= body.cancel();
      await sourceDone;
    }
    return isComplete;
  }

  /** @returns whether the system took it all */
  #sendLast(parts: StreamParts): Promise<boolean> {
    return new Promise((resolve) => this.#hold(parts.take(true), resolve));
  }

  /** @returns whether there is room for more */
  #writeParts(parts: StreamParts): boolean {
    return parts.isEmpty || this.#writeAll(parts.take(false));
  }

  #writeAll(pieces: readonly Buffer[], done?: (error?: Error | null) => void): boolean {
    if (pieces.length > 1) this.#socket.cork();
    let hasRoom = true;
    for (const [at, piece] of pieces.entries()) {
      hasRoom = this.#socket.write(piece, at === pieces.length - 1 ? done : undefined);
    }
    if (pieces.length > 1) this.#socket.uncork();
    return hasRoom;
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

/** What of a streamed answer is there and not written yet: its head, bytes of its body, its end. */
class StreamParts {
  readonly #isChunked: boolean;
  #head: string;
  #chunks: Buffer[] = [];
  /** Of the body, in bytes. */
  length = 0;

  constructor(head: string, isChunked: boolean) {
    this.#head = head;
    this.#isChunked = isChunked;
  }

  get isEmpty(): boolean {
    return this.#head === '' && this.length === 0;
  }

  push(chunk: Buffer): void {
    if (chunk.length === 0) return;
    this.#chunks.push(chunk);
    this.length += chunk.length;
  }

  /** All of it as it goes on the wire, the body's bytes as one chunk: copied together unless that is much. */
  take(isLast: boolean): readonly Buffer[] {
    const chunks = this.#chunks;
    const isFramed = this.#isChunked && this.length > 0;
    const before = this.#head + (isFramed ? `${this.length.toString(16)}\r\n` : '');
    const after = (isFramed ? '\r\n' : '') + (isLast && this.#isChunked ? lastChunk : '');
    const { length } = this;
    this.#head = '';
    this.#chunks = [];
    this.length = 0;
    if (length > copiedBytesMax) return [Buffer.from(before, 'latin1'), ...chunks, Buffer.from(after, 'latin1')];
    const bytes = Buffer.allocUnsafe(before.length + length + after.length);
    let at = bytes.write(before, 0, 'latin1');
    for (const chunk of chunks) {
      bytes.set(chunk, at);
      at += chunk.length;
    }
    bytes.write(after, at, 'latin1');
    return [bytes];
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
