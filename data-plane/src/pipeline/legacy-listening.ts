import { toAppError } from '@sallyport/schema';
import { randomSecret } from '@sallyport/schema/platform';
import { announcedLists, listChanged, type WatchedList } from '../bridge/list-changes.ts';
import { type ListenEffect, type ListenEvent, ListenUpkeep } from '../bridge/listen-upkeep.ts';
import { listenRequest, readListenMessage } from '../bridge/listening.ts';
import { modernParams } from '../bridge/translate.ts';
import { objectMember, stringMember, type JsonObject } from '../mcp/envelope.ts';
import type { Connections, UpstreamResponse } from '../upstream/connections.ts';
import type { MessageStream } from '../upstream/legacy-channel.ts';
import { sendModern } from '../upstream/modern-request.ts';
import { isLasting } from '../upstream/upstream-refusal.ts';
import { termsOf, type BridgedExchange } from './bridge.ts';
import type { BridgedSession } from './legacy-clients.ts';
import type { ListPolls } from './list-polls.ts';
import { responseOf } from './read-list.ts';
import type { SessionNews } from './session-news.ts';
import { TranslatedResponse } from '../upstream/translated-response.ts';

/** A subscription that is not acknowledged for this long is none, in milliseconds. */
const acknowledgedMsMax = 10_000;

export interface LegacyListeningOptions {
  readonly connections: Pick<Connections, 'send'>;
  readonly news: SessionNews;
  readonly polls: ListPolls;
}

/**
 * Answers a legacy client's GET by listening at a modern upstream, anew whenever the session subscribes to other
 * resources and whenever the upstream lets go; where it offers no subscriptions, by reading its lists again and again.
 * What happens between two subscriptions is not told: legacy clients know that of a stream that breaks. A session
 * listens with one stream at a time, whichever node it is on: the one it opened last (2025-11-25 basic/transports,
 * Multiple Connections: no message on more than one).
 * @throws AppError where the first subscription fails; a 405 where the upstream announces no changes
 */
export async function openLegacyListening(
  exchange: BridgedExchange,
  session: BridgedSession,
  options: LegacyListeningOptions,
): Promise<UpstreamResponse> {
  return await new LegacyListening(exchange, session, options).open();
}

interface Subscription {
  readonly closing: AbortController;
  readonly deadline: NodeJS.Timeout;
}

class LegacyListening {
  readonly #exchange: BridgedExchange;
  readonly #session: BridgedSession;
  readonly #options: LegacyListeningOptions;
  readonly #streamId = randomSecret('stream_');
  readonly #response: TranslatedResponse;
  readonly #unsubscribe: () => void;
  readonly #upkeep = new ListenUpkeep();
  readonly #subscriptions = new Map<number, Subscription>();
  readonly #closing = new AbortController();
  #wanted: string;
  #leavePoll: (() => void) | undefined;
  #timer: NodeJS.Timeout | undefined;
  #requests = 0;

  constructor(exchange: BridgedExchange, session: BridgedSession, options: LegacyListeningOptions) {
    this.#exchange = exchange;
    this.#session = session;
    this.#options = options;
    this.#response = new TranslatedResponse({ status: 200, type: 'text/event-stream', onAbort: () => this.#end() });
    const { states } = options.news;
    this.#wanted = this.#subscribed.join('\n');
    this.#unsubscribe = states.onChange(session.sessionId, () => this.#changed());
    const { signal } = exchange.authorized.routed.received.request;
    if (signal.aborted) this.#end();
    else signal.addEventListener('abort', () => this.#end(), { once: true });
  }

  async open(): Promise<UpstreamResponse> {
    try {
      await this.#options.news.change(this.#session, { kind: 'listening', streamId: this.#streamId });
      const [first] = this.#upkeep.start();
      if (first?.type !== 'open' || this.#isEnded) return this.#response;
      const messages = await this.#subscribe(first.listen);
      const message = await messages?.next();
      const read = message === undefined ? undefined : readListenMessage(message);
      if (messages === undefined || (read?.type === 'ended' && read.isRefused)) return await this.#poll();
      void this.#follow(first.listen, messages, message);
      return this.#response;
    } catch (error) {
      this.#end();
      throw toAppError(error);
    }
  }

  get #isEnded(): boolean {
    return this.#closing.signal.aborted;
  }

  get #subscribed(): readonly string[] {
    return this.#options.news.states.get(this.#session.sessionId).subscriptions;
  }

