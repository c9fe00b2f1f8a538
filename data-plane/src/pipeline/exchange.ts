import type {
  AccessTarget,
  Decision,
  Era,
  MethodRule,
  PrincipalRecord,
  ProtocolRevision,
  AuditOutcome,
  Verdict,
} from '@sallyport/schema';
import type { ClientProfile } from '../bridge/client-profile.ts';
import type { OpenedSession } from '../bridge/sealed-session.ts';
import type { OpenedTask } from '../bridge/sealed-task.ts';
import type { Batch } from '../mcp/batch.ts';
import type { Message } from '../mcp/envelope.ts';
import { isTracestate, parseTraceparent } from '../mcp/headers.ts';
import type { Runtime, ServerRuntime } from '../runtime/runtime.ts';
import type { Cancellation, UpstreamResponse } from '../upstream/connections.ts';
import type { CallCredential, UpstreamCredential } from '../upstream/credentials.ts';
import type { RpcRefusal } from '../upstream/legacy-channel.ts';
import type { ExchangeCapture } from './capture-exchange.ts';
import type { Credential } from './credential.ts';

/** Bytes that arrive over time. The reader asks for each chunk, so a slow reader holds back the source. */
export interface ByteStream {
  /** The next chunk, at once where it is there, or undefined at the end. Rejects where the source fails. One call at a time. */
  next(): Buffer | undefined | Promise<Buffer | undefined>;
  /**
   * The reader went away: `next` gives undefined from now on, also where it waits. Resolves when the source is done,
   * which may be later: a legacy call goes on without its client.
   */
  cancel(): Promise<void>;
}

/** A request as the listener hands it over; nothing in it belongs to any HTTP library. */
export interface ProxyRequest {
  readonly method: string;
  /** Of the request target, without the query. */
  readonly path: string;
  /** What follows the question mark; empty where there is none. */
  readonly query: string;
  /** By lower-case name; the first value where a header came more than once. */
  readonly headers: ReadonlyMap<string, string>;
  /** Lower-case names of headers that came more than once. */
  readonly repeatedHeaders: readonly string[];
  readonly remoteAddress: string | null;
  /** Aborted when the client's connection is gone before the response was finished. */
  readonly signal: Cancellation;
  /** Called once it is on record that the call is made; not for what is refused. */
  readonly onForward?: () => void;
  /**
   * The whole body, at once where it is there. Rejects with AppError BODY_TOO_LARGE before more than `bytesMax` bytes are
   * held, REQUEST_TIMEOUT after `timeoutMs` milliseconds, OVERLOADED where all bodies together exceed the node's limit.
   */
  readBody(bytesMax: number, timeoutMs: number): Buffer | Promise<Buffer>;
}

/** Is told once how the response ended: its last byte left, or the client was gone before. */
export interface Follower {
  ended(complete: boolean, responseBytes: number, firstByteAt: number | null): void;
}

export interface ProxyResponse {
  readonly status: number;
  /** Name, value, name, value, … */
  readonly headers: readonly string[];
  readonly body: Buffer | ByteStream | null;
  readonly follower: Follower | null;
}

/** A response before someone follows it to its end. */
export type Answer = Omit<ProxyResponse, 'follower'>;

/**
 * What is known of one exchange so far. Stages write what they learn, so that the record of a request that was refused
 * half way names what was understood of it.
 */
export interface Exchange {
  readonly request: ProxyRequest;
  readonly eventId: string;
  readonly traceId: string;
  /** `traceparent` to send upstream. */
  readonly traceparent: string;
  /** In the control plane's estimated time, milliseconds. */
  readonly receivedAt: number;
  /** Of the monotonic clock, milliseconds. */
  readonly startedAt: number;
  era: Era;
  slug: string | null;
  message: Message | null;
  protocolRevision: string | null;
  clientInfo: string | null;
  requestBytes: number;
  paramsDigest: string | null;
  runtime: Runtime | null;
  principal: PrincipalRecord | null;
  credential: Credential | null;
  server: ServerRuntime | null;
  target: AccessTarget | null;
  decision: Decision | null;
  /** What the upstream is called with; null where with nothing, or it did not come that far. */
  upstreamCredential: Pick<UpstreamCredential, 'id' | 'issuer'> | null;
  /** `opened` has been written: the call was, or may have been, sent. */
  forwarded: boolean;
  upstreamMs: number | null;
  /** What a bridge asked of the upstream for it, by method; null where it passes as it came. */
  upstreamRequests: string[] | null;
  /** With what the last of these was refused, in the upstream's own words; null where it was not. */
  upstreamRefusal: RpcRefusal | null;
  /** How many questions the upstream asked of the client. */
  asks: number;
  /** What policies said of its messages; null where none said anything. */
  verdicts: readonly Verdict[] | null;
  /** Keeps its messages; null where no policy wants that. */
  capture: ExchangeCapture | null;
  /** Of the answer, known once it was read. */
  outcome: AuditOutcome | null;
  rpcErrorCode: number | null;
  errorCode: string | null;
}

