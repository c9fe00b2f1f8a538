import { sql } from 'drizzle-orm';
import type { Transaction } from './client.ts';

/** Tells every control-plane process that the configuration may have changed. Carries no payload: readers re-read. */
export const configChannel = 'sallyport_config';

/**
 * Marks the transaction as one whose outcome nodes must know. The row lock makes such transactions commit one after
 * the other; the notification leaves with the commit, so a rolled-back change tells nobody.
 */
export async function bumpConfigGeneration(tx: Transaction): Promise<void> {
  await tx.execute(sql`update config_generation set generation = generation + 1 where id = 1`);
  await tx.execute(sql`select pg_notify(${configChannel}, '')`);
}
