/**
 * The MCP server that the official conformance suite scores in full, in both eras; the upstream of the conformance
 * tests. Legacy clients get a session of this process, modern ones a server per request.
 */
import { createServer, type IncomingMessage, type Server as HttpServer } from 'node:http';
import { localhostHostValidation, localhostOriginValidation, toNodeHandler } from '@modelcontextprotocol/node';
import {
  createMcpHandler,
  createRequestStateCodec,
  type EventStore,
  isInitializeRequest,
  isLegacyRequest,
  type JSONRPCMessage,
  McpServer,
  WebStandardStreamableHTTPServerTransport,
} from '@modelcontextprotocol/server';
import { randomSecret } from '@sallyport/schema/platform';
import { type ChangeNotifier, registerContent } from './reference-content.ts';
import { type ReferenceState, registerInteraction } from './reference-interaction.ts';

/** Enough for the benchmark's idle streams. */
const subscriptionsMax = 20_000;

export type ReferenceEras = 'dual' | 'legacy' | 'modern';

export interface ReferenceServer {
  /** The Streamable HTTP endpoint. */
  readonly url: string;
  stop(): Promise<void>;
}

const requestStateCodec = createRequestStateCodec<ReferenceState>({ key: randomSecret('state_') });

function buildServer(era: 'legacy' | 'modern', changes: ChangeNotifier): McpServer {
  const subscribe = era === 'legacy' ? { subscribe: true } : {};
  const server = new McpServer(
    { name: 'sallyport-reference', version: '1.0.0' },
    {
      capabilities: {
        tools: { listChanged: true },
        prompts: { listChanged: true },
        resources: { listChanged: true, ...subscribe },
        logging: {},
        completions: {},
      },
      requestState: { verify: (state, ctx) => requestStateCodec.verify(state, ctx) },
    },
  );
  registerContent(server, changes);
  registerInteraction(server, requestStateCodec);
  if (era === 'legacy') {
    server.server.setRequestHandler('resources/subscribe', () => ({}));
    server.server.setRequestHandler('resources/unsubscribe', () => ({}));
  }
  return server;
}

/** Keeps what a session's streams sent, so that a client may come back with Last-Event-ID. */
class SessionEvents implements EventStore {
  private readonly events: { readonly id: string; readonly streamId: string; readonly message: JSONRPCMessage }[] = [];

  storeEvent(streamId: string, message: JSONRPCMessage): Promise<string> {
    const id = `${streamId}_${this.events.length}`;
    this.events.push({ id, streamId, message });
    return Promise.resolve(id);
  }

  getStreamIdForEventId(eventId: string): Promise<string | undefined> {
    return Promise.resolve(this.events.find(({ id }) => id === eventId)?.streamId);
  }

  async replayEventsAfter(
    lastEventId: string,
    { send }: { send: (eventId: string, message: JSONRPCMessage) => Promise<void> },
  ): Promise<string> {
    const last = this.events.findIndex(({ id }) => id === lastEventId);
    const streamId = this.events[last]?.streamId ?? '';
    for (const event of this.events.slice(last + 1)) {
      if (event.streamId === streamId && Object.keys(event.message).length > 0) await send(event.id, event.message);
    }
    return streamId;
  }
}

/** Serves 2025-era requests by sessions held in memory. */
class LegacySessions {
  private readonly transports = new Map<string, WebStandardStreamableHTTPServerTransport>();

  async fetch(request: Request): Promise<Response> {
    const sessionId = request.headers.get('mcp-session-id');
    const known = sessionId === null ? undefined : this.transports.get(sessionId);
    if (known !== undefined) return known.handleRequest(request);
    if (sessionId !== null) return refusal(404, 'Session not found');
    const body: unknown = await request
      .clone()
      .json()
      .catch(() => undefined);
    if (!isInitializeRequest(body)) return refusal(400, 'Bad Request: Mcp-Session-Id header is required');
    const transport = await this.open();
    return transport.handleRequest(request);
  }

  async close(): Promise<void> {
    await Promise.all([...this.transports.values()].map((transport) => transport.close()));
  }

  private async open(): Promise<WebStandardStreamableHTTPServerTransport> {
    const transport = new WebStandardStreamableHTTPServerTransport({
      sessionIdGenerator: () => randomSecret('session_'),
      onsessioninitialized: (id) => {
        this.transports.set(id, transport);
      },
      onsessionclosed: (id) => {
        this.transports.delete(id);
      },
      eventStore: new SessionEvents(),
      retryInterval: 100,
    });
    const server = buildServer('legacy', {
      toolsChanged: () => server.sendToolListChanged(),
      promptsChanged: () => server.sendPromptListChanged(),
    });
    await server.connect(transport);
    return transport;
  }
}

function refusal(status: number, message: string): Response {
  return Response.json({ jsonrpc: '2.0', error: { code: -32000, message }, id: null }, { status });
}

/** @param port 0 chooses a free one */
export async function startReferenceServer(
  options: { readonly eras?: ReferenceEras; readonly port?: number } = {},
): Promise<ReferenceServer> {
  const eras = options.eras ?? 'dual';
  const modern = createMcpHandler(() => buildServer('modern', modern.notify), {
    legacy: 'reject',
    maxSubscriptions: subscriptionsMax,
  });
  const legacy = new LegacySessions();
  const handle = toNodeHandler({
    fetch: async (request) => {
      const isLegacy = eras === 'legacy' || (eras === 'dual' && (await isLegacyRequest(request)));
      return isLegacy ? legacy.fetch(request) : modern.fetch(request);
    },
  });
  const hostIsLocal = localhostHostValidation();
  const originIsLocal = localhostOriginValidation();
  const http = createServer((request, response) => {
    if (!hostIsLocal(request, response) || !originIsLocal(request, response)) return;
    // A server's requests always have both; the adapter's type does not take `undefined`.
    void handle(request as IncomingMessage & { method: string; url: string }, response);
  });
  const port = await listen(http, options.port ?? 0);
  return {
    url: `http://127.0.0.1:${port}/mcp`,
    stop: async () => {
      await Promise.all([modern.close(), legacy.close()]);
      http.closeAllConnections();
      await new Promise((resolve) => http.close(resolve));
    },
  };
}

function listen(server: HttpServer, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', () => {
      const address = server.address();
      resolve(typeof address === 'object' && address !== null ? address.port : port);
    });
  });
}
