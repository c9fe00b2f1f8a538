import {
  Client,
  type FetchLike,
  type JSONRPCMessage,
  ProtocolError,
  SdkError,
  SdkErrorCode,
  SdkHttpError,
  StreamableHTTPClientTransport,
  type Transport,
  type TransportSendOptions,
} from '@modelcontextprotocol/client';
import { z } from 'zod';
import { canonicalJson, sha256 } from '../canonical-json.ts';
import { checkDefinition } from '../definition-check.ts';
import { AppError, toAppError } from '../errors.ts';
import {
  eraOf,
  isProtocolRevision,
  legacyRevisions,
  type ProtocolRevision,
  protocolRevisions,
} from '../mcp-methods.ts';
import type { DefinitionKind } from '../snapshot.ts';
import type { DiscoveryResult } from '../sync.ts';
import type { Egress } from './guarded-egress.ts';

export interface DiscoverOptions {
  readonly url: string;
  readonly egress: Pick<Egress, 'fetch'>;
  /** For the whole discovery, all connections and pages together. */
  readonly timeoutMs: number;
  readonly clientInfo: { readonly name: string; readonly version: string };
  /** Canonical bytes of all definitions together; what a caller can carry on. */
  readonly definitionsBytesMax?: number;
  /** Ends the discovery early; its reason is what is thrown. */
  readonly signal?: AbortSignal;
}

const pagesMax = 100;
const definitionsMax = 5_000;
const definitionsBytesMaxDefault = 16 * 1024 * 1024;
const responseBytesMax = 16 * 1024 * 1024;
const informationBytesMax = 64 * 1024;
const notesMax = 100;
const noteNameLengthMax = 128;
const endSessionTimeoutMs = 2_000;

/** Everything a client may offer, so that an upstream which adapts its lists to the client shows them whole. */
const everyCapability = {
  roots: { listChanged: true },
  sampling: { context: {}, tools: {} },
  elicitation: { form: {}, url: {} },
};

const anyResult = z.looseObject({});
type RawResult = Readonly<Record<string, unknown>>;

function protocolError(internal: string, publicMessage?: string): AppError {
  return new AppError('UPSTREAM_PROTOCOL', { internal, ...(publicMessage === undefined ? {} : { publicMessage }) });
}

/**
 * Passes messages between the SDK's client and its HTTP transport, and keeps the latest raw result of each method: the
 * client validates results whole and strips what it does not know, while digests are taken over what was sent.
 */
class RawTransport implements Transport {
  readonly results = new Map<string, RawResult>();
  readonly #inner: StreamableHTTPClientTransport;
  readonly #methods = new Map<string | number, string>();
  readonly hasPerRequestStream = true;
  onclose?: () => void;
  onerror?: (error: Error) => void;
  onmessage?: (message: JSONRPCMessage) => void;

