/**
 * The seam between the pipeline and the bridges. `forward` sends what client and upstream both speak as it came; an
 * exchange whose client's era the upstream does not speak goes through a `Bridge` instead, which answers like an
 * upstream of the client's era. All stages before and after stay the same: whoever may not call never gets here, lists
 * are filtered, streams rechecked, the exchange recorded.
 */
import { AppError, upstreamRequestsMax } from '@sallyport/schema';
import type { ClientProfile } from '../bridge/client-profile.ts';
import type { Cancellation, UpstreamResponse } from '../upstream/connections.ts';
import type { CallCredential } from '../upstream/credentials.ts';
import type { CallTerms, RpcRefusal } from '../upstream/legacy-channel.ts';
import type { Authorized, Routed } from './exchange.ts';

/** What a bridge is given of an exchange. */
export interface BridgedExchange {
  /** As decided last, by the running configuration. */
  readonly authorized: Authorized;
  /** The body, after inspection. */
  readonly body: Buffer;
  /** For every request that the exchange causes: the trace context. Name, value, … */
  readonly headers: readonly string[];
  /** What they are made with; null where the server is called without. */
  readonly credential: CallCredential | null;
  /** Decides once more if need be; to be called when the first byte of a request to the upstream is written. */
  readonly beforeWrite: () => void;
  /** Milliseconds left for the exchange. */
  readonly timeoutMs: number;
}

export interface BridgeAnswer {
  /** In the client's era. */
  readonly response: UpstreamResponse;
  /** The session that the answer opens, for the client's `Mcp-Session-Id`; null where it opens none. */
  readonly opens: ClientProfile | null;
}

/** Carries exchanges of clients of one era to upstreams of the other. */
export interface Bridge {
  /** @throws AppError of the exchange, for what failed before there was an answer */
  send(exchange: BridgedExchange): Promise<BridgeAnswer>;
  /** The node stops: ends what waits, and tells upstreams. */
  close(): void;
}

export interface Bridges {
  readonly forLegacyClients: Bridge;
  readonly forModernClients: Bridge;
}

/** The bridge an exchange has to take; null where the upstream speaks the client's era. */
export function bridgeFor({ server, received }: Routed, bridges: Bridges): Bridge | null {
  if (server.eras.has(received.era)) return null;
  return received.era === 'legacy' ? bridges.forLegacyClients : bridges.forModernClients;
}

/** What holds for a request that an exchange causes. */
export function termsOf(exchange: BridgedExchange, signal: Cancellation | null, totalTimeoutMs?: number): CallTerms {
  const { authorized, beforeWrite, headers, credential, timeoutMs } = exchange;
  const recorded = authorized.routed.received.exchange;
  const onRequest = (method: string): void => {
    recorded.upstreamRefusal = null;
    if ((recorded.upstreamRequests ??= []).length < upstreamRequestsMax) recorded.upstreamRequests.push(method);
  };
  const onRefused = (refusal: RpcRefusal): void => {
    recorded.upstreamRefusal = refusal;
  };
  const principalId = authorized.routed.authenticated.principal.id;
  const told = { onRequest, onRefused };
  return {
    principalId,
    beforeWrite,
    headers,
    credential,
    ...told,
    signal,
    totalTimeoutMs: totalTimeoutMs ?? timeoutMs,
  };
}

/**
 * A session is of use only in the way it was opened: the upstream's own, or the bridge's. After the upstream changed
 * its era the client begins anew. A bridge knows a legacy client by its session, so it needs one.
 * @throws AppError SESSION_NOT_FOUND, SESSION_REQUIRED
 */
export function checkSession({ session, server, received }: Routed): void {
  const isBridged = received.era === 'legacy' && !server.eras.has('legacy');
  if (session === null) {
    if (isBridged && received.message?.method !== 'initialize') throw new AppError('SESSION_REQUIRED');
  } else if (isBridged !== (session.client !== null)) {
    throw new AppError('SESSION_NOT_FOUND');
  }
}
