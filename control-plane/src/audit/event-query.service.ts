import { AppError, type AuditOutcome } from '@sallyport/schema';
import { and, asc, desc, eq, gt, gte, inArray, like, lt, type SQL, sql } from 'drizzle-orm';
import type { Context } from '../context.ts';
import type { Database, Reader } from '../database/client.ts';
import { escaped } from '../database/text-search.ts';
import { Violations } from '../database/violations.ts';
import type { Page } from '../graphql-connection.ts';
import { type AuditEventRow, auditEvents } from './audit.tables.ts';
import { timeMsMax } from './chain-check.ts';
import { lookBack, type TimeStretch } from './look-back.ts';
import { isStorable, storableText } from './storable-text.ts';

/** Absent members do not narrow. */
export interface AuditEventFilter {
  /** Inclusive. */
  readonly from?: Date | null | undefined;
  /** Exclusive. */
  readonly to?: Date | null | undefined;
  readonly kind?: AuditEventRow['kind'] | null | undefined;
  readonly principalId?: string | null | undefined;
  readonly serverId?: string | null | undefined;
  readonly serverSlug?: string | null | undefined;
  readonly targetName?: string | null | undefined;
  readonly targetPrefix?: string | null | undefined;
  readonly decision?: string | null | undefined;
  readonly outcomes?: readonly AuditOutcome[] | null | undefined;
  readonly nodeId?: string | null | undefined;
  /** Part of the method's name. */
  readonly method?: string | null | undefined;
  readonly action?: string | null | undefined;
  readonly objectId?: string | null | undefined;
}

/** Newest first; one more than was asked for where there is more. */
export interface EventPage {
  readonly rows: readonly AuditEventRow[];
  /** Where the list goes on if time was up before the page was full, as `page.after`. */
  readonly stoppedAt: readonly string[] | undefined;
}

const filterTextLengthMax = 1024;
/** In the place of an id: sorts before each of its time, so that what is older follows. */
const beforeAllIds = '';
/** Rows stored in transactions that took longer than this to commit may be missed by a live tail. */
const tailOverlapMs = 5_000;
const tailRowsMax = 500;

/** Where a live tail stands. */
export class TailPosition {
  since: Date;
  /** Keys of rows already given that the next read may find again. */
  readonly given = new Map<string, number>();

  constructor(since: Date) {
    this.since = since;
  }
}

export class EventQueryService {
  private readonly database: Database;

  constructor(database: Database) {
    this.database = database;
  }

  /** By the event's own time. */
  async list(ctx: Context, filter: AuditEventFilter, page: Page): Promise<EventPage> {
    ctx.authorize('audit:read');
    const after = cursorOf(page.after);
    const condition = and(conditionOf(filter), after && isBefore(after));
    const fromMs = filter.from?.getTime() ?? -Infinity;
    const toMs = Math.min(filter.to?.getTime() ?? Infinity, after === undefined ? Infinity : after.time.getTime() + 1);
    const { rows, stoppedAtMs } = await lookBack({
      range: { fromMs, toMs },
      wanted: page.limit + 1,
      clock: ctx.clock,
      read: (stretch, limit, timeoutMs) =>
        this.#within(timeoutMs, (reader) =>
          reader
            .select()
            .from(auditEvents)
            .where(and(condition, isWithin(stretch)))
            .orderBy(desc(auditEvents.time), desc(auditEvents.id))
            .limit(limit),
        ),
      isAnyBefore: async (timeMs, timeoutMs) => {
        const older = isWithin({ fromMs, toMs: timeMs });
        const any = await this.#within(timeoutMs, (reader) =>
          reader.select({ id: auditEvents.id }).from(auditEvents).where(older).limit(1),
        );
        return any === undefined || any.length > 0;
      },
    });
    return { rows, stoppedAt: stoppedAtMs === undefined ? undefined : [String(stoppedAtMs), beforeAllIds] };
  }

  /** @returns undefined where it took longer */
  async #within<Result>(
    timeoutMs: number | undefined,
    query: (reader: Reader) => PromiseLike<Result>,
  ): Promise<Result | undefined> {
    const { db } = this.database;
    if (timeoutMs === undefined) return query(db);
    try {
      return await db.transaction(async (tx) => {
        await tx.execute(sql`select set_config('statement_timeout', ${String(timeoutMs)}, true)`);
        return query(tx);
      });
    } catch (error) {
      if (wasCancelled(error)) return undefined;
      throw error;
    }
  }

  async get(ctx: Context, id: string): Promise<AuditEventRow> {
    ctx.authorize('audit:read');
    const time = timeOfId(id);
    // The id begins with the time it was made at, which is the event's: without it every partition would be searched.
    const near = time === undefined ? undefined : and(gte(auditEvents.time, time), lt(auditEvents.time, later(time)));
    const rows = await this.database.db
      .select()
      .from(auditEvents)
      .where(and(near, eq(auditEvents.id, storableText(id))))
      .limit(1);
    if (rows[0] === undefined) throw new AppError('NOT_FOUND', { internal: 'no such audit event' });
    return rows[0];
  }

  /**
   * Events stored since the last call, oldest first; an event is given once, when it is first stored. Does not check
   * who asks: for the tail of the process, whose subscribers were checked.
   */
  async tail(position: TailPosition): Promise<AuditEventRow[]> {
    const overlapStart = new Date(position.since.getTime() - tailOverlapMs);
    const rows = await this.database.db
      .select()
      .from(auditEvents)
      .where(gt(auditEvents.storedAt, overlapStart))
      .orderBy(asc(auditEvents.storedAt))
      .limit(tailRowsMax + position.given.size);
    const fresh = rows.filter((row) => !position.given.has(keyOf(row)));
    for (const row of rows) position.given.set(keyOf(row), row.storedAt.getTime());
    position.since = rows.at(-1)?.storedAt ?? position.since;
    const forgetBefore = position.since.getTime() - tailOverlapMs;
    for (const [key, storedAt] of position.given) if (storedAt < forgetBefore) position.given.delete(key);
    return fresh;
  }
}

