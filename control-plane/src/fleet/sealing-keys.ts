import { defaultLimits, nodeGoneAfterMs } from '@sallyport/schema';
import type { Clock } from '@sallyport/schema/platform';
import { and, asc, eq, gt, isNotNull, isNull, lt } from 'drizzle-orm';
import type { Database, Transaction } from '../database/client.ts';
import { bumpConfigGeneration } from '../database/config-generation.ts';
import { currentHistory } from './fleet-keys.ts';
import { nodes, sealingKeys } from './fleet.tables.ts';

/** A key opens for this long after another took over: as long as a session sealed with it may live, and a day. */
const openAfterRetirementMs = defaultLimits.sessionTtlMs + 24 * 3_600_000;

/**
 * One step of key rotation, where one is due: the oldest published key that waits begins to seal when every node that
 * is not gone has acknowledged a revision with it; a key whose time has passed is forgotten. Idempotent.
 * The caller holds the fleet lock.
 */
export async function rotateSealingKeys(database: Pick<Database, 'db'>, clock: Clock): Promise<void> {
  await database.db.transaction(async (tx) => {
    const now = new Date(clock.now());
    const expired = await tx.delete(sealingKeys).where(lt(sealingKeys.retiresAt, now)).returning();
    const waiting = await tx
      .select()
      .from(sealingKeys)
      .where(
        and(eq(sealingKeys.use, 'open'), isNull(sealingKeys.sealingSince), isNotNull(sealingKeys.publishedRevision)),
      )
      .orderBy(asc(sealingKeys.createdAt))
      .limit(1);
    const next = waiting[0];
    const due = next?.publishedRevision != null && (await everyNodeHas(tx, next.publishedRevision, clock.now()));
    if (due && next !== undefined) {
      const retiresAt = new Date(clock.now() + openAfterRetirementMs);
      await tx.update(sealingKeys).set({ use: 'open', retiresAt }).where(eq(sealingKeys.use, 'seal'));
      await tx.update(sealingKeys).set({ use: 'seal', sealingSince: now }).where(eq(sealingKeys.id, next.id));
    }
    if (due || expired.length > 0) await bumpConfigGeneration(tx);
  });
}

/** Whether every node that is not gone has acknowledged the revision. */
export async function everyNodeHas(tx: Transaction, revision: number, nowMs: number): Promise<boolean> {
  const history = await currentHistory(tx);
  const present = await tx
    .select()
    .from(nodes)
    .where(
      and(isNull(nodes.removedAt), isNull(nodes.leftAt), gt(nodes.lastContactAt, new Date(nowMs - nodeGoneAfterMs))),
    );
  return present.every((node) => node.appliedHistoryId === history.id && (node.appliedRevision ?? 0) >= revision);
}
