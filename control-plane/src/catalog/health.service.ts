import type { HealthObservation } from '@sallyport/schema';
import { and, asc, eq, inArray, isNull, sql } from 'drizzle-orm';
import type { Context } from '../context.ts';
import { batched } from '../database/batched.ts';
import type { Database, Reader, Transaction } from '../database/client.ts';
import { isUuid } from '../database/mutation.ts';
import { sendSignal } from '../signals.ts';
import { type HealthRow, serverHealth, servers } from './catalog.tables.ts';

export const controlPlaneObserver = 'controlPlane';
const observationsPerMessageMax = 5_000;

/** How each observer finds each server. Shown, never decided by: see the design's words on health. */
export class HealthService {
  private readonly database: Database;
  private readonly load: (serverId: string) => Promise<HealthRow[] | undefined>;

  constructor(database: Database) {
    this.database = database;
    this.load = batched(async (ids) => {
      const rows = await database.db
        .select()
        .from(serverHealth)
        .where(inArray(serverHealth.serverId, [...ids]))
        .orderBy(asc(serverHealth.observer));
      return Map.groupBy(rows, (row) => row.serverId);
    });
  }

  /** Of a server at hand: whoever asks may see it. */
  async of(ctx: Context, serverId: string): Promise<HealthRow[]> {
    ctx.serverScope('server:read');
    return isUuid(serverId) ? ((await this.load(serverId)) ?? []) : [];
  }

  /**
   * Stores what a node reports. Observations of servers that are gone and older ones than those stored are passed over.
   * @param observer the node's id
   */
  async report(observer: string, observations: readonly HealthObservation[]): Promise<void> {
    const wanted = observations.slice(0, observationsPerMessageMax).filter((each) => isUuid(each.serverId));
    if (wanted.length === 0) return;
    const known = await this.database.db
      .select({ id: servers.id })
      .from(servers)
      .where(
        and(
          isNull(servers.deletedAt),
          inArray(
            servers.id,
            wanted.map((each) => each.serverId),
          ),
        ),
      );
    const knownIds = new Set(known.map((row) => row.id));
    // The last one wins: one statement cannot upsert a row twice.
    const latest = new Map(wanted.filter((each) => knownIds.has(each.serverId)).map((each) => [each.serverId, each]));
    if (latest.size > 0) await this.store(this.database.db, observer, [...latest.values()]);
  }

  /** What the control plane itself found, in the transaction that stores the discovery. */
  async observe(tx: Transaction, observation: HealthObservation): Promise<void> {
    await this.store(tx, controlPlaneObserver, [observation]);
  }

  /** An observer is gone, or no longer looks at the server: what it said last means nothing any more. */
  async forget(reader: Reader, observer: string, serverId?: string): Promise<void> {
    const gone = await reader
      .delete(serverHealth)
      .where(
        and(
          eq(serverHealth.observer, observer),
          serverId === undefined ? undefined : eq(serverHealth.serverId, serverId),
        ),
      )
      .returning({ serverId: serverHealth.serverId });
    if (gone.length > 0) await sendSignal(reader, 'serverHealth');
  }

  private async store(reader: Reader, observer: string, observations: readonly HealthObservation[]): Promise<void> {
    const values = observations.map((each) => ({ ...each, observer, observedAt: new Date(each.observedAt) }));
    const before = await reader
      .select()
      .from(serverHealth)
      .where(
        and(
          eq(serverHealth.observer, observer),
          inArray(
            serverHealth.serverId,
            values.map((each) => each.serverId),
          ),
        ),
      );
    await reader
      .insert(serverHealth)
      .values(values)
      .onConflictDoUpdate({
        target: [serverHealth.serverId, serverHealth.observer],
        set: {
          state: sql`excluded.state`,
          observedAt: sql`excluded.observed_at`,
          latencyMs: sql`excluded.latency_ms`,
          problem: sql`excluded.problem`,
        },
        setWhere: sql`${serverHealth.observedAt} <= excluded.observed_at`,
      });
    const states = new Map(before.map((row) => [row.serverId, `${row.state} ${String(row.problem)}`]));
    const changed = values.some((each) => states.get(each.serverId) !== `${each.state} ${String(each.problem)}`);
    if (changed) await sendSignal(reader, 'serverHealth');
  }
}
