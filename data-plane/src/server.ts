import {
  createServer as createHttpServer,
  type IncomingMessage,
  type Server,
  ServerResponse,
  STATUS_CODES,
} from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import type { AddressInfo, BlockList, Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { AppError, ERRORS, type ErrorCode } from '@sallyport/schema';
import { type Clock, clientAddress, type Log } from '@sallyport/schema/platform';
import { GatheredBytes } from './mcp/gathered-bytes.ts';
import type { ByteStream, ProxyRequest, ProxyResponse } from './pipeline/exchange.ts';

/** How long a client may take nothing of its answer, in milliseconds. */
export const untakenMsMaxDefault = 60_000;

export interface ListenerLimits {
  /** Header block of a request, in bytes. */
  readonly requestHeaderBytesMax: number;
  readonly requestHeadersTimeoutMs: number;
  readonly requestBodyTimeoutMs: number;
  /** Request bodies held at once on this node, in bytes. */
  readonly requestBodiesBytesMax: number;
  readonly connectionsMax: number;
  readonly connectionIdleTimeoutMs: number;
  /** How long a client may take nothing of its answer, in milliseconds; a default where absent. */
  readonly untakenMsMax?: number;
}

export interface ListenerOptions {
  readonly host: string;
  readonly port: number;
  /** Whether other processes listen on the same port; only with SO_REUSEPORT. */
  readonly shared?: boolean;
  readonly tls: { readonly cert: Buffer; readonly key: Buffer } | null;
  readonly limits: ListenerLimits;
  /** Proxies whose `X-Forwarded-For` is believed. */
  readonly trustedProxies: BlockList;
  readonly handle: (request: ProxyRequest) => Promise<ProxyResponse>;
  /** Answers bytes that are no request, and records that they came. */
  readonly refuse: (error: AppError, remoteAddress: string | null) => Promise<ProxyResponse>;
  readonly clock: Clock;
  readonly log: Log;
}

/**
 * The edge towards clients: node:http on one side, the pipeline's request and response on the other. All it knows of
 * the protocol is how to read and write bytes within limits.
 */
export class Listener {
  readonly #options: ListenerOptions;
  readonly #server: Server;
  #bodyBytes = 0;
  #open = 0;
  #idle: (() => void) | undefined;
  #draining = false;

  constructor(options: ListenerOptions) {
    this.#options = options;
    const { limits, tls } = options;
    const settings = {
      maxHeaderSize: limits.requestHeaderBytesMax,
      headersTimeout: limits.requestHeadersTimeoutMs,
      // Bodies have their own timeout in `readBody`; this is the net beneath it, for bodies nobody reads.
      requestTimeout: limits.requestHeadersTimeoutMs + limits.requestBodyTimeoutMs,
      keepAliveTimeout: limits.connectionIdleTimeoutMs,
      connectionsCheckingInterval: 5_000,
      noDelay: true,
      // Answered by the pipeline like any other, so that it is recorded.
      requireHostHeader: false,
    };
    const onRequest = (incoming: IncomingMessage, outgoing: ServerResponse): void =>
      void this.#serve(incoming, outgoing);
    this.#server =
      tls === null ? createHttpServer(settings, onRequest) : createHttpsServer({ ...settings, ...tls }, onRequest);
    this.#server.maxConnections = limits.connectionsMax;
    // As above: node:http would refuse the one by itself with 417, and drop the other in silence.
    this.#server.on('checkExpectation', onRequest);
    this.#server.on('connect', (incoming, socket) => onRequest(incoming, responseOn(incoming, socket)));
    this.#server.on(
      'clientError',
      (error: NodeJS.ErrnoException, socket: Socket) => void this.#refuseUnread(error, socket),
    );
  }

  /** @returns the port listened on */
  async listen(): Promise<number> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      const { host, port, shared = false } = this.#options;
      this.#server.listen({ host, port, reusePort: shared }, resolve);
    });
    return (this.#server.address() as AddressInfo).port;
  }

  /** Exchanges under way. */
  get open(): number {
    return this.#open;
  }

  /** Takes no new connection, and closes each one after the exchange under way on it. */
  stopAccepting(): void {
    this.#draining = true;
    this.#server.close();
    this.#server.closeIdleConnections();
  }

  /** Resolves true when no exchange is under way any more, false after `timeoutMs` milliseconds. */
  async idle(timeoutMs: number): Promise<boolean> {
    if (this.#open === 0) return true;
    return await new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), timeoutMs);
      this.#idle = () => {
        clearTimeout(timer);
        resolve(true);
      };
    });
  }

  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  async #serve(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
    this.#open++;
    const aborted = new AbortController();
    const onClose = (): void => {
      if (!outgoing.writableFinished) aborted.abort();
    };
    outgoing.once('close', onClose);
    // A reset while writing is seen by 'close'; without a listener it would end the process.
    outgoing.on('error', () => undefined);
    try {
      const response = await this.#options.handle(this.#request(incoming, aborted.signal));
      await this.#write(outgoing, response);
    } catch (error) {
      this.#options.log.error({ err: error }, 'a response could not be written');
      outgoing.destroy();
    } finally {
      this.#open--;
      if (this.#open === 0) this.#idle?.();
    }
  }

  #request(incoming: IncomingMessage, signal: AbortSignal): ProxyRequest {
    const { headers, repeated } = readHeaders(incoming.rawHeaders);
    const target = incoming.url ?? '/';
    const query = target.indexOf('?');
    return {
      method: incoming.method ?? '',
      path: query < 0 ? target : target.slice(0, query),
      query: query < 0 ? '' : target.slice(query + 1),
      headers,
      repeatedHeaders: repeated,
      remoteAddress: clientAddress(
        incoming.socket.remoteAddress,
        headers.get(forwardedForHeader),
        this.#options.trustedProxies,
      ),
      signal,
      readBody: (bytesMax, timeoutMs) => this.#readBody(incoming, bytesMax, timeoutMs),
    };
  }

  #readBody(incoming: IncomingMessage, bytesMax: number, timeoutMs: number): Promise<Buffer> {
    const { requestBodiesBytesMax } = this.#options.limits;
    const declared = Number(incoming.headers['content-length'] ?? 0);
    if (declared > bytesMax) return Promise.reject(new AppError('BODY_TOO_LARGE'));
    return new Promise((resolve, reject) => {
      const gathered = new GatheredBytes();
      let length = 0;
      const finish = (error: AppError | null): void => {
        clearTimeout(timer);
        incoming.off('data', onData).off('end', onEnd).off('close', onClose).off('error', onClose);
        this.#bodyBytes -= length;
        if (error === null) {
          resolve(gathered.whole());
        } else {
          // node:http discards the rest, unbuffered, so that the client gets to read the answer.
          reject(error);
        }
      };
      const onData = (chunk: Buffer): void => {
        length += chunk.length;
        this.#bodyBytes += chunk.length;
        if (length > bytesMax) finish(new AppError('BODY_TOO_LARGE'));
        else if (this.#bodyBytes > requestBodiesBytesMax) finish(new AppError('OVERLOADED'));
        else gathered.push(chunk);
      };
      const onEnd = (): void => finish(null);
      const onClose = (): void => finish(new AppError('INVALID_REQUEST', { internal: 'the body broke off' }));
      const timer = setTimeout(() => finish(new AppError('REQUEST_TIMEOUT')), timeoutMs);
      incoming.on('data', onData).once('end', onEnd).once('close', onClose).once('error', onClose);
    });
  }

  /** Writes the response and tells its follower how it ended, whatever happens. */
  async #write(outgoing: ServerResponse, response: ProxyResponse): Promise<void> {
    const { body, follower } = response;
    const written = { bytes: 0, firstByteAt: null as number | null };
    try {
      if (outgoing.destroyed) {
        if (body !== null && !Buffer.isBuffer(body)) await body.cancel();
        return;
      }
      const headers = [...response.headers];
      // After a body that came too late nothing more is read from the connection.
      if (this.#draining || response.status === ERRORS.REQUEST_TIMEOUT.http) headers.push('connection', 'close');
      written.firstByteAt = this.#options.clock.monotonic();
      if (body === null || Buffer.isBuffer(body)) {
        written.bytes = body?.length ?? 0;
        if (response.status !== 204) headers.push('content-length', String(written.bytes));
        outgoing.writeHead(response.status, headers);
        if (body === null) outgoing.end();
        else outgoing.end(body);
        if (outgoing.writableLength > 0) this.#letGoUntaken(outgoing);
      } else {
        outgoing.writeHead(response.status, headers);
        outgoing.flushHeaders();
        this.#letGoUntaken(outgoing);
        await stream(outgoing, body, written);
      }
      await finished(outgoing);
    } finally {
      follower?.ended(outgoing.writableFinished, written.bytes, written.firstByteAt);
    }
  }

  /** A client that takes nothing of its answer would hold it, and its place, for ever. A stream that is quiet is no such. */
  #letGoUntaken(outgoing: ServerResponse): void {
    outgoing.setTimeout(this.#options.limits.untakenMsMax ?? untakenMsMaxDefault, () => {
      if (outgoing.writableLength > 0) outgoing.destroy();
    });
  }

  /** What node:http could not read as a request. One that only did not come in time is no request yet: a log line. */
  async #refuseUnread(error: NodeJS.ErrnoException, socket: Socket): Promise<void> {
    if (error.code === 'ECONNRESET' || !socket.writable) {
      socket.destroy();
      return;
    }
    const code = unreadCodeOf(error);
    const address = clientAddress(socket.remoteAddress, undefined, this.#options.trustedProxies);
    this.#options.log.debug({ code, reason: error.code, address }, 'unreadable request refused');
    if (code === 'REQUEST_TIMEOUT') {
      socket.end(`HTTP/1.1 408 ${STATUS_CODES[408] ?? ''}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`);
      return;
    }
    const publicMessage = code === 'INVALID_REQUEST' ? 'The request is not valid HTTP.' : undefined;
    const refusal = new AppError(code, publicMessage === undefined ? {} : { publicMessage });
    const { status, headers, body } = await this.#options.refuse(refusal, address);
    if (!socket.writable) return;
    const text = Buffer.isBuffer(body) ? body.toString() : '';
    const lines = [`HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}`, 'connection: close'];
    for (let at = 0; at < headers.length; at += 2) lines.push(`${headers[at] ?? ''}: ${headers[at + 1] ?? ''}`);
    lines.push(`content-length: ${Buffer.byteLength(text)}`, '', text);
    socket.end(lines.join('\r\n'));
  }
}

