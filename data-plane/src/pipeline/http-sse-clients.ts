/**
 * Clients of HTTP+SSE (2024-11-05 basic/transports): they hold one event stream and post their messages, whose answers
 * come on the stream. Each message goes through the pipeline as one of Streamable HTTP, so that deciding, recording and
 * translating is the same for all; here is only the way in and the way back.
 */
import { AppError } from '@sallyport/schema';
import { randomSecret } from '@sallyport/schema/platform';
import {
  openSseSession,
  sealSseSession,
  type SseSessionOwner,
  type SseSessionPlace,
} from '../bridge/sealed-sse-session.ts';
import { endpointEvent } from '../mcp/sse.ts';
import type { Runtime, ServerRuntime } from '../runtime/runtime.ts';
import type { Answer, Authenticated, Authorized, ProxyRequest, ProxyResponse, Received } from './exchange.ts';
import { HttpSseStream } from './http-sse-stream.ts';
import type { OpenStreams } from './open-streams.ts';

/** The parameter of the endpoint's URL that names the session. */
const sessionParameter = 'sessionId';

export interface HttpSseClientsOptions {
  readonly nodeId: string;
  readonly streams: OpenStreams;
  /** The whole pipeline, for one message. */
  readonly handle: (request: ProxyRequest) => Promise<ProxyResponse>;
}

/** Whether a GET asks for a stream of HTTP+SSE: nothing in it speaks of Streamable HTTP. */
export function opensHttpSse({ kind, request: { headers } }: Received): boolean {
  return (
    kind === 'stream' &&
    !headers.has('mcp-session-id') &&
    !headers.has('mcp-protocol-version') &&
    !headers.has('last-event-id')
  );
}

/** What a POST of an HTTP+SSE client names its stream with; undefined for any other request. */
export function postedWith({ method, query }: ProxyRequest): string | undefined {
  if (method !== 'POST' || query === '') return undefined;
  return new URLSearchParams(query).get(sessionParameter) ?? undefined;
}

/** Of the query what names the stream, and nothing else that a client put there. */
export function queryOfPost(request: ProxyRequest): string {
  const token = postedWith(request);
  return token === undefined ? '' : new URLSearchParams({ [sessionParameter]: token }).toString();
}

function ownerOf({ principal }: Authenticated, serverId: string): SseSessionOwner {
  return { principalId: principal.id, principalEpoch: principal.epoch, serverId };
}

export class HttpSseClients {
  readonly #options: HttpSseClientsOptions;
  readonly #streams = new Map<string, HttpSseStream>();

  constructor(options: HttpSseClientsOptions) {
    this.#options = options;
  }

  /** The client's stream, whose first event says where to post. */
  open(authorized: Authorized): Answer {
    const { routed } = authorized;
    const { received, authenticated, server, runtime } = routed;
    const streamId = randomSecret('stream_');
    const owner = ownerOf(authenticated, server.document.id);
    const token = sealSseSession(runtime, owner, { nodeId: this.#options.nodeId, streamId });
    const { streams, handle } = this.#options;
    const stream: HttpSseStream = new HttpSseStream({
      authorized,
      handle,
      onEnd: () => {
        this.#streams.delete(streamId);
        streams.remove(stream);
      },
    });
    // A path, not a whole URL: what stands before it is known to the client alone.
    stream.begin(endpointEvent(`${received.request.path}?${sessionParameter}=${token}`));
    this.#streams.set(streamId, stream);
    streams.add(stream);
    const headers = ['content-type', 'text/event-stream', 'cache-control', 'no-store', 'x-accel-buffering', 'no'];
    return { status: 200, headers, body: stream };
  }

  /** Where the stream is that a message belongs to. @throws AppError SESSION_NOT_FOUND */
  placeOf(token: string, authenticated: Authenticated, server: ServerRuntime, runtime: Runtime): SseSessionPlace {
    return openSseSession(runtime, ownerOf(authenticated, server.document.id), token);
  }

  /**
   * Takes a message in for one of the streams held here; what came of it goes there, unless it was refused at once.
   * @throws AppError SESSION_NOT_FOUND
   */
  async post(streamId: string, received: Received): Promise<ProxyResponse> {
    const stream = this.#streams.get(streamId);
    if (stream === undefined) throw new AppError('SESSION_NOT_FOUND');
    return await stream.post(received);
  }
}
