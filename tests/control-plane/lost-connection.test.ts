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
