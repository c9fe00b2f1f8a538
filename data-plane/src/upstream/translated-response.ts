import { AppError } from '@sallyport/schema';
import type { JsonObject } from '../mcp/envelope.ts';
import { messageEvent } from '../mcp/sse.ts';
import type { UpstreamResponse } from './connections.ts';

/** Written ahead of a slow reader before the bridge waits, in bytes. */
const aheadBytesMax = 64 * 1024;

/**
 * What a bridge answers, in the form of an upstream of the client's own era: the stages behind it filter, record and
 * relay it like any other. JSON where the response is the first there is to say, else an event stream.
 */
export class TranslatedResponse implements UpstreamResponse {
  readonly status: number;
  readonly #type: 'application/json' | 'text/event-stream' | undefined;
  readonly #sessionId: string | undefined;
  readonly #onAbort: (error: AppError) => void;
  #chunks: Buffer[] = [];
  #chunkBytes = 0;
  #ended = false;
  #error: AppError | undefined;
  #reader: (() => void) | undefined;
  #writer: (() => void) | undefined;

  constructor(options: {
    readonly status: number;
    /** Undefined for an answer without a body. */
    readonly type: 'application/json' | 'text/event-stream' | undefined;
    /** For the client; sealed before it gets it. */
    readonly sessionId?: string | undefined;
    /** The reader went away, or must get nothing more. */
    readonly onAbort: (error: AppError) => void;
  }) {
    this.status = options.status;
    this.#type = options.type;
    this.#sessionId = options.sessionId;
    this.#onAbort = options.onAbort;
  }

  /** A whole answer. */
  static json(status: number, message: JsonObject, sessionId?: string): TranslatedResponse {
    return TranslatedResponse.jsonText(status, JSON.stringify(message), sessionId);
  }

  /** A whole answer, with its very bytes. */
  static jsonText(status: number, text: string, sessionId?: string): TranslatedResponse {
    const response = new TranslatedResponse({
      status,
      type: 'application/json',
      sessionId,
      onAbort: () => undefined,
    });
    response.#push(Buffer.from(text));
    response.end();
    return response;
  }

  /** Nothing but a status: 202 for a notification that was taken, 200 for a session that was ended. */
  static bare(status: number): TranslatedResponse {
    const response = new TranslatedResponse({ status, type: undefined, onAbort: () => undefined });
    response.end();
    return response;
  }

  header(name: string): string | undefined {
    switch (name) {
      case 'content-type':
        return this.#type;
      case 'mcp-session-id':
        return this.#sessionId;
      default:
        return undefined;
    }
  }

  /** Gives the client one message as an event; resolves when there is room for more. */
  async write(message: JsonObject): Promise<void> {
    await this.writeText(JSON.stringify(message));
  }

  /** The same with its very bytes. */
  async writeText(text: string): Promise<void> {
    if (this.#ended) return;
    this.#push(messageEvent(text));
    if (this.#chunkBytes <= aheadBytesMax) return;
    await new Promise<void>((resolve) => {
      this.#writer = resolve;
    });
  }

  end(): void {
    this.#ended = true;
    this.#wake();
  }

  fail(error: AppError): void {
    if (this.#ended) return;
    this.#error = error;
    this.end();
  }

  async next(): Promise<Buffer | undefined> {
    for (;;) {
      const chunk = this.#chunks.shift();
      if (chunk !== undefined) {
        this.#chunkBytes -= chunk.length;
        if (this.#chunkBytes <= aheadBytesMax / 2) this.#release();
        return chunk;
      }
      if (this.#error !== undefined) throw this.#error;
      if (this.#ended) return undefined;
      await new Promise<void>((resolve) => {
        this.#reader = resolve;
      });
    }
  }

  async collect(): Promise<Buffer> {
    const chunks: Buffer[] = [];
    for (let chunk = await this.next(); chunk !== undefined; chunk = await this.next()) chunks.push(chunk);
    return Buffer.concat(chunks);
  }

  abort(error: AppError): void {
    if (this.#ended) return;
    this.#chunks = [];
    this.#chunkBytes = 0;
    this.fail(error);
    this.#onAbort(error);
  }

  #push(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#chunkBytes += chunk.length;
    this.#wake();
  }

  #wake(): void {
    const reader = this.#reader;
    this.#reader = undefined;
    reader?.();
    if (this.#ended) this.#release();
  }

  #release(): void {
    const writer = this.#writer;
    this.#writer = undefined;
    writer?.();
  }
}