/** `message`: POST. `stream`: a legacy client's GET. `endSession`: a legacy client's DELETE. */
export type ExchangeKind = 'message' | 'stream' | 'endSession';

export interface Received {
  readonly exchange: Exchange;
  readonly request: ProxyRequest;
  readonly kind: ExchangeKind;
  readonly slug: string;
  readonly era: Era;
  /** Null where a legacy client named none: the session's holds, or the oldest. */
  readonly statedRevision: ProtocolRevision | null;
  readonly message: Message | null;
  readonly body: Buffer;
  /** The messages of a JSON-RPC batch, of which `message` holds none; null for anything else. */
  readonly batch: Batch | null;
}

/**
 * What goes with every request that the exchange causes, in whichever era: name, value, name, value, … The state of a
 * trace goes on with the trace it belongs to; what is no such state, or belongs to none, does not.
 */
export function traceHeaders({ request, exchange }: Received): string[] {
  const { traceparent } = exchange;
  const tracestate = request.headers.get('tracestate');
  if (tracestate === undefined || !isTracestate(tracestate)) return ['traceparent', traceparent];
  const isTraced = parseTraceparent(request.headers.get('traceparent')) !== undefined;
  return ['traceparent', traceparent, ...(isTraced ? ['tracestate', tracestate] : [])];
}

/** Whether it is a stream that carries what happens, and ends when either side likes; no deadline holds for it. */
export function isOpenEnded(received: Received): boolean {
  return received.kind === 'stream' || received.message?.method === 'subscriptions/listen';
}

export interface Authenticated {
  readonly received: Received;
  readonly principal: PrincipalRecord;
  readonly credential: Credential;
}

export interface Routed {
  readonly received: Received;
  readonly authenticated: Authenticated;
  readonly runtime: Runtime;
  readonly server: ServerRuntime;
  readonly protocolRevision: ProtocolRevision;
  /** The legacy client's session with the upstream, where it has one. */
  readonly session: OpenedSession | null;
}

/** Whether the principal may use a target of the server; the one function that filters lists and gates calls. */
export type IsAllowed = (target: AccessTarget) => boolean;

declare const authorizedBrand: unique symbol;

/** Made by `authorize.ts` alone: nothing reaches the upstream without one. */
export interface Authorized {
  readonly [authorizedBrand]: true;
  readonly routed: Routed;
  readonly rule: MethodRule | null;
  readonly target: AccessTarget | null;
  /** Those that the request names: of `tasks/*`, one. */
  readonly tasks: readonly OpenedTask[];
  readonly decision: Decision;
  readonly isAllowed: IsAllowed;
}

export interface Admitted {
  readonly authorized: Authorized;
  /** Gives the place back; to be called once, when the exchange has ended. */
  readonly release: () => void;
}

export interface Inspected {
  readonly authorized: Authorized;
  /** What goes to the upstream: the received bytes, unless a rule changed them. */
  readonly body: Buffer;
}

/** The running configuration, as the pipeline sees the runtime store. */
export interface RuntimeSource {
  readonly current: Runtime | undefined;
  /** The control plane's time as estimated here, in milliseconds since the epoch. */
  now(): number;
  /** Milliseconds since the last contact with the control plane. */
  contactAgeMs(): number;
  /** @returns a function that ends the subscription */
  onSwap(listener: () => void): () => void;
}

/** An answer of an upstream whose headers have come. */
export interface Forwarded {
  readonly inspected: Inspected;
  /** As decided last: anew where the configuration changed on the way. */
  readonly authorized: Authorized;
  readonly response: UpstreamResponse;
  /** What the upstream was called with; null where with nothing. */
  readonly credential: CallCredential | null;
  /** A bridge put the answer into the words of the client's era. */
  readonly isBridged: boolean;
  /** What a legacy client said of itself where a bridge opens its session; null where no bridge does. */
  readonly opens: ClientProfile | null;
}