function unreadCodeOf(error: NodeJS.ErrnoException): ErrorCode {
  if (error.code === 'HPE_HEADER_OVERFLOW') return 'HEADERS_TOO_LARGE';
  return error.code === 'ERR_HTTP_REQUEST_TIMEOUT' ? 'REQUEST_TIMEOUT' : 'INVALID_REQUEST';
}

/** A response on a connection that node:http has let go of, as after CONNECT; it is the last one there. */
function responseOn(incoming: IncomingMessage, socket: Duplex): ServerResponse {
  const outgoing = new ServerResponse(incoming);
  outgoing.shouldKeepAlive = false;
  // Of the HTTP server, so never another Duplex.
  outgoing.assignSocket(socket as Socket);
  outgoing.once('finish', () => socket.end());
  socket.once('error', () => socket.destroy());
  return outgoing;
}

const forwardedForHeader = 'x-forwarded-for';

function readHeaders(raw: readonly string[]): { headers: Map<string, string>; repeated: string[] } {
  const headers = new Map<string, string>();
  const repeated: string[] = [];
  for (let at = 0; at + 1 < raw.length; at += 2) {
    const name = (raw[at] ?? '').toLowerCase();
    const value = raw[at + 1] ?? '';
    const first = headers.get(name);
    if (first === undefined) headers.set(name, value);
    // A proxy may add its hop in a line of its own behind the one that a stranger sent; both are one list.
    else if (name === forwardedForHeader) headers.set(name, `${first},${value}`);
    if (first !== undefined) repeated.push(name);
  }
  return { headers, repeated };
}

