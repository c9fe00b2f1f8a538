import { isUtf8 } from 'node:buffer';
import { AppError, toAppError } from '@sallyport/schema';
import type { WatchedList } from '../bridge/list-changes.ts';
import { sealEventId } from '../bridge/sealed-event-id.ts';
import { errorMessage } from '../mcp/error-response.ts';
import { keepAliveComment, messageEvent, SseParser, withData, withId, type SseEvent } from '../mcp/sse.ts';
import type { UpstreamResponse } from '../upstream/connections.ts';
import type { Authorized, ByteStream, Exchange } from './exchange.ts';
import type { OpenStream } from './open-streams.ts';
import type { Reviewed } from './review-message.ts';
import type { ResponseScreen, Screened } from './response-screen.ts';
import { listChangedMessages } from './visible-lists.ts';

/** Events that wait for a slow client; it is told of no more changes then, and lists anew when it comes back. */
const queuedChangesMax = 64;

/** A stream that carried nothing for this long gets a comment, in milliseconds. */
export const keepAliveIntervalMs = 15_000;

/**
 * An upstream's event stream on its way to the client, event by event: each is looked at and leaves as it came, unless
 * something in it had to go. It reads on only when the client took what it has. It can be ended from outside: by a
 * revoked grant, a deadline or the node's own end.
 */
export class SseRelay implements ByteStream, OpenStream {
  readonly #response: UpstreamResponse;
  readonly #exchange: Exchange;
  readonly #parser: SseParser;
  readonly #queue: Buffer[] = [];
  readonly #onEnd: () => void;
  readonly #screen: Pick<ResponseScreen, 'screen'>;
  readonly #refuse: ((id: string | number) => void) | null;
  /** As decided last; replaced when the configuration changes. */
  authorized: Authorized;
  #negotiated: Reviewed['negotiated'] = null;
  #answered = false;
  /** Of a subscription: nothing comes before its acknowledgement. */
  #acknowledged = false;
  /** An event had an id: the client may take up the stream elsewhere (2025-11-25, Resumability). */
  #resumable = false;
  #ended = false;
  #cancelled = false;
  #reading: Promise<void> | undefined;
  #wake: (() => void) | undefined;
  #keepAlive: NodeJS.Timeout | undefined;

  constructor(options: {
    readonly response: UpstreamResponse;
    readonly authorized: Authorized;
    readonly eventBytesMax: number;
    readonly screen: Pick<ResponseScreen, 'screen'>;
    /** Tells the upstream that what it asked under an id is refused; null where only ending the exchange tells it. */
    readonly refuse: ((id: string | number) => void) | null;
    /** Called once, when the stream has ended in whatever way. */
    readonly onEnd: () => void;
  }) {
    this.#response = options.response;
    this.authorized = options.authorized;
    this.#exchange = options.authorized.routed.received.exchange;
    this.#parser = new SseParser(options.eventBytesMax);
    this.#onEnd = options.onEnd;
    this.#screen = options.screen;
    this.#refuse = options.refuse;
  }

  /** The revision a legacy `initialize` on this stream agreed on. */
  get negotiated(): Reviewed['negotiated'] {
    return this.#negotiated;
  }

