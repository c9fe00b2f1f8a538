import type { Socket } from 'node:net';
import type { Clock, Egress } from '@sallyport/schema/platform';
import type { CallController, CallHandler, CallOptions, CallPool, EgressPools } from '../upstream/connections.ts';
import { type ConnectionOwner, UpstreamConnection, type WireCall, type WireRequest } from './upstream-connection.ts';

/** How often idle connections are looked at, in milliseconds. */
const checkIntervalMs = 1_000;
/** Pools kept; the one unused for longest gives way. Above the largest catalog, so that eviction is rare. */
const poolsMax = 4_096;

/** The guarded egress: every address is checked as it is dialled. */
type Dialler = Pick<Egress, 'dialler'>;

export interface UpstreamPoolsOptions {
  readonly egress: Dialler;
  readonly connectionsPerOriginMax: number;
  readonly clock: Clock;
}

/**
 * The edge towards upstreams on the sockets themselves: HTTP/1.1 written and read here. Takes the place of undici's
 * pools: `Connections` does not see the difference.
 */
export class UpstreamPools implements EgressPools {
  readonly #options: UpstreamPoolsOptions;
  /** By origin, the one used least lately first. */
  readonly #pools = new Map<string, UpstreamPool>();
  readonly #byUrl = new WeakMap<URL, UpstreamPool>();
  readonly #timer: NodeJS.Timeout;

  constructor(options: UpstreamPoolsOptions) {
    this.#options = options;
    this.#timer = setInterval(() => this.#check(), checkIntervalMs).unref();
  }

  pool(url: URL): CallPool {
    const known = this.#byUrl.get(url);
    if (known?.isClosed === false) return known;
    const { origin } = url;
    const pool = this.#pools.get(origin) ?? new UpstreamPool(url, this.#options);
    this.#pools.delete(origin);
    this.#pools.set(origin, pool);
    this.#byUrl.set(url, pool);
    if (this.#pools.size > poolsMax) this.#evict();
    return pool;
  }

  close(): void {
    clearInterval(this.#timer);
    for (const pool of this.#pools.values()) pool.destroy();
    this.#pools.clear();
  }

  /** What is under way on it ends first. */
  #evict(): void {
    const [oldest] = this.#pools;
    if (oldest === undefined) return;
    this.#pools.delete(oldest[0]);
    oldest[1].retire();
  }

  #check(): void {
    const now = this.#options.clock.monotonic();
    for (const pool of this.#pools.values()) pool.check(now);
  }
}

class UpstreamPool implements CallPool, ConnectionOwner {
  readonly #host: string;
  readonly #dial: () => Promise<Socket>;
  readonly #options: UpstreamPoolsOptions;
  #waiting: WireCall[] = [];
  /** The one used last at the end: it is used next, so that the others can be closed. */
  readonly #idle: { readonly connection: UpstreamConnection; readonly untilMs: number }[] = [];
  readonly #connections = new Set<UpstreamConnection>();
  #dialling = 0;
  /** Answered just now, and free as soon as the event loop has come round. */
  #settling = 0;
  /** Those of them from this turn of the event loop, and from the one before. */
  #answered: UpstreamConnection[] = [];
  #looked: UpstreamConnection[] = [];
  isClosed = false;

  constructor(url: URL, options: UpstreamPoolsOptions) {
    this.#host = url.host;
    this.#dial = options.egress.dialler(url);
    this.#options = options;
  }

  dispatch(request: CallOptions, handler: CallHandler): boolean {
    const call = { request: request as unknown as WireRequest, handler };
    const connection = this.#takeIdle();
    // What the upstream did to it meanwhile may be in this turn of the event loop, behind what made this call.
    if (connection !== undefined) setImmediate(this.#run, call, connection);
    else this.#wait(call);
    return true;
  }

  readonly #run = (call: WireCall, connection: UpstreamConnection): void => {
    if (!connection.isUsable) this.#wait(call);
    else if (!connection.run(call)) this.#give(connection);
  };

  #wait(call: WireCall): void {
    this.#waiting.push(call);
    this.#dialForWaiting();
  }

  /**
   * Gives it to nobody before the event loop has once more looked what came on it: bytes that nobody asked for, or its
   * end, although the upstream did not say so.
   */
  free(connection: UpstreamConnection): void {
    this.#settling++;
    this.#answered.push(connection);
    if (this.#answered.length === 1 && this.#looked.length === 0) setImmediate(this.#settle);
  }

  /** Once a turn for all: those of the turn before are free, those of this one are with the next. */
  readonly #settle = (): void => {
    const settled = this.#looked;
    this.#looked = this.#answered;
    this.#answered = [];
    if (this.#looked.length > 0) setImmediate(this.#settle);
    for (const connection of settled) {
      this.#settling--;
      if (connection.isUsable) this.#give(connection);
      else this.#dialForWaiting();
    }
  };

  #give(connection: UpstreamConnection): void {
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) {
      if (connection.run(next)) return;
    }
    if (this.isClosed || connection.idleMs === 0) connection.close();
    else this.#idle.push({ connection, untilMs: this.#options.clock.monotonic() + connection.idleMs });
  }

