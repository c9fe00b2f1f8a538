import {
  Client,
  type FetchLike,
  type JSONRPCMessage,
  ProtocolError,
  SdkError,
  SdkErrorCode,
  SdkHttpError,
  SSEClientTransport,
  StreamableHTTPClientTransport,
  type Transport,
  type TransportSendOptions,
} from '@modelcontextprotocol/client';
import { z } from 'zod';
import { AppError, toAppError } from '../errors.ts';
import { isProtocolRevision, type ProtocolRevision, protocolRevisions } from '../mcp-methods.ts';
import type { UpstreamTransport } from '../snapshot.ts';
import type { Egress } from './guarded-egress.ts';

export interface DiscoverOptions {
  readonly url: string;
  readonly egress: Pick<Egress, 'fetch'>;
  /** For the whole discovery, all connections and pages together. */
  readonly timeoutMs: number;
  /** Sent along, to the URL's own origin alone; names are lower-case. */
  readonly credentialHeaders?: readonly (readonly [name: string, value: string])[];
  readonly clientInfo: { readonly name: string; readonly version: string };
  /** Canonical bytes of all definitions together; what a caller can carry on. */
  readonly definitionsBytesMax?: number;
  /** Ends the discovery early; its reason is what is thrown. */
  readonly signal?: AbortSignal;
}

const responseBytesMax = 16 * 1024 * 1024;
const notesMax = 100;
const endSessionTimeoutMs = 2_000;

/** Everything a client may offer, so that an upstream which adapts its lists to the client shows them whole. */
const everyCapability = {
  roots: { listChanged: true },
  sampling: { context: {}, tools: {} },
  elicitation: { form: {}, url: {} },
};

const anyResult = z.looseObject({});
type RawResult = Readonly<Record<string, unknown>>;

export function protocolError(internal: string, publicMessage?: string): AppError {
  return new AppError('UPSTREAM_PROTOCOL', { internal, ...(publicMessage === undefined ? {} : { publicMessage }) });
}

/**
 * Passes messages between the SDK's client and its HTTP transport, and keeps the latest raw result of each method: the
 * client validates results whole and strips what it does not know, while digests are taken over what was sent.
 */
class RawTransport implements Transport {
  readonly results = new Map<string, RawResult>();
  readonly #inner: Transport;
  readonly #methods = new Map<string | number, string>();
  readonly hasPerRequestStream: boolean;
  onclose?: () => void;
  onerror?: (error: Error) => void;
  onmessage?: (message: JSONRPCMessage) => void;

  constructor(inner: Transport, hasPerRequestStream: boolean) {
    this.#inner = inner;
    this.hasPerRequestStream = hasPerRequestStream;
    inner.onclose = () => this.onclose?.();
    inner.onerror = (error) => this.onerror?.(error);
    inner.onmessage = (message) => {
      this.#keep(message);
      this.onmessage?.(message);
    };
  }

  get sessionId(): string | undefined {
    return this.#inner.sessionId;
  }

  setProtocolVersion(revision: string): void {
    this.#inner.setProtocolVersion?.(revision);
  }

  start(): Promise<void> {
    return this.#inner.start();
  }

  send(message: JSONRPCMessage, options?: TransportSendOptions): Promise<void> {
    if ('method' in message && 'id' in message) this.#methods.set(message.id, message.method);
    const { headers, requestSignal, onRequestStreamEnd } = options ?? {};
    return this.#inner.send(message, {
      ...(headers === undefined ? {} : { headers }),
      ...(requestSignal === undefined ? {} : { requestSignal }),
      ...(onRequestStreamEnd === undefined ? {} : { onRequestStreamEnd }),
    });
  }

  close(): Promise<void> {
    return this.#inner.close();
  }

  #keep(message: JSONRPCMessage): void {
    if (!('result' in message)) return;
    const method = this.#methods.get(message.id);
    this.#methods.delete(message.id);
    if (method !== undefined) this.results.set(method, message.result);
  }
}

/** One discovery's bounds: the deadline, and the bytes of any one response. */
export class Attempt {
  readonly #abort = new AbortController();
  readonly #timer: NodeJS.Timeout;
  readonly options: DiscoverOptions;
  readonly notes: string[] = [];
  readonly signal: AbortSignal = this.#abort.signal;

