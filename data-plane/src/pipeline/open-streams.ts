import { AppError, toAppError } from '@sallyport/schema';
import type { Runtime } from '../runtime/runtime.ts';
import { isOpenEnded, type Authorized, type RuntimeSource } from './exchange.ts';
import { isOver } from './credential.ts';
import type { SseRelay } from './sse-relay.ts';

/** How often open streams are decided anew without a change of configuration, for what ends by time, in milliseconds. */
const recheckIntervalMs = 5_000;

/**
 * The event streams open on this node. Each is decided again whenever the configuration changes, and from time to time
 * for keys and grants that expire: one that would not be let in now is ended.
 */
export class OpenStreams {
  readonly #runtimes: Pick<RuntimeSource, 'current' | 'onSwap' | 'now'>;
  readonly #reauthorize: (authorized: Authorized, runtime: Runtime) => Authorized;
  readonly #relays = new Set<SseRelay>();
  readonly #unsubscribe: () => void;
  readonly #timer: NodeJS.Timeout;

  constructor(options: {
    readonly runtimes: Pick<RuntimeSource, 'current' | 'onSwap' | 'now'>;
    readonly reauthorize: (authorized: Authorized, runtime: Runtime) => Authorized;
  }) {
    this.#runtimes = options.runtimes;
    this.#reauthorize = options.reauthorize;
    this.#unsubscribe = options.runtimes.onSwap(() => this.recheck());
    this.#timer = setInterval(() => this.recheck(), recheckIntervalMs);
    this.#timer.unref();
  }

  get size(): number {
    return this.#relays.size;
  }

  /** Takes a stream in that was decided by the running configuration. */
  add(relay: SseRelay): void {
    this.#relays.add(relay);
  }

  remove(relay: SseRelay): void {
    this.#relays.delete(relay);
  }

  /** Decides every open stream again. Does not throw. */
  recheck(): void {
    const runtime = this.#runtimes.current;
    if (runtime === undefined) return;
    for (const relay of this.#relays) {
      try {
        const authorized = this.#reauthorize(relay.authorized, runtime);
        if (authorized.routed.server.upstream.href !== relay.authorized.routed.server.upstream.href) {
          throw new AppError('NOT_READY', { internal: 'the server moved to another URL' });
        }
        relay.authorized = authorized;
        const { received, authenticated } = authorized.routed;
        // Its token's time is up: the client comes back with a fresh one. A call under way goes on.
        if (isOpenEnded(received) && isOver(authenticated.credential, this.#runtimes.now())) relay.endGracefully();
      } catch (thrown) {
        relay.end(toAppError(thrown));
      }
    }
  }

  /** Ends what waits for things to happen; calls under way keep their stream until `endAll`. */
  endSubscriptions(): void {
    for (const relay of this.#relays) if (isOpenEnded(relay.authorized.routed.received)) relay.endGracefully();
  }

  endAll(): void {
    for (const relay of this.#relays) relay.end(new AppError('NOT_READY', { internal: 'the node stops' }));
  }

  close(): void {
    this.#unsubscribe();
    clearInterval(this.#timer);
  }
}