  gone(connection: UpstreamConnection): void {
    this.#connections.delete(connection);
    const at = this.#idle.findIndex((idle) => idle.connection === connection);
    if (at >= 0) this.#idle.splice(at, 1);
    this.#dialForWaiting();
  }

  /** Drops what nobody waits for any more: also while all connections are taken, and for as long. */
  check(now: number): void {
    this.#closeIdle(now);
    if (this.#waiting.length > 0) this.#waiting = this.#waiting.filter(({ handler }) => handler.isOver !== true);
  }

  /** Takes no further connection into reserve. */
  retire(): void {
    this.isClosed = true;
    this.#closeIdle(Infinity);
  }

  destroy(): void {
    this.isClosed = true;
    for (const { handler } of this.#waiting.splice(0)) fail(handler, new Error('the node stops'));
    for (const connection of this.#connections) connection.close();
  }

  #closeIdle(now: number): void {
    while ((this.#idle[0]?.untilMs ?? Infinity) <= now) this.#idle.shift()?.connection.close();
  }

  #takeIdle(): UpstreamConnection | undefined {
    for (let idle = this.#idle.pop(); idle !== undefined; idle = this.#idle.pop()) {
      if (idle.connection.isUsable && this.#options.clock.monotonic() < idle.untilMs) return idle.connection;
      idle.connection.close();
    }
    return undefined;
  }

  #dialForWaiting(): void {
    const { connectionsPerOriginMax } = this.#options;
    while (
      this.#waiting.length > this.#dialling + this.#settling &&
      this.#connections.size + this.#dialling < connectionsPerOriginMax
    ) {
      this.#dialling++;
      this.#dial().then(
        (socket) => this.#dialled(socket),
        (error: unknown) => {
          this.#dialling--;
          const next = this.#waiting.shift();
          if (next !== undefined) fail(next.handler, error instanceof Error ? error : new Error(String(error)));
          // Each failure is told to one call, so that this ends.
          this.#dialForWaiting();
        },
      );
    }
  }

  #dialled(socket: Socket): void {
    this.#dialling--;
    const connection = new UpstreamConnection(socket, this.#host, this);
    this.#connections.add(connection);
    this.#give(connection);
  }
}

/** Of a call that has no connection yet: there is nothing to control. */
function fail(handler: CallHandler, error: Error): void {
  handler.onResponseError?.(withoutConnection, error);
}
const withoutConnection: CallController = {
  aborted: false,
  paused: false,
  reason: null,
  rawHeaders: null,
  rawTrailers: null,
  abort: () => undefined,
  pause: () => undefined,
  resume: () => undefined,
};
