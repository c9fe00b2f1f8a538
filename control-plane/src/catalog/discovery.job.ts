import { setTimeout as delay } from 'node:timers/promises';
import { AppError, type DiscoveryResult, type Sighting, toAppError } from '@sallyport/schema';
import { discoverUpstream, type Egress, uuidv7 } from '@sallyport/schema/platform';
import { and, eq, inArray, isNull, lt, or, sql } from 'drizzle-orm';
import type { Context } from '../context.ts';
import type { Database } from '../database/client.ts';
import { assertRevision, isUuid } from '../database/mutation.ts';
import { type ServerRow, servers } from './catalog.tables.ts';
import type { ControlPlaneSight, DiscoveryOutcome, DiscoveryService } from './discovery.service.ts';
import type { ChangeServer } from './server.service.ts';

export interface DiscoveryJobDependencies {
  readonly database: Database;
  readonly egress: Pick<Egress, 'fetch'>;
  readonly store: DiscoveryService;
  /** The program itself as an actor, for discoveries that nobody asked for. */
  readonly systemContext: Context;
  /**
   * Has a connected node discover the upstream. Rejects with an AppError: what the node met, or NOT_READY when none is
   * connected.
   */
  readonly askNode: (server: ServerRow) => Promise<DiscoveryResult>;
  /** What the server is looked at with; none where it wants none. Rejects with an AppError CREDENTIAL_…. */
  readonly credentialHeaders: (server: ServerRow) => Promise<readonly (readonly [name: string, value: string])[]>;
  readonly build: string;
  readonly options?: Partial<DiscoveryJobOptions>;
}

export interface DiscoveryJobOptions {
  /** Between two discoveries of one server; each server has its own share of up to a fifth added or taken away. */
  readonly intervalMs: number;
  /** Between two looks for servers that are due. */
  readonly tickMs: number;
  /** Discoveries of the timer at a time; those on demand come on top, up to `onDemandMax` in all. */
  readonly concurrencyMax: number;
  readonly onDemandMax: number;
  readonly timeoutMs: number;
  /** After a discovery a doubt waits this long for the next: an upstream that answers oddly is not asked all the time. */
  readonly doubtIntervalMs: number;
}

const defaults: DiscoveryJobOptions = {
  intervalMs: 5 * 60_000,
  tickMs: 5_000,
  concurrencyMax: 8,
  onDemandMax: 64,
  timeoutMs: 30_000,
  doubtIntervalMs: 10_000,
};

/** A process that died holds a lease for as long as its discovery could have taken, with the node's part. */
const leaseMarginMs = 60_000;
/** How often a caller looks whether another process has finished the discovery that it waits for. */
const waitStepMs = 100;

/** Reports of nodes that are worked off at once. */
const sightingsOpenMax = 64;

/** Trouble that a node, which stands elsewhere in the network, may not have. */
const worthAskingNode = new Set<string>(['UPSTREAM_UNREACHABLE', 'UPSTREAM_TIMEOUT']);

/** Keeps the catalog fresh: by timer, on demand and for new servers; each server in one process at a time. */
export class DiscoveryJob {
  private readonly deps: DiscoveryJobDependencies;
  private readonly options: DiscoveryJobOptions;
  private readonly stopping = new AbortController();
  private readonly background = new Set<Promise<unknown>>();
  private active = 0;
  private sightings = 0;
  private claiming = false;
  private timer: NodeJS.Timeout | undefined;

  constructor(deps: DiscoveryJobDependencies) {
    this.deps = deps;
    this.options = { ...defaults, ...deps.options };
  }

  start(): void {
    this.tick();
  }

  /** Ends what is under way; its servers are due again at once elsewhere. */
  async stop(): Promise<void> {
    clearTimeout(this.timer);
    this.stopping.abort(new AppError('NOT_READY', { internal: 'the control plane is stopping' }));
    while (this.background.size > 0) await Promise.all(this.background);
    await this.deps.store.stop();
  }

  /** Looks for servers that are due, without waiting for the timer: one has just been registered or moved. */
  kick(): void {
    if (this.timer !== undefined) this.track(this.claimAndRun());
  }

