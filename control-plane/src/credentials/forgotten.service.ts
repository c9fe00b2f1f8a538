import { and, ne, type SQL, sql } from 'drizzle-orm';
import { z } from 'zod';
import type { Database, Transaction } from '../database/client.ts';
import { type ConnectionRow, connections } from './credential.tables.ts';

/** Tells every control-plane process whose lent credentials nodes must let go of. */
const channel = 'sallyport_credentials';
const payload = z.tuple([z.string().nullable(), z.string().nullable()]);

/** With the caller's transaction; null stands for all. */
export async function notifyForgotten(
  tx: Transaction,
  serverId: string | null,
  principalId: string | null,
): Promise<void> {
  await tx.execute(sql`select pg_notify(${channel}, ${JSON.stringify([serverId, principalId])})`);
}

/** Ends those of these connections that have not ended: what nodes hold of them is forgotten, and they wait for revocation. */
export async function endConnections(
  tx: Transaction,
  now: Date,
  ...which: readonly [SQL, ...SQL[]]
): Promise<ConnectionRow[]> {
  const ended = await tx
    .update(connections)
    .set({
      status: 'ended',
      // What a refresh that is under way brings is to be revoked, and not what it was sent with.
      revokeNotBefore: sql`case when ${connections.refreshSentAt} is null then ${now.toISOString()}::timestamptz
        else coalesce(${connections.refreshLeaseUntil}, ${now.toISOString()}::timestamptz) end`,
      updatedAt: now,
      refreshId: null,
      refreshLeaseUntil: null,
    })
    .where(and(...which, ne(connections.status, 'ended')))
    .returning();
  for (const { serverId, principalId } of ended) await notifyForgotten(tx, serverId, principalId);
  return ended;
}

/** After each (re)connection all is forgotten: what was told in between may have been missed. */
export async function onForgotten(
  database: Pick<Database, 'raw'>,
  forget: (serverId: string | null, principalId: string | null) => void,
): Promise<() => Promise<void>> {
  const subscription = await database.raw.listen(
    channel,
    (text) => {
      const parsed = payload.safeParse(JSON.parse(text));
      if (parsed.success) forget(...parsed.data);
    },
    () => forget(null, null),
  );
  return () => subscription.unlisten();
}
