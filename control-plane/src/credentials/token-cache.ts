import type { CredentialNeed } from '@sallyport/schema';
import type { Clock } from '@sallyport/schema/platform';
import { expiryOf } from './refresh.service.ts';
import type { Tokens } from './token-outcome.ts';

/** Tokens are renewed when less than this share of their life is left. */
const renewWhenLeft = 0.2;
/** One that ends sooner is of no use to a node. */
export const usableMs = 2_000;

/** How long before its end a token is renewed: before it is of no use, but of a very short one not all the time. */
export function renewAheadMs(lifeMs: number): number {
  return Math.max(lifeMs * renewWhenLeft, Math.min(usableMs, lifeMs / 2));
}

/** What a token is had by, and for what. */
export interface TokenUse {
  /** Of the stored credential. */
  readonly id: string;
  readonly issuer: string;
  readonly resource: string;
  readonly scopes: readonly string[];
}

/** An access token in the memory of this process. Times in milliseconds since the epoch. */
export interface HeldToken extends TokenUse {
  readonly accessToken: string;
  readonly expiresAt: number;
  readonly renewAt: number;
}

export function heldToken(tokens: Tokens, of: TokenUse, nowMs: number): HeldToken {
  const expiresAt = expiryOf(tokens, nowMs).getTime();
  return {
    ...of,
    accessToken: tokens.accessToken,
    expiresAt,
    renewAt: expiresAt - renewAheadMs(expiresAt - nowMs),
  };
}

/**
 * Tokens that can be had again at any time, so that losing them costs a request and nothing else: of this process, which
 * asks once for all who want the same one. The key has to name everything that a token is for.
 */
export class TokenCache {
  readonly #clock: Clock;
  readonly #max: number;
  readonly #held = new Map<string, Promise<HeldToken>>();

  /** @param max how many are held; the one that came first goes first */
  constructor(clock: Clock, max: number) {
    this.#clock = clock;
    this.#max = max;
  }

  /** @param refused what was not accepted: another one is asked for, unless somebody has meanwhile */
  async get(
    key: string,
    refused: CredentialNeed['refused'],
    ask: (known: HeldToken | undefined) => Promise<HeldToken>,
  ): Promise<HeldToken> {
    const first = this.#held.get(key);
    const settled = await first?.catch(() => undefined);
    // One that did not come about may have left an earlier one in its place.
    const known = settled === undefined ? this.#held.get(key) : first;
    const held = settled ?? (await known?.catch(() => undefined));
    const now = this.#clock.now();
    const isRefused = held?.expiresAt === refused?.expiresAt;
    if (held !== undefined && !isRefused && held.renewAt > now) return held;
    // One that only lacks scopes is good for others, whether there will be a wider one or not.
    const isDead = isRefused && refused?.status === 401;
    try {
      // Whoever waited for the same one may have asked for another meanwhile.
      return await this.#another(key, { than: held === undefined ? undefined : known, isDead }, () => ask(held));
    } catch (error) {
      // Ahead of time: what is there is good for a while yet.
      if (held === undefined || isRefused || held.expiresAt - usableMs <= now) throw error;
      return held;
    }
  }

  /** @param before what it takes the place of; where it does not come about, that stays, unless it is good for nobody */
  #another(
    key: string,
    before: { readonly than: Promise<HeldToken> | undefined; readonly isDead: boolean },
    ask: () => Promise<HeldToken>,
  ): Promise<HeldToken> {
    const { than, isDead } = before;
    const underWay = this.#held.get(key);
    if (underWay !== undefined && underWay !== than) return underWay;
    const asked = ask();
    this.#held.delete(key);
    this.#held.set(key, asked);
    asked.catch(() => {
      if (this.#held.get(key) !== asked) return;
      if (than === undefined || isDead) this.#held.delete(key);
      else this.#held.set(key, than);
    });
    const [oldest] = this.#held.keys();
    if (this.#held.size > this.#max && oldest !== undefined) this.#held.delete(oldest);
    return asked;
  }
}
