/** The audit trail: how much of it can be stored in a second, and how long it takes to look into a long one. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { startEmbeddedPostgres } from '@sallyport/cli';
import { openDatabase } from '@sallyport/control-plane/audit';
import { migrate } from '@sallyport/control-plane/migrate';
import { prepareQueueDatabase, randomSecret } from '@sallyport/schema/platform';
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
  const spools = join(directory, 'spools');
  mkdirSync(spools);
  if (options.shipped > 0) {
    await addInsertFigures(database, spools, options.shipped, figures);
    const secretKey = randomSecret('secret_');
    const path = { databaseUrl: server.url, secretKey, postgresPid: server.pid, events: options.shipped };
    if (hasRedis('the audit path with Redis')) {
      const redis = await startRedis('everysec');
      atEnd(() => redis.stop());
      const target = { least: withRedisMin };
      const backend = { redisUrl: redis.url };
      await addWholePathFigures({ ...path, name: 'Redis', backend, target }, database, spools, figures);
    } else print('whole path, Redis: not measured, redis-server is not installed');
    const queueUrl = await prepareQueueDatabase(server.url, { role: 'queue_bench', password: randomSecret('q_') });
    const target = { least: withPostgresMin };
    const backend = { databaseUrl: queueUrl };
    await addWholePathFigures({ ...path, name: 'PostgreSQL', backend, target }, database, spools, figures);
  }
  if (options.events > 0) await addQueryFigures(database, options, figures, print);
  return figures;
}
