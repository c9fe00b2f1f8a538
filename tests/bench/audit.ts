/** The audit trail: how much of it can be stored in a second, and how long it takes to look into a long one. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { startEmbeddedPostgres } from '@sallyport/cli';
import { openDatabase, PartitionService } from '@sallyport/control-plane/audit';
import { migrate } from '@sallyport/control-plane/migrate';
import { createLog, prepareQueueDatabase, randomSecret, systemClock } from '@sallyport/schema/platform';
import { hasRedis, startRedis } from '../kit/redis.ts';
import { addInsertFigures, addWholePathFigures } from './audit-ingest.ts';
import { addQueryFigures } from './audit-queries.ts';
import { Figures } from './figures.ts';

export interface AuditOptions {
  /** Exchanges that are sent through the path. */
  readonly shipped: number;
  /** Stored events that are looked through; 0 leaves that out. */
  readonly events: number;
  /** Times that each query is asked. */
  readonly rounds: number;
}

/** Exchanges that a busy node has under way: that many end in a later batch than the one they began in. */
const openAtOnce = 1_000;
const withRedisMin = 15_000;
const withPostgresMin = 8_000;

export async function measureAudit(
  options: AuditOptions,
  directory: string,
  print: (line: string) => void,
  atEnd: (stop: () => Promise<void>) => void,
): Promise<Figures> {
  const figures = new Figures(print);
  const settings = ['shared_buffers=512MB', 'max_wal_size=4GB', 'maintenance_work_mem=256MB'];
  const server = await startEmbeddedPostgres({ directory: join(directory, 'postgres'), settings });
  atEnd(() => server.stop());
  const database = openDatabase({ url: server.url, connectionsMax: 6 });
  atEnd(() => database.close());
  await migrate(database.raw);
  // As it is in production: a partition for each day.
  const log = createLog({ name: 'audit-bench', level: 'error' });
  await new PartitionService({ database, clock: systemClock, log }).maintain();
  const spools = join(directory, 'spools');
  mkdirSync(spools);
  if (options.shipped > 0) {
    const postgres = { PostgreSQL: server.pid };
    await addInsertFigures(
      database,
      join(spools, 'insert'),
      { events: options.shipped, open: 0, pids: postgres },
      figures,
    );
    await addInsertFigures(
      database,
      join(spools, 'late'),
      { events: options.shipped, open: openAtOnce, pids: postgres },
      figures,
    );
    const secretKey = randomSecret('secret_');
    const path = { databaseUrl: server.url, secretKey, events: options.shipped };
    if (hasRedis('the audit path with Redis')) {
      const redis = await startRedis('everysec');
      atEnd(() => redis.stop());
      const target = { least: withRedisMin };
      const backend = { redisUrl: redis.url };
      await addWholePathFigures(
        { ...path, name: 'Redis', backend, target, pids: { ...postgres, Redis: redis.pid } },
        database,
        spools,
        figures,
      );
    } else print('whole path, Redis: not measured, redis-server is not installed');
    const queueUrl = await prepareQueueDatabase(server.url, { role: 'queue_bench', password: randomSecret('q_') });
    const target = { least: withPostgresMin };
    const backend = { databaseUrl: queueUrl };
    await addWholePathFigures(
      { ...path, name: 'PostgreSQL', backend, target, pids: postgres },
      database,
      spools,
      figures,
    );
  }
  if (options.events > 0) await addQueryFigures(database, options, figures, print);
  return figures;
}
