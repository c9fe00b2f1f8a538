import type { JsonObject } from '../mcp/envelope.ts';

/** Waited before a subscription that broke is made again, in milliseconds; doubles up to the second number. */
const reopenDelayMs = { first: 500, most: 30_000 };
/** Waited after one subscription before another, in milliseconds: who changes his mind often is followed this often. */
const restMs = 100;

/** What happens around the subscriptions of one listening client; `listen` is the number of the one it concerns. */
export type ListenEvent =
  /** It wants to be told of other things than before. */
  | { readonly type: 'changed' }
  | { readonly type: 'acknowledged'; readonly listen: number }
  | { readonly type: 'told'; readonly listen: number; readonly message: JsonObject }
  /** Ended, failed, or not acknowledged in time. */
  | { readonly type: 'over'; readonly listen: number }
  /** What `wait` said is over. */
  | { readonly type: 'waited' }
  /** Nobody listens any more. */
  | { readonly type: 'ended' };

/** What has to be done next, in this order. */
export type ListenEffect =
  /** Subscribe, to what is wanted by now. */
  | { readonly type: 'open'; readonly listen: number }
  | { readonly type: 'close'; readonly listen: number }
  | { readonly type: 'deliver'; readonly message: JsonObject }
  /** Say `waited` after so many milliseconds; only the last counts. */
  | { readonly type: 'wait'; readonly ms: number };

/**
 * Which `subscriptions/listen` are open for a client whose wishes change: events in, effects out, no sockets and no
 * clocks. One tells, one more may be on its way to take its place, and no third: what changes meanwhile waits for that
 * one. The one before tells until the next is acknowledged, so nothing is told twice.
 */
export class ListenUpkeep {
  #next = 0;
  #current: number | undefined;
  #opening: number | undefined;
  #isWaiting = false;
  #isStale = false;
  #failures = 0;
  #isDone = false;

  /** The subscriptions that are open, or are being opened; two at most. */
  get open(): readonly number[] {
    return [this.#current, this.#opening].filter((listen) => listen !== undefined);
  }

  start(): ListenEffect[] {
    return this.#next === 0 && !this.#isDone ? this.#open() : [];
  }

  handle(event: ListenEvent): ListenEffect[] {
    if (this.#isDone) return [];
    switch (event.type) {
      case 'changed':
        this.#isStale = true;
        return this.#opening === undefined && !this.#isWaiting ? this.#open() : [];
      case 'acknowledged':
        return this.#acknowledged(event.listen);
      case 'told':
        return event.listen === this.#current ? [{ type: 'deliver', message: event.message }] : [];
      case 'over':
        return this.#over(event.listen);
      case 'waited':
        if (!this.#isWaiting) return [];
        this.#isWaiting = false;
        return this.#isStale || this.#current === undefined ? this.#open() : [];
      case 'ended': {
        this.#isDone = true;
        return this.open.map((listen) => ({ type: 'close', listen }));
      }
      default:
        return event satisfies never;
    }
  }

  #open(): ListenEffect[] {
    this.#isStale = false;
    this.#opening = ++this.#next;
    return [{ type: 'open', listen: this.#opening }];
  }

  #acknowledged(listen: number): ListenEffect[] {
    if (listen !== this.#opening) return [];
    const before = this.#current;
    this.#current = listen;
    this.#opening = undefined;
    this.#failures = 0;
    return [...(before === undefined ? [] : [{ type: 'close', listen: before } as const]), this.#wait(restMs)];
  }

  #over(listen: number): ListenEffect[] {
    if (!this.open.includes(listen)) return [];
    const closed: ListenEffect = { type: 'close', listen };
    if (listen === this.#current) this.#current = undefined;
    else {
      this.#opening = undefined;
      // What it was to bring is still wanted.
      this.#isStale = true;
    }
    if (this.#opening !== undefined) return [closed];
    return [closed, this.#wait(Math.min(reopenDelayMs.most, reopenDelayMs.first * 2 ** this.#failures++))];
  }

  #wait(ms: number): ListenEffect {
    this.#isWaiting = true;
    return { type: 'wait', ms };
  }
}
