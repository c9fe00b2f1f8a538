/** How long it takes to look into a long audit trail. */
import { type Database, EventQueryService, TrafficQueryService } from '@sallyport/control-plane/audit';
import { systemClock } from '@sallyport/schema/platform';
import { administrator } from '../kit/fleet.ts';
import type { Figures } from './figures.ts';
import { quantile } from './load.ts';

type RawTransaction = Parameters<Parameters<Database['raw']['begin']>[1]>[0];

const days = 30;
const dayMs = 86_400_000;
const hourMs = 3_600_000;
const p95MsMax = 300;
const pageSize = 100;

/** A sketch of so many calls: most took about 5 ms, and where there are ten or more, nine took ever longer. */
function sketchOf(calls: string): string {
  return `case when ${calls} < 10 then '[0,80,' || ${calls} || ']'
    else '[0,80,' || ${calls} - 9 || '${',9,1'.repeat(9)}]' end`;
}

/**
 * Events of the last month in a partition for each day, as they would have come, and their traffic by the minute: of
 * 20,000 principals and 2,000 servers, of which few do the most, in a hundred one refused and one with an error.
 */
async function seedEvents({ raw }: Database, events: number): Promise<void> {
  const today = Math.floor(systemClock.now() / dayMs);
  for (let day = today - days; day < today; day++) await patiently(raw, (sql) => seedDay(sql, day, events / days));
  await patiently(raw, sumTraffic);
  // Not in a transaction.
  const own = await raw.reserve();
  await own`set statement_timeout = 0`;
  await own`vacuum analyze`;
  await own`reset statement_timeout`;
  own.release();
}

/** Without the limit that the control plane has for a statement. */
async function patiently(raw: Database['raw'], work: (sql: RawTransaction) => Promise<void>): Promise<void> {
  await raw.begin(async (sql) => {
    await sql`set local statement_timeout = 0`;
    await work(sql);
  });
}

async function seedDay(sql: RawTransaction, day: number, events: number): Promise<void> {
  const name = `audit_events_${new Date(day * dayMs).toISOString().slice(0, 10).replaceAll('-', '')}`;
  const [from, to] = [day, day + 1].map((at) => new Date(at * dayMs).toISOString());
  await sql.unsafe(`drop table if exists ${name}`);
  await sql.unsafe(`create table ${name} (like audit_events including defaults including constraints)`);
  await sql.unsafe(
    `insert into ${name} (time, id, kind, node_id, epoch, principal_id, principal_kind, principal_name, key_id,
       server_id, server_slug, http_method, method, target_kind, target_name, protocol_revision, decision_effect,
       decision_reason, grant_ids, config_revision, request_bytes, outcome, status, response_bytes, duration_ms,
       stored_at)
     select time, gen_random_uuid()::text, 'exchange', 'node-' || n % 50, 'epoch',
       'principal-' || floor(20000 * power(who, 3)), 'user', 'Person', 'key', server, server, 'POST', method,
       case method when 'tools/call' then 'tool' when 'prompts/get' then 'prompt' end,
       case method when 'tools/call' then 'tool_' when 'prompts/get' then 'prompt_' end || floor(50 * what),
       '2026-07-28', case when went < 0.01 then 'deny' else 'allow' end, 'GRANTED', '{grant}', 7, 200,
       case when went < 0.01 then 'refused' when went < 0.02 then 'error' else 'success' end, 200, 1000, 5 + n % 50,
       time
     from (
       select n, date_trunc('milliseconds', $2::timestamptz + n * interval '1 day' / ($1::bigint + 1)) as time,
         random() as who, 'server-' || floor(2000 * power(random(), 3)) as server, random() as what, random() as went,
         case when n % 20 = 0 then 'tools/list' when n % 200 = 1 then 'prompts/get' else 'tools/call' end as method
       from generate_series(1, $1::bigint) n
     ) calls`,
    [Math.ceil(events), from ?? ''],
  );
  await sql.unsafe(`alter table audit_events attach partition ${name} for values from ('${from}') to ('${to}')`);
  await sql.unsafe(
    `insert into traffic_minutes
     select date_trunc('minute', time), server_id, server_slug, coalesce(target_kind, ''), coalesce(target_name, ''),
       outcome, count(*), sum(duration_ms), ${sketchOf('count(*)')}
     from ${name} group by 1, 2, 3, 4, 5, 6 order by 1`,
  );
}

