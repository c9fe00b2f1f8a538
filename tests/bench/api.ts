import { join } from 'node:path';
import { type GraphqlClient, startEmbeddedPostgres } from '@sallyport/cli';
import postgres from 'postgres';
import { z } from 'zod';
import { apiQueries, percentile, timeQueries } from '../kit/api-queries.ts';
import { waitFor } from '../kit/condition.ts';
import { designSize, seedAuditEvents, seedLargeConfiguration } from '../kit/large-configuration.ts';
import { startControl } from './topology.ts';

const auditEvents = 200_000;
/** What each list promises, in milliseconds. */
const p95MsMax = 200;
const publishDeadlineMs = 300_000;

export interface ApiOptions {
  readonly rounds: number;
  /** At once. */
  readonly askers: number;
}

/** The API alone: control plane and PostgreSQL, without nodes. */
export async function measureApi(
  options: ApiOptions,
  directory: string,
  print: (line: string) => void,
  atEnd: (stop: () => Promise<void>) => void,
): Promise<void> {
  const database = await startEmbeddedPostgres({ directory: join(directory, 'postgres') });
  atEnd(() => database.stop());
  const [controlPlane, api] = await startControl('', database.url);
  atEnd(() => controlPlane.stop());
  const sql = postgres(database.url, { max: 1, onnotice: () => undefined });
  atEnd(() => sql.end());
  await seedLargeConfiguration(sql, designSize);
  await seedAuditEvents(sql, auditEvents);
  await published(api);
  const [named] = await sql<{ serverId: string; groupId: string }[]>`
    select server_id as "serverId", subject_group_id as "groupId" from grants limit 1`;
  if (named === undefined) throw new Error('there are no grants');
  const queries = apiQueries(named);
  // What is compiled and cached at first use is no part of what is measured.
  await timeQueries(api, queries, { rounds: 5, askers: 1 });
  const times = await timeQueries(api, queries, options);
  print(`${options.rounds} requests each, ${options.askers} at once; milliseconds`);
  print(`${''.padEnd(34)}   p50    p95    max`);
  for (const { name, times: sorted } of times) {
    const shares = [0.5, 0.95, 1].map((share) => percentile(sorted, share).toFixed(0).padStart(6));
    print(`${name.padEnd(34)}${shares.join(' ')}`);
  }
  const late = times.filter(({ times: sorted }) => percentile(sorted, 0.95) > p95MsMax);
  if (late.length > 0) throw new Error(`over ${p95MsMax} ms: ${late.map(({ name }) => name).join('; ')}`);
}

/** The compile of the configuration would share the processor. */
async function published(api: GraphqlClient): Promise<void> {
  const status = z.object({ configStatus: z.object({ pending: z.boolean() }) });
  await waitFor(
    'the configuration is published',
    async () => {
      const { configStatus } = await api.ask('{ configStatus { pending } }', {}, status);
      return configStatus.pending ? undefined : true;
    },
    { deadlineMs: publishDeadlineMs, intervalMs: 200 },
  );
}