/**
 * Writes until the stream or the client ends; reads on only when the client took what was written. Where the client
 * goes first, resolves when the source is done too.
 */
async function stream(outgoing: ServerResponse, body: ByteStream, written: { bytes: number }): Promise<void> {
  let sourceDone: Promise<void> | undefined;
  outgoing.once('close', () => {
    if (!outgoing.writableFinished) sourceDone = body.cancel();
  });
  while (!outgoing.destroyed) {
    const chunk = await body.next();
    if (chunk === undefined || outgoing.destroyed) break;
    written.bytes += chunk.length;
    if (!outgoing.write(chunk)) await drained(outgoing);
  }
  if (!outgoing.destroyed) outgoing.end();
  await finished(outgoing);
  await sourceDone;
}

/** Resolves when the client took what was written, or is gone. */
function drained(outgoing: ServerResponse): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      outgoing.off('drain', done).off('close', done);
      resolve();
    };
    outgoing.once('drain', done).once('close', done);
  });
}

/** Resolves when the response was handed to the system, or its connection closed. */
function finished(outgoing: ServerResponse): Promise<void> {
  if (outgoing.writableFinished || outgoing.destroyed) return Promise.resolve();
  return new Promise((resolve) => {
    outgoing.once('finish', resolve);
    outgoing.once('close', resolve);
  });
}