async function sumTraffic(sql: RawTransaction): Promise<void> {
  for (const unit of ['hour', 'day']) {
    for (const whole of [false, true]) {
      const target = whole ? `'', ''` : 'target_kind, target_name';
      await sql.unsafe(
        `insert into traffic_rollups (unit, whole, start, server_id, server_slug, target_kind, target_name, outcome,
           calls, refused, succeeded, duration_ms_sum, sketch)
         select '${unit}', ${whole}, date_trunc('${unit}', minute, 'UTC'), server_id, server_slug, ${target}, '',
           sum(calls), coalesce(sum(calls) filter (where outcome = 'refused'), 0),
           coalesce(sum(calls) filter (where outcome = 'success'), 0),
           sum(duration_ms_sum), ${sketchOf('sum(calls)')}
         from traffic_minutes group by 1, 2, 3, 4, 5, 6, 7 order by 3`,
      );
    }
  }
}

interface Query {
  readonly name: string;
  readonly ask: () => Promise<unknown>;
}

function queriesOf(database: Database): readonly Query[] {
  const events = new EventQueryService(database);
  const traffics = new TrafficQueryService(database);
  const today = Math.floor(systemClock.now() / dayMs) * dayMs;
  const list = (name: string, filter: Parameters<EventQueryService['list']>[1], after?: readonly string[]): Query => ({
    name: `auditEvents, ${name}`,
    ask: () => events.list(administrator, filter, { limit: pageSize, after }),
  });
  const traffic = (
    name: string,
    lastsMs: number,
    groupBy: 'server' | 'target',
    filter: Parameters<TrafficQueryService['traffic']>[3] = {},
    untilMs = today,
  ): Query => ({
    name: `traffic, ${name}`,
    ask: () =>
      traffics.traffic(administrator, { from: new Date(untilMs - lastsMs), to: new Date(untilMs) }, groupBy, filter),
  });
  const week = { from: new Date(today - 20 * dayMs), to: new Date(today - 13 * dayMs) };
  const middle = [String(today - 15 * dayMs), 'f'];
  const busiest = { serverId: 'server-0' };
  return [
    list('the newest', {}),
    list('from the middle on', {}, middle),
    list('a week, refused', { ...week, outcomes: ['refused'] }),
    list('of a principal', { principalId: 'principal-4711' }),
    list('of a principal on a server', { principalId: 'principal-7919', serverId: 'server-7' }),
    list('of a server that is called much', busiest),
    list('of a server that is called much, from the middle on', busiest, middle),
    list('of a server that is called little', { serverId: 'server-1989' }),
    list('of a server by its slug, denied', { serverSlug: 'server-0', decision: 'deny' }),
    list('of a target', { targetName: 'tool_17' }),
    list('of a target on a server', { ...busiest, targetName: 'tool_17' }),
    list('of targets that begin so, refused', { targetPrefix: 'tool_1', outcomes: ['refused'] }),
    list('of a node', { nodeId: 'node-17' }),
    list('of methods that contain a text', { method: 'LIST' }),
    list('of a node that is not there', { nodeId: 'nowhere' }),
    list('of a slug that is not there', { serverSlug: 'nowhere' }),
    list('of nobody', { principalId: 'nobody' }),
    list('of methods that are not there', { method: 'nothing' }),
    list('of two that occur much, and never together', { targetName: 'tool_17', method: 'prompts/get' }),
    traffic('an hour by server', hourMs, 'server'),
    traffic('a day by server', dayMs, 'server'),
    traffic('30 days by server', days * dayMs, 'server'),
    traffic('29 days by server, not from midnight to midnight', 29 * dayMs, 'server', {}, today - 37 * 60_000),
    traffic('a day by target', dayMs, 'target'),
    traffic('24 hours by target, not from midnight to midnight', dayMs, 'target', {}, today - 37 * 60_000),
    traffic('30 days of a target by server', days * dayMs, 'server', { targetName: 'tool_17' }),
    traffic('a day of the busiest server by target', dayMs, 'target', busiest),
    traffic('30 days of the busiest server by target', days * dayMs, 'target', busiest),
    traffic('30 days of another server by target', days * dayMs, 'target', { serverId: 'server-1989' }),
  ];
}

export async function addQueryFigures(
  database: Database,
  options: { readonly events: number; readonly rounds: number },
  figures: Figures,
  print: (line: string) => void,
): Promise<void> {
  const began = performance.now();
  await seedEvents(database, options.events);
  print(
    `\n${options.events} events of ${days} days (stored in ${((performance.now() - began) / 1000).toFixed(0)} s), p95:`,
  );
  for (const { name, ask } of queriesOf(database)) {
    await ask();
    const took: number[] = [];
    for (let round = 0; round < options.rounds; round++) {
      const at = performance.now();
      await ask();
      took.push(performance.now() - at);
    }
    took.sort((a, b) => a - b);
    figures.add(name, quantile(took, 0.95), 'ms', { most: p95MsMax });
  }
}
