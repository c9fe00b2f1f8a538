import type { AppError } from '@sallyport/schema';
import type { JsonObject } from '../mcp/envelope.ts';
import type { UpstreamResponse } from '../upstream/connections.ts';
import { TranslatedResponse } from '../upstream/translated-response.ts';

/** A request that has heard nothing for this long gets its stream, so that comments keep it alive; milliseconds. */
const openAfterMs = 10_000;

/**
 * The reply to one request of a client: one JSON body where the response is all there is to say, an event stream as
 * soon as something comes before it. Whoever replies need not care which it is.
 */
export class ClientReply {
  readonly #begun = Promise.withResolvers<UpstreamResponse>();
  readonly #onAbort: (error: AppError) => void;
  readonly #sessionId: string | undefined;
  readonly #timer: NodeJS.Timeout;
  #stream: TranslatedResponse | undefined;
  #done = false;

  /**
   * @param options.onAbort called when nobody reads any more: the client is gone, or must get nothing
   * @param options.sessionId told to a legacy client with its `initialize`
   */
  constructor(options: { readonly onAbort: (error: AppError) => void; readonly sessionId?: string }) {
    this.#onAbort = options.onAbort;
    this.#sessionId = options.sessionId;
    this.#timer = setTimeout(() => this.open(), openAfterMs);
    this.#begun.promise.catch(() => undefined);
  }

  /** Resolves when it is known of which kind the reply is; rejects where it failed before. */
  get response(): Promise<UpstreamResponse> {
    return this.#begun.promise;
  }

  /** Makes it a stream, if it is nothing yet. */
  open(): TranslatedResponse | undefined {
    if (this.#done || this.#stream !== undefined) return this.#stream;
    clearTimeout(this.#timer);
    this.#stream = new TranslatedResponse({
      status: 200,
      type: 'text/event-stream',
      sessionId: this.#sessionId,
      onAbort: this.#onAbort,
    });
    this.#begun.resolve(this.#stream);
    return this.#stream;
  }

  /** Something that comes before the response; resolves when the client has room for more. */
  async deliver(message: JsonObject): Promise<void> {
    if (!this.#done) await this.open()?.write(message);
  }

  /** The response; nothing comes after it. */
  answer(message: JsonObject, status = 200): void {
    if (!this.#finish()) return;
    if (this.#stream === undefined) {
      this.#begun.resolve(TranslatedResponse.json(status, message, this.#sessionId));
      return;
    }
    void this.#stream.write(message);
    this.#stream.end();
  }

  /** Ends without a response. */
  end(): void {
    if (this.#finish()) this.#stream?.end();
  }

  fail(error: AppError): void {
    if (!this.#finish()) return;
    if (this.#stream === undefined) this.#begun.reject(error);
    else this.#stream.fail(error);
  }

  #finish(): boolean {
    if (this.#done) return false;
    this.#done = true;
    clearTimeout(this.#timer);
    return true;
  }
}
