import { AppError, toAppError } from '@sallyport/schema';
import type { LegacyToModern, LegacyToModernEffect } from '../bridge/legacy-to-modern.ts';
import { objectMember, stringMember, type JsonObject } from '../mcp/envelope.ts';
import type { Connections, UpstreamResponse } from '../upstream/connections.ts';
import type { MessageStream } from '../upstream/legacy-channel.ts';
import { sendModern } from '../upstream/modern-request.ts';
import { termsOf, type BridgedExchange } from './bridge.ts';
import { ClientReply } from './client-reply.ts';
import type { ParamHeaderMap } from './param-header-map.ts';
import { type Sighted, withoutUnapproved } from './pinned-definitions.ts';
import { readList } from './read-list.ts';

export interface LegacyExchangeOptions {
  readonly connections: Pick<Connections, 'send'>;
  readonly headers: ParamHeaderMap;
  readonly sighted: Sighted;
  readonly newSessionId: string | undefined;
  readonly onAsk: (questionId: string) => void;
  readonly onAnswered: (questionId: string) => void;
  /** Called once, when nothing more can happen. */
  readonly onEnd: () => void;
}

/** Drives one `LegacyToModern`: does what it says and tells it what happened. */
export class LegacyExchange {
  readonly #machine: LegacyToModern;
  readonly #exchange: BridgedExchange;
  readonly #options: LegacyExchangeOptions;
  readonly #reply: ClientReply;
  readonly #closing = new AbortController();
  readonly #questions = new Set<string>();
  readonly #timer: NodeJS.Timeout;
  #reading: MessageStream | undefined;
  #ended = false;

  constructor(machine: LegacyToModern, exchange: BridgedExchange, options: LegacyExchangeOptions) {
    this.#machine = machine;
    this.#exchange = exchange;
    this.#options = options;
    this.#reply = new ClientReply({
      onAbort: (error) => this.fail(error),
      ...(options.newSessionId === undefined ? {} : { sessionId: options.newSessionId }),
    });
    this.#timer = setTimeout(() => this.fail(new AppError('UPSTREAM_TIMEOUT')), exchange.timeoutMs);
  }

  /** Resolves when the reply begins; rejects where it never will. */
  run(): Promise<UpstreamResponse> {
    void this.#perform(this.#machine.start());
    return this.#reply.response;
  }

  /** The client's response to a question. */
  answered(questionId: string, response: JsonObject): void {
    this.#questions.delete(questionId);
    this.#options.onAnswered(questionId);
    void this.#perform(this.#machine.handle({ type: 'clientAnswered', questionId, response }));
  }

  /** The client takes its request back: nobody waits for the response any more. */
  cancel(): void {
    this.fail(new AppError('CANCELLED'));
  }

  /** Ends the exchange with an error, unless it has ended. */
  fail(error: AppError): void {
    this.#machine.handle({ type: 'cancelled' });
    this.#reply.fail(error);
    // A closed connection is how a modern server learns of it.
    this.#closing.abort();
    this.#end();
  }

  /** In order; a slow client holds back the next. Never rejects. */
  async #perform(effects: readonly LegacyToModernEffect[]): Promise<void> {
    for (const effect of effects) {
      switch (effect.type) {
        case 'send':
          void this.#send(effect.round, effect.message);
          break;
        case 'readHeaders':
          void this.#readHeaders();
          break;
        case 'deliver':
          await this.#reply.deliver(effect.message);
          break;
        case 'ask':
          this.#questions.add(effect.questionId);
          this.#options.onAsk(effect.questionId);
          await this.#reply.deliver(effect.message);
          break;
        case 'answer':
          this.#reply.answer(effect.message);
          this.#end();
          break;
        case 'stop':
          this.#reply.end();
          this.#end();
          break;
        default:
          effect satisfies never;
      }
    }
  }

  async #send(round: number, request: JsonObject): Promise<void> {
    try {
      const messages = await this.#request(request);
      this.#reading?.close();
      this.#reading = messages;
      if (messages.isStream) this.#reply.open();
      for (let next = await messages.next(); next !== undefined; next = await messages.next()) {
        const message = withoutUnapproved(next, this.#exchange.authorized, this.#options.sighted);
        await this.#perform(this.#machine.handle({ type: 'upstreamMessage', round, message }));
        if (this.#reading !== messages) return;
      }
      await this.#perform(this.#machine.handle({ type: 'upstreamEnded', round }));
    } catch (error) {
      if (!this.#ended) this.fail(asUpstreamFailure(error));
    }
  }

  async #readHeaders(): Promise<void> {
    try {
      const { server, received } = this.#exchange.authorized.routed;
      const tools = await readList('tools', (page, cursor) => this.#request(this.#machine.listTools(page, cursor)));
      this.#options.headers.learn(server, stringMember(received.message?.params ?? {}, 'name') ?? '', tools);
      await this.#perform(this.#machine.handle({ type: 'headersRead' }));
    } catch (error) {
      this.fail(asUpstreamFailure(error));
    }
  }

  #request(message: JsonObject) {
    const { routed } = this.#exchange.authorized;
    const { server, runtime } = routed;
    const method = stringMember(message, 'method') ?? '';
    const params = objectMember(message, 'params') ?? {};
    const headers = method === 'tools/call' ? this.#options.headers.of(server, stringMember(params, 'name') ?? '') : [];
    return sendModern(
      this.#options.connections,
      { url: server.upstream, limits: runtime.limits },
      { ...message, method, params },
      headers,
      termsOf(this.#exchange, this.#closing.signal),
    );
  }

  #end(): void {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#timer);
    this.#reading?.close();
    for (const questionId of this.#questions) this.#options.onAnswered(questionId);
    this.#options.onEnd();
  }
}

/** A modern upstream has no sessions: its 404 concerns none of the client's. */
function asUpstreamFailure(thrown: unknown): AppError {
  const error = toAppError(thrown);
  if (error.code !== 'SESSION_NOT_FOUND') return error;
  return new AppError('UPSTREAM_PROTOCOL', { cause: error, internal: error.internal ?? 'a 404 from the upstream' });
}
