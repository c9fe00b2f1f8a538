import { AppError, toAppError } from '@sallyport/schema';
import type { ClientProfile } from '../bridge/client-profile.ts';
import { listenRequest, readListenMessage } from '../bridge/listening.ts';
import type { SessionStates } from '../bridge/session-state.ts';
import { objectMember, stringMember } from '../mcp/envelope.ts';
import type { Connections, UpstreamResponse } from '../upstream/connections.ts';
import type { MessageStream } from '../upstream/legacy-channel.ts';
import { sendModern } from '../upstream/modern-request.ts';
import { termsOf, type BridgedExchange } from './bridge.ts';
import { TranslatedResponse } from '../upstream/translated-response.ts';

/** Waited before a subscription that broke is made again, in milliseconds; doubles up to the second number. */
const reopenDelayMs = { first: 500, most: 30_000 };

export interface LegacyListeningOptions {
  readonly connections: Pick<Connections, 'send'>;
  readonly sessions: SessionStates;
}

/**
 * Answers a legacy client's GET by listening at a modern upstream, anew whenever the session subscribes to other
 * resources and whenever the upstream lets go. What happens between two subscriptions is not told: legacy clients know
 * that of a stream that breaks.
 * @throws AppError where the first subscription fails; a 405 where the upstream offers none
 */
export async function openLegacyListening(
  exchange: BridgedExchange,
  session: { readonly id: string; readonly client: ClientProfile },
  options: LegacyListeningOptions,
): Promise<UpstreamResponse> {
  const listening = new LegacyListening(exchange, session, options);
  return await listening.open();
}

/** One `subscriptions/listen`: delivers from its acknowledgement until another took its place. */
interface Subscription {
  readonly messages: MessageStream;
  readonly closing: AbortController;
}

class LegacyListening {
  readonly #exchange: BridgedExchange;
  readonly #session: { readonly id: string; readonly client: ClientProfile };
  readonly #options: LegacyListeningOptions;
  readonly #response: TranslatedResponse;
  readonly #unsubscribe: () => void;
  #current: Subscription | undefined;
  #generation = 0;
  #failures = 0;
  #ended = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(
    exchange: BridgedExchange,
    session: { readonly id: string; readonly client: ClientProfile },
    options: LegacyListeningOptions,
  ) {
    this.#exchange = exchange;
    this.#session = session;
    this.#options = options;
    const { signal } = exchange.authorized.routed.received.request;
    this.#response = new TranslatedResponse({ status: 200, type: 'text/event-stream', onAbort: () => this.#end() });
    this.#unsubscribe = options.sessions.onChange(session.id, () => this.#changed());
    signal.addEventListener('abort', () => this.#end(), { once: true });
  }

  async open(): Promise<UpstreamResponse> {
    try {
      const subscription = await this.#subscribe();
      const first = await subscription.messages.next();
      const read = first === undefined ? undefined : readListenMessage(first);
      if (read?.type === 'ended' && read.isRefused) {
        this.#end();
        return TranslatedResponse.bare(405);
      }
      this.#take(subscription);
      void this.#follow(subscription, this.#generation);
      return this.#response;
    } catch (error) {
      this.#end();
      const failure = toAppError(error);
      // A server without subscriptions answers 404 to them in words of its own.
      if (failure.code === 'SESSION_NOT_FOUND') return TranslatedResponse.bare(405);
      throw failure;
    }
  }

  async #subscribe(): Promise<Subscription> {
    const { routed } = this.#exchange.authorized;
    const closing = new AbortController();
    const id = `${routed.received.exchange.eventId}.${++this.#generation}`;
    const message = listenRequest(id, this.#session.client, this.#options.sessions.get(this.#session.id).subscriptions);
    const messages = await sendModern(
      this.#options.connections,
      { url: routed.server.upstream, limits: routed.runtime.limits },
      {
        ...message,
        method: stringMember(message, 'method') ?? '',
        params: objectMember(message, 'params') ?? {},
      },
      [],
      termsOf(this.#exchange, closing.signal),
    );
    return { messages, closing };
  }

  #take(subscription: Subscription): void {
    this.#current?.closing.abort();
    this.#current = subscription;
    this.#failures = 0;
    if (this.#ended) subscription.closing.abort();
  }

  async #follow(subscription: Subscription, generation: number): Promise<void> {
    try {
      for (;;) {
        const message = await subscription.messages.next();
        const read = message === undefined ? undefined : readListenMessage(message);
        if (read === undefined || read.type === 'ended') break;
        // Until it is acknowledged the one before still tells; from then on that one is closed, so nothing comes twice.
        if (read.type === 'acknowledged') this.#take(subscription);
        if (read.type === 'notification' && this.#current === subscription) await this.#response.write(read.message);
      }
    } catch (error) {
      const failure = toAppError(error);
      if (this.#isRefusal(failure)) return this.#fail(failure);
    }
    if (!this.#ended && generation === this.#generation) this.#reopenLater();
  }

  /** Whether nothing but a decision of ours ended it: then the stream ends too. */
  #isRefusal({ entry }: AppError): boolean {
    return !this.#ended && entry.owner !== 'upstream';
  }

  #changed(): void {
    if (this.#options.sessions.get(this.#session.id).isEnded) this.#end();
    else void this.#reopen();
  }

  #reopenLater(): void {
    clearTimeout(this.#timer);
    const delayMs = Math.min(reopenDelayMs.most, reopenDelayMs.first * 2 ** this.#failures++);
    this.#timer = setTimeout(() => void this.#reopen(), delayMs);
  }

  async #reopen(): Promise<void> {
    if (this.#ended) return;
    clearTimeout(this.#timer);
    const failures = this.#failures;
    try {
      const subscription = await this.#subscribe();
      void this.#follow(subscription, this.#generation);
    } catch (error) {
      const failure = toAppError(error);
      if (this.#isRefusal(failure)) return this.#fail(failure);
      this.#failures = failures;
      if (!this.#ended) this.#reopenLater();
    }
  }

  #fail(error: AppError): void {
    this.#response.fail(error);
    this.#end();
  }

  #end(): void {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#timer);
    this.#unsubscribe();
    this.#current?.closing.abort();
    this.#response.end();
  }
}
