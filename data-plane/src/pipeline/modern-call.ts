import { AppError, toAppError } from '@sallyport/schema';
import { randomSecret } from '@sallyport/schema/platform';
import { sealCall, type SealedCall } from '../bridge/sealed-call.ts';
import type { ModernToLegacy, ModernToLegacyEffect } from '../bridge/modern-to-legacy.ts';
import { methodNotFound, modernResult } from '../bridge/translate.ts';
import { objectMember, type JsonObject } from '../mcp/envelope.ts';
import type { Lease } from '../upstream/channel-pool.ts';
import type { Cancellation, UpstreamResponse } from '../upstream/connections.ts';
import type { CallTerms, MessageStream } from '../upstream/legacy-channel.ts';
import { termsOf, type BridgedExchange } from './bridge.ts';
import { ClientReply } from './client-reply.ts';
import type { Authorized } from './exchange.ts';
import type { ParkedCall, ParkedCalls } from './parked-calls.ts';
import type { RelayedReturn } from './peer-link.ts';
import { type Sighted, withoutUnapproved } from './pinned-definitions.ts';

/** How long the upstream may go on asking before its questions are handed over together, in milliseconds. */
const settleMs = 25;
/** A message about a call that ended needs an answer of the upstream's within this time, in milliseconds. */
const noticeTimeoutMs = 10_000;

export interface ModernCallOptions {
  readonly parked: ParkedCalls;
  readonly nodeId: string;
  readonly digest: string;
  readonly serverInfo: JsonObject | null;
  readonly now: () => number;
  readonly sighted: Sighted;
  /** A session with the upstream; another one where the first turned out to be forgotten. */
  readonly lease: (isFresh: boolean) => Promise<Lease>;
}

/**
 * Drives one `ModernToLegacy`: a call at a legacy upstream, over all the requests its client makes for it. Between two
 * of them it is parked, its stream open and its session its own.
 */
export class ModernCall implements ParkedCall {
  readonly callId = randomSecret('call_');
  readonly digest: string;
  bytes = 0;
  authorized: Authorized;
  readonly #machine: ModernToLegacy;
  readonly #options: ModernCallOptions;
  readonly #exchange: BridgedExchange;
  readonly #closing = new AbortController();
  #beforeWrite: () => void;
  #reply: ClientReply | undefined;
  #method: string;
  #lease: Lease | undefined;
  #messages: MessageStream | undefined;
  #deadline: NodeJS.Timeout | undefined;
  #settle: NodeJS.Timeout | undefined;
  #order: Promise<void> = Promise.resolve();

  constructor(machine: ModernToLegacy, exchange: BridgedExchange, options: ModernCallOptions) {
    this.#machine = machine;
    this.#options = options;
    this.digest = options.digest;
    this.authorized = exchange.authorized;
    this.#exchange = exchange;
    this.#beforeWrite = exchange.beforeWrite;
    this.#method = exchange.authorized.routed.received.message?.method ?? '';
  }

  /** Resolves when the reply to the client's first request begins; rejects where it never will. */
  run(lease: Lease, exchange: BridgedExchange): Promise<UpstreamResponse> {
    this.#own(lease);
    const { signal } = exchange.authorized.routed.received.request;
    const reply = this.#attach(exchange.timeoutMs, signal);
    this.#perform(this.#machine.start());
    return reply.response;
  }

  resume(returned: RelayedReturn, signal: Cancellation): Promise<UpstreamResponse> {
    const reply = this.#attach(returned.timeoutMs, signal);
    // Whoever resumes has decided; what is posted now belongs to that decision.
    this.#beforeWrite = () => undefined;
    this.#perform(this.#machine.handle({ type: 'resumed', id: returned.requestId, responses: returned.responses }));
    return reply.response;
  }

  expire(): void {
    this.#perform(this.#machine.handle({ type: 'expired' }));
  }

  /** The client's stream is closed. */
  gone(): void {
    this.#perform(this.#machine.handle({ type: 'clientGone' }));
  }

