import type { Readable, Writable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import {
  type AuthProvider,
  isInitializeRequest,
  isJSONRPCErrorResponse,
  isJSONRPCNotification,
  isJSONRPCRequest,
  isJSONRPCResultResponse,
  type JSONRPCErrorResponse,
  type JSONRPCMessage,
  type JSONRPCNotification,
  type JSONRPCRequest,
  PROTOCOL_VERSION_META_KEY,
  ReadBuffer,
  type RequestId,
  SdkHttpError,
  serializeMessage,
  StreamableHTTPClientTransport,
} from '@modelcontextprotocol/client';

/** How long calls under way may go on after the client closed its end, in milliseconds. */
const drainTimeoutMs = 30_000;
/** How long the end of the session may take, in milliseconds. */
const terminateTimeoutMs = 3_000;
/** Longest line from the client, in bytes. */
const lineBytesMax = 16 * 1024 * 1024;
const parseError = -32700;
const internalError = -32603;

export interface ConnectorOptions {
  /** The MCP endpoint of a gateway. */
  readonly endpoint: URL;
  /** Gives the key or token of each request, and logs in where the gateway refuses it. */
  readonly credential: AuthProvider;
  readonly input: Readable;
  readonly output: Writable;
  /** For people: standard error. */
  readonly warn: (text: string) => void;
}

interface Call {
  readonly request: JSONRPCRequest;
  readonly controller: AbortController;
  readonly settled: PromiseWithResolvers<void>;
}

/**
 * Lets a client that speaks stdio use an endpoint of the gateway: each line becomes a POST, each message that comes back
 * a line. It takes the side of neither era: requests that carry the envelope of 2026-07-28 are sent with its headers,
 * all others belong to the session their `initialize` began.
 */
export class Connector {
  readonly #options: ConnectorOptions;
  readonly #transport: StreamableHTTPClientTransport;
  readonly #calls = new Map<string, Call>();
  /** Answers to requests of the connector's own, by id. */
  readonly #own = new Map<RequestId, (answer: JSONRPCMessage) => void>();
  #initialize: JSONRPCRequest | undefined;
  #renewal: Promise<void> | undefined;
  #renewals = 0;
  /** Notifications and answers keep their order, and what comes after them waits for them. */
  #ordered: Promise<void> = Promise.resolve();

  constructor(options: ConnectorOptions) {
    this.#options = options;
    this.#transport = new StreamableHTTPClientTransport(options.endpoint, {
      authProvider: options.credential,
      reconnectionOptions: {
        initialReconnectionDelay: 1_000,
        maxReconnectionDelay: 30_000,
        reconnectionDelayGrowFactor: 2,
        maxRetries: Number.POSITIVE_INFINITY,
      },
    });
    this.#transport.onmessage = (message) => this.#fromGateway(message);
  }

  /** Runs until the client closes its end or `signal` is aborted. */
  async run(signal: AbortSignal): Promise<void> {
    await this.#transport.start();
    const { input } = this.#options;
    const stop = (): void => void input.destroy();
    signal.addEventListener('abort', stop, { once: true });
    try {
      await this.#read(input);
    } catch (error) {
      if (!signal.aborted) throw error;
    } finally {
      signal.removeEventListener('abort', stop);
      if (!signal.aborted) await this.#drain();
      await this.#close();
    }
  }

  async #read(input: Readable): Promise<void> {
    const buffer = new ReadBuffer({ maxBufferSize: lineBytesMax });
    for await (const chunk of input as AsyncIterable<Buffer>) {
      buffer.append(chunk);
      for (let next = this.#readLine(buffer); next !== null; next = this.#readLine(buffer)) {
        if (next !== undefined) this.#fromClient(next);
      }
    }
  }

  /** @returns null where no whole line is left, undefined for one that is not a message */
  #readLine(buffer: ReadBuffer): JSONRPCMessage | null | undefined {
    try {
      return buffer.readMessage();
    } catch {
      this.#options.warn('A line that is not a JSON-RPC message was not sent on.');
      this.#write({ jsonrpc: '2.0', error: { code: parseError, message: 'Not a JSON-RPC message' } });
      return undefined;
    }
  }

  #fromClient(message: JSONRPCMessage): void {
    const before = this.#ordered;
    if (isJSONRPCRequest(message)) {
      void before.then(() => this.#call(message));
      return;
    }
    const cancelled = isJSONRPCNotification(message) ? cancelledId(message) : undefined;
    const call = cancelled === undefined ? undefined : this.#calls.get(keyOf(cancelled));
    if (call !== undefined && isModern(call.request)) {
      // 2026-07-28: over HTTP a call is cancelled by closing its stream.
      this.#settle(call.request.id);
      call.controller.abort();
      return;
    }
    this.#ordered = before.then(() => this.#transport.send(message)).catch((error: unknown) => this.#lost(error));
  }

  async #call(request: JSONRPCRequest): Promise<void> {
    const controller = new AbortController();
    this.#calls.set(keyOf(request.id), { request, controller, settled: Promise.withResolvers() });
    if (isInitializeRequest(request)) this.#initialize = request;
    try {
      await this.#send(request, controller.signal);
    } catch (error) {
      if (!controller.signal.aborted) this.#fail(request.id, error);
    }
  }

  async #send(request: JSONRPCRequest, signal: AbortSignal): Promise<void> {
    const options = {
      requestSignal: signal,
      onRequestStreamEnd: (): void => this.#fail(request.id, new Error('the stream ended without an answer')),
    };
    const hadSession = this.#transport.sessionId !== undefined && !isInitializeRequest(request);
    try {
      await this.#transport.send(request, options);
    } catch (error) {
      // The gateway no longer knows the session, so the call was not made: it may be made in a new one.
      if (!hadSession || isModern(request) || !(error instanceof SdkHttpError) || error.status !== 404) throw error;
      this.#renewal ??= this.#renewSession().finally(() => {
        this.#renewal = undefined;
      });
      await this.#renewal;
      await this.#transport.send(request, options);
    }
  }

  async #renewSession(): Promise<void> {
    const initialize = this.#initialize;
    if (initialize === undefined) throw new Error('there is no session to renew');
    const id = `sallyport-connect-${(this.#renewals += 1)}`;
    const answered = new Promise<JSONRPCMessage>((resolve) => this.#own.set(id, resolve));
    await this.#transport.send({ ...initialize, id });
    const answer = await answered;
    if (isJSONRPCErrorResponse(answer)) throw new Error(`the session could not be renewed: ${answer.error.message}`);
    await this.#transport.send({ jsonrpc: '2.0', method: 'notifications/initialized' });
  }

  #fromGateway(message: JSONRPCMessage): void {
    if (!isJSONRPCResultResponse(message) && !isJSONRPCErrorResponse(message)) {
      this.#write(message);
      return;
    }
    this.#noteHandshake(message);
    const own = message.id === undefined ? undefined : this.#own.get(message.id);
    if (own !== undefined && message.id !== undefined) {
      this.#own.delete(message.id);
      own(message);
      return;
    }
    // An answer to what was cancelled, or answered already, is not the client's to see.
    if (message.id === undefined || this.#settle(message.id)) this.#write(message);
  }

  #noteHandshake(message: JSONRPCMessage): void {
    if (!isJSONRPCResultResponse(message)) return;
    const isHandshake = this.#own.has(message.id) || message.id === this.#initialize?.id;
    const negotiated = message.result['protocolVersion'];
    if (isHandshake && typeof negotiated === 'string') this.#transport.setProtocolVersion(negotiated);
  }

  #settle(id: RequestId): boolean {
    const call = this.#calls.get(keyOf(id));
    if (call === undefined) return false;
    this.#calls.delete(keyOf(id));
    call.settled.resolve();
    return true;
  }

  #fail(id: RequestId, error: unknown): void {
    if (this.#settle(id)) this.#write({ jsonrpc: '2.0', id, error: rpcErrorOf(error) });
  }

  #lost(error: unknown): void {
    this.#options.warn(`A message was not delivered: ${rpcErrorOf(error).message}`);
  }

  #write(message: JSONRPCMessage): void {
    this.#options.output.write(serializeMessage(message));
  }

  async #drain(): Promise<void> {
    await this.#ordered;
    const calls = [...this.#calls.values()].map(({ settled }) => settled.promise);
    await Promise.race([Promise.all(calls), delay(drainTimeoutMs, undefined, { ref: false })]);
  }

  async #close(): Promise<void> {
    const ended = this.#transport.terminateSession().catch((error: unknown) => this.#lost(error));
    await Promise.race([ended, delay(terminateTimeoutMs, undefined, { ref: false })]);
    await this.#transport.close();
  }
}

