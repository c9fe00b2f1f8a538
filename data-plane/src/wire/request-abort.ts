import type { Cancellation } from '../upstream/connections.ts';

/** Tells that a client went away. What an AbortSignal does for this, at a fraction of its price: one for each request. */
export class RequestAbort implements Cancellation {
  #listeners: (() => void)[] | undefined;
  aborted = false;

  addEventListener(_type: 'abort', listener: () => void): void {
    (this.#listeners ??= []).push(listener);
  }

  removeEventListener(_type: 'abort', listener: () => void): void {
    const at = this.#listeners?.indexOf(listener) ?? -1;
    if (at >= 0) this.#listeners?.splice(at, 1);
  }

  abort(): void {
    if (this.aborted) return;
    this.aborted = true;
    const listeners = this.#listeners ?? [];
    this.#listeners = undefined;
    for (const listener of listeners) listener();
  }
}
