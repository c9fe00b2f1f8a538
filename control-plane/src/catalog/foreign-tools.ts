import { type DiscoveryResult, namesSpokenOf } from '@sallyport/schema';
import { sql } from 'drizzle-orm';
import type { Reader } from '../database/client.ts';

type Found = DiscoveryResult['definitions'];
/** Names looked up at once. */
const namesPerQuery = 5_000;

/**
 * Of the names that definitions speak of, those of tools of other servers, in lower case: `foreign` are those that this
 * server has none of. What is registered later is looked at when it comes itself.
 * @param own all that the server defines, as far as it was seen just now
 */
export async function foreignTools(
  reader: Reader,
  serverId: string,
  fresh: Found,
  own: Found,
): Promise<{ readonly foreign: ReadonlySet<string>; readonly taken: ReadonlySet<string> }> {
  const spoken = [...new Set(fresh.flatMap(({ raw }) => [...namesSpokenOf(raw)]))];
  const foreign = new Set<string>();
  const taken = new Set<string>();
  for (let from = 0; from < spoken.length; from += namesPerQuery) {
    const names = JSON.stringify(spoken.slice(from, from + namesPerQuery));
    const rows = await reader.execute<{ name: string; is_own: boolean; is_taken: boolean }>(sql`
      select lower(d.name) as name, bool_or(d.server_id = ${serverId}) as is_own,
        bool_or(d.server_id <> ${serverId}) as is_taken
      from jsonb_array_elements_text(${names}::jsonb) spoken
        join definitions d on md5(lower(d.name)) = md5(spoken) and lower(d.name) = spoken
        join servers s on s.id = d.server_id and s.deleted_at is null
      where d.kind = 'tool' and d.removed_at is null
      group by 1`);
    for (const { name, is_own: isOwn, is_taken: isTaken } of rows) {
      if (isTaken) taken.add(name);
      if (isTaken && !isOwn) foreign.add(name);
    }
  }
  for (const { kind, name } of own) if (kind === 'tool') foreign.delete(name.toLowerCase());
  return { foreign, taken };
}