  /**
   * A node was answered as if the server spoke another protocol era than was observed, or was told that its lists
   * changed: it is due now, or as soon as the last look at it is a little while ago. Does nothing for a server that is not in service.
   */
  async doubt(serverId: string): Promise<void> {
    if (!isUuid(serverId)) return;
    const now = new Date(this.deps.systemContext.clock.now());
    await this.deps.database.db
      .update(servers)
      .set({ discoveryDoubtedAt: now })
      .where(
        and(
          eq(servers.id, serverId),
          isNull(servers.deletedAt),
          inArray(servers.lifecycle, ['approved', 'deprecated']),
          or(isNull(servers.discoveryDoubtedAt), lt(servers.discoveryDoubtedAt, servers.discoveryAttemptedAt)),
        ),
      );
    this.kick();
  }

  /** Takes in what a node withheld; in the background, and not where too much waits: the node tells it again. */
  sighted(nodeId: string, serverId: string, sightings: readonly Sighting[]): void {
    const { log } = this.deps.systemContext;
    if (!isUuid(serverId) || this.stopping.signal.aborted) return;
    if (this.sightings >= sightingsOpenMax) {
      log.warn({ nodeId, serverId }, 'too many reports of definitions at once; the node will repeat it');
      return;
    }
    this.sightings += 1;
    const stored = this.deps.store.storeSightings(this.deps.systemContext, nodeId, serverId, sightings);
    this.track(stored.finally(() => (this.sightings -= 1)));
  }

  /**
   * Discovers a server now and returns it with what was found, or with the problem. When another process is at it
   * already, waits for that one to end, and makes do with it if it began late enough.
   */
  async discoverNow(ctx: Context, input: ChangeServer): Promise<ServerRow> {
    ctx.serverScope('server:write');
    const asked = await this.find(input.id);
    ctx.authorize('server:write', asked);
    assertRevision(asked, input.expectedRevision);
    if (this.active >= this.options.onDemandMax) throw new AppError('OVERLOADED');
    const askedAt = ctx.clock.now();
    const lease = uuidv7(askedAt);
    for (let waited = false; ; waited = true) {
      this.stopping.signal.throwIfAborted();
      const row = await this.find(input.id);
      // One that began before we were asked may have missed what the caller wants to be seen.
      const begunAt = row.discoveryAttemptedAt?.getTime() ?? 0;
      if (waited && begunAt >= askedAt && row.discoveryLeaseUntil === null) return row;
      const claimed = await this.claim(input.id, lease);
      if (claimed !== undefined) return this.run(ctx, claimed, lease, { onDemand: true, dryRun: input.dryRun });
      await delay(waitStepMs, undefined, { signal: this.stopping.signal });
    }
  }

  private tick(): void {
    if (this.stopping.signal.aborted) return;
    this.timer = setTimeout(() => this.tick(), this.options.tickMs);
    this.kick();
  }

  private track(work: Promise<unknown>): void {
    const settled = work
      .catch((error: unknown) => {
        // A server may be deleted while it is being discovered.
        const gone = error instanceof AppError && error.code === 'NOT_FOUND';
        if (!gone && !this.stopping.signal.aborted) {
          this.deps.systemContext.log.error({ err: error }, 'the discovery job failed');
        }
      })
      .finally(() => this.background.delete(settled));
    this.background.add(settled);
  }

  /** Claims as many due servers as there is room for. */
  private async claimAndRun(): Promise<void> {
    if (this.claiming || this.stopping.signal.aborted) return;
    const room = this.options.concurrencyMax - this.active;
    if (room <= 0) return;
    this.claiming = true;
    const lease = uuidv7(this.deps.systemContext.clock.now());
    try {
      const due = await this.claimDue(lease, room);
      // When the room was filled, more may be due: a finished one makes place for the next.
      const then = due.length === room ? () => this.kick() : () => undefined;
      for (const server of due) {
        this.track(this.run(this.deps.systemContext, server, lease, { onDemand: false }).finally(then));
      }
    } finally {
      this.claiming = false;
    }
  }

  private async run(
    ctx: Context,
    server: ServerRow,
    lease: string,
    options: { readonly onDemand: boolean; readonly dryRun?: boolean | null | undefined },
  ): Promise<ServerRow> {
    this.active += 1;
    try {
      const outcome = await this.look(server);
      this.stopping.signal.throwIfAborted();
      return await this.deps.store.store(ctx, server.id, outcome, options);
    } finally {
      this.active -= 1;
      await this.release(server.id, lease);
    }
  }

  private async look(server: ServerRow): Promise<DiscoveryOutcome> {
    const about = { url: server.url, begunAt: this.deps.systemContext.clock.now() };
    if (server.discoveredBy === 'node') return { ...about, sight: null, result: await this.lookThroughNode(server) };
    const { result, sight } = await this.lookMyself(server);
    if (!(result instanceof AppError) || !worthAskingNode.has(result.code)) return { ...about, sight, result };
    const second = await this.lookThroughNode(server);
    // What the node met says no more than what we met, unless it got through.
    return { ...about, sight, result: second instanceof AppError ? result : second };
  }

