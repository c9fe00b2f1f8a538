import { AppError, sha256 } from '@sallyport/schema';
import type { Clock, FailedAttempts } from '@sallyport/schema/platform';
import type { Actor } from '../context.ts';

/** How long a key that opened passes where others fail, and how many such keys are remembered. */
const openedTtlMs = 15 * 60_000;
const openedMax = 10_000;

interface Options<Opened> {
  /** Whom the key opens for; throws UNAUTHENTICATED. */
  readonly actorFor: (apiKey: string, address: string | null) => Promise<Opened>;
  readonly attempts: FailedAttempts;
  readonly clock: Clock;
  /** Told of each credential that did not open; `limited` where it was not even looked at. */
  readonly onFailure: (limited: boolean) => void;
}

/**
 * Bounds how many keys that do not open one network may try: each costs the database a query. Beyond the limit only
 * keys that opened lately are looked at, so that those who work behind a shared address go on.
 */
export class GuardedAuthentication<Opened = Actor> {
  readonly #options: Options<Opened>;
  /** Digests of keys that opened, with the monotonic time until which that counts; oldest first. */
  readonly #opened = new Map<string, number>();

  constructor(options: Options<Opened>) {
    this.#options = options;
  }

  /**
   * @param from the address of who asks; null where all callers would share one, and nothing is limited
   * @param address the same, where a key is asked for again that opened before, and nobody is to be limited by that
   * @throws AppError UNAUTHENTICATED, RATE_LIMITED
   */
  async actorFor(apiKey: string, from: string | null, address: string | null = from): Promise<Opened> {
    const { actorFor, attempts, clock } = this.#options;
    const hash = sha256(apiKey);
    const isKnown = (this.#opened.get(hash) ?? 0) > clock.monotonic();
    if (!isKnown) this.assertMayTry(from);
    // Counted before the answer, so that many at once are not looked at all.
    if (!isKnown) attempts.failed(from);
    try {
      const actor = await actorFor(apiKey, address);
      this.#remember(hash);
      if (!isKnown) attempts.forgive(from);
      return actor;
    } catch (error) {
      const isRefusal = error instanceof AppError && error.code === 'UNAUTHENTICATED';
      if (isRefusal) {
        this.#opened.delete(hash);
        this.#options.onFailure(false);
      } else if (!isKnown) attempts.forgive(from);
      throw error;
    }
  }

  /** Throws RATE_LIMITED where too many credentials from there did not open lately. */
  assertMayTry(from: string | null): void {
    if (!this.#options.attempts.isOver(from)) return;
    this.#options.onFailure(true);
    throw new AppError('RATE_LIMITED', {
      publicMessage: 'Too many credentials from your network were not valid; try again shortly.',
    });
  }

  /** Counts a credential of another kind that did not open. */
  failed(from: string | null): void {
    this.#options.attempts.failed(from);
    this.#options.onFailure(false);
  }

  #remember(hash: string): void {
    this.#opened.delete(hash);
    this.#opened.set(hash, this.#options.clock.monotonic() + openedTtlMs);
    if (this.#opened.size <= openedMax) return;
    for (const oldest of this.#opened.keys()) {
      this.#opened.delete(oldest);
      break;
    }
  }
}
