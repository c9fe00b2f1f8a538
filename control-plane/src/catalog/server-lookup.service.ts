import { and, eq, isNull } from 'drizzle-orm';
import type { Reader } from '../database/client.ts';
import { isUuid } from '../database/mutation.ts';
import { servers } from './catalog.tables.ts';

/** For other slices: whether a grant may name the server. */
export async function serverExists(reader: Reader, id: string): Promise<boolean> {
  if (!isUuid(id)) return false;
  const rows = await reader
    .select({ id: servers.id })
    .from(servers)
    .where(and(eq(servers.id, id), isNull(servers.deletedAt)));
  return rows.length > 0;
}

/** The id of the server that has the slug now, in whatever state; null where none has. Says nothing to callers. */
export async function serverOfSlug(reader: Reader, slug: string): Promise<string | null> {
  const [row] = await reader
    .select({ id: servers.id })
    .from(servers)
    .where(and(eq(servers.slug, slug), isNull(servers.deletedAt)));
  return row?.id ?? null;
}
