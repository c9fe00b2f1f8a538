/**
 * An MCP server at the level of HTTP bytes, for what the SDK's servers would never do: answers that are late, cut,
 * malformed, endless or huge. What it does is asked for by the tool that is called. It keeps every request as it came.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { z } from 'zod';

export interface UpstreamRequest {
  readonly httpMethod: string;
  readonly path: string;
  /** Names and values in turn, as they stood on the wire. */
  readonly rawHeaders: readonly string[];
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
  /** Resolves when the connection of this request closed, with whether the answer had ended before. */
  readonly closed: Promise<{ readonly answered: boolean }>;
}

export interface FakeUpstream {
  readonly url: string;
  readonly requests: readonly UpstreamRequest[];
  /** How often each `id` argument was executed, over all tools that take one. */
  readonly executions: ReadonlyMap<string, number>;
  /** Answers the next requests instead of the built-in behaviour, until it returns false. */
  intercept(answer: (request: UpstreamRequest, response: ServerResponse) => boolean | Promise<boolean>): void;
  /** From now on: what is not accepted is answered 401 with the challenge. */
  guard(isAccepted: (request: UpstreamRequest) => boolean, challenge?: string): void;
  stop(): Promise<void>;
}

export interface FakeUpstreamOptions {
  readonly eras?: 'dual' | 'legacy' | 'modern';
  readonly port?: number;
  /** Further tools that are listed; a call of one answers with its arguments. */
  readonly tools?: readonly string[];
  /** Further properties in the schemas of tools, by their names. */
  readonly properties?: Readonly<Record<string, object>>;
}

const legacyRevisions = ['2025-11-25', '2025-06-18', '2025-03-26'];
const serverInfo = { name: 'fake-upstream', version: '1.0.0' };

const messageSchema = z.looseObject({
  id: z.union([z.string(), z.number()]).optional(),
  method: z.string(),
  params: z
    .looseObject({ name: z.string(), protocolVersion: z.string(), arguments: z.record(z.string(), z.unknown()) })
    .partial()
    .optional(),
});
type Message = z.infer<typeof messageSchema>;

interface Call {
  readonly id: string | number;
  readonly name: string;
  readonly values: Readonly<Record<string, unknown>>;
  readonly era: 'legacy' | 'modern';
}

/** Tools by what their answer does. All take `id`; the number arguments are in milliseconds, events or bytes. */
const behaviours: Readonly<Record<string, (call: Call, response: ServerResponse) => Promise<void>>> = {
  count: (call, response) => answerJson(response, resultOf(call, `executed ${String(call.values['id'])}`)),
  slow: async (call, response) => {
    await delay(numberOf(call, 'delayMs', 100));
    await answerJson(response, resultOf(call, 'late'));
  },
  stream: async (call, response) => {
    const events = numberOf(call, 'events', 3);
    openStream(response);
    for (let event = 1; event <= events && !response.destroyed; event += 1) {
      const params = { progressToken: call.id, progress: event, total: events };
      writeEvent(response, { jsonrpc: '2.0', method: 'notifications/progress', params });
      await delay(numberOf(call, 'delayMs', 1));
    }
    writeEvent(response, resultOf(call, 'streamed'));
    response.end();
  },
  hang: () => Promise.resolve(),
  cut: async (_call, response) => {
    response.writeHead(200, { 'content-type': 'application/json', 'content-length': '1000' });
    response.write('{"jsonrpc":"2.0",');
    await delay(10);
    response.destroy();
  },
  malformed: async (_call, response) => {
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end('{"jsonrpc":"2.0","id":\u0000');
    await Promise.resolve();
  },
  fail: async (_call, response) => {
    response.writeHead(500, { 'content-type': 'text/plain' });
    response.end('out of order');
    await Promise.resolve();
  },
  redirect: async (_call, response) => {
    response.writeHead(307, { location: 'http://127.0.0.1:9/elsewhere' });
    response.end();
    await Promise.resolve();
  },
  big: (call, response) => answerJson(response, resultOf(call, 'x'.repeat(numberOf(call, 'bytes', 1_000_000)))),
};

export const fakeTools = Object.keys(behaviours);

function numberOf(call: Call, name: string, otherwise: number): number {
  const value = call.values[name];
  return typeof value === 'number' ? value : otherwise;
}

function resultOf(call: Call, text: string): unknown {
  return { jsonrpc: '2.0', id: call.id, result: inEra(call.era, { content: [{ type: 'text', text }] }) };
}

function inEra(era: Call['era'], result: Readonly<Record<string, unknown>>): unknown {
  if (era === 'legacy') return result;
  return { resultType: 'complete', ...result, _meta: { 'io.modelcontextprotocol/serverInfo': serverInfo } };
}

function answerJson(response: ServerResponse, body: unknown, headers: Record<string, string> = {}): Promise<void> {
  const text = JSON.stringify(body);
  response.writeHead(200, { 'content-type': 'application/json', ...headers });
  response.end(text);
  return Promise.resolve();
}

function openStream(response: ServerResponse): void {
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' });
  response.flushHeaders();
}

function writeEvent(response: ServerResponse, message: unknown): void {
  response.write(`event: message\ndata: ${JSON.stringify(message)}\n\n`);
}

function refuse(response: ServerResponse, status: number, code: number, message: string, id: unknown = null): void {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify({ jsonrpc: '2.0', id, error: { code, message } }));
}

