import {
  AppError,
  type CompiledPolicy,
  isAboutExchange,
  type PolicyDirection,
  policyDirections,
  type TargetKind,
  type ToolRisk,
} from '@sallyport/schema';
import { timeOfId } from '../audit/event-query.service.ts';
import { storableText } from '../audit/storable-text.ts';
import type { Context } from '../context.ts';
import type { Database } from '../database/client.ts';
import { isUuid } from '../database/mutation.ts';
import type { Violations } from '../database/violations.ts';
import { checkPurpose, type PayloadService } from './payload.service.ts';
import type { CapturedEvent, EventPayload, PayloadStore } from './payload-store.service.ts';

/** Most exchanges of one trial. */
const trialExchangesMax = 16;
/** Of one payload, and of all that one trial opens, in bytes: they are looked at while others wait. */
const payloadBytesMax = 131_072;
const trialBytesMax = 1_048_576;
/** The newest captured exchanges among which a trial looks for those that its policy would be about, and in what steps. */
const exchangesLookedAtMax = 2_000;
const exchangesPerStep = 200;

/** Which payloads a policy is tried on: of `eventIds`, or of the `last` exchanges that the policy would be about. */
export interface CapturedSamples {
  readonly eventIds?: readonly string[] | null | undefined;
  readonly last?: number | null | undefined;
  /** Absent: what was captured. */
  readonly directions?: readonly PolicyDirection[] | null | undefined;
  readonly purpose: string;
}

/** Why a policy is not tried on a payload: there is none, it is too large to be looked at here, or it does not open. */
export type UntriedReason = 'notKept' | 'tooLarge' | 'unavailable';

export interface CapturedSample {
  readonly source: EventPayload & { readonly eventId: string };
  /** JSON-RPC method of the exchange. */
  readonly method: string | null;
  /** In order, each as its JSON text; or why there are none to try. */
  readonly opened: readonly string[] | UntriedReason;
}

interface CapturedExchange extends CapturedEvent {
  readonly method: string | null;
  readonly serverId: string;
  readonly principalId: string;
  readonly target: { readonly kind: TargetKind; readonly name: string } | null;
}

/** Captured payloads as samples for trials of policies. What is not there any more, or not yet, is told, never left out. */
export class PayloadSampleService {
  private readonly database: Database;
  private readonly payloads: Pick<PayloadService, 'openForTrial'>;
  private readonly store: Pick<PayloadStore, 'ofEvents'>;

  constructor(
    database: Database,
    payloads: Pick<PayloadService, 'openForTrial'>,
    store: Pick<PayloadStore, 'ofEvents'>,
  ) {
    this.database = database;
    this.payloads = payloads;
    this.store = store;
  }

  /** The exchanges that are asked for by name; what is wrong with what is asked is added to `found`. */
  async check(ctx: Context, found: Violations, path: string, said: CapturedSamples): Promise<CapturedExchange[]> {
    ctx.authorize('payload:read');
    const { eventIds, last, directions, purpose } = said;
    checkPurpose(found, `${path}.purpose`, purpose);
    if (directions?.length === 0) found.add(`${path}.directions`, 'must name REQUEST, RESPONSE or both');
    const isByIds = eventIds !== undefined && eventIds !== null;
    const isLast = last !== undefined && last !== null;
    if (isByIds === isLast) found.add(path, 'must have eventIds or last');
    if (isLast) found.between(`${path}.last`, last, 1, trialExchangesMax);
    if (!isByIds) return [];
    if (eventIds.length === 0 || eventIds.length > trialExchangesMax) {
      found.add(`${path}.eventIds`, `must have 1 to ${trialExchangesMax} ids`);
    }
    const ids = eventIds.slice(0, trialExchangesMax);
    const events = await this.byIds(ids);
    return ids.flatMap((id, index) => {
      const event = events.find((one) => one.id === id);
      const missing = (directions ?? []).filter((direction) => event?.capture?.[direction] === null);
      const at = `${path}.eventIds[${index}]`;
      if (ids.indexOf(id) < index) found.add(at, 'is given twice');
      else if (event === undefined) found.add(at, 'is the id of no exchange of which anything was captured');
      else if (missing.length > 0) found.add(at, `is of an exchange whose ${missing.join(' and ')} was not captured`);
      return event ?? [];
    });
  }

