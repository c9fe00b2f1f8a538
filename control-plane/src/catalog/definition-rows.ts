/** Rows of definitions and of their wordings, as discoveries and reports of nodes change them. */
import {
  canonicalJson,
  type DefinitionFinding,
  definitionScanVersion,
  type DiscoveryResult,
  toolKey,
} from '@sallyport/schema';
import { uuidv7 } from '@sallyport/schema/platform';
import { and, eq, inArray, sql } from 'drizzle-orm';
import type { Transaction } from '../database/client.ts';
import { type DefinitionRow, definitionBodies, definitions, type ServerRow } from './catalog.tables.ts';
import type { DefinitionChanges } from './definition-changes.ts';

/** Rows per statement, below PostgreSQL's bound on parameters. */
const rowsPerStatement = 500;
/**
 * Vanished definitions that nobody ever approved, kept for each server, and as many that were quarantined: an upstream
 * must not fill the database.
 */
const removedKeptMax = 1_000;
/** Of wordings that no scan has seen, so that the next one looks at them. */
const neverScanned = 0;

export interface Scan {
  readonly findings: readonly DefinitionFinding[];
  /** It is not in the catalog yet, or not with these findings. */
  readonly isNew: boolean;
}
/** By digest. */
export type Scans = ReadonlyMap<string, Scan>;

/** Of a tool by what it may be mistaken for; empty for all else. */
function nameKeyOf({ kind, name }: Pick<DefinitionRow, 'kind' | 'name'>): string {
  return kind === 'tool' ? toolKey(name) : '';
}

function inChunks<Item>(items: readonly Item[]): readonly (readonly Item[])[] {
  return Array.from({ length: Math.ceil(items.length / rowsPerStatement) }, (_, index) =>
    items.slice(index * rowsPerStatement, (index + 1) * rowsPerStatement),
  );
}

/**
 * Each wording that was not known, or not scanned in this way, with what the scan saw.
 * @param isScanned false: no scan has seen them yet; what is stored of one already is left as it is
 */
export async function storeBodies(
  tx: Transaction,
  serverId: string,
  found: DiscoveryResult['definitions'],
  { scans, isScanned, now }: { readonly scans: Scans; readonly isScanned: boolean; readonly now: Date },
): Promise<void> {
  const bodies = new Map(found.map(({ digest, raw }) => [digest, raw]));
  const fresh = [...bodies].flatMap(([digest, raw]) => {
    const scan = scans.get(digest);
    return scan?.isNew === true ? [{ digest, raw: canonicalJson(raw), findings: scan.findings }] : [];
  });
  const scanVersion = isScanned ? definitionScanVersion : neverScanned;
  for (const chunk of inChunks(fresh)) {
    const insert = tx
      .insert(definitionBodies)
      .values(chunk.map((body) => ({ serverId, ...body, scanVersion, createdAt: now })));
    await (isScanned
      ? insert.onConflictDoUpdate({
          target: [definitionBodies.serverId, definitionBodies.digest],
          set: { findings: sql`excluded.findings`, scanVersion: sql`excluded.scan_version` },
        })
      : insert.onConflictDoNothing());
  }
}

export async function storeDefinitions(
  tx: Transaction,
  server: ServerRow,
  {
    changes,
    discovered,
    now,
  }: { readonly changes: DefinitionChanges; readonly discovered: boolean; readonly now: Date },
): Promise<void> {
  const times = { createdAt: now, updatedAt: now };
  for (const chunk of inChunks(changes.added)) {
    await tx.insert(definitions).values(
      chunk.map(({ kind, name, digests, state, approvedDigests }) => ({
        id: uuidv7(now.getTime()),
        serverId: server.id,
        kind,
        name,
        nameKey: nameKeyOf({ kind, name }),
        digests: [...digests],
        state,
        approvedDigests: [...approvedDigests],
        discovered,
        firstSeenAt: now,
        lastSeenAt: now,
        ...times,
      })),
    );
  }
  const next = { revision: sql`${definitions.revision} + 1`, updatedAt: now };
  for (const { row, digests, reportedDigests, approvedDigests, state, driftClass } of changes.changed) {
    const seen = { digests: [...digests], reportedDigests: [...reportedDigests] };
    const standing = { state, driftClass, approvedDigests: [...approvedDigests] };
    const presence = { discovered: row.discovered || discovered, removedAt: null, lastSeenAt: now };
    const nameKey = nameKeyOf(row);
    await tx
      .update(definitions)
      .set({ ...seen, ...standing, ...presence, ...next, nameKey })
      .where(eq(definitions.id, row.id));
  }
  for (const chunk of inChunks(changes.removed)) {
    const ids = chunk.map((row) => row.id);
    const lastSeenAt = server.discoveredAt ?? now;
    await tx
      .update(definitions)
      .set({ removedAt: now, lastSeenAt, ...next })
      .where(inArray(definitions.id, ids));
  }
  await dropUnreferenced(tx, server.id);
}

/** Keeps what one upstream can make us store in bounds, however it changes from one discovery to the next. */
export async function dropUnreferenced(tx: Transaction, serverId: string): Promise<void> {
  await tx.execute(sql`
    delete from definitions where id in (
      select id from (
        select id, row_number() over (
          partition by state = 'quarantined' order by removed_at desc, id desc
        ) as place
        from definitions
        where server_id = ${serverId} and removed_at is not null and cardinality(approved_digests) = 0
      ) removed where place > ${removedKeptMax}
    )`);
  await tx.delete(definitionBodies).where(
    and(
      eq(definitionBodies.serverId, serverId),
      sql`${definitionBodies.digest} not in (
        select unnest(${definitions.digests} || ${definitions.reportedDigests} || ${definitions.approvedDigests})
        from ${definitions}
        where ${definitions.serverId} = ${serverId}
      )`,
    ),
  );
}
