import { toAppError } from '@sallyport/schema';
import type { Log } from '@sallyport/schema/platform';
import { type SQL, sql } from 'drizzle-orm';
import type { Context } from '../context.ts';
import type { Database } from '../database/client.ts';
import type { CredentialVault, SealedSecret } from './credential-vault.ts';
import {
  type Identified,
  openServerCredential,
  sealedWithNow,
  sealServerCredential,
} from './server-credential-secret.ts';

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

/** Those of them whose secrets an older version bound to less. */
const boundToLess = ['server_credentials', 'retired_credentials'] as const;
interface BoundToLess extends Identified, SealedSecret {
  readonly sealedWith: number;
}

const rowsPerPage = 200;

export interface RewrapDependencies {
  readonly database: Database;
  readonly vault: CredentialVault;
  readonly log: Log;
}

/**
 * Wraps data keys anew after the key-encryption key was rotated, and seals anew what an older version bound to less. What
 * is left to do stands in the rows alone, so a run goes on where another was stopped, and two at once harm nobody: a row is
 * changed only if it is as it was read, and can be read at any moment under either version.
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

  /** @returns how many were sealed or wrapped anew */
  async run(): Promise<number> {
    const { keys } = this.deps.vault;
    if (keys === undefined) return 0;
    const due = await Promise.all(tables.map((table) => this.hasRows(table)));
    if (!due.includes(true)) return 0;
    const current = await keys.currentKeyId();
    let count = 0;
    for (const table of boundToLess) count += await this.sealAnew(table);
    for (const table of tables) count += await this.rewrapTable(table, current);
    if (count > 0)
      this.deps.log.info({ count, keyId: current }, 'credentials were sealed anew, or their data keys wrapped');
    return count;
  }

  private async hasRows(table: SealedTable): Promise<boolean> {
    const rows = await this.deps.database.db.execute(
      sql`select 1 from ${nameOf(table)} where key_id is not null limit 1`,
    );
    return rows.length > 0;
  }

  private rewrapTable(table: SealedTable, current: string): Promise<number> {
    const { database, vault } = this.deps;
    const columns = sql`wrapped_key as wrapped`;
    return this.each<{ id: string; wrapped: string }>(table, columns, sql`key_id <> ${current}`, async (row) => {
      const rewrapped = await vault.keys?.rewrap(row.wrapped);
      if (rewrapped === undefined) return 0;
      const changed = await database.db.execute(
        sql`update ${nameOf(table)} set wrapped_key = ${rewrapped.wrappedKey}, key_id = ${rewrapped.keyId}
          where id = ${row.id}::uuid and wrapped_key = ${row.wrapped} returning 1`,
      );
      return changed.length;
    });
  }

  private sealAnew(table: (typeof boundToLess)[number]): Promise<number> {
    const { database, vault } = this.deps;
    const columns = sql`server_id as "serverId", settings, origin, sealed, wrapped_key as "wrappedKey",
      key_id as "keyId", sealed_with as "sealedWith"`;
    const due = sql`sealed_with < ${sealedWithNow} and sealed is not null`;
    return this.each<BoundToLess>(table, columns, due, async (row) => {
      const secret = await openServerCredential(vault, row);
      const { sealed, wrappedKey, keyId, sealedWith } = await sealServerCredential(vault, row, secret);
      const changed = await database.db.execute(
        sql`update ${nameOf(table)}
          set sealed = ${sealed}, wrapped_key = ${wrappedKey}, key_id = ${keyId}, sealed_with = ${sealedWith}
          where id = ${row.id}::uuid and sealed = ${row.sealed} returning 1`,
      );
      return changed.length;
    });
  }

  /** @returns the sum of what `change` made of each row that is due */
  private async each<Row extends { readonly id: string }>(
    table: SealedTable,
    columns: SQL,
    due: SQL,
    change: (row: Row) => Promise<number>,
  ): Promise<number> {
    const { database, log } = this.deps;
    let count = 0;
    let after = '00000000-0000-0000-0000-000000000000';
    for (;;) {
      const rows = (await database.db.execute(
        sql`select id::text as id, ${columns} from ${nameOf(table)}
          where ${due} and id > ${after}::uuid order by id limit ${rowsPerPage}`,
      )) as unknown as readonly Row[];
      for (const row of rows) {
        after = row.id;
        try {
          count += await change(row);
        } catch (error) {
          // One that does not open must not keep the others as they are.
          log.error({ err: toAppError(error), table, id: row.id }, 'a secret was not sealed or wrapped anew');
        }
      }
      if (rows.length < rowsPerPage) return count;
    }
  }
}

function nameOf(table: SealedTable): SQL {
  return sql.identifier(table) as unknown as SQL;
}
