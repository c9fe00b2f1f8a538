import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { join } from 'node:path';
import { AuditShipper } from '@sallyport/data-plane/telemetry';
import { auditQueue } from '@sallyport/schema';
import { createQueues, ensureQueueSchema, type QueueBackend, systemClock } from '@sallyport/schema/platform';
import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import { createMigratedDatabase } from '../kit/postgres.ts';
import { hasRedis, type RedisServer, startRedis } from '../kit/redis.ts';
import {
  backends,
  closedRecord,
  log,
  nodeSigner,
  openedRecord,
  openSpool,
  postgresBackend,
  refusedRecord,
  spoolDirectory,
  startStore,
  type Store,
  TestNode,
} from './audit-kit.ts';

describe.each(backends)('the audit path over %s', (kind) => {
  describe.skipIf(kind === 'redis' && !hasRedis('the audit path over Redis'))('from a node to the store', () => {
    let store: Store;
    let redis: RedisServer | undefined;
    let backend: QueueBackend;

    beforeAll(async () => {
      store = await startStore();
      redis = kind === 'redis' ? await startRedis() : undefined;
      backend = redis === undefined ? await postgresBackend(store.url) : { redisUrl: redis.url };
    });
    afterAll(async () => {
      await store.stop();
      await redis?.stop();
    });

    const consume = () =>
      createQueues(backend, { log }).consumer(auditQueue, {
        concurrency: 4,
        handle: (data) => store.ingest.ingest(data),
      });

    async function outcomesOf(nodeId: string): Promise<Record<string, number>> {
      const rows = await store.database.raw<{ outcome: string | null; n: number }[]>`
        select outcome, count(*)::integer as n from audit_events where node_id = ${nodeId} group by outcome`;
      return Object.fromEntries(rows.map(({ outcome, n }) => [outcome ?? 'open', n]));
    }

    test('brings every record home, and the spool is empty after a clean stop', async () => {
      const consumer = consume();
      const directory = spoolDirectory();
      const signer = nodeSigner();
      const node = new TestNode({ directory: directory.path, signer, backend, epochs: store.epochs });
      for (let n = 0; n < 700; n++) {
        const opened = openedRecord();
        void node.spool.append(opened);
        if (n % 7 === 0) void node.spool.append(refusedRecord());
        if (n % 10 !== 0) void node.spool.append(closedRecord(opened));
      }
      expect(await node.stop(10_000)).toBe(0);
      expect(node.shipper.epochs).toEqual([]);
      expect(await outcomesOf(signer.nodeId)).toEqual({ success: 630, refused: 100, unknown: 70 });
      await consumer.close();
      directory.remove();
    });

    test('a record waits in the spool while nobody takes it from the queue, and is stored once', async () => {
      const directory = spoolDirectory();
      const signer = nodeSigner();
      const first = new TestNode({ directory: directory.path, signer, backend, epochs: store.epochs });
      const opened = openedRecord();
      void first.spool.append(opened);
      await first.spool.appendDurable(closedRecord(opened));
      expect(await first.stop(300)).toBe(3);
      const second = new TestNode({ directory: directory.path, signer, backend, epochs: store.epochs });
      const consumer = consume();
      await waitFor('the old epoch is home', () => second.shipper.epochs.length === 1);
      expect(await outcomesOf(signer.nodeId)).toEqual({ success: 1 });
      expect(await second.stop(10_000)).toBe(0);
      await consumer.close();
      directory.remove();
    });

    test('a byte that the disk gave back wrong costs its line, is reported, and ends no epoch', async () => {
      const directory = spoolDirectory();
      const signer = nodeSigner();
      const spool = openSpool(directory.path, signer.nodeId);
      for (let n = 0; n < 3; n++) await spool.appendDurable(refusedRecord());
      await spool.close();
      const epoch = join(directory.path, spool.epoch);
      const segment = join(epoch, readdirSync(epoch).find((name) => name.endsWith('.jsonl')) ?? '');
      const content = readFileSync(segment);
      content[content.indexOf('refused')] = 0xff;
      writeFileSync(segment, content);
      const node = new TestNode({ directory: directory.path, signer, backend, epochs: store.epochs });
      const consumer = consume();
      await waitFor('the old epoch is home', () => node.shipper.epochs.length === 1);
      expect(await node.stop(10_000)).toBe(0);
      expect(store.alarms.filter(({ nodeId }) => nodeId === signer.nodeId)).toMatchObject([
        { code: 'AUDIT_LINES_QUARANTINED' },
      ]);
      await consumer.close();
      directory.remove();
    });
  });
});

test('a stop does not wait for every batch that finds no queue', async () => {
  const directory = spoolDirectory();
  const signer = nodeSigner();
  const spool = openSpool(directory.path, signer.nodeId);
  for (let n = 0; n < 5_000; n++) void spool.append(refusedRecord());
  let tries = 0;
  const add = async (): Promise<void> => {
    tries++;
    await delay(100);
    throw new Error('the queue took too long');
  };
  const queue = { add, close: () => Promise.resolve() };
  const shipper = new AuditShipper({ spool, queue, signer: () => signer, clock: systemClock, log });
  await spool.close();
  await shipper.drain(50);
  expect(tries).toBeLessThanOrEqual(1);
  expect(shipper.recordsUnconfirmed).toBe(5_001);
  directory.remove();
});

test('a queue that the control plane made for itself is handed to the role that is prepared later', async () => {
  const { url, drop } = await createMigratedDatabase();
  await ensureQueueSchema(url);
  const backend = await postgresBackend(url);
  const queues = createQueues(backend, { log });
  const taken: unknown[] = [];
  const consumer = queues.consumer('handed', { concurrency: 1, handle: async (data) => void taken.push(data) });
  const producer = queues.producer('handed');
  await producer.add('one', { n: 1 });
  await waitFor('the job is taken', () => taken.length > 0);
  expect(taken).toEqual([{ n: 1 }]);
  await producer.close();
  await consumer.close();
  await drop();
});

test('adding to a queue whose backend is away fails within seconds', async () => {
  for (const backend of [{ redisUrl: 'redis://127.0.0.1:1' }, { databaseUrl: 'postgres://a:b@127.0.0.1:1/c' }]) {
    const producer = createQueues(backend, { log }).producer('away');
    await expect(producer.add('one', {})).rejects.toBeInstanceOf(Error);
    await producer.close();
  }
});

test('the role of the queue reads no table of the control plane', async () => {
  const { url, drop } = await createMigratedDatabase();
  const backend = await postgresBackend(url);
  const sql = postgres('databaseUrl' in backend ? backend.databaseUrl : '', { max: 1 });
  await expect(sql`select 1 from public.principals`).rejects.toThrow('permission denied');
  await expect(sql`create table public.mine ()`).rejects.toThrow('permission denied');
  await sql.end();
  await drop();
});
