/** Renewals that refusals may cause one after the other … */
const atOnceMax = 3;
/** … and how long each further one waits after the one before: twice as long as that did, in milliseconds. */
const waitMsMin = 1_000;
const waitMsMax = 5 * 60_000;
/** Without any for so long, all is forgotten. */
const forgottenAfterMs = 2 * waitMsMax;
/** Keys at once; the one renewed least lately goes first. */
const keysMax = 50_000;

interface Renewals {
  readonly count: number;
  /** Of the last one, in milliseconds since the epoch. */
  readonly at: number;
}

/**
 * How often tokens are renewed because an upstream refused them before their end. A refusal says that a token was taken
 * back, which happens now and then; an upstream that refuses them all the time, or each after its first use, would
 * have every call cause a request for tokens at somebody else's authorization server.
 */
export class RenewalBackoff {
  readonly #renewals = new Map<string, Renewals>();

  /** Whether there may be one now; one that may counts. */
  allows(key: string, now: number): boolean {
    const before = this.#renewals.get(key);
    const isForgotten = before === undefined || isOver(before, now);
    if (!isForgotten && now < before.at + waitMsAfter(before.count)) return false;
    this.#renewals.delete(key);
    this.#renewals.set(key, { count: isForgotten ? 1 : before.count + 1, at: now });
    const [oldest] = this.#renewals.keys();
    if (this.#renewals.size > keysMax && oldest !== undefined) this.#renewals.delete(oldest);
    return true;
  }

  /** Drops what is forgotten. */
  sweep(now: number): void {
    for (const [key, renewals] of this.#renewals) if (isOver(renewals, now)) this.#renewals.delete(key);
  }

  get size(): number {
    return this.#renewals.size;
  }
}

function waitMsAfter(count: number): number {
  return count < atOnceMax ? 0 : Math.min(waitMsMax, waitMsMin * 2 ** (count - atOnceMax));
}

function isOver({ at }: Renewals, now: number): boolean {
  // The control plane's time may have been set back.
  return now < at || now - at >= forgottenAfterMs;
}
