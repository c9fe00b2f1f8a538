import type { Dispatcher } from 'undici';
import { AppError, type UpstreamTransport } from '@sallyport/schema';
import type { CallCredential } from './credentials.ts';
import { GatheredBytes } from '../mcp/gathered-bytes.ts';

/** Bytes read ahead of a slow reader before the upstream's connection is paused. */
const readAheadBytesMax = 64 * 1024;
/** Attempts per request; another is made only where nothing of the one before was sent. */
const attemptsMax = 2;

/** One call on a connection, in the form of undici, which one of the two sources of connections is. */
export type CallHandler = Dispatcher.DispatchHandler & {
  /** Nobody waits for it any more: whoever has it in a queue may drop it. */
  readonly isOver?: boolean;
};
export type CallController = Dispatcher.DispatchController;
export type CallOptions = Dispatcher.DispatchOptions;
export type CallPool = Pick<Dispatcher, 'dispatch'>;

/** Where connections come from: through the guarded egress, which checks every address it dials. */
export interface EgressPools {
  pool(origin: URL): CallPool;
}

/** What is used of an AbortSignal here. */
export interface Cancellation {
  readonly aborted: boolean;
  /** What whoever reads the answer is told, where it is an AppError. */
  readonly reason?: unknown;
  addEventListener(type: 'abort', listener: () => void, options?: { readonly once: true }): void;
  removeEventListener(type: 'abort', listener: () => void): void;
}

export interface UpstreamRequest {
  readonly transport: UpstreamTransport;
  /** For whom, where what it opens outlasts it. */
  readonly principalId: string;
  readonly url: URL;
  readonly method: 'GET' | 'POST' | 'DELETE';
  /** Name, value, name, value, …; without those of the credential. */
  readonly headers: readonly string[];
  /** Null where the server is called without. */
  readonly credential: CallCredential | null;
  readonly body: Buffer | null;
  /** Milliseconds from now to the response's headers, connecting included. */
  readonly firstByteTimeoutMs: number;
  /** Milliseconds from now to the end of the response. */
  readonly totalTimeoutMs: number;
  /**
   * Called each time a connection is there and the first byte is about to be written, however long that took. What it
   * throws is what `send` rejects with; nothing was sent then.
   */
  readonly beforeWrite: () => void;
}

/** The client side of the node: sends requests over pooled, guarded connections; never follows a redirect. */
export class Connections {
  readonly #egress: EgressPools;

  constructor(egress: EgressPools) {
    this.#egress = egress;
  }

  /**
   * @throws AppError UPSTREAM_UNREACHABLE, UPSTREAM_TIMEOUT, UPSTREAM_PROTOCOL
   * @param cancelled aborting it closes the connection, also while the body is read
   */
  async send(request: UpstreamRequest, cancelled: Cancellation | null): Promise<UpstreamResponse> {
    for (let attempt = 1; ; attempt++) {
      const call = new UpstreamCall(request, cancelled);
      try {
        return await call.start(this.#egress.pool(request.url));
      } catch (error) {
        if (attempt >= attemptsMax || call.wasSent || cancelled?.aborted === true || error instanceof AppError)
          throw asUpstreamError(error);
      }
    }
  }
}

function asUpstreamError(error: unknown): AppError {
  if (error instanceof AppError) return error;
  return new AppError('UPSTREAM_UNREACHABLE', {
    internal: error instanceof Error ? error.message : String(error),
    cause: error,
  });
}

/** Of a body that is collected. */
export interface CollectLimits {
  readonly bytesMax: number;
  /** Between two parts of it, in milliseconds. */
  readonly idleTimeoutMs: number;
}

export interface UpstreamResponse {
  readonly status: number;
  /** A response header by lower-case name; several are joined by ", ". */
  header(name: string): string | undefined;
  /** The next chunk, at once where it is there, or undefined at the end. Rejects where the upstream fails. */
  next(): Buffer | undefined | Promise<Buffer | undefined>;
  /** The whole body, at once where it is there; the connection is closed where it exceeds a limit. */
  collect(limits: CollectLimits): Buffer | Promise<Buffer>;
  /** Closes the connection; a reader that waits gets the error. */
  abort(error: AppError): void;
}

/**
 * One request on one connection: undici's handler on one side, a reader on the other. Its timers are its own because
 * undici's are fixed before the kind of response is known, and a quiet event stream is no fault.
 */
class UpstreamCall implements CallHandler, UpstreamResponse {
  readonly #request: UpstreamRequest;
  readonly #cancelled: Cancellation | null;
  readonly #onCancelled = (): void => {
    const reason = this.#cancelled?.reason;
    this.abort(reason instanceof AppError ? reason : new AppError('UPSTREAM_UNREACHABLE', { internal: 'cancelled' }));
  };
  readonly #onTimeout = (): void => this.abort(new AppError('UPSTREAM_TIMEOUT'));
  #controller: Dispatcher.DispatchController | undefined;
  #started: { resolve: (response: UpstreamResponse) => void; reject: (error: unknown) => void } | undefined;
  /** Of the wait under way: first the headers, then, where a body is collected, its next chunk. */
  #timer: NodeJS.Timeout | undefined;
  #totalTimer: NodeJS.Timeout | undefined;
  #headers: Readonly<Record<string, string | string[] | undefined>> = {};
  #chunks: Buffer[] = [];
  #chunkBytes = 0;
  #reader: { resolve: (chunk: Buffer | undefined) => void; reject: (error: unknown) => void } | undefined;
  #ended = false;
  #error: unknown;
  status = 0;
  wasSent = false;