  constructor(inner: StreamableHTTPClientTransport) {
    this.#inner = inner;
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
    this.#inner.setProtocolVersion(revision);
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
class Attempt {
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
    const response = await this.options.egress.fetch(input, { ...init, signal: AbortSignal.any(signals) });
    return this.#bounded(response);
  };

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

interface Connection {
  readonly revision: ProtocolRevision;
  /** Raw result of `server/discover` or `initialize`. */
  readonly greeting: RawResult;
  /** Raw result of a list method; undefined when the upstream does not know the method. */
  request(method: ListMethod, params: Record<string, unknown>): Promise<RawResult | undefined>;
  close(): Promise<void>;
}

type ListMethod = 'tools/list' | 'prompts/list' | 'resources/list' | 'resources/templates/list';

async function requestRaw(
  client: Client,
  transport: RawTransport,
  attempt: Attempt,
  request: { method: ListMethod; params: Record<string, unknown> },
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
async function endSession(attempt: Attempt, http: StreamableHTTPClientTransport): Promise<void> {
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

/** Connects with the given negotiation; only `revisions` are offered and accepted. */
async function connect(attempt: Attempt, mode: Mode, revisions: readonly ProtocolRevision[]): Promise<Connection> {
  const http = new StreamableHTTPClientTransport(new URL(attempt.options.url), {
    fetch: attempt.fetch,
    reconnectionOptions: {
      initialReconnectionDelay: 200,
      maxReconnectionDelay: 1_000,
      reconnectionDelayGrowFactor: 2,
      maxRetries: 1,
    },
  });
  const transport = new RawTransport(http);
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
  const revision = client.getNegotiatedProtocolVersion();
  const greeting = transport.results.get(client.getProtocolEra() === 'modern' ? 'server/discover' : 'initialize');
  const close = async (): Promise<void> => {
    await client.close();
    await endSession(attempt, http);
  };
  if (!isProtocolRevision(revision) || greeting === undefined) {
    await close();
    throw protocolError(`negotiated ${String(revision)}`);
  }
  return {
    revision,
    greeting,
    close,
    request: (method, params) => requestRaw(client, transport, attempt, { method, params }),
  };
}

/** True when the failure says "I do not speak that", not "I cannot be reached just now". */
function isRefusal(error: unknown, attempt: Attempt): boolean {
  if (attempt.signal.aborted || error instanceof AppError) return false;
  if (error instanceof ProtocolError) return true;
  if (error instanceof SdkHttpError) {
    const { status } = error.data;
    return status !== undefined && status >= 400 && status < 500 && ![401, 403, 408, 425, 429].includes(status);
  }
  // The client's own words for an answer in a revision that was not offered.
  return error instanceof Error && error.message.includes('protocol version is not supported');
}

/** Whether the upstream accepts `initialize` with exactly this revision; undefined when it does not. */
async function tryLegacy(attempt: Attempt, revision: ProtocolRevision): Promise<Connection | undefined> {
  try {
    return await connect(attempt, 'legacy', [revision]);
  } catch (error) {
    if (isRefusal(error, attempt)) return undefined;
    throw error;
  }
}

interface Found {
  readonly kind: DefinitionKind;
  readonly name: string;
  readonly digest: string;
  readonly raw: Record<string, unknown>;
}

const lists = [
  { kind: 'tool', capability: 'tools', method: 'tools/list', member: 'tools' },
  { kind: 'prompt', capability: 'prompts', method: 'prompts/list', member: 'prompts' },
  { kind: 'resource', capability: 'resources', method: 'resources/list', member: 'resources' },
  {
    kind: 'resourceTemplate',
    capability: 'resources',
    method: 'resources/templates/list',
    member: 'resourceTemplates',
  },
] as const;
type List = (typeof lists)[number];

async function* pages(connection: Connection, list: List): AsyncGenerator<readonly unknown[]> {
  const cursors = new Set<string>();
  // An empty string is a valid cursor: only an absent one ends the list.
  let cursor: string | undefined;
  for (let count = 0; count < pagesMax; count++) {
    const result = await connection.request(list.method, cursor === undefined ? {} : { cursor });
    if (result === undefined) return;
    const items = result[list.member];
    if (!Array.isArray(items)) throw protocolError(`${list.method} has no array ${list.member}`);
    yield items;
    const next = result['nextCursor'];
    if (next === undefined || next === null) return;
    if (typeof next !== 'string') throw protocolError(`${list.method} has a nextCursor that is no string`);
    if (cursors.has(next))
      throw protocolError(`${list.method} repeats a cursor`, 'The MCP server repeats a page of its list.');
    cursors.add(next);
    cursor = next;
  }
  throw protocolError(
    `${list.method} has more than ${pagesMax} pages`,
    `The MCP server lists more than ${pagesMax} pages.`,
  );
}

function capabilitiesOf(connection: Connection): Record<string, unknown> {
  const capabilities = connection.greeting['capabilities'];
  return typeof capabilities === 'object' && capabilities !== null && !Array.isArray(capabilities)
    ? { ...capabilities }
    : {};
}

/** The definitions over all connections, each distinct object once: a dual-era upstream may word one differently per era. */
class Collection {
  readonly found: Found[] = [];
  readonly #digests = new Set<string>();
  readonly #bytesMax: number;
  #bytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  add(kind: DefinitionKind, name: string, raw: Readonly<Record<string, unknown>>): void {
    const canonical = canonicalJson(raw);
    const digest = `sha256:${sha256(canonical)}`;
    const key = `${kind} ${name} ${digest}`;
    if (this.#digests.has(key)) return;
    this.#digests.add(key);
    this.#bytes += Buffer.byteLength(canonical);
    if (this.found.length >= definitionsMax || this.#bytes > this.#bytesMax) {
      throw protocolError(
        `more than ${definitionsMax} definitions or ${this.#bytesMax} bytes`,
        'The MCP server defines more than a catalog entry can hold.',
      );
    }
    this.found.push({ kind, name, digest, raw: { ...raw } });
  }
}

async function collect(attempt: Attempt, connection: Connection, into: Collection): Promise<void> {
  const capabilities = capabilitiesOf(connection);
  for (const list of lists) {
    if (capabilities[list.capability] === undefined) continue;
    const names = new Set<string>();
    for await (const items of pages(connection, list)) {
      for (const item of items) {
        const checked = checkDefinition(list.kind, item);
        const name = checked.name?.slice(0, noteNameLengthMax) ?? 'without a name';
        if (!checked.ok) attempt.note(`${list.kind} ${name} (${connection.revision}) ${checked.problem}; left out`);
        else if (names.has(checked.name))
          attempt.note(`${list.kind} ${name} (${connection.revision}) is listed twice; first kept`);
        else {
          names.add(checked.name);
          into.add(list.kind, checked.name, checked.raw);
        }
      }
    }
  }
}

/** PostgreSQL's and JSON's common ground: no NUL, no lone surrogates, at any depth. Depth is bounded by the caller. */
function storable(value: unknown): unknown {
  if (typeof value === 'string') return value.toWellFormed().replaceAll('\u0000', '\ufffd');
  if (Array.isArray(value)) return value.map(storable);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, member]) => [storable(key), storable(member)]));
}

