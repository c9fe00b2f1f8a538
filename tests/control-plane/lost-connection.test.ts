import type { Writable } from 'node:stream';
import { finished } from 'node:stream/promises';
import { openDatabase } from '@sallyport/control-plane/audit';
import { expect, test } from 'vitest';
import { createEmptyDatabase } from '../kit/postgres.ts';

/** As the driver tells it, depending on what reaches it first. */
const lost = /CONNECTION_(CLOSED|ENDED|DESTROYED)|terminating connection|ECONNRESET|EPIPE/;

test('a query on a reserved connection that PostgreSQL has ended is refused, and the process lives on', async () => {
  const { url, drop } = await createEmptyDatabase();
  const database = openDatabase({ url, connectionsMax: 2 });
  const reserved = await database.raw.reserve();
  const [backend] = await reserved<{ pid: number }[]>`select pg_backend_pid() as pid`;
  await database.raw`select pg_terminate_backend(${backend?.pid ?? 0})`;
  await expect(reserved`select 1`).rejects.toThrow(lost);
  // The driver as published throws here, outside of every promise: patches/ mends it.
  await expect(reserved`select 2`).rejects.toThrow(lost);
  expect(await database.raw`select 3 as n`).toEqual([{ n: 3 }]);
  await database.close();
  await drop();
});

test.each<[string, (written: Writable, end: () => Promise<unknown>) => Promise<unknown>]>([
  ['refuses', async (written) => void written.end('not a number\n')],
  ['ends, with its connection,', (_written, end) => end()],
  [
    'ends when all was written',
    async (written, end) => {
      const ended = end();
      written.end('1\n');
      await ended;
    },
  ],
])('a COPY that PostgreSQL %s is told to who writes it, and the process lives on', async (_what, spoil) => {
  const { url, drop } = await createEmptyDatabase();
  const database = openDatabase({ url, connectionsMax: 2 });
  await database.raw`create table numbers (n integer)`;
  const copied = database.raw.begin(async (sql) => {
    const [backend] = await sql<{ pid: number }[]>`select pg_backend_pid() as pid`;
    const written = await sql.unsafe('copy numbers from stdin').writable();
    const done = finished(written);
    const end = () => database.raw`select pg_terminate_backend(${backend?.pid ?? 0})`;
    // The driver as published waits for ever here, or throws outside of every promise: patches/ mends it.
    await Promise.all([done, spoil(written, end)]);
  });
  await expect(copied).rejects.toThrow(new RegExp(`invalid input syntax|Premature close|${lost.source}`));
  expect(await database.raw`select n from numbers`).toEqual([]);
  await database.close();
  await drop();
});
