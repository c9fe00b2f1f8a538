import { ownerOfSession } from '../upstream/http-sse-upstreams.ts';
import { AppError } from '@sallyport/schema';
import { isTracestate, mustBeSingle } from '../mcp/headers.ts';
import type { ByteStream, ProxyRequest, ProxyResponse, Received, Routed } from './exchange.ts';
import { queryOfPost } from './http-sse-clients.ts';
import type { PeerLink, RelayedExchange } from './peer-link.ts';
import type { Cancellation } from '../upstream/connections.ts';

/**
 * What the stages read of a request's headers: those that must come once, and these. Nothing else of a client is told to
 * another node, which has no use for cookies and keys that were sent along.
 */
const readBesides: ReadonlySet<string> = new Set(['accept', 'user-agent']);
const isRead = ([name, value]: readonly [string, string]): boolean =>
  name === 'tracestate' ? isTracestate(value) : mustBeSingle(name) || readBesides.has(name);

/** What a client may be told in headers; the node that answered has seen to the rest. */
const relayedHeaders = [
  'content-type',
  'cache-control',
  'x-accel-buffering',
  'mcp-session-id',
  'retry-after',
  'allow',
  'www-authenticate',
];

/** The node that holds the upstream's end of a session, where that is a stream; undefined where any node will do. */
export function holderOf({ server, session }: Routed): string | undefined {
  if (server.document.transport !== 'httpSse' || session === null || session.client !== null) return undefined;
  return ownerOfSession(session.upstreamSessionId);
}

/** What another node relayed, as a request of this one; whose it is and what it may do is decided here. */
export function relayedRequest({ body, headers, ...relayed }: RelayedExchange, signal: Cancellation): ProxyRequest {
  return {
    ...relayed,
    headers: new Map(headers),
    repeatedHeaders: [],
    signal,
    readBody: (bytesMax) =>
      body.length > bytesMax ? Promise.reject(new AppError('BODY_TOO_LARGE')) : Promise.resolve(body),
  };
}

/**
 * Has another node answer a request, as if it had come there: that node decides and records it, so here nothing is
 * written but where it cannot be reached.
 * @throws AppError PEER_UNREACHABLE
 */
export async function relayExchange(nodeId: string, received: Received, peers: PeerLink): Promise<ProxyResponse> {
  const { request, body } = received;
  const { method, path, remoteAddress, signal } = request;
  const headers = [...request.headers].filter(isRead);
  const relayed = { method, path, query: queryOfPost(request), headers, remoteAddress, body };
  const response = await peers.exchange(nodeId, relayed, signal);
  const told = relayedHeaders.flatMap((name) => {
    const value = response.header(name);
    return value === undefined ? [] : [name, value];
  });
  const stream: ByteStream = {
    next: () => response.next(),
    // The signal has told the other node already.
    cancel: () => Promise.resolve(),
  };
  return { status: response.status, headers: told, body: stream, follower: null };
}
