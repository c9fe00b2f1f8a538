import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { migrate } from '@sallyport/control-plane/migrate';
import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createEmptyDatabase } from '../kit/postgres.ts';

const shipped = join(import.meta.dirname, '../../control-plane/migrations');
let url: string;
let sql: postgres.Sql;
let directory: string;

beforeAll(async () => {
  url = (await createEmptyDatabase()).url;
  sql = postgres(url, { onnotice: () => undefined });
  directory = mkdtempSync(join(tmpdir(), 'sallyport-migrations-'));
  cpSync(shipped, directory, { recursive: true });
});
afterAll(async () => {
  await sql.end();
  rmSync(directory, { recursive: true, force: true });
});

describe('migrations', () => {
  test('two processes that start at once apply each migration once', async () => {
    const other = postgres(url, { onnotice: () => undefined });
    const applied = await Promise.all([migrate(sql, directory), migrate(other, directory)]);
    await other.end();
    expect(applied.flat().length).toBeGreaterThan(0);
    expect(new Set(applied.flat()).size).toBe(applied.flat().length);
    expect(await migrate(sql, directory)).toEqual([]);
  });

  test('a migration that fails leaves nothing behind, and the next start tries it again', async () => {
    const file = join(directory, '9000_half.sql');
    writeFileSync(file, 'create table half_done (id integer); select no_such_function();');
    await expect(migrate(sql, directory)).rejects.toThrow('no_such_function');
    expect(await sql`select to_regclass('half_done') as found`).toEqual([{ found: null }]);
    writeFileSync(file, 'create table half_done (id integer);');
    expect(await migrate(sql, directory)).toEqual(['9000_half.sql']);
  });

  test('an applied migration that was changed is refused', async () => {
    writeFileSync(join(directory, '9000_half.sql'), 'create table half_done (id bigint);');
    await expect(migrate(sql, directory)).rejects.toThrow('9000_half.sql was changed');
    writeFileSync(join(directory, '9000_half.sql'), 'create table half_done (id integer);');
  });

  test('a migration that arrives before an applied one is refused', async () => {
    writeFileSync(join(directory, '8999_late.sql'), 'select 1;');
    await expect(migrate(sql, directory)).rejects.toThrow('8999_late.sql comes before');
    rmSync(join(directory, '8999_late.sql'));
  });

  test('a database written by a newer build is refused', async () => {
    await expect(migrate(sql, shipped)).rejects.toThrow('9000_half.sql, which this build does not know');
  });
});
