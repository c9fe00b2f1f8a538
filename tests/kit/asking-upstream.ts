/**
 * An MCP server of one era at the level of HTTP bytes whose tools ask their client for something, and which keeps what
 * it was told: for tests of the bridges. What a tool does is the same in both eras, how it does it is the era's.
 */
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http';
import { z } from 'zod';
import { waitFor } from './condition.ts';

const messageSchema = z.looseObject({
  id: z.union([z.string(), z.number()]).optional(),
  method: z.string().optional(),
  params: z.looseObject({ name: z.string().optional(), requestState: z.string().optional() }).optional(),
  result: z.unknown().optional(),
});
export type ToldMessage = z.infer<typeof messageSchema>;

export interface Told {
  readonly httpMethod: string;
  readonly headers: IncomingHttpHeaders;
  readonly message: ToldMessage | undefined;
  readonly body: string;
  /** Resolves when the connection of this request closed, with whether the answer had ended before. */
  readonly closed: Promise<{ readonly answered: boolean }>;
}

export interface AskingUpstream {
  readonly url: string;
  readonly told: readonly Told[];
  /** How often each tool was executed to its end. */
  readonly executions: ReadonlyMap<string, number>;
  /** Sessions that are open. */
  readonly sessions: ReadonlySet<string>;
  /** The messages of one method, oldest first. */
  toldOf(method: string): readonly Told[];
  /** Sends a notification on every open stream that belongs to no call. */
  announce(notification: { readonly method: string; readonly params?: object }): void;
  /** Takes the answers to its questions and goes on with nothing, from now on. */
  holdAnswers(): void;
  /** Answers whoever wants a stream that belongs to no call with this status, until it is undefined. */
  refuseStreams(status: number | undefined): void;
  /** Streams that belong to no call. */
  readonly streams: ReadonlySet<ServerResponse>;
  stop(): Promise<void>;
}

const question = {
  method: 'elicitation/create',
  params: {
    message: 'Your name?',
    requestedSchema: { type: 'object', properties: { name: { type: 'string' } }, required: ['name'] },
  },
};
const serverInfo = { name: 'asking', version: '1' };
const metaKey = (name: string): string => `io.modelcontextprotocol/${name}`;

const tools = ['ask', 'askAside', 'askTwice', 'count', 'chat', 'hang', 'big'].map((name) => ({
  name,
  inputSchema: { type: 'object' },
  execution: { taskSupport: 'forbidden' },
}));
/** A tool that says where its arguments have to be told in headers as well, as the modern era has it. */
export const regionTool = {
  name: 'region',
  inputSchema: { type: 'object', properties: { region: { type: 'string', 'x-mcp-header': 'Region' } } },
};

/** What it defines. */
export const askingDefinitions = { tools: [...tools, regionTool], instructions: { instructions: 'Ask.' } };

