import type { Clock } from '@sallyport/schema/platform';
import { lt, sql } from 'drizzle-orm';
import type { Database } from '../database/client.ts';
import { configChanges } from '../database/settings.tables.ts';

/** How far back a returning node may be and still receive only what changed. */
const manifestsKept = 1_000;
/** Documents out of use stay this long, so that a node fetching an older configuration finishes undisturbed. */
const documentsKeptMs = 10 * 60_000;
/** Generations whose changes are remembered; a process further behind looks through everything. */
const changesKept = 10_000;

/** Removes what the push needs no more: old manifests, documents out of use, changes that every process has seen. */
export async function collectGarbage(database: Database, clock: Clock, generation: number): Promise<void> {
  await database.db.delete(configChanges).where(lt(configChanges.generation, generation - changesKept));
  const before = new Date(clock.now() - documentsKeptMs).toISOString();
  await database.db.execute(sql`
    delete from config_manifests m using (
      select history_id, revision from config_manifests order by revision desc offset ${manifestsKept}
    ) old where m.history_id = old.history_id and m.revision = old.revision`);
  await database.db.execute(sql`
    delete from config_documents d where d.created_at < ${before}
      and not exists (select 1 from config_entries e where e.hash = d.hash)
      and not exists (
        select 1 from config_manifests m, jsonb_each_text(m.changed) c where m.published_at >= ${before} and c.value = d.hash
      )`);
}