  /**
   * The samples, one after the other, each opened when it is asked for: by then its read is in the audit trail.
   * @param named what `check` gave
   * @param policy whose match narrows `last`
   */
  async *samples(
    ctx: Context,
    said: CapturedSamples,
    named: readonly CapturedExchange[],
    policy: CompiledPolicy,
  ): AsyncGenerator<CapturedSample> {
    const asked = said.directions ?? policyDirections;
    const chosen = said.last
      ? await this.last(said.last, asked, policy)
      : named.map((exchange) => ({ exchange, directions: asked }));
    const payloadsOf = await this.store.ofEvents(chosen.map(({ exchange }) => exchange));
    let bytesLeft = trialBytesMax;
    for (const { exchange, directions } of chosen) {
      for (const known of payloadsOf.get(exchange.id) ?? []) {
        if (!directions.includes(known.direction)) continue;
        const isOver = known.expiresAt !== null && known.expiresAt.getTime() <= ctx.clock.now();
        const source = { ...known, eventId: exchange.id, state: isOver ? ('expired' as const) : known.state };
        const bytesMax = Math.min(payloadBytesMax, bytesLeft);
        const opened =
          source.state === 'stored' ? await this.open(ctx, said, exchange, source, bytesMax) : ('notKept' as const);
        if (typeof opened !== 'string') bytesLeft -= opened.reduce((sum, text) => sum + Buffer.byteLength(text), 0);
        yield { source, method: exchange.method, opened };
      }
    }
  }

  private async open(
    ctx: Context,
    { purpose }: CapturedSamples,
    { id, nodeId }: CapturedExchange,
    { direction }: EventPayload,
    bytesMax: number,
  ): Promise<CapturedSample['opened']> {
    if (nodeId === null) return 'unavailable';
    try {
      const opened = await this.payloads.openForTrial(ctx, { id, direction, purpose, nodeId, bytesMax });
      return opened?.messages ?? 'tooLarge';
    } catch (error) {
      const isTold = error instanceof AppError && (error.code === 'PAYLOAD_UNAVAILABLE' || error.code === 'NOT_FOUND');
      if (!isTold) throw error;
      ctx.log.warn({ err: error, eventId: id, direction }, 'a policy could not be tried on a payload');
      return 'unavailable';
    }
  }

  /** The newest exchanges of whose captured messages the policy is about some, with the directions of these. */
  private async last(count: number, asked: readonly PolicyDirection[], policy: CompiledPolicy) {
    const found: { exchange: CapturedExchange; directions: readonly PolicyDirection[] }[] = [];
    let after: CapturedExchange | undefined;
    for (let seen = 0; seen < exchangesLookedAtMax && found.length < count; seen += exchangesPerStep) {
      const step = await this.newest(after);
      const isAbout = await this.matcher(policy, step);
      for (const exchange of step) {
        const directions = asked.filter((way) => exchange.capture?.[way] && isAbout(exchange, way));
        if (directions.length > 0) found.push({ exchange, directions });
      }
      after = step.at(-1);
      if (step.length < exchangesPerStep) break;
    }
    return found.slice(0, count);
  }

