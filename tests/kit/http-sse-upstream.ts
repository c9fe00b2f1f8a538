/** A server of the transport of 2024-11-05, made with the official SDK: one event stream a session, messages are posted. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { SSEServerTransport } from '@modelcontextprotocol/sdk/server/sse.js';
import { z } from 'zod';

export const httpSseTools = ['count', 'ask', 'progress', 'slow'];

export interface HttpSseRequest {
  readonly path: string;
  /** Names and values in turn, as they stood on the wire. */
  readonly rawHeaders: readonly string[];
  /** Grows until it is whole. */
  body: string;
}

export interface HttpSseUpstream {
  /** Of the event stream. */
  readonly url: string;
  /** How often each `id` was executed. */
  readonly executions: ReadonlyMap<string, number>;
  /** Sessions whose stream is open. */
  readonly sessions: ReadonlyMap<string, SSEServerTransport>;
  /** Request ids that were cancelled. */
  readonly cancelled: readonly unknown[];
  readonly requests: readonly HttpSseRequest[];
  /** Tells every session that the list of tools changed. */
  announce(): Promise<void>;
  /** Breaks every event stream. */
  breakStreams(): void;
  stop(): Promise<void>;
}

function createServerOf(executions: Map<string, number>): McpServer {
  const server = new McpServer({ name: 'http-sse', version: '1.0.0' }, { capabilities: { logging: {} } });
  const text = (value: string) => ({ content: [{ type: 'text' as const, text: value }] });
  server.registerTool('count', { inputSchema: { id: z.string().optional() } }, ({ id = '' }) => {
    executions.set(id, (executions.get(id) ?? 0) + 1);
    return text(`executed ${id}`);
  });
  server.registerTool('ask', { inputSchema: { id: z.string().optional() } }, async ({ id = '' }) => {
    executions.set(id, (executions.get(id) ?? 0) + 1);
    const requestedSchema = { type: 'object' as const, properties: { name: { type: 'string' as const } } };
    const { action, content } = await server.server.elicitInput({ message: 'Your name?', requestedSchema });
    return text(`${action} ${String(content?.['name'] ?? '')}`);
  });
  server.registerTool('progress', { inputSchema: {} }, async (_args, extra) => {
    const progressToken = extra._meta?.progressToken;
    for (const progress of [1, 2, 3]) {
      if (progressToken === undefined) break;
      await extra.sendNotification({ method: 'notifications/progress', params: { progressToken, progress, total: 3 } });
    }
    return text('done');
  });
  server.registerTool('slow', { inputSchema: {} }, async (_args, { signal }) => {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, 60_000);
      signal.addEventListener('abort', () => {
        clearTimeout(timer);
        resolve();
      });
    });
    return text('late');
  });
  server.registerResource('note', 'note://one', {}, (uri) => ({ contents: [{ uri: uri.href, text: 'noted' }] }));
  server.registerPrompt('greet', { argsSchema: { name: z.string() } }, ({ name }) => ({
    messages: [{ role: 'user', content: { type: 'text', text: `Hello ${name}` } }],
  }));
  return server;
}

export async function startHttpSseUpstream(
  options: {
    /** What the stream brings instead of a session. */
    readonly stream?: string;
  } = {},
): Promise<HttpSseUpstream> {
  const executions = new Map<string, number>();
  const sessions = new Map<string, SSEServerTransport>();
  const servers = new Map<string, McpServer>();
  const cancelled: unknown[] = [];
  const requests: HttpSseRequest[] = [];
  const http = createServer((request, response) => {
    const kept: HttpSseRequest = { path: request.url ?? '', rawHeaders: request.rawHeaders, body: '' };
    requests.push(kept);
    if (request.method === 'POST') request.on('data', (chunk: Buffer) => (kept.body += chunk.toString()));
    const { pathname, searchParams } = new URL(request.url ?? '/', 'http://upstream');
    if (request.method === 'GET' && pathname === '/sse' && options.stream !== undefined) {
      response.writeHead(200, { 'content-type': 'text/event-stream' }).write(options.stream);
      return;
    }
    if (request.method === 'GET' && pathname === '/sse') {
      const transport = new SSEServerTransport('/messages', response);
      const server = createServerOf(executions);
      sessions.set(transport.sessionId, transport);
      servers.set(transport.sessionId, server);
      response.once('close', () => {
        sessions.delete(transport.sessionId);
        servers.delete(transport.sessionId);
      });
      void server.connect(transport as never).then(() => {
        const deliver = transport.onmessage;
        transport.onmessage = (message) => {
          if ('method' in message && message.method === 'notifications/cancelled')
            cancelled.push(message.params?.['requestId']);
          deliver?.(message);
        };
      });
      return;
    }
    const session = sessions.get(searchParams.get('sessionId') ?? '');
    if (request.method === 'POST' && pathname === '/messages' && session !== undefined) {
      void session.handlePostMessage(request, response);
      return;
    }
    request.resume();
    response.writeHead(pathname === '/sse' ? 405 : 404).end();
  });
  await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(http.address() as AddressInfo).port}/sse`,
    executions,
    sessions,
    cancelled,
    requests,
    announce: async () => {
      await Promise.all([...servers.values()].map((server) => server.server.sendToolListChanged()));
    },
    breakStreams: () => http.closeAllConnections(),
    stop: async () => {
      http.closeAllConnections();
      await new Promise((resolve) => http.close(resolve));
    },
  };
}