  #own(lease: Lease): void {
    this.#lease = lease;
    lease.onMessage = (message) => this.#told(message);
  }

  #told(message: JsonObject): void {
    const approved = withoutUnapproved(message, this.authorized, this.#options.sighted);
    this.#perform(this.#machine.handle({ type: 'upstreamMessage', message: approved }));
  }

  #attach(timeoutMs: number, signal: Cancellation): ClientReply {
    const reply = new ClientReply({ onAbort: () => this.#left(reply) });
    this.#reply = reply;
    const onAborted = (): void => this.#left(reply);
    if (signal.aborted) setImmediate(onAborted);
    else signal.addEventListener('abort', onAborted, { once: true });
    this.#deadline = setTimeout(() => this.#failed(new AppError('UPSTREAM_TIMEOUT')), timeoutMs);
    return reply;
  }

  #left(reply: ClientReply): void {
    if (this.#reply === reply) this.#failed(new AppError('CANCELLED', { internal: 'the client went away' }));
  }

  #detach(): ClientReply | undefined {
    const reply = this.#reply;
    this.#reply = undefined;
    clearTimeout(this.#deadline);
    return reply;
  }

  #failed(error: AppError): void {
    const reply = this.#detach();
    this.gone();
    reply?.fail(error);
  }

  /** Whoever tells the machine something hands over what it says here; it is done in that order, one at a time. */
  #perform(effects: readonly ModernToLegacyEffect[]): void {
    if (effects.length === 0) return;
    this.#order = this.#order.then(async () => {
      for (const effect of effects) await this.#do(effect);
    });
  }

  /** Never rejects. */
  async #do(effect: ModernToLegacyEffect): Promise<void> {
    switch (effect.type) {
      case 'send':
        void this.#send(effect.message);
        return;
      case 'post':
        await this.#post(effect.message);
        return;
      case 'deliver':
        await this.#reply?.deliver(effect.message);
        return;
      case 'settle':
        this.#settle = setTimeout(() => this.#perform(this.#machine.handle({ type: 'settled' })), settleMs);
        return;
      case 'park':
        this.#park(effect.id, effect.questions);
        return;
      case 'askBefore': {
        const call: SealedCall = { kind: 'before', questions: Object.keys(effect.questions) };
        this.#detach()?.answer(this.#inputRequired(effect.id, effect.questions, call));
        return;
      }
      case 'answer':
        this.#detach()?.answer(effect.message, statusOf(this.#method, effect.message));
        return;
      case 'finished':
        this.#finish(true);
        return;
      case 'abandon':
        this.#closing.abort();
        // What the upstream still says of it must not reach the next call.
        this.#finish(false);
        return;
      default:
        effect satisfies never;
    }
  }

  async #send(message: JsonObject): Promise<void> {
    try {
      const terms = this.#terms();
      const messages = await this.#request(message, terms);
      this.#messages = messages;
      for (let next = await messages.next(); next !== undefined; next = await messages.next()) {
        this.#told(next);
        // A slow client holds back the upstream.
        await this.#order;
        if (this.#machine.isDone) return;
      }
      this.#perform(this.#machine.handle({ type: 'upstreamEnded' }));
    } catch (error) {
      if (this.#machine.isDone) return;
      const failure = asUpstreamFailure(error);
      if (this.#reply === undefined) this.#perform(this.#machine.handle({ type: 'upstreamEnded' }));
      else this.#failed(failure);
    }
  }

  /** A session that the upstream forgot did nothing: the call is made once more, in a new one (2025-11-25, Sessions). */
  async #request(message: JsonObject, terms: CallTerms): Promise<MessageStream> {
    const lease = this.#lease;
    if (lease === undefined) throw new AppError('INTERNAL', { internal: 'a call without a session' });
    try {
      return await lease.channel.request(message, terms);
    } catch (error) {
      if (toAppError(error).code !== 'SESSION_NOT_FOUND') throw error;
      lease.discard();
      const fresh = await this.#options.lease(true);
      this.#own(fresh);
      return await fresh.channel.request(message, terms);
    }
  }

  async #post(message: JsonObject): Promise<void> {
    const isNotice = 'method' in message;
    const terms = isNotice
      ? { ...this.#terms(), beforeWrite: () => undefined, signal: null, totalTimeoutMs: noticeTimeoutMs }
      : this.#terms();
    try {
      await this.#lease?.channel.post(message, terms);
    } catch (error) {
      // That a call was cancelled is a courtesy to the upstream; an answer that it does not get leaves the call hanging.
      if (!isNotice) this.#failed(asUpstreamFailure(error));
    }
  }

  /** While it is parked no deadline of an exchange holds; the stay itself is bounded. */
  #terms(): CallTerms {
    const { streamAgeMsMax } = this.authorized.routed.runtime.limits;
    return {
      ...termsOf(this.#exchange, this.#closing.signal, streamAgeMsMax),
      beforeWrite: () => this.#beforeWrite(),
    };
  }

  #park(id: string | number, questions: JsonObject): void {
    const reply = this.#detach();
    this.bytes = this.#exchange.body.length + JSON.stringify(questions).length;
    try {
      this.#options.parked.park(this);
    } catch (error) {
      this.expire();
      reply?.fail(toAppError(error));
      return;
    }
    const call: SealedCall = { kind: 'parked', nodeId: this.#options.nodeId, callId: this.callId };
    reply?.answer(this.#inputRequired(id, questions, call));
  }

  #inputRequired(id: string | number, inputRequests: JsonObject, call: SealedCall): JsonObject {
    const { routed } = this.authorized;
    const { principal } = routed.authenticated;
    const owner = {
      principalId: principal.id,
      principalEpoch: principal.epoch,
      serverId: routed.server.document.id,
      digest: this.digest,
    };
    const requestState = sealCall(routed.runtime, owner, call, this.#options.now() + this.#options.parked.parkedMs);
    const result = modernResult(
      '',
      { resultType: 'input_required', inputRequests, requestState },
      this.#options.serverInfo,
    );
    return { jsonrpc: '2.0', id, result };
  }

  #finish(isReusable: boolean): void {
    clearTimeout(this.#settle);
    this.#messages?.close();
    const lease = this.#lease;
    this.#lease = undefined;
    if (isReusable) lease?.release();
    else lease?.discard();
  }
}

/** A modern client learns from the status that there is no such method; a legacy server has no status for it. */
function statusOf(method: string, message: JsonObject): number {
  const isUnknown = objectMember(message, 'error')?.['code'] === methodNotFound;
  return isUnknown && method !== 'tools/call' && method !== 'prompts/get' ? 404 : 200;
}

/** A session that is forgotten is the bridge's affair, not the client's. */
export function asUpstreamFailure(thrown: unknown): AppError {
  const error = toAppError(thrown);
  if (error.code !== 'SESSION_NOT_FOUND') return error;
  return new AppError('UPSTREAM_PROTOCOL', { cause: error, internal: error.internal ?? 'the session is forgotten' });
}
