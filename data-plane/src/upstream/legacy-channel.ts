/**
 * What the bridge from modern clients needs of a legacy upstream, whatever transport carries it. Implemented over
 * Streamable HTTP by `streamable-channel.ts`; HTTP+SSE (2024-11-05) and hosted processes are other implementations.
 */
import type { JsonObject } from '../mcp/envelope.ts';
import type { Cancellation } from './connections.ts';
import type { CallCredential } from './credentials.ts';

/** JSON-RPC messages that arrive over time; the reader asks for each, so a slow reader holds back the source. */
export interface MessageStream {
  /** The next message, or undefined at the end. Rejects with an AppError where the source fails. One call at a time. */
  next(): Promise<JsonObject | undefined>;
  /**
   * Reads no more; a reader that waits gets undefined or an error. Is no cancellation by itself: legacy upstreams are
   * told by `notifications/cancelled`.
   */
  close(): void;
}

/** An answer of an upstream's that is one JSON-RPC error, before anything is made of it. */
export interface RpcRefusal {
  readonly status: number;
  readonly rpcErrorCode: number;
}

/** What holds for one request toward the upstream. */
export interface CallTerms {
  /** For whom it is made. */
  readonly principalId: string;
  /**
   * Called when the first byte is about to be written, however long that took. What it throws is what the request
   * rejects with; nothing was sent then.
   */
  readonly beforeWrite: () => void;
  /** Is told the method of each JSON-RPC request that is sent, for the record. */
  readonly onRequest: (method: string) => void;
  /** Is told where the answer to it is an error and nothing else. */
  readonly onRefused: (refusal: RpcRefusal) => void;
  /** Milliseconds from now to the end of the answer. */
  readonly totalTimeoutMs: number;
  /** Headers of this exchange: trace context. Name, value, name, value, … */
  readonly headers: readonly string[];
  /** What it is made with; null where the server is called without. */
  readonly credential: CallCredential | null;
  /** Aborting it closes the connection, also while the answer is read; the upstream is told nothing by that. */
  readonly signal: Cancellation | null;
}

/** One initialized session with a legacy upstream. */
export interface LegacyChannel {
  /** The result of `initialize`. */
  readonly initialized: JsonObject;
  /** Whether the upstream keeps a session that must be ended. */
  readonly hasSession: boolean;
  /**
   * Sends one request. The stream brings what belongs to it: its response, and before it whatever notifications and
   * requests the transport can tell to belong to it. Where an upstream lets go of a stream that can be taken up again
   * (2025-11-25, Resumability), the channel takes it up; the reader sees one stream.
   * @throws AppError SESSION_NOT_FOUND where the upstream forgot the session: nothing was executed; UPSTREAM_…
   */
  request(message: JsonObject, terms: CallTerms): Promise<MessageStream>;
  /** Sends a notification or response. Resolves when the upstream has taken it. @throws AppError UPSTREAM_… */
  post(message: JsonObject, terms: CallTerms): Promise<void>;
  /**
   * Messages that belong to no request of ours; null where the upstream offers no such stream.
   * @throws AppError UPSTREAM_…, also where it cannot be said just now
   */
  listen(terms: CallTerms): Promise<MessageStream | null>;
  /** Ends the session at the upstream, if it keeps one, in the background. */
  close(): void;
}

/** Opens sessions with one upstream. */
export interface LegacyTransport {
  /**
   * Connects and initializes, `notifications/initialized` included.
   * @param initialize the `params` of `initialize`
   * @throws AppError UPSTREAM_…
   */
  open(initialize: JsonObject, terms: CallTerms): Promise<LegacyChannel>;
}
