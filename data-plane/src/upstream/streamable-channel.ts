import { setTimeout } from 'node:timers/promises';
import {
  AppError,
  eraOf,
  isProtocolRevision,
  legacyRevisions,
  type LimitsDocument,
  type UpstreamTransport,
} from '@sallyport/schema';
import { isObject, objectMember, stringMember, type JsonObject } from '../mcp/envelope.ts';
import { isJson } from '../mcp/headers.ts';
import { unsupportedRevision } from '../mcp/revision.ts';
import type { Connections, UpstreamResponse } from './connections.ts';
import type { CallTerms, LegacyChannel, LegacyTransport, MessageStream } from './legacy-channel.ts';
import { readMessages, type ResponseMessages } from './message-stream.ts';

/** How often one broken stream is taken up again without a message in between. */
const resumptionsMax = 5;
/** Waited before where the upstream names no time, in milliseconds; servers that poll (SEP-1699) close streams on purpose. */
const resumptionDelayMs = 200;
/** No upstream is waited for longer than this at once, in milliseconds, whatever it says. */
const resumptionDelayMaxMs = 60_000;
const visibleAscii = /^[\x21-\x7e]{1,2048}$/;

export interface StreamableTransportOptions {
  readonly connections: Pick<Connections, 'send'>;
  readonly url: URL;
  readonly transport: UpstreamTransport;
  readonly limits: LimitsDocument;
}

/** Sessions over Streamable HTTP (2025-03-26 to 2025-11-25 basic/transports). */
export class StreamableTransport implements LegacyTransport {
  readonly #options: StreamableTransportOptions;

  constructor(options: StreamableTransportOptions) {
    this.#options = options;
  }