  /** Undefined where the server has no subscriptions and says so with a 404 in words of its own. */
  async #subscribe(listen: number): Promise<MessageStream | undefined> {
    const closing = new AbortController();
    const late = (): void => closing.abort();
    const deadline = setTimeout(late, acknowledgedMsMax);
    this.#subscriptions.set(listen, { closing, deadline });
    try {
      const uris = this.#subscribed;
      this.#wanted = uris.join('\n');
      return await this.#send(listenRequest(this.#nextId(), this.#session.client, uris), closing.signal);
    } catch (error) {
      if (listen === 1 && toAppError(error).code === 'SESSION_NOT_FOUND') return undefined;
      throw error;
    }
  }

  async #send(message: JsonObject, signal: AbortSignal): Promise<MessageStream> {
    const { routed } = this.#exchange.authorized;
    const method = stringMember(message, 'method') ?? '';
    const params = objectMember(message, 'params') ?? {};
    return await sendModern(
      this.#options.connections,
      { url: routed.server.upstream, limits: routed.runtime.limits },
      { ...message, method, params },
      [],
      termsOf(this.#exchange, signal),
    );
  }

  #nextId(): string {
    return `${this.#exchange.authorized.routed.received.exchange.eventId}.${++this.#requests}`;
  }

  /** Reads a subscription to its end. Never rejects. */
  async #follow(listen: number, messages: MessageStream, first?: JsonObject): Promise<void> {
    try {
      for (let message = first ?? (await messages.next()); message !== undefined; message = await messages.next()) {
        const read = readListenMessage(message);
        if (read.type === 'ended') break;
        if (read.type === 'acknowledged') {
          clearTimeout(this.#subscriptions.get(listen)?.deadline);
          await this.#handle({ type: 'acknowledged', listen });
        }
        if (read.type === 'notification') await this.#handle({ type: 'told', listen, message: read.message });
      }
    } catch (error) {
      if (this.#isRefusal(error)) return;
    }
    await this.#handle({ type: 'over', listen });
  }

  /** Where a decision of ours or a credential ended it, the client's stream ends too. */
  #isRefusal(thrown: unknown): boolean {
    const error = toAppError(thrown);
    if (this.#isEnded || !isLasting(error)) return false;
    this.#response.fail(error);
    this.#end();
    return true;
  }

  async #handle(event: ListenEvent): Promise<void> {
    for (const effect of this.#upkeep.handle(event)) await this.#do(effect);
  }

  async #do(effect: ListenEffect): Promise<void> {
    switch (effect.type) {
      case 'open':
        void this.#reopen(effect.listen);
        return;
      case 'close':
        this.#close(effect.listen);
        return;
      case 'deliver':
        await this.#response.write(effect.message);
        return;
      case 'wait':
        clearTimeout(this.#timer);
        this.#timer = setTimeout(() => void this.#handle({ type: 'waited' }), effect.ms);
        return;
      default:
        effect satisfies never;
    }
  }

  async #reopen(listen: number): Promise<void> {
    try {
      const messages = await this.#subscribe(listen);
      if (messages !== undefined) return void this.#follow(listen, messages);
    } catch (error) {
      if (this.#isRefusal(error)) return;
    }
    await this.#handle({ type: 'over', listen });
  }

  #close(listen: number): void {
    const subscription = this.#subscriptions.get(listen);
    this.#subscriptions.delete(listen);
    clearTimeout(subscription?.deadline);
    subscription?.closing.abort();
  }

  #changed(): void {
    const { isEnded, listeningId } = this.#options.news.states.get(this.#session.sessionId);
    if (isEnded || (listeningId !== null && listeningId !== this.#streamId)) return this.#end();
    if (this.#leavePoll === undefined && this.#subscribed.join('\n') !== this.#wanted)
      void this.#handle({ type: 'changed' });
  }

  /** The upstream tells nobody: what changes in the lists that it announces changes of is found by reading them. */
  async #poll(): Promise<UpstreamResponse> {
    void this.#handle({ type: 'ended' });
    const { signal } = this.#closing;
    const discovered = await responseOf(await this.#send(this.#asked('server/discover', {}), signal));
    const capabilities = objectMember(objectMember(discovered, 'result') ?? {}, 'capabilities') ?? {};
    const lists = announcedLists(capabilities);
    if (lists.length === 0 || this.#isEnded) {
      this.#end();
      return TranslatedResponse.bare(405);
    }
    this.#leavePoll = this.#options.polls.join(pollKey(this.#exchange), {
      lists,
      ask: (method, cursor) => this.#askList(method, cursor),
      onChange: (list: WatchedList) => void this.#response.write(listChanged(list)),
    });
    return this.#response;
  }

  /** Whoever may not ask any more leaves the poll to others who listen. */
  async #askList(method: string, cursor: string | undefined): Promise<MessageStream> {
    try {
      return await this.#send(this.#asked(method, cursor === undefined ? {} : { cursor }), this.#closing.signal);
    } catch (error) {
      this.#isRefusal(error);
      throw error;
    }
  }

  #asked(method: string, params: JsonObject): JsonObject {
    return { jsonrpc: '2.0', id: this.#nextId(), method, params: modernParams(params, this.#session.client, null) };
  }

  #end(): void {
    if (this.#isEnded) return;
    this.#closing.abort();
    clearTimeout(this.#timer);
    this.#unsubscribe();
    this.#leavePoll?.();
    void this.#handle({ type: 'ended' });
    for (const listen of [...this.#subscriptions.keys()]) this.#close(listen);
    this.#response.end();
  }
}

/** What one principal sees of a server's lists is what another may not. */
export function pollKey({ authorized }: BridgedExchange): string {
  const { server, authenticated } = authorized.routed;
  const { principal } = authenticated;
  return JSON.stringify([server.document.id, server.upstream.href, principal.id, principal.epoch]);
}