/** @param options.stateless a legacy server that keeps no sessions */
export async function startAskingUpstream(options: {
  readonly era: 'legacy' | 'modern';
  readonly stateless?: boolean;
}): Promise<AskingUpstream> {
  const upstream = options.era === 'legacy' ? new LegacyUpstream(options.stateless ?? false) : new ModernUpstream();
  const server = createServer((incoming, response) => {
    upstream.serve(incoming, response).catch(() => response.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  return {
    url: `http://127.0.0.1:${port}/mcp`,
    told: upstream.told,
    executions: upstream.executions,
    sessions: upstream.sessions,
    streams: upstream.streams,
    toldOf: (method) => upstream.told.filter(({ message }) => message?.method === method),
    announce: (notification) => {
      for (const stream of upstream.streams) upstream.announceOn(stream, notification);
    },
    holdAnswers: () => {
      upstream.holdsAnswers = true;
    },
    refuseStreams: (status) => {
      upstream.streamStatus = status;
    },
    stop: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

abstract class Upstream {
  readonly told: Told[] = [];
  readonly executions = new Map<string, number>();
  readonly sessions = new Set<string>();
  holdsAnswers = false;
  streamStatus: number | undefined;
  readonly streams = new Set<ServerResponse>();
  protected readonly listenIds = new Map<ServerResponse, string | number>();

  async serve(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const closed = new Promise<{ answered: boolean }>((resolve) => {
      response.once('close', () => resolve({ answered: response.writableFinished }));
    });
    const chunks: Buffer[] = [];
    for await (const chunk of incoming) chunks.push(Buffer.from(chunk as Uint8Array));
    const body = Buffer.concat(chunks).toString();
    const parsed = body === '' ? undefined : messageSchema.parse(JSON.parse(body));
    const told = { httpMethod: incoming.method ?? '', headers: incoming.headers, message: parsed, body, closed };
    this.told.push(told);
    await this.answer(told, response);
  }

  abstract answer(told: Told, response: ServerResponse): Promise<void>;
  abstract announceOn(stream: ServerResponse, notification: { method: string; params?: object }): void;

  protected executed(name: string): void {
    this.executions.set(name, (this.executions.get(name) ?? 0) + 1);
  }
}

function event(response: ServerResponse, message: unknown): void {
  if (!response.headersSent) {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.flushHeaders();
  }
  response.write(`event: message\ndata: ${JSON.stringify(message)}\n\n`);
}

function json(response: ServerResponse, status: number, body: unknown, headers: Record<string, string> = {}): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers });
  response.end(JSON.stringify(body));
}

const text = (value: string) => ({ content: [{ type: 'text', text: value }] });
/** More digits than a double has. */
export const bigNumber = '12345678901234567890';
const capabilities = {
  tools: { listChanged: true },
  resources: { subscribe: true, listChanged: true },
  logging: {},
  prompts: {},
};

class LegacyUpstream extends Upstream {
  readonly #stateless: boolean;
  readonly #waiting = new Map<string, (result: unknown) => void>();
  #count = 0;

  constructor(stateless: boolean) {
    super();
    this.#stateless = stateless;
  }

  announceOn(stream: ServerResponse, notification: { method: string; params?: object }): void {
    event(stream, { jsonrpc: '2.0', ...notification });
  }

  async answer({ httpMethod, headers, message, body }: Told, response: ServerResponse): Promise<void> {
    const sessionId = headers['mcp-session-id'];
    if (!this.#stateless && message?.method !== 'initialize' && !this.sessions.has(String(sessionId))) {
      return void response.writeHead(404).end();
    }
    if (httpMethod === 'DELETE') {
      this.sessions.delete(String(sessionId));
      return void response.writeHead(200).end();
    }
    if (httpMethod === 'GET') {
      if (this.streamStatus !== undefined) return void response.writeHead(this.streamStatus).end();
      response.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders();
      this.streams.add(response);
      response.once('close', () => this.streams.delete(response));
      return;
    }
    if (message?.method === undefined) {
      if (!this.holdsAnswers) this.#waiting.get(String(message?.id))?.(message);
      return void response.writeHead(202).end();
    }
    if (message.id === undefined) return void response.writeHead(202).end();
    await this.#request(message, body, response);
  }

  async #request({ id, method, params }: ToldMessage, body: string, response: ServerResponse): Promise<void> {
    const result = (value: object, headers?: Record<string, string>) =>
      json(response, 200, { jsonrpc: '2.0', id, result: value }, headers);
    switch (method) {
      case 'initialize': {
        const sessionId = `session-${++this.#count}`;
        if (!this.#stateless) this.sessions.add(sessionId);
        return result(
          { protocolVersion: '2025-11-25', capabilities, serverInfo, instructions: 'Ask.' },
          this.#stateless ? {} : { 'mcp-session-id': sessionId },
        );
      }
      case 'tools/list':
        return result({ tools: [...tools, regionTool] });
      case 'tools/call':
        return await this.#call(params?.name ?? '', id, body, response);
      case 'resources/read':
        return json(response, 200, { jsonrpc: '2.0', id, error: { code: -32002, message: 'Resource not found' } });
      case 'logging/setLevel':
      case 'resources/subscribe':
        return result({});
      default:
        return json(response, 200, { jsonrpc: '2.0', id, error: { code: -32601, message: 'Method not found' } });
    }
  }

  async #call(name: string, id: ToldMessage['id'], body: string, response: ServerResponse): Promise<void> {
    const answered: unknown[] = [];
    switch (name) {
      case 'askTwice':
      case 'ask': {
        const answers = (name === 'ask' ? ['a'] : ['a', 'b']).map((suffix) =>
          this.#ask(`${String(id)}-${suffix}`, response),
        );
        answered.push(...(await Promise.all(answers)));
        break;
      }
      case 'askAside':
        answered.push(await this.#ask(`${String(id)}-aside`, await this.#aside()));
        break;
      case 'chat':
        event(response, { jsonrpc: '2.0', method: 'notifications/message', params: { level: 'debug', data: 'quiet' } });
        event(response, { jsonrpc: '2.0', method: 'notifications/message', params: { level: 'error', data: 'loud' } });
        break;
      case 'hang':
        return event(response, {
          jsonrpc: '2.0',
          method: 'notifications/progress',
          params: { progressToken: 1, progress: 1 },
        });
      case 'big':
        this.executed(name);
        response.writeHead(200, { 'content-type': 'application/json' });
        return void response.end(
          `{"jsonrpc":"2.0","id":${JSON.stringify(id)},"result":{"content":[],"structuredContent":{"big":${bigNumber},"told":${body.includes(bigNumber)}}}}`,
        );
      default:
        break;
    }
    this.executed(name);
    event(response, { jsonrpc: '2.0', id, result: text(JSON.stringify(answered)) });
    response.end();
  }

  /** The stream that belongs to no call; clients open it in their own time. */
  async #aside(): Promise<ServerResponse> {
    return await waitFor('a stream that belongs to no call', () => [...this.streams].at(-1));
  }

  #ask(id: string, response: ServerResponse): Promise<unknown> {
    event(response, { jsonrpc: '2.0', id, ...question });
    return new Promise((resolve) => {
      this.#waiting.set(id, (message) => resolve((message as { result: unknown }).result));
    });
  }
}

