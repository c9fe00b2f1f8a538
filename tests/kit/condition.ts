import { setTimeout as delay } from 'node:timers/promises';

/** Generous, because a busy machine is no failure; only a failing test waits so long. */
const defaultDeadlineMs = 20_000;

export interface WaitOptions {
  /** Give up after this many milliseconds. */
  readonly deadlineMs?: number;
  readonly intervalMs?: number;
}

/**
 * Waits until `condition` returns something other than false, null or undefined, and returns that. An error thrown by
 * `condition` means "not yet"; the last one is the cause of the failure at the deadline.
 * @param what names what is awaited, for the failure's message
 */
export async function waitFor<T>(
  what: string,
  condition: () => T | Promise<T>,
  options: WaitOptions = {},
): Promise<Exclude<T, false | null | undefined>> {
  const deadlineMs = options.deadlineMs ?? defaultDeadlineMs;
  const end = performance.now() + deadlineMs;
  let cause: unknown;
  for (;;) {
    try {
      const value = await condition();
      if (value !== false && value !== null && value !== undefined) {
        return value as Exclude<T, false | null | undefined>;
      }
      cause = undefined;
    } catch (error) {
      cause = error;
    }
    if (performance.now() >= end) {
      throw new Error(`not within ${deadlineMs} ms: ${what}`, cause === undefined ? undefined : { cause });
    }
    await delay(options.intervalMs ?? 10);
  }
}