  constructor(options: DiscoverOptions) {
    this.options = options;
    this.#timer = setTimeout(() => {
      this.#abort.abort(new AppError('UPSTREAM_TIMEOUT', { internal: `discovery exceeded ${options.timeoutMs} ms` }));
    }, options.timeoutMs);
    const { signal } = options;
    if (signal?.aborted === true) this.#abort.abort(signal.reason);
    else signal?.addEventListener('abort', () => this.#abort.abort(signal.reason), { signal: this.signal });
  }

  /** Lets go of the timer, and of whatever connection is still open. */
  end(): void {
    clearTimeout(this.#timer);
    this.#abort.abort();
  }

  note(text: string): void {
    if (this.notes.length < notesMax) this.notes.push(text);
  }

  readonly fetch: FetchLike = async (input, init) => {
    this.signal.throwIfAborted();
    const signal = init?.signal ?? undefined;
    const signals = signal === undefined ? [this.signal] : [this.signal, signal];
    const headers = this.#headersFor(input, init?.headers);
    const response = await this.options.egress.fetch(input, { ...init, headers, signal: AbortSignal.any(signals) });
    return this.#bounded(response);
  };

  #headersFor(input: string | URL, given: RequestInit['headers']): Headers {
    const headers = new Headers(given);
    const { credentialHeaders = [], url } = this.options;
    if (new URL(input).origin !== new URL(url).origin) return headers;
    for (const [name, value] of credentialHeaders) headers.set(name, value);
    return headers;
  }

  #bounded(response: Response): Response {
    if (response.body === null) return response;
    let bytes = 0;
    const bound = new TransformStream<Uint8Array, Uint8Array>({
      transform: (chunk, controller) => {
        bytes += chunk.byteLength;
        if (bytes <= responseBytesMax) {
          controller.enqueue(chunk);
          return;
        }
        const error = new AppError('UPSTREAM_RESPONSE_TOO_LARGE', {
          internal: `a response exceeds ${responseBytesMax} bytes`,
        });
        this.#abort.abort(error);
        controller.error(error);
      },
    });
    const { status, statusText, headers } = response;
    return new Response(response.body.pipeThrough(bound), { status, statusText, headers });
  }
}

type Mode = 'auto' | 'legacy';

export interface Connection {
  readonly protocolRevision: ProtocolRevision;
  /** Raw result of `server/discover` or `initialize`. */
  readonly greeting: RawResult;
  /** Raw result of a method; undefined when the upstream does not know the method. */
  request(method: DiscoveryMethod, params: Record<string, unknown>): Promise<RawResult | undefined>;
  close(): Promise<void>;
}

type DiscoveryMethod = 'tools/list' | 'prompts/list' | 'resources/list' | 'resources/templates/list' | 'resources/read';

async function requestRaw(
  client: Client,
  transport: RawTransport,
  attempt: Attempt,
  request: { method: DiscoveryMethod; params: Record<string, unknown> },
): Promise<RawResult | undefined> {
  transport.results.delete(request.method);
  try {
    await client.request(request, anyResult, { signal: attempt.signal, timeout: attempt.options.timeoutMs });
  } catch (error) {
    if (error instanceof ProtocolError && error.code === -32601) return undefined;
    // The client refuses a list for one bad entry; we judge the entries one by one.
    const unread = error instanceof SdkError && error.code === SdkErrorCode.InvalidResult;
    if (!unread || !transport.results.has(request.method)) throw error;
  }
  const raw = transport.results.get(request.method);
  if (raw === undefined) throw protocolError(`${request.method} was answered without a result`);
  return raw;
}

/** Also after the client has closed: an upstream that was asked in vain must not be left with a session each time. */
async function endSession(attempt: Attempt, http: StreamableHTTPClientTransport | SSEClientTransport): Promise<void> {
  // Of HTTP+SSE, the end of the connection is the end of the session.
  if (http instanceof SSEClientTransport) return;
  const { sessionId, protocolVersion } = http;
  if (sessionId === undefined) return;
  const headers = {
    'mcp-session-id': sessionId,
    ...(protocolVersion === undefined ? {} : { 'mcp-protocol-version': protocolVersion }),
  };
  const signal = AbortSignal.timeout(endSessionTimeoutMs);
  // An upstream that does not let clients end sessions answers with an error, which is its right.
  await attempt
    .fetch(attempt.options.url, { method: 'DELETE', headers, signal })
    .then((response) => response.body?.cancel())
    .catch(() => undefined);
}

function httpTransport(
  { options, fetch }: Attempt,
  transport: UpstreamTransport,
): StreamableHTTPClientTransport | SSEClientTransport {
  const url = new URL(options.url);
  // It refuses an endpoint of another origin by itself.
  if (transport === 'httpSse') return new SSEClientTransport(url, { fetch });
  const reconnectionOptions = {
    initialReconnectionDelay: 200,
    maxReconnectionDelay: 1_000,
    reconnectionDelayGrowFactor: 2,
    maxRetries: 1,
  };
  return new StreamableHTTPClientTransport(url, { fetch, reconnectionOptions });
}

