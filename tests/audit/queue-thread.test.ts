import { QueueThread } from '@sallyport/data-plane/telemetry';
import { createQueues, type QueueBackend } from '@sallyport/schema/platform';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import { createMigratedDatabase } from '../kit/postgres.ts';
import { hasRedis, type RedisServer, startRedis } from '../kit/redis.ts';
import { backends, log, postgresBackend } from './audit-kit.ts';

describe.each(backends)('the thread of the queues over %s', (kind) => {
  describe.skipIf(kind === 'redis' && !hasRedis('the thread of the queues over Redis'))('of a node', () => {
    let database: Awaited<ReturnType<typeof createMigratedDatabase>>;
    let redis: RedisServer | undefined;
    let backend: QueueBackend;

    beforeAll(async () => {
      database = await createMigratedDatabase();
      redis = kind === 'redis' ? await startRedis() : undefined;
      backend = redis === undefined ? await postgresBackend(database.url) : { redisUrl: redis.url };
    });
    afterAll(async () => {
      await database.drop();
      await redis?.stop();
    });

    const consume = (taken: unknown[]) =>
      createQueues(backend, { log }).consumer('shipped', {
        concurrency: 1,
        handle: async (data) => void taken.push(data),
      });

    test('what is added arrives as it was, its lines among it, and the thread ends with its producers', async () => {
      const taken: unknown[] = [];
      const consumer = consume(taken);
      const thread = new QueueThread({ backend, logLevel: 'silent' }, log);
      const producer = thread.producer('shipped');
      const lines = ['{"text":"ä"}', '', 'last'];
      await producer.add('one', { first: 1 }, Buffer.from(lines.join('\n')));
      await producer.add('two', { window: [{ sketch: 'x', sum: 0.5 }] });
      await waitFor('both are taken', () => taken.length === 2);
      expect(taken).toEqual([{ first: 1, lines }, { window: [{ sketch: 'x', sum: 0.5 }] }]);
      await producer.close();
      await thread.close();
      await expect(producer.add('three', {})).rejects.toThrow('no thread is free');
      await consumer.close();
    });

    test('what cannot be handed over is refused, and the next is added', async () => {
      const taken: unknown[] = [];
      const consumer = consume(taken);
      const thread = new QueueThread({ backend, logLevel: 'silent' }, log);
      const producer = thread.producer('shipped');
      await expect(producer.add('one', { refused: () => 1 })).rejects.toThrow('could not be cloned');
      await producer.add('next', { n: 2 });
      await waitFor('the next is taken', () => taken.length > 0);
      expect(taken).toEqual([{ n: 2 }]);
      await producer.close();
      await thread.close();
      await consumer.close();
    });
  });
});

test('adding to a queue whose backend is away is refused by the thread, with the reason', async () => {
  const thread = new QueueThread({ backend: { redisUrl: 'redis://127.0.0.1:1' }, logLevel: 'silent' }, log);
  const producer = thread.producer('away');
  await expect(producer.add('one', {})).rejects.toThrow(/closed|answer|ECONNREFUSED|refused/i);
  await producer.close();
  await thread.close();
});
