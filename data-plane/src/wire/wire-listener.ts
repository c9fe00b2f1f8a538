import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';
import { type ListenerOptions, untakenMsMaxDefault } from '../server.ts';
import { ClientConnection, type ListenerState } from './client-connection.ts';
import { TurnEnd } from './turn-end.ts';

/** How often the deadlines of all connections are looked at, in milliseconds. */
const checkIntervalMs = 1_000;

/**
 * The edge towards clients on the sockets themselves: HTTP/1.1 read and written here, because the streams and objects of
 * node:http cost more than all the rest of the way of a small call. Same promises as `Listener`.
 */
export class WireListener implements ListenerState {
  readonly options: ListenerOptions;
  readonly untakenMsMax: number;
  readonly turnEnd = new TurnEnd();
  readonly #server: Server;
  readonly #connections = new Set<ClientConnection>();
  #open = 0;
  #idle: (() => void) | undefined;
  #timer: NodeJS.Timeout | undefined;
  bodyBytes = 0;
  isDraining = false;

  constructor(options: ListenerOptions) {
    this.options = options;
    this.untakenMsMax = options.limits.untakenMsMax ?? untakenMsMaxDefault;
    const { limits, tls } = options;
    const onSocket = (socket: Socket): void => this.#accept(socket);
    const settings = { noDelay: true, allowHalfOpen: true };
    this.#server =
      tls === null
        ? createServer(settings, onSocket)
        : createTlsServer(
            { ...settings, ...tls, ALPNProtocols: ['http/1.1'], handshakeTimeout: limits.requestHeadersTimeoutMs },
            onSocket,
          );
    this.#server.maxConnections = limits.connectionsMax;
  }

  /** @returns the port listened on */
  async listen(): Promise<number> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      const { host, port, shared = false } = this.options;
      this.#server.listen({ host, port, reusePort: shared }, resolve);
    });
    this.#timer = setInterval(() => this.#check(), checkIntervalMs).unref();
    return (this.#server.address() as AddressInfo).port;
  }

  /** Exchanges under way. */
  get open(): number {
    return this.#open;
  }

  /** Takes no new connection, and closes each one after the exchange under way on it. */
  stopAccepting(): void {
    this.isDraining = true;
    this.#server.close();
    for (const connection of this.#connections) if (connection.isIdle) connection.destroy();
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
    clearInterval(this.#timer);
    this.#server.close();
    for (const connection of this.#connections) connection.destroy();
  }

  exchangeBegan(): void {
    this.#open++;
  }

  exchangeEnded(): void {
    this.#open--;
    if (this.#open === 0) this.#idle?.();
  }

  #accept(socket: Socket): void {
    const connection = new ClientConnection(socket, this);
    this.#connections.add(connection);
    socket.once('close', () => this.#connections.delete(connection));
  }

  #check(): void {
    const now = this.options.clock.monotonic();
    for (const connection of this.#connections) connection.check(now);
  }
}
