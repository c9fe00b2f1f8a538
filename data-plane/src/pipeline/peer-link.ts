/** What the nodes of a fleet ask of each other, so that no balancer has to send a client to the same node twice. */
import { AppError } from '@sallyport/schema';
import type { JsonObject } from '../mcp/envelope.ts';
import type { ProxyRequest, ProxyResponse } from './exchange.ts';
import type { Cancellation, UpstreamResponse } from '../upstream/connections.ts';
import type { SessionName, ToldState } from '../bridge/session-state.ts';

/** Whose request it is: a node that is asked checks it against whom the thing belongs to. */
export interface RelayOwner {
  readonly principalId: string;
  readonly serverId: string;
}

/** What another node of a session knows. */
export interface AskedSessions {
  /** Of each node that knows all of it. */
  readonly known: readonly ToldState[];
  /** Nodes that did not answer. */
  readonly unreached: number;
}

/** Told to every live node. */
export type PeerNotice =
  | ({ readonly kind: 'session'; readonly told: ToldState; readonly isWhole: boolean } & SessionName)
  /** A legacy client cancels a request that may be under way on any node. */
  | { readonly kind: 'cancelled'; readonly sessionId: string; readonly requestId: string | number };

/** A client's response to a request that another node sent it. */
export interface RelayedResponse extends RelayOwner {
  readonly sessionId: string;
  readonly questionId: string;
  /** The JSON-RPC response; exactly one of `result` and `error`. */
  readonly response: JsonObject;
}

/** A client's return to a call that another node holds. */
export interface RelayedReturn extends RelayOwner {
  readonly callId: string;
  /** SHA-256 of what was asked; the same as when the call was parked. */
  readonly digest: string;
  /** Of the client's new request. */
  readonly requestId: string | number;
  readonly responses: JsonObject;
  readonly timeoutMs: number;
}

/**
 * A client's request that only the other node can answer: of its headers and its query what is read there, and its body
 * as it came. The credential in it is checked there again.
 */
export interface RelayedExchange extends Pick<ProxyRequest, 'method' | 'path' | 'query' | 'remoteAddress'> {
  readonly headers: readonly (readonly [name: string, value: string])[];
  readonly body: Buffer;
}

/** What this node does when another asks. */
export interface PeerHandlers {
  notice(notice: PeerNotice): void;
  /** @returns undefined where this node does not know all of the session */
  session(name: SessionName): ToldState | undefined;
  /** @returns false where this node knows no such question of this client */
  response(relayed: RelayedResponse): boolean;
  /** @throws AppError CALL_LOST where this node holds no such call of this principal */
  resume(relayed: RelayedReturn, signal: Cancellation): Promise<UpstreamResponse>;
  /** Answers a client of the other node. Never rejects. */
  exchange(relayed: RelayedExchange, signal: Cancellation): Promise<ProxyResponse>;
}

/** The way to the other nodes. */
export interface PeerLink {
  readonly nodeId: string;
  /**
   * Tells all nodes, or one. Never rejects.
   * @returns the nodes that were not reached and are still named as live
   */
  tell(notice: PeerNotice, nodeId?: string): Promise<readonly string[]>;
  /** Asks all nodes what they know of a session. Never rejects. */
  askSession(name: SessionName): Promise<AskedSessions>;
  /**
   * @returns false where that node knows no such question
   * @throws AppError PEER_UNREACHABLE
   */
  respond(nodeId: string, relayed: RelayedResponse): Promise<boolean>;
  /** @throws AppError PEER_UNREACHABLE, CALL_LOST */
  resume(nodeId: string, relayed: RelayedReturn, signal: Cancellation): Promise<UpstreamResponse>;
  /** @throws AppError PEER_UNREACHABLE */
  exchange(nodeId: string, relayed: RelayedExchange, signal: Cancellation): Promise<UpstreamResponse>;
}

/** A node that knows no others. */
export function loneNode(nodeId: string): PeerLink {
  const unreachable = (): AppError => new AppError('PEER_UNREACHABLE', { internal: 'no other node is known' });
  return {
    nodeId,
    tell: () => Promise.resolve([]),
    askSession: () => Promise.resolve({ known: [], unreached: 0 }),
    respond: () => Promise.reject(unreachable()),
    resume: () => Promise.reject(unreachable()),
    exchange: () => Promise.reject(unreachable()),
  };
}
