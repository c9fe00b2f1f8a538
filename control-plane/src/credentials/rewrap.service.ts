import { toAppError } from '@sallyport/schema';
import type { Log } from '@sallyport/schema/platform';
import { type SQL, sql } from 'drizzle-orm';
import type { Context } from '../context.ts';
import type { Database } from '../database/client.ts';
import type { CredentialVault } from './credential-vault.ts';

/** Every table with the columns of a sealed secret. */
const tables = [
  'server_credentials',
  'retired_credentials',
  'upstream_clients',
  'upstream_signing_keys',
  'login_tokens',
  'connections',
  'payload_keys',
] as const;
type SealedTable = (typeof tables)[number];

const rowsPerPage = 200;

export interface RewrapDependencies {
  readonly database: Database;
  readonly vault: CredentialVault;
  readonly log: Log;
}

/**
 * Wraps data keys anew after the key-encryption key was rotated. What is left to do stands in the rows alone, so a run goes
 * on where another was stopped, and two at once harm nobody: a row is changed only if it is as it was read. The secrets
 * themselves are not touched, and can be read at any moment under either version.
 */
export class RewrapService {
  private readonly deps: RewrapDependencies;

  constructor(deps: RewrapDependencies) {
    this.deps = deps;
  }

  async describe(ctx: Context): Promise<{
    provider: string | null;
    currentKeyId: string | null;
    uses: { keyId: string; secrets: number }[];
  }> {
    ctx.authorize('settings:read');
    const { keys } = this.deps.vault;
    const counts = tables.map((table) => sql`select key_id from ${nameOf(table)} where key_id is not null`);
    const uses = await this.deps.database.db.execute<{ keyId: string; secrets: number }>(
      sql`select key_id as "keyId", count(*)::int as secrets from (${sql.join(counts, sql` union all `)}) u
        group by key_id order by key_id`,
    );
    const current = await keys?.currentKeyId().catch((error: unknown) => {
      this.deps.log.warn({ err: toAppError(error) }, 'the key-encryption key cannot be had');
      return null;
    });
    return { provider: keys?.name ?? null, currentKeyId: current ?? null, uses: [...uses] };
  }

  /** @returns how many were wrapped anew */
  async run(): Promise<number> {
    const { keys } = this.deps.vault;
    if (keys === undefined) return 0;
    const due = await Promise.all(tables.map((table) => this.hasRows(table)));
    if (!due.includes(true)) return 0;
    const current = await keys.currentKeyId();
    let count = 0;
    for (const table of tables) count += await this.rewrapTable(table, current);
    if (count > 0) this.deps.log.info({ count, keyId: current }, 'data keys of credentials were wrapped anew');
    return count;
  }

  private async hasRows(table: SealedTable): Promise<boolean> {
    const rows = await this.deps.database.db.execute(
      sql`select 1 from ${nameOf(table)} where key_id is not null limit 1`,
    );
    return rows.length > 0;
  }

  private async rewrapTable(table: SealedTable, current: string): Promise<number> {
    const { database, vault, log } = this.deps;
    let count = 0;
    let after = '00000000-0000-0000-0000-000000000000';
    for (;;) {
      const rows = await database.db.execute<{ id: string; wrapped: string }>(
        sql`select id::text as id, wrapped_key as wrapped from ${nameOf(table)}
          where key_id <> ${current} and id > ${after}::uuid order by id limit ${rowsPerPage}`,
      );
      for (const { id, wrapped } of rows) {
        after = id;
        try {
          const rewrapped = await vault.keys?.rewrap(wrapped);
          if (rewrapped === undefined) continue;
          const changed = await database.db.execute(
            sql`update ${nameOf(table)} set wrapped_key = ${rewrapped.wrappedKey}, key_id = ${rewrapped.keyId}
              where id = ${id}::uuid and wrapped_key = ${wrapped} returning 1`,
          );
          count += changed.length;
        } catch (error) {
          // One that does not open must not keep the others under the old key.
          log.error({ err: toAppError(error), table, id }, 'a data key was not wrapped anew');
        }
      }
      if (rows.length < rowsPerPage) return count;
    }
  }
}

function nameOf(table: SealedTable): SQL {
  return sql.identifier(table) as unknown as SQL;
}
