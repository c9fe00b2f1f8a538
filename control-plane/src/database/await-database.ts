import { setTimeout as delay } from 'node:timers/promises';
import type { Clock, Log } from '@sallyport/schema/platform';
import { type Database, isConnectionFailure } from './client.ts';

const retryDelayMs = 1_000;
/** How often the log says that it is still waited for. */
const reportIntervalMs = 10_000;

/**
 * Resolves when PostgreSQL answers, however long that takes: it may be started after this process, or be failing over.
 * Logs what is waited for and why. What waiting does not mend (a wrong password, a database that does not exist)
 * rejects at once.
 */
export async function awaitDatabase(
  database: Pick<Database, 'raw'>,
  { clock, log }: { readonly clock: Clock; readonly log: Log },
): Promise<void> {
  const startedAt = clock.monotonic();
  const [host] = database.raw.options.host;
  const [port] = database.raw.options.port;
  for (let reportedAt = Number.NEGATIVE_INFINITY; ; ) {
    try {
      await database.raw`select 1`;
      break;
    } catch (error) {
      if (!isConnectionFailure(error)) throw error;
      if (clock.monotonic() - reportedAt >= reportIntervalMs) {
        reportedAt = clock.monotonic();
        const reason = error instanceof Error && 'code' in error ? error.code : undefined;
        log.warn({ host, port, reason }, 'PostgreSQL does not answer; waiting for it, not ready meanwhile');
      }
      await delay(retryDelayMs);
    }
  }
  const waitedMs = Math.round(clock.monotonic() - startedAt);
  if (waitedMs > retryDelayMs) log.info({ host, port, waitedMs }, 'PostgreSQL answers');
}