  /** Judges exchanges by what servers, tools and groups are now. */
  private async matcher({ entry, ...compiled }: CompiledPolicy, exchanges: readonly CapturedExchange[]) {
    const { serverLabels, groupIds, riskMin } = entry.match;
    const serverIds = [...new Set(exchanges.map(({ serverId }) => serverId))].filter(isUuid);
    const principalIds = [...new Set(exchanges.map(({ principalId }) => principalId))].filter(isUuid);
    const labels = new Map<string, Record<string, string>>();
    if (Object.keys(serverLabels).length > 0) {
      const rows = await this.database.raw<{ id: string; labels: Record<string, string> }[]>`
        select id, labels from servers where id = any (${serverIds}::uuid[])`;
      for (const row of rows) labels.set(row.id, row.labels);
    }
    const groups = new Map<string, string[]>();
    if (groupIds.length > 0) {
      const rows = await this.database.raw<{ principal_id: string; ids: string[] }[]>`
        select m.principal_id, array_agg(m.group_id::text) as ids
        from group_members m join groups g on g.id = m.group_id and g.deleted_at is null
        where m.principal_id = any (${principalIds}::uuid[]) group by m.principal_id`;
      for (const row of rows) groups.set(row.principal_id, row.ids);
    }
    const risks = new Map<string, ToolRisk>();
    if (riskMin !== null) {
      const rows = await this.database.raw<{ server_id: string; name: string; risk: ToolRisk }[]>`
        select server_id, name, risk from definitions
        where kind = 'tool' and risk is not null and removed_at is null and server_id = any (${serverIds}::uuid[])`;
      for (const row of rows) risks.set(`${row.server_id} ${row.name}`, row.risk);
    }
    return ({ serverId, principalId, target }: CapturedExchange, direction: PolicyDirection): boolean =>
      isAboutExchange({ entry, ...compiled }, { id: serverId, labels: labels.get(serverId) ?? {} }, direction, {
        principal: { id: principalId, groups: groups.get(principalId) ?? [] },
        target,
        definitions: {
          labelled: (of) => ({ ...of, labels: { ...nothingSaid, risk: risks.get(`${serverId} ${of.name}`) ?? null } }),
        },
      });
  }

  private async newest(after: CapturedExchange | undefined): Promise<CapturedExchange[]> {
    const { raw } = this.database;
    const before = after ? raw`and (time, id) < (${after.time}, ${after.id})` : raw``;
    const rows = await raw<ExchangeRow[]>`
      select ${raw(columns)} from audit_events where capture is not null ${before}
      order by time desc, id desc limit ${exchangesPerStep}`;
    return rows.map(exchangeOf);
  }

  private async byIds(ids: readonly string[]): Promise<CapturedExchange[]> {
    const timed = ids.flatMap((id) => {
      const time = timeOfId(id);
      return time === undefined ? [] : [{ id: storableText(id), time: time.toISOString() }];
    });
    const { raw } = this.database;
    // The id begins with the event's time: without it every partition would be searched.
    const rows = await raw<ExchangeRow[]>`
      select ${raw(columns.map((name) => `e.${name}`))} from audit_events e
      join unnest(${timed.map(({ id }) => id)}::text[], ${timed.map(({ time }) => time)}::timestamptz[]) as asked (id, time)
        on e.id = asked.id and e.time >= asked.time and e.time < asked.time + interval '1 millisecond'
      where e.capture is not null`;
    return rows.map(exchangeOf);
  }
}

const columns = [
  'id',
  'time',
  'node_id',
  'epoch',
  'outcome',
  'stored_at',
  'capture',
  'method',
  'server_id',
  'principal_id',
  'target_kind',
  'target_name',
];

interface ExchangeRow {
  readonly id: string;
  readonly time: Date;
  readonly node_id: string | null;
  readonly epoch: string | null;
  readonly outcome: string | null;
  readonly stored_at: Date;
  readonly capture: CapturedEvent['capture'];
  readonly method: string | null;
  readonly server_id: string | null;
  readonly principal_id: string | null;
  readonly target_kind: TargetKind | null;
  readonly target_name: string | null;
}

const nothingSaid = { risk: null, readOnly: null, destructive: null, idempotent: null, openWorld: null } as const;

function exchangeOf(row: ExchangeRow): CapturedExchange {
  const { target_kind: kind, target_name: name } = row;
  return {
    id: row.id,
    time: row.time,
    nodeId: row.node_id,
    epoch: row.epoch,
    outcome: row.outcome,
    storedAt: row.stored_at,
    capture: row.capture,
    method: row.method,
    serverId: row.server_id ?? '',
    principalId: row.principal_id ?? '',
    target: kind === null || name === null ? null : { kind, name },
  };
}
