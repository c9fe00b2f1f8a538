import { AppError, toAppError } from '@sallyport/schema';
import { listChanged } from '../bridge/list-changes.ts';
import { ModernListening } from '../bridge/listening.ts';
import { objectMember, type JsonObject } from '../mcp/envelope.ts';
import type { UpstreamResponse } from '../upstream/connections.ts';
import type { CallTerms, LegacyChannel, MessageStream } from '../upstream/legacy-channel.ts';
import { termsOf, type BridgedExchange } from './bridge.ts';
import { pollKey } from './legacy-listening.ts';
import type { ListPolls } from './list-polls.ts';
import { asUpstreamFailure } from './modern-call.ts';
import { isLasting } from '../upstream/upstream-refusal.ts';
import { TranslatedResponse } from '../upstream/translated-response.ts';

/** Waited before a broken stream is opened again, in milliseconds; doubles up to the second number. */
const reopenDelayMs = { first: 500, most: 30_000 };
/** Waited for the stream before the acknowledgement, in milliseconds. */
const openingMs = 100;
/** Resources that one listen may subscribe to, each a request toward the upstream. */
const subscriptionsMax = 256;

/**
 * Answers a modern client's `subscriptions/listen` with a session of its own at a legacy upstream: its GET stream, and a
 * `resources/subscribe` for each resource; where it offers no such stream, by reading its lists again and again, and
 * without the resources, of which nobody would tell. A session of its own, since subscriptions hold for a session: in a shared one
 * the end of one listen would end another's.
 * @throws AppError UPSTREAM_…, INVALID_PARAMS
 */
export async function openModernListening(
  exchange: BridgedExchange,
  request: { readonly id: string | number; readonly params: JsonObject },
  open: () => Promise<LegacyChannel>,
  polls: ListPolls,
): Promise<UpstreamResponse> {
  const asked = objectMember(request.params, 'notifications') ?? {};
  const uris = asked['resourceSubscriptions'];
  if (Array.isArray(uris) && uris.length > subscriptionsMax) {
    throw new AppError('INVALID_PARAMS', {
      publicMessage: `Invalid params: no more than ${subscriptionsMax} resourceSubscriptions`,
    });
  }
  const channel = await open();
  const bridge = new ModernListening(request.id, asked, channel.initialized);
  const listening = new Listening(exchange, { channel, bridge, polls });
  try {
    return await listening.start();
  } catch (error) {
    listening.end();
    throw asUpstreamFailure(error);
  }
}

class Listening {
  readonly #exchange: BridgedExchange;
  readonly #channel: LegacyChannel;
  readonly #bridge: ModernListening;
  readonly #closing = new AbortController();
  readonly #response: TranslatedResponse;
  readonly #polls: ListPolls;
  #isOffered = true;
  #leavePoll: (() => void) | undefined;
  #timer: NodeJS.Timeout | undefined;
  #failures = 0;
  #requests = 0;

  constructor(
    exchange: BridgedExchange,
    {
      channel,
      bridge,
      polls,
    }: { readonly channel: LegacyChannel; readonly bridge: ModernListening; readonly polls: ListPolls },
  ) {
    this.#exchange = exchange;
    this.#channel = channel;
    this.#bridge = bridge;
    this.#polls = polls;
    this.#response = new TranslatedResponse({ status: 200, type: 'text/event-stream', onAbort: () => this.end() });
    const { signal } = exchange.authorized.routed.received.request;
    if (signal.aborted) this.end();
    else signal.addEventListener('abort', () => this.end(), { once: true });
  }