  constructor(request: UpstreamRequest, cancelled: Cancellation | null) {
    this.#request = request;
    this.#cancelled = cancelled;
  }

  start(pool: Pick<Dispatcher, 'dispatch'>): Promise<UpstreamResponse> {
    return new Promise((resolve, reject) => {
      this.#started = { resolve, reject };
      if (this.#cancelled?.aborted === true) {
        this.#onCancelled();
        return;
      }
      this.#cancelled?.addEventListener('abort', this.#onCancelled, { once: true });
      const { url, method, headers, body, firstByteTimeoutMs, totalTimeoutMs } = this.#request;
      this.#timer = setTimeout(this.#onTimeout, firstByteTimeoutMs);
      this.#totalTimer = setTimeout(this.#onTimeout, totalTimeoutMs);
      pool.dispatch(
        {
          origin: url.origin,
          path: `${url.pathname}${url.search}`,
          method,
          headers: headers as string[],
          body,
          // Both are watched here.
          headersTimeout: 0,
          bodyTimeout: 0,
        },
        this,
      );
    });
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    // Thrown, not aborted: undici then drops the request and keeps the connection, on which nothing was written.
    if (this.#error !== undefined) throw errorOf(this.#error);
    this.#request.beforeWrite();
    this.#controller = controller;
    this.wasSent = true;
  }

  onResponseStart(
    _controller: Dispatcher.DispatchController,
    statusCode: number,
    headers: Readonly<Record<string, string | string[] | undefined>>,
  ): void {
    if (statusCode < 200) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.status = statusCode;
    this.#headers = headers;
    this.#started?.resolve(this);
    this.#started = undefined;
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    this.#timer?.refresh();
    const reader = this.#reader;
    if (reader !== undefined) {
      this.#reader = undefined;
      reader.resolve(chunk);
      return;
    }
    this.#chunks.push(chunk);
    this.#chunkBytes += chunk.length;
    if (this.#chunkBytes > readAheadBytesMax) controller.pause();
  }

  onResponseEnd(): void {
    this.#finish();
    this.#reader?.resolve(undefined);
    this.#reader = undefined;
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    this.#fail(this.#error ?? error);
  }

  get isOver(): boolean {
    return this.#ended;
  }

  header(name: string): string | undefined {
    const value = this.#headers[name];
    return Array.isArray(value) ? value.join(', ') : value;
  }

  next(): Buffer | undefined | Promise<Buffer | undefined> {
    const chunk = this.#chunks.shift();
    if (chunk !== undefined) {
      this.#chunkBytes -= chunk.length;
      if (this.#controller?.paused === true && this.#chunkBytes <= readAheadBytesMax / 2) this.#controller.resume();
      return chunk;
    }
    if (this.#error !== undefined) return Promise.reject(asUpstreamError(this.#error));
    if (this.#ended) return undefined;
    return new Promise((resolve, reject) => {
      this.#reader = { resolve, reject: (error) => reject(asUpstreamError(error)) };
    });
  }

  collect(limits: CollectLimits): Buffer | Promise<Buffer> {
    // All there, as with nearly every answer, which comes with its head.
    const [only] = this.#chunks;
    if (this.#ended && this.#error === undefined && this.#chunks.length === 1 && only !== undefined) {
      if (only.length > limits.bytesMax) throw new AppError('UPSTREAM_RESPONSE_TOO_LARGE');
      this.#chunks.length = 0;
      return only;
    }
    return this.#collect(limits);
  }

  async #collect(limits: CollectLimits): Promise<Buffer> {
    const declared = Number(this.header('content-length') ?? 0);
    if (!this.#ended) this.#timer = setTimeout(this.#onTimeout, limits.idleTimeoutMs);
    const gathered = new GatheredBytes(declared);
    for (;;) {
      if (gathered.length > limits.bytesMax || declared > limits.bytesMax) {
        const error = new AppError('UPSTREAM_RESPONSE_TOO_LARGE');
        this.abort(error);
        throw error;
      }
      const chunk = await this.next();
      if (chunk === undefined) break;
      gathered.push(chunk);
    }
    clearTimeout(this.#timer);
    return gathered.whole();
  }

  abort(error: AppError): void {
    if (this.#ended || this.#error !== undefined) return;
    this.#controller?.abort(error);
    this.#fail(error);
  }

  #fail(error: unknown): void {
    this.#error ??= error;
    this.#finish();
    this.#started?.reject(this.#error);
    this.#started = undefined;
    this.#reader?.reject(this.#error);
    this.#reader = undefined;
  }

  #finish(): void {
    this.#ended = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#totalTimer);
    this.#cancelled?.removeEventListener('abort', this.#onCancelled);
  }
}

function errorOf(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown));
}
