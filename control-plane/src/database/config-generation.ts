import { sql } from 'drizzle-orm';
import type { Transaction } from './client.ts';

/** Tells every control-plane process that the configuration may have changed. Carries no payload: readers re-read. */
export const configChannel = 'sallyport_config';

/** What of the configuration a transaction changed, where it is little: nothing else is looked at then. */
export interface ConfigChange {
  /** Servers, their definitions, and the grants that name them. */
  readonly serverIds?: readonly string[];
  /** Principals, their keys and their memberships. Not what others say of them: a grant is its server's. */
  readonly principalIds?: readonly string[];
}

/**
 * Marks the transaction as one whose outcome nodes must know. The row lock makes such transactions commit one after
 * the other; the notification leaves with the commit, so a rolled-back change tells nobody.
 * @param change what was touched, without exception; left out, everything is looked through, which is never wrong
 */
export async function bumpConfigGeneration(tx: Transaction, change?: ConfigChange): Promise<void> {
  const list = (ids: readonly string[] | undefined): string => `{${(ids ?? []).join(',')}}`;
  await tx.execute(sql`
    with bumped as (
      update config_generation set generation = generation + 1 where id = 1 returning generation
    ), noted as (
      insert into config_changes (generation, everything, server_ids, principal_ids)
      select generation, ${change === undefined}, ${list(change?.serverIds)}::uuid[],
        ${list(change?.principalIds)}::uuid[]
      from bumped returning 1
    )
    select pg_notify(${configChannel}, '') from noted`);
}
