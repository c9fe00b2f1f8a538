import { createHash, randomBytes } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { migrate } from '@sallyport/control-plane/migrate';
import postgres from 'postgres';
import { inject } from 'vitest';

export interface TestDatabase {
  /** Superuser's URL of this database alone. */
  readonly url: string;
  readonly name: string;
  /** Ends what is still connected and drops the database. Not needed at the end of a file. */
  readonly drop: () => Promise<void>;
}

const migrationsFolder = join(import.meta.dirname, '../../control-plane/migrations');
/** Any number, the same in all workers: serializes making the template. */
const templateLock = 7_241_905;
let administratorUrl: Promise<string> | undefined;

async function startedPostgres(): Promise<string> {
  const response = await fetch(inject('postgresStarterUrl'));
  const text = await response.text();
  if (!response.ok) throw new Error(text);
  return text;
}

function urlOf(database: string, administrator: string): string {
  const url = new URL(administrator);
  url.pathname = `/${database}`;
  return url.href;
}

async function administer<T>(work: (sql: postgres.Sql, administrator: string) => Promise<T>): Promise<T> {
  administratorUrl ??= startedPostgres();
  const administrator = await administratorUrl;
  const sql = postgres(administrator, { max: 1, onnotice: () => undefined });
  try {
    return await work(sql, administrator);
  } finally {
    await sql.end();
  }
}

/** Named by what the migrations say, so that an edit in watch mode gives a fresh one. */
function templateName(): string {
  const hash = createHash('sha256');
  for (const name of readdirSync(migrationsFolder).sort()) {
    hash.update(name).update(readFileSync(join(migrationsFolder, name)));
  }
  return `template_${hash.digest('hex').slice(0, 16)}`;
}

async function migrateTemplate(url: string): Promise<void> {
  const sql = postgres(url, { max: 1, onnotice: () => undefined });
  try {
    await migrate(sql);
  } finally {
    await sql.end();
  }
}

async function ensureTemplate(sql: postgres.Sql, administrator: string): Promise<string> {
  const name = templateName();
  await sql`select pg_advisory_lock(${templateLock})`;
  try {
    const existing = await sql`select 1 from pg_database where datname = ${name}`;
    if (existing.length === 0) {
      const partial = `${name}_${randomBytes(4).toString('hex')}`;
      await sql.unsafe(`create database ${partial}`);
      await migrateTemplate(urlOf(partial, administrator));
      await sql.unsafe(`alter database ${partial} rename to ${name}`);
    }
  } finally {
    await sql`select pg_advisory_unlock(${templateLock})`;
  }
  return name;
}

async function createFrom(
  template: (sql: postgres.Sql, administrator: string) => Promise<string>,
): Promise<TestDatabase> {
  return administer(async (sql, administrator) => {
    const name = `test_${randomBytes(6).toString('hex')}`;
    await sql.unsafe(`create database ${name} template ${await template(sql, administrator)}`);
    return {
      name,
      url: urlOf(name, administrator),
      drop: () =>
        administer(async (own) => {
          await own.unsafe(`drop database if exists ${name} with (force)`);
        }),
    };
  });
}

/** A database with the control plane's tables, empty, for one test file. */
export function createMigratedDatabase(): Promise<TestDatabase> {
  return createFrom(ensureTemplate);
}

/** A database with nothing in it, for what tests the migrations themselves. */
export function createEmptyDatabase(): Promise<TestDatabase> {
  return createFrom(() => Promise.resolve('template0'));
}

/** The database as it is now, as a restored backup of it would be; nothing may be connected to it. */
export function copyDatabase(database: TestDatabase): Promise<TestDatabase> {
  return createFrom(() => Promise.resolve(database.name));
}

/** Bytes as text, in which a secret can be found. */
const bytea = {
  to: 17,
  from: [17],
  serialize: (text: string): string => `\\x${Buffer.from(text, 'latin1').toString('hex')}`,
  parse: (hex: string): string => Buffer.from(hex.slice(2), 'hex').toString('latin1'),
};

/** All rows of a database, in all of its schemas, as text. */
export async function dump(url: string): Promise<string> {
  const sql = postgres(url, { max: 1, types: { bytea } });
  const tables = await sql`
    select table_schema as schema, table_name as name from information_schema.tables
    where table_schema not in ('pg_catalog', 'information_schema') and table_type = 'BASE TABLE'`;
  const rows: string[] = [];
  for (const { schema, name } of tables) {
    rows.push(JSON.stringify(await sql`select * from ${sql(String(schema))}.${sql(String(name))}`));
  }
  await sql.end();
  return rows.join('\n');
}
