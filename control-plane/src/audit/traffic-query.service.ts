import { setImmediate } from 'node:timers/promises';
import { Sketch, type Verdict } from '@sallyport/schema';
import type { Context } from '../context.ts';
import type { Database, RawTransaction } from '../database/client.ts';
import { Violations } from '../database/violations.ts';
import { storableText } from './storable-text.ts';
import { notForwarded } from './traffic-ingest.service.ts';
import { type TrafficSpan, trafficSpans } from './traffic-spans.ts';

export const trafficGroups = ['server', 'target'] as const;
export type TrafficGroup = (typeof trafficGroups)[number];

export interface TrafficFilter {
  readonly serverId?: string | null | undefined;
  readonly targetName?: string | null | undefined;
}

/** Traffic of one server, or of one tool, prompt or resource of it, over a range. */
export interface Traffic {
  readonly serverId: string;
  readonly serverSlug: string;
  readonly targetKind: string | null;
  readonly targetName: string | null;
  readonly calls: number;
  readonly refused: number;
  /** Of the calls that were forwarded; null where none was. */
  readonly successRate: number | null;
  readonly durationMsMean: number | null;
  readonly durationMsP50: number | null;
  readonly durationMsP95: number | null;
  readonly durationMsP99: number | null;
}

/** What a detector did on one server over a range; `decision` and `mode` are null for its looks themselves. */
export interface InspectionTraffic {
  readonly serverId: string;
  readonly serverSlug: string;
  readonly detector: Verdict['detector'];
  readonly decision: Verdict['decision'] | null;
  readonly mode: Verdict['mode'] | null;
  readonly count: number;
  readonly durationMsMean: number;
}

export const trafficRangeDaysMax = 31;
/** By target, where neither a server nor a target is named: what thousands of servers have may be millions of rows a day. */
export const trafficOfAllTargetsDaysMax = 1;
export const trafficRowsMax = 1_000;
/** Read at once, each with the sketches of all pieces of the range. */
const totalsAtOnce = 20;
/** Sketches merged in one turn of the event loop, in characters. */
const mergedAtOnce = 64 * 1024;
/** Of the parts of a key, and of sketches that are read together. */
const separator = '\n';

interface Total {
  readonly serverId: string;
  readonly serverSlug: string;
  readonly targetKind: string;
  readonly targetName: string;
  readonly calls: number;
  readonly refused: number;
  readonly succeeded: number;
  readonly forwardedMsSum: number;
  /** How long the forwarded calls took: serialized sketches, a line each; null where none was. */
  readonly sketches: string | null;
}

export class TrafficQueryService {
  private readonly database: Database;

  constructor(database: Database) {
    this.database = database;
  }

  /** Busiest first. Quantiles are within 1 % and are of forwarded calls. Minutes count from their start. */
  async traffic(
    ctx: Context,
    range: { readonly from: Date; readonly to: Date },
    groupBy: TrafficGroup,
    filter: TrafficFilter,
  ): Promise<Traffic[]> {
    ctx.authorize('traffic:read');
    checkRange(range);
    if (groupBy === 'target' && !filter.serverId && !filter.targetName) checkRangeOfAllTargets(range);
    // One snapshot for all pieces: a window that is counted meanwhile is in all of them or in none.
    return this.database.raw.begin('isolation level repeatable read read only', async (sql) => {
      // A plan that is kept knows nothing of the range: how long it is decides between plans of seconds and of milliseconds.
      await sql`set local plan_cache_mode = force_custom_plan`;
      // Compiling the plan takes longer than running it.
      await sql`set local jit = off`;
      const [since] = await sql<{ ms: number }[]>`
        select extract(epoch from start)::double precision * 1000 as ms from traffic_rollups_since`;
      const spans = trafficSpans(range.from.getTime(), range.to.getTime(), since?.ms ?? Infinity);
      return await readTraffic(sql, spans, groupBy, filter);
    });
  }

  /** Looks and verdicts, most first. Minutes count from their start. */
  async inspections(
    ctx: Context,
    range: { readonly from: Date; readonly to: Date },
    filter: Pick<TrafficFilter, 'serverId'>,
  ): Promise<InspectionTraffic[]> {
    ctx.authorize('traffic:read');
    checkRange(range);
    const { raw } = this.database;
    return raw<InspectionTraffic[]>`
      select server_id as "serverId", max(server_slug) as "serverSlug", detector, nullif(decision, '') as decision,
        nullif(mode, '') as mode, sum(count)::double precision as count,
        sum(duration_ms_sum) / sum(count)::double precision as "durationMsMean"
      from inspection_minutes
      where minute >= date_trunc('minute', ${range.from.toISOString()}::timestamptz)
        and minute < ${range.to.toISOString()}::timestamptz
        ${filter.serverId ? raw`and server_id = ${storableText(filter.serverId)}` : raw``}
      group by server_id, detector, decision, mode
      order by sum(count) desc, server_id, detector, decision, mode
      limit ${trafficRowsMax}`;
  }
}