function keyOf(row: AuditEventRow): string {
  return `${row.time.getTime()} ${row.id}`;
}

/**
 * The time of the event of an id, to the millisecond: events of nodes are named by a UUID of version 7. Undefined where
 * it is none.
 */
export function timeOfId(id: string): Date | undefined {
  const match = /^([0-9a-f]{8})-([0-9a-f]{4})-7/.exec(id);
  return match === null ? undefined : new Date(Number.parseInt(`${match[1]}${match[2]}`, 16));
}

function later(time: Date): Date {
  return new Date(time.getTime() + 1);
}

/** An event of a list, by what it is sorted by. */
interface EventPosition {
  readonly time: Date;
  readonly id: string;
}

/** @throws AppError INVALID_INPUT */
function cursorOf(after: readonly string[] | undefined): EventPosition | undefined {
  if (after === undefined) return undefined;
  const [timeMs, id] = [Number(after[0]), after[1] ?? ''];
  if (!(timeMs >= 0 && timeMs <= timeMsMax) || !isStorable(id)) {
    throw new AppError('INVALID_INPUT', { violations: [{ path: 'after', message: 'is not a cursor of this list' }] });
  }
  return { time: new Date(timeMs), id };
}

/** By which an index is entered where the page before ended; an `or` would read all that came before. */
function isBefore({ time, id }: EventPosition): SQL {
  return sql`(${auditEvents.time}, ${auditEvents.id}) < (${time.toISOString()}::timestamptz, ${id})`;
}

function isWithin({ fromMs, toMs }: TimeStretch): SQL | undefined {
  return and(
    Number.isFinite(fromMs) ? gte(auditEvents.time, new Date(fromMs)) : undefined,
    Number.isFinite(toMs) ? lt(auditEvents.time, new Date(toMs)) : undefined,
  );
}

const queryCanceled = '57014';

/** Whether PostgreSQL ended the statement, as it does after `statement_timeout`. */
function wasCancelled(thrown: unknown): boolean {
  if (!(thrown instanceof Error)) return false;
  return ('code' in thrown && thrown.code === queryCanceled) || wasCancelled(thrown.cause);
}

/** All of the filter but its times. */
function conditionOf(filter: AuditEventFilter): SQL | undefined {
  const violations = new Violations();
  const texts = [
    'principalId',
    'serverId',
    'serverSlug',
    'targetName',
    'targetPrefix',
    'nodeId',
    'method',
    'action',
    'objectId',
  ] as const;
  for (const name of texts) {
    if ((filter[name]?.length ?? 0) > filterTextLengthMax)
      violations.add(name, `is longer than ${filterTextLengthMax}`);
  }
  violations.assertNone();
  const equal = (column: Parameters<typeof eq>[0], value: string | null | undefined): SQL | undefined =>
    value === null || value === undefined ? undefined : eq(column, storableText(value));
  return and(
    equal(auditEvents.kind, filter.kind),
    equal(auditEvents.principalId, filter.principalId),
    equal(auditEvents.serverId, filter.serverId),
    equal(auditEvents.serverSlug, filter.serverSlug),
    equal(auditEvents.targetName, filter.targetName),
    filter.targetPrefix ? like(auditEvents.targetName, `${escaped(storableText(filter.targetPrefix))}%`) : undefined,
    equal(auditEvents.decisionEffect, filter.decision),
    equal(auditEvents.nodeId, filter.nodeId),
    equal(auditEvents.action, filter.action),
    equal(auditEvents.objectId, filter.objectId),
    filter.outcomes && filter.outcomes.length > 0 ? inArray(auditEvents.outcome, [...filter.outcomes]) : undefined,
    filter.method
      ? sql`position(lower(${storableText(filter.method)}) in lower(${auditEvents.method})) > 0`
      : undefined,
  );
}

/** The same filter for a row at hand. */
export function matchesFilter(row: AuditEventRow, filter: AuditEventFilter): boolean {
  const equal = (value: string | null, wanted: string | null | undefined): boolean =>
    wanted === null || wanted === undefined || value === storableText(wanted);
  const { outcomes, method, targetPrefix } = filter;
  return (
    (!filter.from || row.time >= filter.from) &&
    (!filter.to || row.time < filter.to) &&
    equal(row.kind, filter.kind) &&
    equal(row.principalId, filter.principalId) &&
    equal(row.serverId, filter.serverId) &&
    equal(row.serverSlug, filter.serverSlug) &&
    equal(row.targetName, filter.targetName) &&
    (!targetPrefix || (row.targetName ?? '').startsWith(storableText(targetPrefix))) &&
    equal(row.decisionEffect, filter.decision) &&
    equal(row.nodeId, filter.nodeId) &&
    equal(row.action, filter.action) &&
    equal(row.objectId, filter.objectId) &&
    (!outcomes || outcomes.length === 0 || (row.outcome !== null && outcomes.includes(row.outcome))) &&
    (!method || (row.method ?? '').toLowerCase().includes(storableText(method).toLowerCase()))
  );
}
