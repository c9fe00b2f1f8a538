import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { AppError, sha256 } from '@sallyport/schema';
import type { RawSql } from './client.ts';

const migrationsDirectory = fileURLToPath(new URL('../../migrations/', import.meta.url));
/** Any constant shared by all control-plane processes: the first two bytes spell "SP". */
const advisoryLock = 0x5350_0001;

interface Migration {
  readonly name: string;
  readonly text: string;
  readonly checksum: string;
}

async function readMigrations(directory: string): Promise<Migration[]> {
  const names = (await readdir(directory)).filter((name) => /^\d{4}_[a-z0-9_]+\.sql$/.test(name)).sort();
  return Promise.all(
    names.map(async (name) => {
      const text = await readFile(join(directory, name), 'utf8');
      return { name, text, checksum: sha256(text) };
    }),
  );
}

function refuse(problem: string): never {
  throw new AppError('INTERNAL', { internal: `migrations: ${problem}` });
}

/** What is still to apply; refuses a database that another line of development has written. */
function pendingOf(known: readonly Migration[], applied: ReadonlyMap<string, string>): readonly Migration[] {
  for (const [name, checksum] of applied) {
    const migration = known.find((candidate) => candidate.name === name);
    if (migration === undefined) refuse(`the database has ${name}, which this build does not know: it is newer`);
    if (migration.checksum !== checksum) refuse(`${name} was changed after it had been applied`);
  }
  const pending = known.filter((migration) => !applied.has(migration.name));
  const last = [...applied.keys()].sort().at(-1);
  const late = pending.find((migration) => last !== undefined && migration.name < last);
  if (late !== undefined) refuse(`${late.name} comes before ${last}, which has been applied`);
  return pending;
}

/**
 * Applies the numbered SQL files in order, each in its own transaction, forward only. Several processes may start at
 * once: one migrates under an advisory lock, the others wait and find nothing to do.
 * @returns the names applied by this call
 */
export async function migrate(raw: RawSql, directory: string = migrationsDirectory): Promise<readonly string[]> {
  const known = await readMigrations(directory);
  const connection = await raw.reserve();
  try {
    await connection`set statement_timeout = 0`;
    await connection`select pg_advisory_lock(${advisoryLock})`;
    await connection`create table if not exists schema_migrations (
      name text primary key, checksum char(64) not null, applied_at timestamptz not null default now()
    )`;
    const rows = await connection<{ name: string; checksum: string }[]>`select name, checksum from schema_migrations`;
    const pending = pendingOf(known, new Map(rows.map((row) => [row.name, row.checksum])));
    for (const migration of pending) {
      await connection.unsafe('begin').simple();
      try {
        await connection.unsafe(migration.text).simple();
        await connection`insert into schema_migrations (name, checksum) values (${migration.name}, ${migration.checksum})`;
        await connection.unsafe('commit').simple();
      } catch (error) {
        await connection.unsafe('rollback').simple();
        throw error;
      }
    }
    return pending.map((migration) => migration.name);
  } finally {
    await connection`select pg_advisory_unlock_all()`;
    await connection`reset statement_timeout`;
    connection.release();
  }
}