/** The counts of all spans, as rows of one table. */
function counts(sql: RawTransaction, spans: readonly TrafficSpan[], groupBy: TrafficGroup, filter: TrafficFilter) {
  const whole = groupBy === 'server' && !filter.targetName ? sql`whole` : sql`not whole`;
  const target =
    groupBy === 'server'
      ? sql`'' as "targetKind", '' as "targetName"`
      : sql`target_kind as "targetKind", target_name as "targetName"`;
  const refused = sql`case when outcome = any (${[...notForwarded]}) then calls else 0 end`;
  const succeeded = sql`case when outcome = 'success' then calls else 0 end`;
  const parts = spans.map(({ unit, fromMs, toMs }) => {
    const [from, to] = [new Date(fromMs).toISOString(), new Date(toMs).toISOString()];
    const rows =
      unit === 'minute'
        ? sql`traffic_minutes where minute >= ${from} and minute < ${to}`
        : sql`traffic_rollups where unit = ${unit} and ${whole} and start >= ${from} and start < ${to}`;
    // Rows of minutes are by outcome, and so are sums of earlier versions.
    return sql`
      select server_id as "serverId", server_slug, ${target}, outcome, calls, duration_ms_sum, sketch,
        ${unit === 'minute' ? refused : sql`coalesce(refused, ${refused})`} as refused,
        ${unit === 'minute' ? succeeded : sql`coalesce(succeeded, ${succeeded})`} as succeeded
      from ${rows}
        ${filter.serverId ? sql`and server_id = ${storableText(filter.serverId)}` : sql``}
        ${filter.targetName ? sql`and target_name = ${storableText(filter.targetName)}` : sql``}`;
  });
  return parts.reduce((all, part) => sql`${all} union all ${part}`);
}

/** Busiest first. */
async function readTraffic(
  sql: RawTransaction,
  spans: readonly TrafficSpan[],
  groupBy: TrafficGroup,
  filter: TrafficFilter,
): Promise<Traffic[]> {
  const rows = counts(sql, spans, groupBy, filter);
  // Of all targets there may be a hundred thousand: to sum up all that is told of each takes longer than to read the range
  // twice. Chosen ones are compared as one text with a list, which PostgreSQL hashes; by columns it would look up each.
  const chosen =
    groupBy === 'server'
      ? sql``
      : sql`where "serverId" || ${separator}::text || "targetKind" || ${separator}::text || "targetName" = any (
          ${await keysOfBusiest(sql, rows)}::text[])`;
  const forwarded = sql`filter (where outcome <> all (${[...notForwarded]}))`;
  // In a hash all sketches would be in memory; what is sorted spills to disk, and leaves group by group.
  await sql`set local enable_hashagg = off`;
  // Counts are summed as what they are told as.
  const query = sql<Total[]>`
    select "serverId", max(server_slug) as "serverSlug", "targetKind", "targetName", sum(calls::float8) as calls,
      sum(refused::float8) as refused, sum(succeeded::float8) as succeeded,
      coalesce(sum(duration_ms_sum) ${forwarded}, 0) as "forwardedMsSum",
      string_agg(sketch, ${separator}) ${forwarded} as sketches
    from (${rows}) counts ${chosen}
    group by "serverId", "targetKind", "targetName"
    order by sum(calls::float8) desc, max(server_slug), "serverId", "targetKind", "targetName"
    limit ${trafficRowsMax}`;
  const traffic: Traffic[] = [];
  for await (const totals of query.cursor(totalsAtOnce)) {
    for (const total of totals) traffic.push(trafficOf(total, await mergedOf(total.sketches)));
  }
  return traffic;
}

/** By their calls alone. */
async function keysOfBusiest(sql: RawTransaction, rows: ReturnType<typeof counts>): Promise<string[]> {
  const busiest = await sql<Pick<Total, 'serverId' | 'targetKind' | 'targetName'>[]>`
    select "serverId", "targetKind", "targetName" from (${rows}) counts
    group by "serverId", "targetKind", "targetName"
    order by sum(calls::float8) desc, "serverId", "targetKind", "targetName"
    limit ${trafficRowsMax}`;
  return busiest.map(({ serverId, targetKind, targetName }) => [serverId, targetKind, targetName].join(separator));
}

/** Everything else that this process does gets its turn meanwhile: a month of a busy server takes milliseconds, of a thousand seconds. */
async function mergedOf(sketches: string | null): Promise<Sketch> {
  const merged = new Sketch();
  let length = Infinity;
  for (const text of sketches?.split(separator) ?? []) {
    if (length > mergedAtOnce) {
      await setImmediate();
      length = 0;
    }
    length += text.length;
    const sketch = Sketch.parse(text);
    if (sketch !== undefined) merged.merge(sketch);
  }
  return merged;
}

/** @throws AppError INVALID_INPUT */
function checkRange(range: { readonly from: Date; readonly to: Date }): void {
  const violations = new Violations();
  const days = (range.to.getTime() - range.from.getTime()) / 86_400_000;
  if (!(days > 0)) violations.add('to', 'must be after from');
  if (days > trafficRangeDaysMax) violations.add('to', `must be at most ${trafficRangeDaysMax} days after from`);
  violations.assertNone();
}

/** @throws AppError INVALID_INPUT */
function checkRangeOfAllTargets({ from, to }: { readonly from: Date; readonly to: Date }): void {
  if (to.getTime() - from.getTime() <= trafficOfAllTargetsDaysMax * 86_400_000) return;
  const violations = new Violations();
  violations.add(
    'to',
    `must be at most ${trafficOfAllTargetsDaysMax} day after from where all targets of all servers are asked for; for a longer range, give a serverId or a targetName`,
  );
  violations.assertNone();
}

function trafficOf(total: Total, durations: Sketch): Traffic {
  const { serverId, serverSlug, targetKind, targetName, calls, refused, succeeded, forwardedMsSum } = total;
  const forwarded = calls - refused;
  return {
    serverId,
    serverSlug,
    targetKind: targetKind === '' ? null : targetKind,
    targetName: targetKind === '' ? null : targetName,
    calls,
    refused,
    successRate: forwarded === 0 ? null : succeeded / forwarded,
    durationMsMean: forwarded === 0 ? null : forwardedMsSum / forwarded,
    durationMsP50: durations.quantile(0.5) ?? null,
    durationMsP95: durations.quantile(0.95) ?? null,
    durationMsP99: durations.quantile(0.99) ?? null,
  };
}
