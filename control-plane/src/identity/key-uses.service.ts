import type { Log } from '@sallyport/schema/platform';
import { sql } from 'drizzle-orm';
import type { Database } from '../database/client.ts';
import { isUuid } from '../database/mutation.ts';

/** A key's last use is written at most this often: what is shown is true to the minute. */
const lastUsedIntervalMs = 60_000;
/** How long uses are gathered before they are written together. */
const writeDelayMs = 500;
/** Keys whose uses wait to be written, or were written last; more are left to the next use. */
const keysMax = 10_000;

/**
 * When API keys were used last, at the API and on nodes, whose audit trail tells. Nobody waits for it or fails by it: uses
 * are gathered and written in one statement.
 */
export class KeyUses {
  private readonly database: Database;
  private readonly log: Log;
  private readonly pending = new Map<string, number>();
  /** What this process wrote last, so that a busy key costs no statement. */
  private readonly written = new Map<string, number>();
  private timer: NodeJS.Timeout | undefined;
  private writing: Promise<void> = Promise.resolve();

  constructor(database: Database, log: Log) {
    this.database = database;
    this.log = log;
  }

  note(keyId: string, atMs: number): void {
    if (!isUuid(keyId) || (this.pending.size >= keysMax && !this.pending.has(keyId))) return;
    if (atMs - (this.written.get(keyId) ?? Number.NEGATIVE_INFINITY) < lastUsedIntervalMs) return;
    this.pending.set(keyId, Math.max(atMs, this.pending.get(keyId) ?? 0));
    this.timer ??= setTimeout(() => void this.flush(), writeDelayMs);
  }

  /** Writes what is pending. Does not reject. */
  flush(): Promise<void> {
    clearTimeout(this.timer);
    this.timer = undefined;
    const uses = [...this.pending];
    this.pending.clear();
    if (this.written.size > keysMax) this.written.clear();
    for (const [id, atMs] of uses) this.written.set(id, atMs);
    if (uses.length > 0) {
      this.writing = this.writing
        .then(() => this.write(uses))
        .catch((error: unknown) =>
          this.log.warn({ err: error, keys: uses.length }, 'last uses of keys are not written'),
        );
    }
    return this.writing;
  }

  /** Keys that somebody is changing are passed over: a later use tells. */
  private async write(uses: readonly (readonly [string, number])[]): Promise<void> {
    const ids = `{${uses.map(([id]) => id).join(',')}}`;
    const times = `{${uses.map(([, atMs]) => new Date(atMs).toISOString()).join(',')}}`;
    await this.database.db.execute(sql`
      with used as (
        select * from unnest(${ids}::uuid[], ${times}::timestamptz[]) as used (id, at)
      ), free as (
        select k.id, used.at from api_keys k join used on used.id = k.id
        where k.last_used_at is null or k.last_used_at <= used.at - ${lastUsedIntervalMs} * interval '1 millisecond'
        order by k.id for update of k skip locked
      )
      update api_keys k set last_used_at = free.at from free where k.id = free.id`);
  }
}
