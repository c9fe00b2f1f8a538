import { AppError, toAppError } from '@sallyport/schema';
import type { WatchedList } from '../bridge/list-changes.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { isOpenEnded, type Authorized, type RuntimeSource } from './exchange.ts';
import { isOver } from './credential.ts';
import { changedLists } from './visible-lists.ts';

/** How often open streams are decided anew without a change of configuration, for what ends by time, in milliseconds. */
const recheckIntervalMs = 5_000;

/** A stream toward a client, as it is decided anew and ended from outside. */
export interface OpenStream {
  /** As decided last; replaced when the configuration changes. */
  authorized: Authorized;
  /** Ends it, with an error where a request waits for its answer. */
  end(error: AppError): void;
  /** What its client may see of these lists is something else now. */
  listsChanged(lists: readonly WatchedList[]): void;
  /** The node stops: ends it the way its server would. */
  endGracefully(): void;
}

/**
 * The event streams open on this node. Each is decided again whenever the configuration changes, and from time to time
 * for keys and grants that expire: one that would not be let in now is ended.
 */
export class OpenStreams {
  readonly #runtimes: Pick<RuntimeSource, 'current' | 'onSwap' | 'now'>;
  readonly #reauthorize: (authorized: Authorized, runtime: Runtime) => Authorized;
  readonly #streams = new Set<OpenStream>();
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
    return this.#streams.size;
  }

  /** Takes a stream in that was decided by the running configuration. */
  add(stream: OpenStream): void {
    this.#streams.add(stream);
  }

  remove(stream: OpenStream): void {
    this.#streams.delete(stream);
  }

  /** Decides every open stream again. Does not throw. */
  recheck(): void {
    const runtime = this.#runtimes.current;
    if (runtime === undefined) return;
    for (const stream of this.#streams) {
      try {
        const authorized = this.#reauthorize(stream.authorized, runtime);
        if (authorized.routed.server.upstream.href !== stream.authorized.routed.server.upstream.href) {
          throw new AppError('NOT_READY', { internal: 'the server moved to another URL' });
        }
        const { authenticated, received, server } = authorized.routed;
        const isRekeyed =
          server.document.credential?.revision !== stream.authorized.routed.server.document.credential?.revision;
        const changed = isOpenEnded(authorized.routed.received) ? changedLists(stream.authorized, authorized) : [];
        stream.authorized = authorized;
        if (changed.length > 0) stream.listsChanged(changed);
        // Its token's time is up, or it was opened with a secret that was replaced: the client comes back. A call goes on.
        const isPast = isRekeyed || isOver(authenticated.credential, this.#runtimes.now());
        if (isOpenEnded(received) && isPast) stream.endGracefully();
      } catch (thrown) {
        stream.end(toAppError(thrown));
      }
    }
  }

  /** Ends what waits for things to happen; calls under way keep their stream until `endAll`. */
  endSubscriptions(): void {
    for (const stream of this.#streams) if (isOpenEnded(stream.authorized.routed.received)) stream.endGracefully();
  }

  endAll(): void {
    for (const stream of this.#streams) stream.end(new AppError('NOT_READY', { internal: 'the node stops' }));
  }

  close(): void {
    this.#unsubscribe();
    clearInterval(this.#timer);
  }
}
