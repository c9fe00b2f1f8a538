import { createServer, type IncomingMessage, request, type RequestOptions, type ServerResponse } from 'node:http';
import type { Clock } from '@sallyport/schema/platform';

export interface RoundRobinEntry {
  readonly port: number;
  /** Takes no new connection and waits for the open requests, at most `drainTimeoutMs`; then cuts them. */
  stop(drainTimeoutMs: number): Promise<void>;
}

export interface RoundRobinOptions {
  readonly host: string;
  readonly port: number;
  /** Where the nodes listen, for example `http://127.0.0.1:7761`. */
  readonly nodes: readonly URL[];
  readonly clock: Clock;
}

/** A node that refused a connection is asked again only after this time, unless all of them refuse. */
const refusedPauseMs = 1_000;
const connectTimeoutMs = 2_000;

/** Fields that belong to one connection (RFC 9110 §7.6.1), and `expect`, which the entry has answered itself. */
const connectionFields = new Set([
  'connection',
  'expect',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'upgrade',
]);

interface Node {
  readonly url: URL;
  /** Monotonic; the node is passed over before this time. */
  avoidedUntil: number;
}

/**
 * A load balancer as small as possible, for trying Sallyport on one machine: each request goes to the next node, both
 * bodies are streamed, `Host` and all other fields stay as they are. A node that cannot be connected to is replaced by
 * the next; once a byte was sent nothing is repeated. It checks no identity: the nodes do.
 */
export async function startRoundRobinEntry(options: RoundRobinOptions): Promise<RoundRobinEntry> {
  const { clock } = options;
  const nodes: readonly Node[] = options.nodes.map((url) => ({ url, avoidedUntil: 0 }));
  let turn = 0;
  const server = createServer((incoming, outgoing) => {
    const order = nodes.map((_, at) => nodes[(turn + at) % nodes.length]).filter((node) => node !== undefined);
    turn = (turn + 1) % Math.max(nodes.length, 1);
    const now = clock.monotonic();
    const preferred = order.filter((node) => node.avoidedUntil <= now);
    const avoided = order.filter((node) => node.avoidedUntil > now);
    forward(incoming, outgoing, [...preferred, ...avoided], clock);
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(options.port, options.host, resolve);
  });
  const address = server.address();
  return {
    port: typeof address === 'object' && address !== null ? address.port : options.port,
    stop: (drainTimeoutMs) =>
      new Promise((resolve) => {
        const cut = setTimeout(() => server.closeAllConnections(), drainTimeoutMs);
        server.close(() => {
          clearTimeout(cut);
          resolve();
        });
        server.closeIdleConnections();
      }),
  };
}

function forward(incoming: IncomingMessage, outgoing: ServerResponse, order: readonly Node[], clock: Clock): void {
  const [node, ...others] = order;
  if (node === undefined) return fail(outgoing, 503, 'No node can be reached.');
  const upstream = request(requestOptions(incoming, node.url));
  let connected = false;
  const timeout = setTimeout(() => upstream.destroy(new Error('connect timeout')), connectTimeoutMs);
  const abandon = () => upstream.destroy();
  outgoing.once('close', abandon);
  const sendBody = () => {
    connected = true;
    clearTimeout(timeout);
    node.avoidedUntil = 0;
    // Not before: what was read from the client could not be sent to another node.
    incoming.pipe(upstream);
  };
  upstream.once('socket', (socket) => (socket.connecting ? void socket.once('connect', sendBody) : sendBody()));
  upstream.once('response', (response) => {
    outgoing.writeHead(response.statusCode ?? 502, response.statusMessage, passedFields(response.rawHeaders));
    // The first event of a stream may be long in coming; the client must see the status before.
    outgoing.flushHeaders();
    response.once('error', () => outgoing.destroy());
    response.once('aborted', () => outgoing.destroy());
    response.pipe(outgoing);
  });
  upstream.once('error', () => {
    clearTimeout(timeout);
    outgoing.off('close', abandon);
    if (outgoing.destroyed) return;
    if (connected) return outgoing.headersSent ? void outgoing.destroy() : fail(outgoing, 502, 'The node broke off.');
    node.avoidedUntil = clock.monotonic() + refusedPauseMs;
    forward(incoming, outgoing, others, clock);
  });
}

/** A new connection per request: a kept one may be closed by the node at any time, after which nobody knows what it did. */
function requestOptions(incoming: IncomingMessage, node: URL): RequestOptions {
  return {
    host: node.hostname,
    port: node.port,
    method: incoming.method,
    path: incoming.url,
    headers: [...withoutForwarded(passedFields(incoming.rawHeaders)), 'X-Forwarded-For', forwardedFor(incoming)],
    setHost: false,
    agent: false,
  };
}

/** The addresses that were named before, and the client's as seen here: the node believes this entry alone. */
function forwardedFor(incoming: IncomingMessage): string {
  const before = incoming.headersDistinct['x-forwarded-for'] ?? [];
  return [...before, incoming.socket.remoteAddress ?? ''].filter((address) => address !== '').join(', ');
}

function withoutForwarded(fields: readonly string[]): readonly string[] {
  return fields.filter((_, at) => fields[at - (at % 2)]?.toLowerCase() !== 'x-forwarded-for');
}

/** Name, value, name, value, … without the fields of one connection. */
function passedFields(raw: readonly string[]): string[] {
  const fields = raw.flatMap((name, at) => (at % 2 === 0 ? [{ name, value: raw[at + 1] ?? '' }] : []));
  const named = fields
    .filter(({ name }) => name.toLowerCase() === 'connection')
    .flatMap(({ value }) => value.split(',').map((option) => option.trim().toLowerCase()));
  return fields
    .filter(({ name }) => !connectionFields.has(name.toLowerCase()) && !named.includes(name.toLowerCase()))
    .flatMap(({ name, value }) => [name, value]);
}

function fail(outgoing: ServerResponse, status: number, message: string): void {
  outgoing.writeHead(status, { 'content-type': 'application/json', 'retry-after': '1', connection: 'close' });
  outgoing.end(JSON.stringify({ error: message }));
}
