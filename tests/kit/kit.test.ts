import { Redis } from 'ioredis';
import postgres from 'postgres';
import { describe, expect, test } from 'vitest';
import { waitFor } from './condition.ts';
import { createEmptyDatabase, createMigratedDatabase } from './postgres.ts';
import { hasRedis, startRedis } from './redis.ts';

describe('the test databases', () => {
  test('two migrated databases share nothing', async () => {
    const [one, other] = await Promise.all([createMigratedDatabase(), createMigratedDatabase()]);
    const sql = postgres(one.url, { max: 1 });
    await sql`create table only_here ()`;
    await sql.end();
    const otherSql = postgres(other.url, { max: 1 });
    const found = await otherSql`select 1 from pg_tables where tablename = 'only_here'`;
    await otherSql.end();
    expect(found).toHaveLength(0);
    await one.drop();
    await other.drop();
  });

  test('an empty database has no table', async () => {
    const database = await createEmptyDatabase();
    const sql = postgres(database.url, { max: 1 });
    const tables = await sql`select tablename from pg_tables where schemaname = 'public'`;
    await sql.end();
    expect(tables).toHaveLength(0);
    await database.drop();
  });
});

describe.skipIf(!hasRedis('restarting Redis'))('the test Redis', () => {
  test('keeps what was written when it is killed and restarted', async () => {
    const server = await startRedis();
    const client = new Redis(server.url, { lazyConnect: true });
    client.on('error', () => undefined);
    await client.connect();
    await client.set('kept', 'yes');
    await server.kill();
    await server.restart();
    await waitFor('the client is connected again', () => client.status === 'ready');
    expect(await client.get('kept')).toBe('yes');
    client.disconnect();
    await server.stop();
  });
});

describe('waiting for a condition', () => {
  test('a condition that throws is asked again', async () => {
    let asked = 0;
    const value = await waitFor('the third try', () => {
      asked += 1;
      if (asked < 3) throw new Error('not yet');
      return asked;
    });
    expect(value).toBe(3);
  });

  test('the deadline names what was awaited', async () => {
    await expect(waitFor('rain', () => false, { deadlineMs: 20 })).rejects.toThrow('not within 20 ms: rain');
  });
});