const serverInfoMeta = 'io.modelcontextprotocol/serverInfo';

function objectOf(value: unknown): Record<string, unknown> | null {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? { ...value } : null;
}

/** An informational object, or what stands in for it when it is out of bounds. */
function information(
  attempt: Attempt,
  name: string,
  value: Record<string, unknown> | null,
): Record<string, unknown> | null {
  if (value === null) return null;
  let text: string;
  try {
    text = JSON.stringify(value);
  } catch {
    text = '';
  }
  if (text === '' || text.length > informationBytesMax) {
    attempt.note(`${name} is larger than ${informationBytesMax} characters; left out`);
    return null;
  }
  return objectOf(storable(value));
}

function describe(
  attempt: Attempt,
  connection: Connection,
): Omit<DiscoveryResult, 'protocolRevisions' | 'definitions' | 'notes'> {
  const { greeting } = connection;
  const modern = eraOf(connection.revision) === 'modern';
  const serverInfo = modern ? objectOf(greeting['_meta'])?.[serverInfoMeta] : greeting['serverInfo'];
  const instructions = greeting['instructions'];
  if (typeof instructions === 'string' && instructions.length > informationBytesMax) {
    attempt.note(`instructions are longer than ${informationBytesMax} characters; cut`);
  }
  return {
    serverInfo: information(attempt, 'serverInfo', objectOf(serverInfo)),
    capabilities: information(attempt, 'capabilities', capabilitiesOf(connection)) ?? {},
    instructions:
      typeof instructions === 'string' ? String(storable(instructions.slice(0, informationBytesMax))) : null,
  };
}

/** What a modern upstream says it speaks, of what we know. */
function modernRevisionsOf(connection: Connection): readonly ProtocolRevision[] {
  const supported = connection.greeting['supportedVersions'];
  const said: readonly unknown[] = Array.isArray(supported) ? supported : [];
  return protocolRevisions.filter(
    (revision) => eraOf(revision) === 'modern' && (revision === connection.revision || said.includes(revision)),
  );
}

async function discoverWithin(attempt: Attempt): Promise<DiscoveryResult> {
  const collection = new Collection(attempt.options.definitionsBytesMax ?? definitionsBytesMaxDefault);
  const spoken = new Set<ProtocolRevision>();
  const first = await connect(attempt, 'auto', protocolRevisions);
  let description: ReturnType<typeof describe>;
  try {
    description = describe(attempt, first);
    await collect(attempt, first, collection);
  } finally {
    await first.close();
  }
  const modern = eraOf(first.revision) === 'modern';
  if (modern) for (const revision of modernRevisionsOf(first)) spoken.add(revision);
  else spoken.add(first.revision);
  let listedLegacy = !modern;
  for (const revision of legacyRevisions) {
    if (spoken.has(revision)) continue;
    const connection = await tryLegacy(attempt, revision);
    if (connection === undefined) continue;
    try {
      spoken.add(revision);
      if (!listedLegacy) await collect(attempt, connection, collection);
      listedLegacy = true;
    } finally {
      await connection.close();
    }
  }
  return {
    protocolRevisions: protocolRevisions.filter((revision) => spoken.has(revision)),
    ...description,
    definitions: collection.found,
    notes: attempt.notes,
  };
}

/** What went wrong, as an error whose public text holds nothing the upstream said. */
function discoveryError(error: unknown, attempt: Attempt): AppError {
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

/**
 * Learns an upstream: all protocol revisions it speaks (2026-07-28 first, then each older one by its own `initialize`),
 * and its definitions as sent, from every era it speaks; so one name may come with several digests. Entries that
 * `checkDefinition` refuses are left out, each with a note; a list that does not end is an error.
 * Throws AppError UPSTREAM_*; passing trouble never reads as "does not speak this revision".
 */
export async function discoverUpstream(options: DiscoverOptions): Promise<DiscoveryResult> {
  const attempt = new Attempt(options);
  try {
    return await discoverWithin(attempt);
  } catch (error) {
    throw discoveryError(error, attempt);
  } finally {
    attempt.end();
  }
}