class ModernUpstream extends Upstream {
  announceOn(stream: ServerResponse, { method, params }: { method: string; params?: object }): void {
    const _meta = { [metaKey('subscriptionId')]: this.listenIds.get(stream) };
    event(stream, { jsonrpc: '2.0', method, params: { ...params, _meta } });
  }

  async answer({ httpMethod, message, headers, body }: Told, response: ServerResponse): Promise<void> {
    if (httpMethod !== 'POST') return void response.writeHead(405).end();
    const id = message?.id;
    const params = message?.params ?? {};
    const result = (value: object) =>
      json(response, 200, {
        jsonrpc: '2.0',
        id,
        result: { resultType: 'complete', ...value, _meta: { [metaKey('serverInfo')]: serverInfo } },
      });
    switch (message?.method) {
      case 'server/discover':
        return result({
          supportedVersions: ['2026-07-28'],
          capabilities,
          instructions: 'Ask.',
          ttlMs: 0,
          cacheScope: 'public',
        });
      case 'tools/list':
        return result({ tools: [...tools, regionTool], ttlMs: 0, cacheScope: 'private' });
      case 'resources/read':
        return json(response, 200, {
          jsonrpc: '2.0',
          id,
          error: { code: -32602, message: 'Resource not found', data: params },
        });
      case 'subscriptions/listen': {
        this.streams.add(response);
        this.listenIds.set(response, id ?? '');
        response.once('close', () => this.streams.delete(response));
        const acknowledged = { ...(params['notifications'] as object) };
        return this.announceOn(response, {
          method: 'notifications/subscriptions/acknowledged',
          params: { notifications: acknowledged },
        });
      }
      case 'tools/call':
        return await this.#call(params as Record<string, unknown>, id, headers, body, response, result);
      default:
        return json(response, 404, { jsonrpc: '2.0', id, error: { code: -32601, message: 'Method not found' } });
    }
  }

  #call(
    params: Readonly<Record<string, unknown>>,
    id: ToldMessage['id'],
    headers: IncomingHttpHeaders,
    body: string,
    response: ServerResponse,
    result: (value: object) => void,
  ): Promise<void> {
    const name = String(params['name']);
    const responses = params['inputResponses'] as Record<string, unknown> | undefined;
    const values = (params['arguments'] ?? {}) as Record<string, unknown>;
    switch (name) {
      case 'askTwice':
      case 'ask': {
        const keys = name === 'ask' ? ['name'] : ['name', 'other'];
        if (responses === undefined || !keys.every((key) => key in responses)) {
          const inputRequests = Object.fromEntries(keys.map((key) => [key, question]));
          result({ resultType: 'input_required', inputRequests, requestState: 'upstream-state' });
          return Promise.resolve();
        }
        this.executed(name);
        result(text(JSON.stringify(keys.map((key) => responses[key]))));
        return Promise.resolve();
      }
      case 'region':
        if (headers['mcp-param-region'] !== values['region']) {
          json(response, 400, { jsonrpc: '2.0', id, error: { code: -32020, message: 'Header mismatch' } });
          return Promise.resolve();
        }
        break;
      case 'hang':
        event(response, {
          jsonrpc: '2.0',
          method: 'notifications/progress',
          params: { progressToken: 1, progress: 1 },
        });
        return Promise.resolve();
      case 'big':
        this.executed(name);
        response.writeHead(200, { 'content-type': 'application/json' });
        response.end(
          `{"jsonrpc":"2.0","id":${JSON.stringify(id)},"result":{"resultType":"complete","content":[],"structuredContent":{"big":${bigNumber},"told":${body.includes(bigNumber)}}}}`,
        );
        return Promise.resolve();
      default:
        break;
    }
    this.executed(name);
    result(text('done'));
    return Promise.resolve();
  }
}