  async open(initialize: JsonObject, terms: CallTerms): Promise<LegacyChannel> {
    const request = { jsonrpc: '2.0', id: 0, method: 'initialize', params: initialize };
    const response = await send(this.#options, 'POST', request, [], terms);
    const sessionId = response.header('mcp-session-id');
    if (sessionId !== undefined && !visibleAscii.test(sessionId)) {
      throw new AppError('UPSTREAM_PROTOCOL', { internal: 'session id is not visible ASCII' });
    }
    const initialized = await initializedBy(await readMessages(response, this.#options.limits));
    const channel = new StreamableChannel(this.#options, initialized, sessionId, terms);
    await channel.post({ jsonrpc: '2.0', method: 'notifications/initialized' }, terms);
    return channel;
  }
}

async function initializedBy(messages: MessageStream): Promise<JsonObject> {
  for (let message = await messages.next(); message !== undefined; message = await messages.next()) {
    if (message['id'] !== 0 || 'method' in message) continue;
    messages.close();
    const result = objectMember(message, 'result');
    if (result === undefined) break;
    const negotiated = stringMember(result, 'protocolVersion');
    if (!isProtocolRevision(negotiated) || eraOf(negotiated) !== 'legacy') {
      throw unsupportedRevision(null, legacyRevisions);
    }
    return result;
  }
  throw new AppError('UPSTREAM_PROTOCOL', { internal: 'initialize was refused' });
}

class StreamableChannel implements LegacyChannel {
  readonly #options: StreamableTransportOptions;
  readonly #headers: readonly string[];
  /** Of the last exchange: by whom, and in which trace, the end of a session is told. */
  #lastTerms: CallTerms;
  readonly initialized: JsonObject;
  readonly hasSession: boolean;

  constructor(
    options: StreamableTransportOptions,
    initialized: JsonObject,
    sessionId: string | undefined,
    opened: CallTerms,
  ) {
    this.#options = options;
    this.#lastTerms = opened;
    this.initialized = initialized;
    this.hasSession = sessionId !== undefined;
    this.#headers = [
      'mcp-protocol-version',
      stringMember(initialized, 'protocolVersion') ?? '',
      ...(sessionId === undefined ? [] : ['mcp-session-id', sessionId]),
    ];
  }

  async request(message: JsonObject, terms: CallTerms): Promise<MessageStream> {
    this.#lastTerms = terms;
    const response = await send(this.#options, 'POST', message, this.#headers, terms);
    const forgotten = response.status === 404 && this.hasSession;
    const messages = await readMessages(response, this.#options.limits);
    if (messages.refusal !== null) terms.onRefused(messages.refusal);
    if (forgotten && !messages.isStream) throw new AppError('SESSION_NOT_FOUND', { internal: 'forgotten upstream' });
    return new ResumedMessages(messages, message['id'], (lastEventId) => this.#resume(lastEventId, terms));
  }

  async post(message: JsonObject, terms: CallTerms): Promise<void> {
    const response = await send(this.#options, 'POST', message, this.#headers, terms);
    const { status } = response;
    await drained(response);
    if (status >= 400) {
      const code = status === 404 && this.hasSession ? 'SESSION_NOT_FOUND' : 'UPSTREAM_PROTOCOL';
      throw new AppError(code, { internal: `status ${status} for a message without an answer` });
    }
  }

  async listen(terms: CallTerms): Promise<MessageStream | null> {
    this.#lastTerms = terms;
    const response = await send(this.#options, 'GET', null, this.#headers, terms);
    if (response.status === 404 && this.hasSession && !isJson(response.header('content-type'))) {
      response.abort(new AppError('SESSION_NOT_FOUND'));
      throw new AppError('SESSION_NOT_FOUND', { internal: 'forgotten upstream' });
    }
    const { status } = response;
    if (isPassing(status)) {
      await drained(response);
      throw new AppError('UPSTREAM_UNREACHABLE', { internal: `status ${status} for the stream of a session` });
    }
    if (status >= 400 && status !== 401 && status !== 403) {
      response.abort(new AppError('UPSTREAM_PROTOCOL', { internal: 'no stream is offered' }));
      return null;
    }
    const messages = await readMessages(response, this.#options.limits);
    return messages.isStream ? messages : null;
  }

  close(): void {
    if (!this.hasSession) return;
    const terms = {
      ...this.#lastTerms,
      beforeWrite: () => undefined,
      onRequest: () => undefined,
      onRefused: () => undefined,
      totalTimeoutMs: closeTimeoutMs,
      signal: null,
    };
    // A courtesy to the upstream, which forgets the session by itself in time.
    send(this.#options, 'DELETE', null, this.#headers, terms)
      .then(drained)
      .catch(() => undefined);
  }

  async #resume(lastEventId: string, terms: CallTerms): Promise<ResponseMessages | undefined> {
    const headers = [...this.#headers, 'last-event-id', lastEventId];
    const response = await send(this.#options, 'GET', null, headers, terms);
    const messages = await readMessages(response, this.#options.limits);
    return messages.isStream ? messages : undefined;
  }
}
const closeTimeoutMs = 5_000;

/** One answer over as many streams as the upstream takes for it. */
class ResumedMessages implements MessageStream {
  #messages: ResponseMessages;
  readonly #requestId: unknown;
  readonly #resume: (lastEventId: string) => Promise<ResponseMessages | undefined>;
  readonly #closing = new AbortController();
  #lastEventId: string | null = null;
  #retryMs: number | null = null;
  #resumptions = 0;
  #answered = false;
  #closed = false;

  constructor(
    messages: ResponseMessages,
    requestId: unknown,
    resume: (lastEventId: string) => Promise<ResponseMessages | undefined>,
  ) {
    this.#messages = messages;
    this.#requestId = requestId;
    this.#resume = resume;
  }

  async next(): Promise<JsonObject | undefined> {
    while (!this.#closed) {
      const message = await this.#read();
      if (message !== undefined) {
        this.#resumptions = 0;
        if (message['id'] === this.#requestId && !('method' in message)) this.#answered = true;
        return message;
      }
      this.#lastEventId = this.#messages.lastEventId ?? this.#lastEventId;
      this.#retryMs = this.#messages.retryMs ?? this.#retryMs;
      if (this.#answered || this.#lastEventId === null || this.#resumptions++ >= resumptionsMax) return undefined;
      await this.#pause();
      if (this.#closed) return undefined;
      const resumed = await this.#resume(this.#lastEventId);
      if (resumed === undefined) return undefined;
      if (this.#closed) resumed.close();
      this.#messages = resumed;
    }
    return undefined;
  }

  /** As long as the upstream wants (`retry`, 2025-11-25 basic/transports §Sending Messages), or until nobody reads on. */
  async #pause(): Promise<void> {
    const delayMs = Math.min(this.#retryMs ?? resumptionDelayMs, resumptionDelayMaxMs);
    await setTimeout(delayMs, undefined, { signal: this.#closing.signal }).catch(() => undefined);
  }

  /** A stream that breaks is taken up like one that ends, if it can be. */
  async #read(): Promise<JsonObject | undefined> {
    try {
      return await this.#messages.next();
    } catch (error) {
      const canResume = this.#messages.lastEventId !== null || this.#lastEventId !== null;
      const isBroken = error instanceof AppError && error.code === 'UPSTREAM_UNREACHABLE';
      if (!this.#closed && (!canResume || !isBroken)) throw error;
      return undefined;
    }
  }

  close(): void {
    this.#closed = true;
    this.#closing.abort();
    this.#messages.close();
  }
}

/** Sends one HTTP request of a session. */
async function send(
  { connections, url, transport, limits }: StreamableTransportOptions,
  method: 'GET' | 'POST' | 'DELETE',
  message: JsonObject | null,
  sessionHeaders: readonly string[],
  terms: CallTerms,
): Promise<UpstreamResponse> {
  if (message !== null && message['id'] !== undefined && typeof message['method'] === 'string') {
    terms.onRequest(message['method']);
  }
  const accept = method === 'POST' ? 'application/json, text/event-stream' : 'text/event-stream';
  const headers = ['accept-encoding', 'identity', 'user-agent', 'sallyport', ...sessionHeaders, ...terms.headers];
  if (method !== 'DELETE') headers.push('accept', accept);
  if (isObject(message)) headers.push('content-type', 'application/json');
  return await connections.send(
    {
      url,
      transport,
      principalId: terms.principalId,
      credential: terms.credential,
      method,
      headers,
      body: message === null ? null : Buffer.from(JSON.stringify(message)),
      // Some servers send the headers of a quiet stream with its first event.
      firstByteTimeoutMs:
        method === 'GET' ? terms.totalTimeoutMs : limits.upstreamConnectTimeoutMs + limits.upstreamFirstByteTimeoutMs,
      totalTimeoutMs: terms.totalTimeoutMs,
      beforeWrite: terms.beforeWrite,
    },
    terms.signal,
  );
}

/** What is said of a moment, mostly by something before the server: whether it offers a stream shows later. */
function isPassing(status: number): boolean {
  return status === 429 || (status >= 502 && status <= 504);
}

/** Reads what nobody wants, so that the connection can be used again. */
async function drained(response: UpstreamResponse): Promise<void> {
  await response.collect({ bytesMax: unreadBytesMax, idleTimeoutMs: closeTimeoutMs });
}
const unreadBytesMax = 64 * 1024;