  /** Reads on until the answer is here (and queued) or the stream is over. */
  async untilAnswered(): Promise<void> {
    while (!this.#answered && !this.#ended) await this.#read();
  }

  next(): Buffer | undefined | Promise<Buffer | undefined> {
    const there = this.#there();
    return there === null ? this.#later() : there;
  }

  /** What can be given at once, undefined at the end; null while a read is under way. */
  #there(): Buffer | undefined | null {
    while (!this.#cancelled) {
      const event = this.#take();
      if (event !== undefined) return event;
      if (this.#ended) {
        clearTimeout(this.#keepAlive);
        return undefined;
      }
      if (this.#read() !== undefined) return null;
    }
    return undefined;
  }

  /** What the read brings, or whoever wakes before. */
  async #later(): Promise<Buffer | undefined> {
    for (;;) {
      const woken = new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      if (this.#keepAlive === undefined) this.#keepAlive = setTimeout(this.#onQuiet, keepAliveIntervalMs);
      else this.#keepAlive.refresh();
      await woken;
      const there = this.#there();
      if (there !== null) return there;
    }
  }

  async cancel(): Promise<void> {
    this.#cancelled = true;
    clearTimeout(this.#keepAlive);
    this.#wake?.();
    const { era, kind } = this.authorized.routed.received;
    if (this.#ended) return;
    if (era === 'modern' || kind !== 'message' || this.#resumable) {
      this.#exchange.outcome ??= 'aborted';
      this.#finish();
      this.#response.abort(new AppError('UPSTREAM_UNREACHABLE', { internal: 'the client went away' }));
      return;
    }
    // The call goes on without its client, within the exchange's deadline, and its outcome is recorded.
    while (!this.#ended) {
      await this.#read();
      this.#queue.length = 0;
    }
  }

  /** Ends the stream from outside, with an error where a request waits for its answer. */
  end(error: AppError): void {
    if (this.#ended) return;
    this.#fail(error);
    this.#response.abort(error);
    this.#wake?.();
  }

  /** Tells the client, once its subscription stands. */
  listsChanged(lists: readonly WatchedList[]): void {
    const { era } = this.authorized.routed.received;
    if (this.#ended || (era === 'modern' && !this.#acknowledged) || this.#queue.length > queuedChangesMax) return;
    for (const text of listChangedMessages(this.authorized, lists)) this.#queue.push(messageEvent(text));
    this.#wake?.();
  }

  /** Ends a stream of subscriptions the way its server would (2026-07-28 basic/patterns/subscriptions). */
  endGracefully(): void {
    if (this.#ended) return;
    const { message } = this.authorized.routed.received;
    if (message?.kind === 'request' && !this.#answered) {
      const id = message.idText ?? 'null';
      this.#queue.push(
        messageEvent(
          `{"jsonrpc":"2.0","id":${id},"result":{"resultType":"complete","_meta":{"io.modelcontextprotocol/subscriptionId":${id}}}}`,
        ),
      );
      this.#answered = true;
    }
    this.#exchange.outcome ??= 'success';
    this.#finish();
    this.#response.abort(new AppError('NOT_READY', { internal: 'draining' }));
    this.#wake?.();
  }

  readonly #onQuiet = (): void => {
    if (this.#ended) return;
    this.#queue.push(keepAliveComment);
    this.#wake?.();
  };

  /** Everything queued in one chunk: it becomes one write. */
  #take(): Buffer | undefined {
    if (this.#queue.length === 0) return undefined;
    const events = this.#queue.splice(0);
    const [only] = events;
    return only !== undefined && events.length === 1 ? only : Buffer.concat(events);
  }

  /**
   * One read at a time, shared by whoever waits for it; undefined where it is done already. Never rejects: a failure ends
   * the stream.
   */
  #read(): Promise<void> | undefined {
    this.#reading ??= this.#readChunk()
      ?.catch(this.#failed)
      .finally(() => {
        this.#reading = undefined;
        this.#wake?.();
      });
    return this.#reading;
  }

  #readChunk(): Promise<void> | undefined {
    try {
      const chunk = this.#response.next();
      return chunk instanceof Promise ? chunk.then((late) => this.#came(late)) : this.#came(chunk);
    } catch (thrown) {
      this.#failed(thrown);
      return undefined;
    }
  }

  #came(chunk: Buffer | undefined): Promise<void> | undefined {
    if (this.#ended) return undefined;
    if (chunk !== undefined) return this.#relayAll(this.#parser.push(chunk));
    this.#upstreamEnded();
    return undefined;
  }

  /** A long text is looked at in a thread; what comes after it waits, since order counts. */
  #relayAll(events: readonly SseEvent[], from = 0): Promise<void> | undefined {
    for (let at = from; at < events.length && !this.#ended; at++) {
      const event = events[at];
      const relayed = event === undefined ? undefined : this.#relay(event);
      if (relayed !== undefined) return relayed.then(() => this.#relayAll(events, at + 1));
    }
    return undefined;
  }

  readonly #failed = (thrown: unknown): void => {
    if (this.#ended) return;
    const error = toAppError(thrown);
    if (this.#resumable && error.code === 'UPSTREAM_UNREACHABLE') this.#upstreamEnded();
    else this.#fail(error);
    this.#response.abort(error);
  };

  #relay(received: SseEvent): Promise<void> | undefined {
    const event = this.#owned(received);
    if (event.data === null || event.data.length === 0) {
      this.#queue.push(event.raw);
      return undefined;
    }
    // What is no UTF-8 is looked at as its reader will read it (WHATWG HTML §9.2.5): with marks in its place.
    const data = isUtf8(event.data) ? event.data : Buffer.from(event.data.toString('utf8'));
    const screened = this.#screen.screen(data, this.authorized);
    if (screened instanceof Promise) return screened.then((late) => this.#deliver(event, data, late));
    this.#deliver(event, data, screened);
    return undefined;
  }

  #deliver(event: SseEvent, data: Buffer, screened: Screened): void {
    // Ended while it was looked at.
    if (this.#ended) return;
    this.#acknowledged ||= screened.isAcknowledgement;
    const { refusal, refusedId } = screened;
    if (refusedId !== null) {
      if (this.#refuse === null) throw new AppError('UPSTREAM_REQUEST_REFUSED');
      this.#refuse(refusedId);
    }
    if (screened.isAnswer) {
      if (refusal !== null) throw refusal;
      this.#answered = true;
      this.#negotiated = screened.negotiated;
      this.#exchange.outcome = screened.isError ? 'error' : 'success';
      this.#exchange.rpcErrorCode = screened.rpcErrorCode;
    }
    if (screened.bytes === data) this.#queue.push(event.raw);
    else if (screened.bytes !== null) this.#queue.push(withData(event, screened.bytes.toString('utf8')));
  }

  /** The event with an id that only this client can come back with; a modern one cannot come back at all. */
  #owned(event: SseEvent): SseEvent {
    if (event.id === null) return event;
    this.#resumable = true;
    const { routed } = this.authorized;
    if (event.id === '' || routed.received.era === 'modern') return event;
    const { principal } = routed.authenticated;
    const owner = {
      principalId: principal.id,
      principalEpoch: principal.epoch,
      serverId: routed.server.document.id,
      // The answer to `initialize` names the session that it opens.
      upstreamSessionId: routed.session?.upstreamSessionId ?? this.#response.header('mcp-session-id') ?? null,
    };
    return withId(event, sealEventId(routed.runtime, owner, event.id));
  }

  /** Without its answer a request would wait for ever, unless the client can resume the stream. */
  #upstreamEnded(): void {
    const { message } = this.authorized.routed.received;
    if (message?.kind === 'request' && !this.#answered && !this.#resumable) {
      this.#fail(new AppError('UPSTREAM_PROTOCOL', { internal: 'the stream ended without an answer' }));
      return;
    }
    this.#exchange.outcome ??= 'success';
    this.#finish();
  }

  #fail(error: AppError): void {
    const { message } = this.authorized.routed.received;
    if (!this.#answered) {
      if (message?.kind === 'request') {
        this.#queue.push(messageEvent(errorMessage(error, message)));
        this.#exchange.rpcErrorCode = error.entry.jsonRpc;
      }
      this.#exchange.outcome = error.entry.owner === 'upstream' ? 'upstreamFailure' : 'refused';
      this.#exchange.errorCode = error.code;
    }
    this.#finish();
  }

  #finish(): void {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#keepAlive);
    this.#onEnd();
  }
}