class Upstream {
  readonly requests: UpstreamRequest[] = [];
  readonly executions = new Map<string, number>();
  intercepting: ((request: UpstreamRequest, response: ServerResponse) => boolean | Promise<boolean>) | undefined;
  isAccepted: (request: UpstreamRequest) => boolean = () => true;
  challenge = '';
  private readonly eras: 'dual' | 'legacy' | 'modern';
  private readonly tools: readonly string[];
  private readonly properties: Readonly<Record<string, object>>;

  constructor(options: FakeUpstreamOptions) {
    this.eras = options.eras ?? 'dual';
    this.tools = [...fakeTools, ...(options.tools ?? [])];
    this.properties = options.properties ?? {};
  }

  async serve(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const closed = new Promise<{ answered: boolean }>((resolve) => {
      response.once('close', () => resolve({ answered: response.writableFinished }));
    });
    const chunks: Buffer[] = [];
    for await (const chunk of incoming) chunks.push(Buffer.from(chunk as Uint8Array));
    const { method: httpMethod = '', url: path = '', rawHeaders, headers } = incoming;
    const request = { httpMethod, path, rawHeaders, headers, body: Buffer.concat(chunks).toString(), closed };
    this.requests.push(request);
    if (!this.isAccepted(request)) {
      response.writeHead(401, { 'content-type': 'application/json', 'www-authenticate': this.challenge });
      return void response.end('{"error":"invalid_token"}');
    }
    if (this.intercepting !== undefined) {
      if (await this.intercepting(request, response)) return;
      this.intercepting = undefined;
    }
    await this.answer(request, response);
  }

  private async answer(request: UpstreamRequest, response: ServerResponse): Promise<void> {
    if (request.httpMethod === 'DELETE') return void response.writeHead(200).end();
    if (request.httpMethod !== 'POST') return refuse(response, 405, -32000, 'Method not allowed');
    const parsed = messageSchema.safeParse(parseJson(request.body));
    if (!parsed.success) return void response.writeHead(202).end();
    const era = request.body.includes('io.modelcontextprotocol/protocolVersion') ? 'modern' : 'legacy';
    if (this.eras !== 'dual' && this.eras !== era) return this.refuseEra(response, parsed.data);
    if (parsed.data.id === undefined) return void response.writeHead(202).end();
    await this.answerRequest({ ...parsed.data, id: parsed.data.id }, era, response);
  }

  private refuseEra(response: ServerResponse, message: Message): void {
    if (this.eras === 'legacy') return refuse(response, 400, -32000, 'Bad Request: no valid session', message.id);
    refuse(response, 400, -32022, 'Unsupported protocol version', message.id);
  }

  private async answerRequest(
    message: Message & { id: string | number },
    era: 'legacy' | 'modern',
    response: ServerResponse,
  ): Promise<void> {
    const { id, method, params } = message;
    const answer = (result: Record<string, unknown>, headers: Record<string, string> = {}) =>
      answerJson(response, { jsonrpc: '2.0', id, result: inEra(era, result) }, headers);
    const cached = era === 'modern' ? { ttlMs: 0, cacheScope: 'private' } : {};
    const capabilities = { tools: {} };
    switch (method) {
      case 'server/discover':
        return answer({ supportedVersions: ['2026-07-28'], capabilities, ...cached });
      case 'initialize': {
        const asked = params?.protocolVersion ?? '';
        const protocolVersion = legacyRevisions.includes(asked) ? asked : legacyRevisions[0];
        return answer(
          { protocolVersion, capabilities, serverInfo },
          { 'mcp-session-id': `fake-${this.requests.length}` },
        );
      }
      case 'ping':
        return answer({});
      case 'tools/list':
        return answer({ tools: this.tools.map((name) => describeTool(name, this.properties[name])), ...cached });
      case 'tools/call':
        return this.call({ id, name: params?.name ?? '', values: params?.arguments ?? {}, era }, response);
      default:
        return refuse(response, era === 'modern' ? 404 : 200, -32601, 'Method not found', id);
    }
  }

  private async call(call: Call, response: ServerResponse): Promise<void> {
    const executionId = call.values['id'];
    if (typeof executionId === 'string') {
      this.executions.set(executionId, (this.executions.get(executionId) ?? 0) + 1);
    }
    const behave = Object.hasOwn(behaviours, call.name) ? behaviours[call.name] : undefined;
    if (behave !== undefined) return behave(call, response);
    if (this.tools.includes(call.name)) return answerJson(response, resultOf(call, JSON.stringify(call.values)));
    refuse(response, 200, -32602, `Tool ${call.name} not found`, call.id);
  }
}

/** How it lists a tool. */
export function describeTool(name: string, more: object = {}): Record<string, unknown> {
  const properties = { id: { type: 'string' }, delayMs: { type: 'number' }, events: { type: 'number' }, ...more };
  return { name, description: `The tool ${name}`, inputSchema: { type: 'object', properties } };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

export async function startFakeUpstream(options: FakeUpstreamOptions = {}): Promise<FakeUpstream> {
  const upstream = new Upstream(options);
  const server = createServer((incoming, response) => {
    upstream.serve(incoming, response).catch(() => response.destroy());
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(options.port ?? 0, '127.0.0.1', resolve);
  });
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  return {
    url: `http://127.0.0.1:${port}/mcp`,
    requests: upstream.requests,
    executions: upstream.executions,
    intercept: (answer) => {
      upstream.intercepting = answer;
    },
    guard: (isAccepted, challenge = 'Bearer realm="upstream"') => {
      upstream.isAccepted = isAccepted;
      upstream.challenge = challenge;
    },
    stop: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
