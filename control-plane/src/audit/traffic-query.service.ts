import { type AuditOutcome, Sketch, type Verdict } from '@sallyport/schema';
import type { Context } from '../context.ts';
import type { Database, RawTransaction } from '../database/client.ts';
import { Violations } from '../database/violations.ts';
import { storableText } from './storable-text.ts';
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
export const trafficRowsMax = 1_000;
const fetchRows = 2_000;
/** Outcomes of calls that never reached an upstream: they say nothing of how it does. */
const notForwarded: ReadonlySet<AuditOutcome> = new Set(['refused', 'malformed']);

/** Of a minute, an hour or a day. */
interface TrafficCounts {
  readonly server_id: string;
  readonly server_slug: string;
  readonly target_kind: string;
  readonly target_name: string;
  readonly outcome: AuditOutcome;
  readonly calls: number;
  readonly duration_ms_sum: number;
  readonly sketch: string;
}

interface Sum {
  readonly of: TrafficCounts;
  calls: number;
  refused: number;
  succeeded: number;
  forwardedMsSum: number;
  readonly sketch: Sketch;
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
    const sums = new Map<string, Sum>();
    // One snapshot for all pieces: a window that is counted meanwhile is in all of them or in none.
    await this.database.raw.begin('isolation level repeatable read read only', async (sql) => {
      const [since] = await sql<{ ms: number }[]>`
        select extract(epoch from start)::double precision * 1000 as ms from traffic_rollups_since`;
      for (const span of trafficSpans(range.from.getTime(), range.to.getTime(), since?.ms ?? Infinity)) {
        for await (const rows of readSpan(sql, span, groupBy, filter).cursor(fetchRows)) {
          for (const row of rows) addRow(sums, row, groupBy);
        }
      }
    });
    return [...sums.values()]
      .sort((a, b) => b.calls - a.calls || a.of.server_slug.localeCompare(b.of.server_slug))
      .slice(0, trafficRowsMax)
      .map((sum) => trafficOf(sum, groupBy));
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

function readSpan(
  sql: RawTransaction,
  { unit, fromMs, toMs }: TrafficSpan,
  groupBy: TrafficGroup,
  filter: TrafficFilter,
) {
  const [from, to] = [new Date(fromMs).toISOString(), new Date(toMs).toISOString()];
  const whole = groupBy === 'server' && !filter.targetName;
  const rows =
    unit === 'minute'
      ? sql`traffic_minutes where minute >= ${from} and minute < ${to}`
      : sql`traffic_rollups where unit = ${unit} and whole = ${whole} and start >= ${from} and start < ${to}`;
  return sql<TrafficCounts[]>`
    select server_id, server_slug, target_kind, target_name, outcome, calls::double precision as calls,
      duration_ms_sum, sketch
    from ${rows}
      ${filter.serverId ? sql`and server_id = ${storableText(filter.serverId)}` : sql``}
      ${filter.targetName ? sql`and target_name = ${storableText(filter.targetName)}` : sql``}`;
}

/** @throws AppError INVALID_INPUT */
function checkRange(range: { readonly from: Date; readonly to: Date }): void {
  const violations = new Violations();
  const days = (range.to.getTime() - range.from.getTime()) / 86_400_000;
  if (!(days > 0)) violations.add('to', 'must be after from');
  if (days > trafficRangeDaysMax) violations.add('to', `must be at most ${trafficRangeDaysMax} days after from`);
  violations.assertNone();
}

function addRow(sums: Map<string, Sum>, row: TrafficCounts, groupBy: TrafficGroup): void {
  const target = groupBy === 'server' ? '' : `\n${row.target_kind}\n${row.target_name}`;
  const key = `${row.server_id}${target}`;
  let sum = sums.get(key);
  if (sum === undefined) {
    sum = { of: row, calls: 0, refused: 0, succeeded: 0, forwardedMsSum: 0, sketch: new Sketch() };
    sums.set(key, sum);
  }
  sum.calls += row.calls;
  if (notForwarded.has(row.outcome)) {
    sum.refused += row.calls;
    return;
  }
  if (row.outcome === 'success') sum.succeeded += row.calls;
  sum.forwardedMsSum += row.duration_ms_sum;
  const sketch = Sketch.parse(row.sketch);
  if (sketch !== undefined) sum.sketch.merge(sketch);
}

function trafficOf(sum: Sum, groupBy: TrafficGroup): Traffic {
  const forwarded = sum.calls - sum.refused;
  const { of, sketch } = sum;
  const isTarget = groupBy === 'target' && of.target_kind !== '';
  return {
    serverId: of.server_id,
    serverSlug: of.server_slug,
    targetKind: isTarget ? of.target_kind : null,
    targetName: isTarget ? of.target_name : null,
    calls: sum.calls,
    refused: sum.refused,
    successRate: forwarded === 0 ? null : sum.succeeded / forwarded,
    durationMsMean: forwarded === 0 ? null : sum.forwardedMsSum / forwarded,
    durationMsP50: sketch.quantile(0.5) ?? null,
    durationMsP95: sketch.quantile(0.95) ?? null,
    durationMsP99: sketch.quantile(0.99) ?? null,
  };
}
