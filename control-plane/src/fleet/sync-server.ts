import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import {
  AppError,
  contactLostAfterMs,
  type DiscoveryResult,
  ERRORS,
  type ErrorCode,
  heartbeatIntervalMs,
  syncFrameBytesMax,
  toAppError,
} from '@sallyport/schema';
import { uuidv7 } from '@sallyport/schema/platform';
import { type WebSocket, WebSocketServer } from 'ws';
import { type ConnectionDependencies, type DiscoveryTarget, NodeConnection } from './node-connection.ts';

/** Sockets open at the same time, known and unknown nodes together. */
const connectionsMax = 2_000;
/** Sockets that have not proved who they are. */
const strangersMax = 200;
const helloTimeoutMs = 10_000;
/** How often contact is written, and how soon a replaced connection is closed. */
const flushIntervalMs = 1_000;
const discoveryTimeoutMs = 60_000;
const closeTimeoutMs = 2_000;
/** Frames smaller than this are not worth compressing, in bytes. */
const compressionBytesMin = 1_024;
const compressionsAtOnceMax = 4;

/** One WebSocket per node on `/sync`; the HTTP server hands over the upgrades of that path. */
export class SyncServer {
  readonly #deps: ConnectionDependencies;
  readonly #addressOf: (request: IncomingMessage) => string | null;
  readonly #server: WebSocketServer;
  readonly #connections = new Map<NodeConnection, WebSocket>();
  #unsubscribe: (() => void) | undefined;
  #heartbeat: NodeJS.Timeout | undefined;
  #flush: NodeJS.Timeout | undefined;
  #flushing = false;

  /** @param addressOf who asks; null where that cannot be told */
  constructor(deps: ConnectionDependencies, addressOf: (request: IncomingMessage) => string | null) {
    this.#deps = deps;
    this.#addressOf = addressOf;
    this.#server = new WebSocketServer({
      noServer: true,
      // Counts bytes after decompression, so that a small frame cannot unfold into a large one.
      maxPayload: syncFrameBytesMax,
      perMessageDeflate: {
        threshold: compressionBytesMin,
        concurrencyLimit: compressionsAtOnceMax,
        serverNoContextTakeover: false,
        clientNoContextTakeover: false,
      },
    });
  }

  start(): void {
    this.#unsubscribe = this.#deps.feed.onPublished(() => {
      for (const connection of this.#connections.keys()) connection.published();
    });
    this.#heartbeat = setInterval(() => this.#beat(), heartbeatIntervalMs);
    this.#flush = setInterval(() => void this.#flushContacts(), flushIntervalMs);
  }

  async stop(): Promise<void> {
    this.#unsubscribe?.();
    clearInterval(this.#heartbeat);
    clearInterval(this.#flush);
    const sockets = [...this.#connections.values()];
    for (const socket of sockets) socket.close(1001, 'control plane stops');
    const closed = sockets.map((socket) => new Promise<void>((resolve) => socket.once('close', () => resolve())));
    const deadline = setTimeout(() => sockets.forEach((socket) => socket.terminate()), closeTimeoutMs);
    await Promise.all(closed);
    clearTimeout(deadline);
    this.#server.close();
  }

  /** Open sockets: of nodes, and of those that have not proved who they are. */
  get connections(): { readonly nodes: number; readonly strangers: number } {
    let nodes = 0;
    for (const { reporter } of this.#connections.keys()) if (reporter !== undefined) nodes += 1;
    return { nodes, strangers: this.#connections.size - nodes };
  }

  /** Takes over a socket that asks for the sync protocol. */
  handleUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    if (this.#connections.size >= connectionsMax || this.connections.strangers >= strangersMax) {
      socket.end('HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n');
      return;
    }
    this.#server.handleUpgrade(request, socket, head, (websocket) => this.#accept(websocket, this.#addressOf(request)));
  }

  /**
   * Looks at an upstream from a node, for addresses the control plane cannot reach. Throws an AppError: UPSTREAM_*
   * where the node said so, NOT_READY where no node is connected to this process.
   */
  async discoverThroughNode(target: DiscoveryTarget): Promise<DiscoveryResult> {
    const candidates = [...this.#connections.keys()]
      .filter((connection) => connection.reporter !== undefined && connection.silentMs() <= contactLostAfterMs)
      .sort((a, b) => a.discoveriesOpen - b.discoveriesOpen);
    const connection = candidates[0];
    if (connection === undefined) throw new AppError('NOT_READY', { internal: 'no node is connected here' });
    const outcome = await connection.discover(uuidv7(this.#deps.clock.now()), target, discoveryTimeoutMs);
    if (outcome.ok) return outcome.result;
    throw new AppError(isErrorCode(outcome.problem) ? outcome.problem : 'UPSTREAM_UNREACHABLE', {
      internal: `discovery through ${connection.reporter?.nodeId ?? 'a node'} failed: ${outcome.problem}`,
    });
  }

  /** Tells every connected node to let go of what it was lent; null stands for all. */
  forgetCredentials(serverId: string | null, principalId: string | null): void {
    for (const connection of this.#connections.keys()) connection.forgetCredentials(serverId, principalId);
  }

  #accept(socket: WebSocket, from: string | null): void {
    const connection = new NodeConnection(socket, this.#deps, from);
    this.#connections.set(connection, socket);
    const helloDeadline = setTimeout(() => {
      if (connection.reporter === undefined) socket.terminate();
    }, helloTimeoutMs);
    socket.on('message', (data, isBinary) => {
      if (isBinary || !Buffer.isBuffer(data)) socket.close(1003, 'text frames only');
      else connection.receive(data.toString('utf8'));
    });
    socket.on('error', (error) => {
      this.#deps.log.warn({ nodeId: connection.reporter?.nodeId, error: error.message }, 'a node connection failed');
    });
    socket.on('close', () => {
      clearTimeout(helloDeadline);
      this.#connections.delete(connection);
      connection.closed();
    });
  }

  #beat(): void {
    for (const [connection, socket] of this.#connections) {
      if (connection.reporter !== undefined && connection.silentMs() > contactLostAfterMs) socket.terminate();
      else connection.tick();
    }
  }

  async #flushContacts(): Promise<void> {
    if (this.#flushing) return;
    this.#flushing = true;
    try {
      const known = [...this.#connections.keys()].flatMap((connection) =>
        connection.reporter === undefined ? [] : [{ ...connection.reporter, ...connection.contact, connection }],
      );
      const kept = await this.#deps.reports.contacts(
        known.map(({ nodeId, connectionId, contactAt, load }) => ({ nodeId, connectionId, contactAt, load })),
      );
      for (const { connection, connectionId } of known) if (!kept.has(connectionId)) connection.replaced();
      const peers = known.length === 0 ? [] : await this.#deps.reports.peers();
      for (const { connection } of known) connection.sendPeers(peers);
      await Promise.all(known.map(({ connection }) => connection.sendWatermark()));
    } catch (error) {
      this.#deps.log.error({ err: toAppError(error) }, 'storing the contact of nodes failed');
    } finally {
      this.#flushing = false;
    }
  }
}

function isErrorCode(text: string): text is ErrorCode {
  return Object.hasOwn(ERRORS, text);
}