/** Connects with the given negotiation; only `revisions` are offered and accepted. */
export async function connect(
  attempt: Attempt,
  mode: Mode,
  revisions: readonly ProtocolRevision[],
  over: UpstreamTransport = 'streamableHttp',
): Promise<Connection> {
  const http = httpTransport(attempt, over);
  const transport = new RawTransport(http, over === 'streamableHttp');
  const client = new Client(attempt.options.clientInfo, {
    capabilities: everyCapability,
    supportedProtocolVersions: [...revisions],
    versionNegotiation: { mode },
  });
  client.setRequestHandler('roots/list', () => ({ roots: [] }));
  try {
    await client.connect(transport, { signal: attempt.signal, timeout: attempt.options.timeoutMs });
  } catch (error) {
    await client.close();
    await endSession(attempt, http);
    throw error;
  }
  const protocolRevision = client.getNegotiatedProtocolVersion();
  const greeting = transport.results.get(client.getProtocolEra() === 'modern' ? 'server/discover' : 'initialize');
  const close = async (): Promise<void> => {
    await client.close();
    await endSession(attempt, http);
  };
  if (!isProtocolRevision(protocolRevision) || greeting === undefined) {
    await close();
    throw protocolError(`negotiated ${String(protocolRevision)}`);
  }
  return {
    protocolRevision,
    greeting,
    close,
    request: (method, params) => requestRaw(client, transport, attempt, { method, params }),
  };
}

/** True when the failure says "I do not speak that", not "I cannot be reached just now". */
export function isRefusal(error: unknown, attempt: Attempt): boolean {
  if (attempt.signal.aborted || error instanceof AppError) return false;
  if (error instanceof ProtocolError) return true;
  if (error instanceof SdkHttpError) {
    const { status } = error.data;
    return status !== undefined && status >= 400 && status < 500 && ![401, 403, 408, 425, 429].includes(status);
  }
  // The client's own words for an answer in a revision that was not offered.
  return error instanceof Error && error.message.includes('protocol version is not supported');
}

/** True when what came is no answer to a handshake: some servers say yes, and nothing else, to any method. */
function isNoHandshake(error: unknown): boolean {
  return error instanceof SdkError && error.code === SdkErrorCode.InvalidResult;
}

/** Whether the upstream accepts `initialize` with exactly this revision; undefined when it does not. */
export async function tryLegacy(
  attempt: Attempt,
  revision: ProtocolRevision,
  over: UpstreamTransport,
): Promise<Connection | undefined> {
  try {
    return await connect(attempt, 'legacy', [revision], over);
  } catch (error) {
    if (isRefusal(error, attempt) || isNoHandshake(error)) return undefined;
    throw error;
  }
}

/** What went wrong, as an error whose public text holds nothing the upstream said. */
export function discoveryError(error: unknown, attempt: Attempt): AppError {
  if (attempt.signal.aborted) return toAppError(attempt.signal.reason);
  for (let cause = error, depth = 0; cause instanceof Error && depth < 4; cause = cause.cause, depth++) {
    if (cause instanceof AppError) return cause;
    if (cause instanceof TypeError && cause.message === 'fetch failed') {
      return new AppError('UPSTREAM_UNREACHABLE', { internal: 'the connection broke', cause: error });
    }
  }
  const internal = error instanceof Error ? error.message : String(error);
  if (error instanceof SdkHttpError) {
    const { status } = error.data;
    if (status === 401 || status === 403) {
      return new AppError('UPSTREAM_REFUSED', { internal: `HTTP ${status} at discovery`, cause: error });
    }
    return new AppError('UPSTREAM_PROTOCOL', {
      internal,
      cause: error,
      publicMessage: `The MCP server answered with HTTP status ${status}.`,
    });
  }
  if (error instanceof Error && error.message.includes('protocol version is not supported')) {
    const publicMessage = `The MCP server speaks none of the supported revisions: ${protocolRevisions.join(', ')}.`;
    return new AppError('UPSTREAM_PROTOCOL', { internal, cause: error, publicMessage });
  }
  if (error instanceof SdkError && error.code === SdkErrorCode.RequestTimeout) {
    return new AppError('UPSTREAM_TIMEOUT', { internal, cause: error });
  }
  return new AppError('UPSTREAM_PROTOCOL', { internal, cause: error });
}