  async start(): Promise<UpstreamResponse> {
    // The stream comes first: what happens after the acknowledgement must not be missed. But servers that send the
    // headers of a stream with its first event show nothing of it before.
    const opening = this.#listen();
    await Promise.race([opening, new Promise((resolve) => setTimeout(resolve, openingMs))]);
    if (this.#isOffered) for (const [at, uri] of this.#bridge.uris.entries()) await this.#subscribe(at, uri);
    await this.#response.write(this.#bridge.acknowledgement(this.#isOffered));
    return this.#response;
  }

  async #subscribe(at: number, uri: string): Promise<void> {
    const id = `subscribe-${at}`;
    const message = { jsonrpc: '2.0', id, method: 'resources/subscribe', params: { uri } };
    const messages = await this.#channel.request(message, this.#terms());
    for (let next = await messages.next(); next !== undefined; next = await messages.next()) {
      if (next['id'] !== id || 'method' in next) continue;
      messages.close();
      if (objectMember(next, 'error') === undefined) return;
      throw new AppError('RESOURCE_NOT_AVAILABLE', { data: { uri } });
    }
    throw new AppError('UPSTREAM_PROTOCOL', { internal: 'no answer to resources/subscribe' });
  }

  async #follow(messages: MessageStream): Promise<void> {
    try {
      for (let message = await messages.next(); message !== undefined; message = await messages.next()) {
        this.#failures = 0;
        await this.#told(message);
      }
    } catch (error) {
      if (isOver(error)) return this.#over();
    }
    this.#reopenLater();
  }

  async #told(message: JsonObject): Promise<void> {
    const { id, method } = message;
    if (method === 'ping' && id !== undefined) {
      await this.#channel.post({ jsonrpc: '2.0', id, result: {} }, this.#terms());
      return;
    }
    const translated = this.#bridge.translate(message);
    if (translated !== undefined) await this.#response.write(translated);
  }

  #reopenLater(): void {
    if (this.#closing.signal.aborted) return;
    const delayMs = Math.min(reopenDelayMs.most, reopenDelayMs.first * 2 ** this.#failures++);
    this.#timer = setTimeout(() => void this.#listen(), delayMs);
  }

  /** Opens the upstream's stream; where it offers none its lists are read instead. Never rejects. */
  async #listen(): Promise<void> {
    try {
      const messages = await this.#channel.listen(this.#terms());
      if (messages === null) this.#poll();
      else void this.#follow(messages);
    } catch (error) {
      if (isOver(error)) this.#over();
      else this.#reopenLater();
    }
  }

  #poll(): void {
    this.#isOffered = false;
    const { lists } = this.#bridge;
    if (lists.length === 0 || this.#closing.signal.aborted) return;
    this.#leavePoll ??= this.#polls.join(pollKey(this.#exchange), {
      lists,
      ask: (method, cursor) => this.#ask(method, cursor),
      onChange: (list) => void this.#told(listChanged(list)),
    });
  }

  async #ask(method: string, cursor: string | undefined): Promise<MessageStream> {
    const id = `poll-${++this.#requests}`;
    const params = cursor === undefined ? {} : { params: { cursor } };
    try {
      return await this.#channel.request({ jsonrpc: '2.0', id, method, ...params }, this.#terms());
    } catch (error) {
      if (isOver(error)) this.#over();
      throw error;
    }
  }

  /** The session is forgotten and the subscriptions with it, or is not for the client any more: it listens anew. */
  #over(): void {
    void this.#response.write(this.#bridge.completion());
    this.end();
  }

  #terms(): CallTerms {
    const { streamAgeMsMax } = this.#exchange.authorized.routed.runtime.limits;
    return termsOf(this.#exchange, this.#closing.signal, streamAgeMsMax);
  }

  /** Closes all that is open toward the upstream; nothing is opened again. */
  end(): void {
    if (this.#closing.signal.aborted) return;
    clearTimeout(this.#timer);
    this.#leavePoll?.();
    this.#closing.abort();
    this.#response.end();
    this.#channel.close();
  }
}

/** Whether nothing more comes of a session: it is forgotten, or whoever listens may not any more. */
function isOver(thrown: unknown): boolean {
  const error = toAppError(thrown);
  return error.code === 'SESSION_NOT_FOUND' || isLasting(error);
}
