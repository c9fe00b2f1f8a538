import type { Clock, Log } from '@sallyport/schema/platform';
import type { Database } from './database/client.ts';
import { forgetIdempotencyKeys } from './database/idempotency.ts';

const housekeepingIntervalMs = 10 * 60_000;

export interface JobsOptions {
  readonly database: Database;
  readonly clock: Clock;
  readonly log: Log;
}

export interface Jobs {
  /** Lets what runs end, then starts nothing more. */
  stop(): Promise<void>;
}

interface Timer {
  stop(): Promise<void>;
}

/**
 * Runs a reconciler now and again after each interval, never twice at once. A run that fails is logged and tried again
 * at the next interval: reconcilers read the state anew and can be repeated.
 */
function every(name: string, intervalMs: number, log: Log, run: () => Promise<void>): Timer {
  let running: Promise<void> | undefined;
  const tick = (): void => {
    running ??= run()
      .catch((error: unknown) => log.error({ err: error, job: name }, 'a job failed'))
      .finally(() => {
        running = undefined;
      });
  };
  const timer = setInterval(tick, intervalMs);
  tick();
  return {
    stop: async () => {
      clearInterval(timer);
      await running;
    },
  };
}

/** What the `worker` role does. */
export async function startJobs(options: JobsOptions): Promise<Jobs> {
  const { database, clock, log } = options;
  const timers = [
    every('housekeeping', housekeepingIntervalMs, log, () => forgetIdempotencyKeys(database.db, clock.now())),
  ];
  return {
    stop: async () => {
      await Promise.all(timers.map((timer) => timer.stop()));
    },
  };
}