  private async lookMyself(
    server: ServerRow,
  ): Promise<{ readonly result: DiscoveryResult | AppError; readonly sight: ControlPlaneSight }> {
    const { clock } = this.deps.systemContext;
    const startedAt = clock.monotonic();
    let latencyMs: number | null = null;
    const egress: Pick<Egress, 'fetch'> = {
      fetch: async (input, init) => {
        const response = await this.deps.egress.fetch(input, init);
        latencyMs ??= clock.monotonic() - startedAt;
        return response;
      },
    };
    try {
      const credentialHeaders = await this.deps.credentialHeaders(server);
      const result = await discoverUpstream({
        url: server.url,
        credentialHeaders,
        egress,
        timeoutMs: this.options.timeoutMs,
        clientInfo: { name: 'sallyport', version: this.deps.build },
        signal: this.stopping.signal,
      });
      return { result, sight: { latencyMs, problem: null } };
    } catch (error) {
      const result = this.noted(server, error);
      return { result, sight: { latencyMs: null, problem: result.code } };
    }
  }

  private async lookThroughNode(server: ServerRow): Promise<DiscoveryResult | AppError> {
    try {
      return await this.deps.askNode(server);
    } catch (error) {
      return this.noted(server, error);
    }
  }

  private noted(server: ServerRow, error: unknown): AppError {
    const problem = toAppError(error);
    const { log } = this.deps.systemContext;
    log.info({ serverId: server.id, slug: server.slug, code: problem.code, detail: problem.message }, 'not discovered');
    return problem;
  }

  private async find(serverId: string): Promise<ServerRow> {
    const [row] = isUuid(serverId)
      ? await this.deps.database.db
          .select()
          .from(servers)
          .where(and(eq(servers.id, serverId), isNull(servers.deletedAt)))
      : [];
    if (row === undefined) throw new AppError('NOT_FOUND');
    return row;
  }

  /** Not an advisory lock: that would hold a database connection for as long as an upstream likes to take. */
  private leaseOf(lease: string) {
    const now = this.deps.systemContext.clock.now();
    const until = now + 2 * this.options.timeoutMs + leaseMarginMs;
    return {
      set: { discoveryLease: lease, discoveryLeaseUntil: new Date(until) },
      free: or(isNull(servers.discoveryLeaseUntil), lt(servers.discoveryLeaseUntil, new Date(now))),
    };
  }

  private async claim(serverId: string, lease: string): Promise<ServerRow | undefined> {
    const { set, free } = this.leaseOf(lease);
    const [row] = await this.deps.database.db
      .update(servers)
      .set(set)
      .where(and(eq(servers.id, serverId), isNull(servers.deletedAt), free))
      .returning();
    return row;
  }

  private async claimDue(lease: string, limit: number): Promise<readonly ServerRow[]> {
    const { set, free } = this.leaseOf(lease);
    const now = new Date(this.deps.systemContext.clock.now()).toISOString();
    const share = sql`0.9 + ((hashtext(${servers.id}::text) & 2147483647) % 200) / 1000.0`;
    const due = sql`(${servers.discoveryAttemptedAt} is null or ${servers.discoveryAttemptedAt} <
      ${now}::timestamptz - ${this.options.intervalMs}::float8 * (${share}) * interval '1 millisecond'
      or ${servers.discoveryDoubtedAt} > ${servers.discoveryAttemptedAt} and ${servers.discoveryAttemptedAt} <
      ${now}::timestamptz - ${this.options.doubtIntervalMs}::float8 * interval '1 millisecond')`;
    const { db } = this.deps.database;
    const next = db
      .select({ id: servers.id })
      .from(servers)
      .where(and(isNull(servers.deletedAt), sql`${servers.lifecycle} <> 'disabled'`, free, due))
      .orderBy(sql`${servers.discoveryAttemptedAt} nulls first`)
      .limit(limit)
      .for('update', { skipLocked: true });
    return db.update(servers).set(set).where(sql`${servers.id} = any(array(${next}))`).returning();
  }

  private async release(serverId: string, lease: string): Promise<void> {
    await this.deps.database.db
      .update(servers)
      .set({ discoveryLease: null, discoveryLeaseUntil: null })
      .where(and(eq(servers.id, serverId), eq(servers.discoveryLease, lease)));
  }
}
