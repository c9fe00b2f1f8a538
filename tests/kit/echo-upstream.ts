/**
 * An MCP server that is as cheap as one can be, for tests that send it very many calls: each answer carries back what
 * its call brought. `echo` answers after the `delayMs` it is given, with `progress` notifications before, if asked for.
 * A subscription stays open; `broadcast` sends the same notification on every one, as a careless server does.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';

/** A call that came in whole. */
export interface Arrival {
  /** Shared monotonic instant, in milliseconds. */
  readonly at: number;
  /** `Authorization`, as it came; null for none. */
  readonly authorization: string | null;
}

export interface EchoUpstream {
  readonly url: string;
  /** The last call with this `nonce`. */
  readonly arrivals: ReadonlyMap<string, Arrival>;
  /** Streams open now: subscriptions, and the own streams of legacy sessions. */
  readonly streamsOpen: number;
  /** Calls with a `delayMs` that were neither answered nor given up. */
  readonly callsWaiting: number;
  /** Answers those now. */
  answerWaiting(): void;
  broadcast(message: object): void;
  stop(): Promise<void>;
}

interface Message {
  readonly id?: string | number;
  readonly method?: string;
  readonly params?: {
    readonly protocolVersion?: string;
    readonly arguments?: { nonce?: string; delayMs?: number; progress?: number };
    readonly _meta?: { readonly progressToken?: string | number };
  };
}

/** Milliseconds on the clock that all processes of this machine share. */
export function sharedNowMs(): number {
  return Number(process.hrtime.bigint() / 1000n) / 1000;
}

const path = '/mcp';
const serverInfo = { name: 'echo', version: '1.0.0' };
const streamHeaders = { 'content-type': 'text/event-stream' };

/** Of an upstream that wants a token: what is not accepted is answered 401 with the challenge. */
export interface EchoGuard {
  readonly isAccepted: (token: string) => boolean;
  readonly challenge: string;
}

class Echo {
  readonly arrivals = new Map<string, Arrival>();
  readonly streams = new Set<ServerResponse>();
  /** What answers each of them. */
  readonly waiting = new Map<ServerResponse, () => void>();
  private readonly eras: 'dual' | 'legacy' | 'modern';
  private readonly guard: EchoGuard | undefined;
  private sessions = 0;

  constructor(eras: 'dual' | 'legacy' | 'modern', guard: EchoGuard | undefined) {
    this.eras = eras;
    this.guard = guard;
  }

  serve(incoming: IncomingMessage, response: ServerResponse): void {
    const chunks: Buffer[] = [];
    incoming.on('data', (chunk: Buffer) => chunks.push(chunk));
    incoming.on('end', () => {
      const body = Buffer.concat(chunks).toString();
      if (this.guard?.isAccepted(incoming.headers.authorization?.slice('Bearer '.length) ?? '') === false)
        return void response.writeHead(401, { 'www-authenticate': this.guard.challenge }).end();
      if (incoming.method === 'GET' && incoming.url !== path) response.writeHead(404).end();
      else if (incoming.method === 'GET') this.stream(response);
      else if (incoming.method === 'POST')
        this.answer(JSON.parse(body) as Message, incoming.headers.authorization ?? null, response);
      else response.writeHead(200).end();
    });
    incoming.on('error', () => response.destroy());
  }

  private answer(message: Message, authorization: string | null, response: ServerResponse): void {
    if (message.id === undefined) return void response.writeHead(202).end();
    const { id, params } = message;
    const modern = { resultType: 'complete', cacheScope: 'public', ttlMs: 3_600_000 };
    const unknown = { jsonrpc: '2.0', id, error: { code: -32601, message: 'Method not found' } };
    if (this.eras === 'legacy' && message.method === 'server/discover') return json(response, unknown);
    if (this.eras === 'modern' && message.method === 'initialize') return json(response, unknown);
    switch (message.method) {
      case 'initialize': {
        const result = { protocolVersion: params?.protocolVersion, capabilities: { tools: {} }, serverInfo };
        return json(response, { jsonrpc: '2.0', id, result }, { 'mcp-session-id': `echo-${++this.sessions}` });
      }
      case 'server/discover':
        return json(response, {
          jsonrpc: '2.0',
          id,
          result: { ...modern, supportedVersions: ['2026-07-28'], capabilities: { tools: {} } },
        });
      case 'tools/list': {
        const tools = ['echo', 'other'].map((name) => ({ name, inputSchema: { type: 'object' } }));
        return json(response, { jsonrpc: '2.0', id, result: { ...modern, tools } });
      }
      case 'subscriptions/listen':
        return this.stream(response);
      case 'tools/call':
        return this.call({ ...message, id }, authorization, response);
      default:
        return json(response, unknown);
    }
  }

  private stream(response: ServerResponse): void {
    response.writeHead(200, streamHeaders);
    response.flushHeaders();
    this.streams.add(response);
    response.once('close', () => this.streams.delete(response));
  }

  private call(
    { id, params }: Message & { readonly id: string | number },
    authorization: string | null,
    response: ServerResponse,
  ): void {
    const values = params?.arguments ?? {};
    if (values.nonce !== undefined) this.arrivals.set(values.nonce, { at: sharedNowMs(), authorization });
    const content = [{ type: 'text', text: JSON.stringify(values) }];
    const answer = { jsonrpc: '2.0', id, result: { resultType: 'complete', content } };
    const notes = values.progress ?? 0;
    const progressToken = params?._meta?.progressToken;
    if (notes > 0) response.writeHead(200, streamHeaders);
    const step = (at: number): void => {
      if (response.destroyed || response.writableEnded) return;
      if (at > notes) {
        if (notes === 0) return json(response, answer);
        return void response.end(event(answer));
      }
      const note = { progressToken, progress: at, message: values.nonce };
      response.write(event({ jsonrpc: '2.0', method: 'notifications/progress', params: note }));
      later(() => step(at + 1), values.delayMs);
    };
    if (values.delayMs !== undefined) {
      this.waiting.set(response, () => step(1));
      response.once('close', () => this.waiting.delete(response));
    }
    later(() => step(1), values.delayMs);
  }
}

function later(work: () => void, delayMs = 0): void {
  if (delayMs > 0) setTimeout(work, delayMs).unref();
  else work();
}

function json(response: ServerResponse, body: object, headers: Record<string, string> = {}): void {
  const text = JSON.stringify(body);
  response.writeHead(200, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(text),
    ...headers,
  });
  response.end(text);
}

function event(message: object): string {
  return `data: ${JSON.stringify(message)}\n\n`;
}

export async function startEchoUpstream(
  eras: 'dual' | 'legacy' | 'modern' = 'dual',
  guard?: EchoGuard,
  host = '127.0.0.1',
): Promise<EchoUpstream> {
  const echo = new Echo(eras, guard);
  const server = createServer({ keepAliveTimeout: 60_000 }, (incoming, response) => echo.serve(incoming, response));
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, host, resolve);
  });
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  return {
    url: `http://${host}:${port}${path}`,
    arrivals: echo.arrivals,
    get streamsOpen() {
      return echo.streams.size;
    },
    get callsWaiting() {
      return echo.waiting.size;
    },
    answerWaiting: () => {
      for (const answer of echo.waiting.values()) answer();
    },
    broadcast: (message) => {
      const text = event(message);
      for (const stream of echo.streams) stream.write(text);
    },
    stop: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