/** Ids keep their type: "1" and 1 are two requests. */
function keyOf(id: RequestId): string {
  return JSON.stringify(id);
}

function isModern(request: JSONRPCRequest): boolean {
  return request.params?._meta !== undefined && Object.hasOwn(request.params._meta, PROTOCOL_VERSION_META_KEY);
}

function cancelledId(notification: JSONRPCNotification): RequestId | undefined {
  const id = notification.method === 'notifications/cancelled' ? notification.params?.['requestId'] : undefined;
  return typeof id === 'string' || typeof id === 'number' ? id : undefined;
}

/** What the gateway said, where it said something; else what happened to the connection. */
function rpcErrorOf(error: unknown): JSONRPCErrorResponse['error'] {
  if (error instanceof SdkHttpError) {
    const said = parsed(error.data.text);
    if (isJSONRPCErrorResponse(said)) return said.error;
    return { code: internalError, message: `The gateway answered with HTTP status ${error.status}.` };
  }
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause.message : undefined;
  const message = error instanceof Error ? error.message : String(error);
  return { code: internalError, message: `The gateway could not be asked: ${cause ?? message}.` };
}

function parsed(text: unknown): unknown {
  try {
    return typeof text === 'string' ? JSON.parse(text) : undefined;
  } catch {
    return undefined;
  }
}
