import {
  AppError,
  canonicalJson,
  checkDefinition,
  definitionDigest,
  type DefinitionFinding,
  definitionScanVersion,
  type DiscoveryResult,
  type Sighting,
  toolKey,
} from '@sallyport/schema';
import { uuidv7 } from '@sallyport/schema/platform';
import { and, eq, inArray, sql } from 'drizzle-orm';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import type { Database, Transaction } from '../database/client.ts';
import { bumpConfigGeneration } from '../database/config-generation.ts';
import { mutate } from '../database/mutation.ts';
import type { DefinitionHookService, DefinitionVerdict } from '../inspection/definition-hooks.service.ts';
import { type DefinitionRow, definitionBodies, definitions, type ServerRow, servers } from './catalog.tables.ts';
import {
  type DefinitionChanges,
  type Judge,
  planDefinitionChanges,
  planSightings,
  seenDefinitions,
  type SeenDefinition,
} from './definition-changes.ts';
import { judgeOf, type SeenWordings } from './definition-judge.ts';
import { DefinitionScanner, isNotScanned, notScanned } from './definition-scanner.ts';
import type { HealthService } from './health.service.ts';
import { isServed } from './lifecycle.ts';
import { lockServer } from './server-row.service.ts';
import { isRelational, ToolNames } from './tool-names.ts';

/** Rows per statement, below PostgreSQL's bound on parameters. */
const rowsPerStatement = 500;
/**
 * Vanished definitions that nobody ever approved, kept for each server, and as many that were quarantined: an upstream
 * must not fill the database.
 */
const removedKeptMax = 1_000;
/** Definitions of one server that only nodes saw and nobody approved; there is no room for more. */
const sightedKeptMax = 1_000;
/** Scans of one discovery that may fail before the rest of it is not scanned: others wait for the same thread. */
const failedScansMax = 3;
/** Names of each kind of change that the audit event lists. */
const auditedNamesMax = 100;

/** What the control plane itself saw of the upstream; null when it did not look. */
export interface ControlPlaneSight {
  readonly latencyMs: number | null;
  /** A catalogue code; null when it found the upstream well. */
  readonly problem: string | null;
}

export interface DiscoveryOutcome {
  /** The URL that was discovered: if the server has another one by now, the outcome says nothing of it. */
  readonly url: string;
  /** When it began, in milliseconds since the epoch. */
  readonly begunAt: number;
  readonly sight: ControlPlaneSight | null;
  readonly result: DiscoveryResult | AppError;
}

interface Scan {
  readonly findings: readonly DefinitionFinding[];
  /** It is not in the catalog yet, or not with these findings. */
  readonly isNew: boolean;
}
type Scans = ReadonlyMap<string, Scan>;
type Found = DiscoveryResult['definitions'];

interface ScannedDiscovery {
  readonly begunAt: number;
  readonly result: DiscoveryResult;
  readonly scans: Scans;
  readonly verdicts: readonly DefinitionVerdict[];
}

export interface StoreOptions {
  readonly dryRun?: boolean | null | undefined;
  /** An actor asked for it, so it is on record also when nothing changed. */
  readonly onDemand: boolean;
}

export type AskingWebhooks = Pick<DefinitionHookService, 'ask' | 'store' | 'standing'>;

type ServerUpdate = Partial<typeof servers.$inferInsert>;

/** Of a tool by what it may be mistaken for; empty for all else. */
function nameKeyOf({ kind, name }: Pick<DefinitionRow, 'kind' | 'name'>): string {
  return kind === 'tool' ? toolKey(name) : '';
}

function inChunks<Item>(items: readonly Item[]): readonly (readonly Item[])[] {
  return Array.from({ length: Math.ceil(items.length / rowsPerStatement) }, (_, index) =>
    items.slice(index * rowsPerStatement, (index + 1) * rowsPerStatement),
  );
}

function observed(result: DiscoveryResult): ServerUpdate {
  return {
    protocolRevisions: result.protocolRevisions,
    transport: result.transport,
    capabilities: result.capabilities,
    serverInfo: result.serverInfo,
    instructions: result.instructions,
    discoveryNotes: result.notes,
  };
}

function describesAnother(before: ServerRow, update: ServerUpdate): boolean {
  return Object.entries(update).some(
    ([member, value]) =>
      canonicalJson(value) !== canonicalJson(Object.entries(before).find(([key]) => key === member)?.[1]),
  );
}

function named(rows: readonly Pick<DefinitionRow, 'kind' | 'name'>[]): unknown {
  return { count: rows.length, names: rows.slice(0, auditedNamesMax).map((row) => `${row.kind} ${row.name}`) };
}

function approvedByItself(
  before: readonly string[],
  after: readonly string[],
): { readonly approvedByItself?: unknown } {
  const fresh = after.filter((digest) => !before.includes(digest));
  return fresh.length === 0 ? {} : { approvedByItself: fresh };
}

function summary(changes: DefinitionChanges): unknown {
  return {
    added: named(changes.added),
    quarantined: named(changes.added.filter(({ state }) => state === 'quarantined')),
    approvedByItself: named(changes.added.filter(({ state }) => state === 'approved')),
    changed: changes.changed
      .slice(0, auditedNamesMax)
      .map(({ row, digests, reportedDigests, state, driftClass, approvedDigests }) => ({
        kind: row.kind,
        name: row.name,
        digests,
        ...(reportedDigests.length === 0 ? {} : { reportedDigests }),
        state,
        was: row.state,
        ...(driftClass === null ? {} : { driftClass }),
        ...approvedByItself(row.approvedDigests, approvedDigests),
      })),
    removed: named(changes.removed),
  };
}

/** What was just found, as it is compared, and all that was scanned. */
function wordingsOf(found: Found, scanned: Scans): { readonly fresh: SeenWordings; readonly scanned: Scans } {
  const fresh = found.map(
    ({ digest, raw }) => [digest, { raw, findings: scanned.get(digest)?.findings ?? [] }] as const,
  );
  return { fresh: new Map(fresh), scanned };
}

/** What a node saw, with what is known of it. */
interface Sighted {
  readonly found: Found;
  readonly scans: Scans;
  readonly verdicts: readonly DefinitionVerdict[];
}

/** What sightings change, as far as there is room for what nobody approved. */
function keptSightings(
  held: readonly DefinitionRow[],
  seen: readonly SeenDefinition[],
  judge: Judge,
  verdicts: readonly DefinitionVerdict[] = [],
) {
  const waiting = held.filter((row) => !row.discovered && row.approvedDigests.length === 0).length;
  const planned = planSightings(held, seen, judge, new Set(verdicts.map(({ digest }) => digest)));
  return { ...planned, added: planned.added.slice(0, Math.max(0, sightedKeptMax - waiting)) };
}

const unjudged: Judge = {
  isSevere: () => false,
  driftOf: () => 'review',
  isRisky: () => true,
  webhooksOn: () => 'unanswered',
  autoApproval: 'none',
};

/** Digests of sightings that are in the catalog, or will be: what is not kept would be asked about again and again. */
function sightedDigests(held: readonly DefinitionRow[], found: Found): ReadonlySet<string> {
  const { added, changed } = keptSightings(held, seenDefinitions(found), unjudged);
  const rows = [...held, ...changed, ...added.map(({ digests }) => ({ digests, reportedDigests: [] }))];
  return new Set(rows.flatMap(({ digests, reportedDigests }) => [...digests, ...reportedDigests]));
}

/** Puts what a discovery found, or that it failed, into the catalog. */
export class DiscoveryService {
  private readonly database: Database;
  private readonly health: HealthService;
  private readonly webhooks: AskingWebhooks;
  private readonly scanner: Pick<DefinitionScanner, 'scan' | 'stop'>;

  constructor(
    database: Database,
    health: HealthService,
    webhooks: AskingWebhooks,
    scanner: Pick<DefinitionScanner, 'scan' | 'stop'> = new DefinitionScanner(),
  ) {
    this.database = database;
    this.health = health;
    this.webhooks = webhooks;
    this.scanner = scanner;
  }

  async stop(): Promise<void> {
    await this.scanner.stop();
  }

  /** Bumps the generation and writes an audit event only when something changed. */
  async store(ctx: Context, serverId: string, outcome: DiscoveryOutcome, options: StoreOptions): Promise<ServerRow> {
    // Before the transaction: a scan takes its time, and so do webhooks, which a dry run tells nothing.
    const found = outcome.result instanceof AppError ? [] : outcome.result.definitions;
    const scans = outcome.result instanceof AppError ? new Map() : await this.scan(serverId, found, true);
    const verdicts = options.dryRun === true ? [] : await this.askWebhooks(serverId, found);
    return mutate(this.database, options, async (tx) => {
      const before = await lockServer(tx, serverId);
      if (before.url !== outcome.url) return before;
      const now = ctx.clock.now();
      if (outcome.sight !== null) {
        const { latencyMs, problem } = outcome.sight;
        const state = problem === null ? 'healthy' : 'unhealthy';
        await this.health.observe(tx, { serverId, state, observedAt: now, latencyMs, problem });
      }
      if (outcome.result instanceof AppError) {
        return this.storeFailure(tx, ctx, before, outcome.begunAt, outcome.result, options);
      }
      return this.storeSuccess(tx, ctx, before, { ...outcome, result: outcome.result, scans, verdicts }, options);
    });
  }

  /**
   * Takes in what a node withheld since nobody approved it: from then on no node lets a call of it pass. Objects that
   * could not be in the catalog are left out. Each change is in the audit trail, and none that changes nothing.
   */
  async storeSightings(ctx: Context, nodeId: string, serverId: string, sightings: readonly Sighting[]): Promise<void> {
    const found = sightings.flatMap(({ kind, raw }): Found => {
      const checked = checkDefinition(kind, raw);
      return checked.ok ? [{ kind, name: checked.name, digest: definitionDigest(raw), raw }] : [];
    });
    if (found.length === 0) return;
    const scans = await this.scan(serverId, found, false);
    // What drifted is out of service at once, however long webhooks take; what they say may change what becomes of it.
    await this.keepSightings(ctx, nodeId, serverId, { found, scans, verdicts: [] });
    const verdicts = await this.askWebhooks(serverId, found, sightedDigests);
    if (verdicts.length > 0) await this.keepSightings(ctx, nodeId, serverId, { found, scans, verdicts });
  }

  private async keepSightings(
    ctx: Context,
    nodeId: string,
    serverId: string,
    { found, scans, verdicts }: Sighted,
  ): Promise<void> {
    await this.database.db.transaction(async (tx) => {
      const server = await lockServer(tx, serverId);
      const now = new Date(ctx.clock.now());
      const held = await tx.select().from(definitions).where(eq(definitions.serverId, serverId));
      const seen = seenDefinitions(found);
      await this.storeBodies(tx, serverId, found, scans, now);
      await this.webhooks.store(tx, ctx, serverId, verdicts);
      const standing = await this.webhooks.standing(tx, server);
      const judge = await judgeOf(tx, server, held, { seen, ...wordingsOf(found, scans), standing });
      const changes = keptSightings(held, seen, judge, verdicts);
      if (changes.added.length + changes.changed.length === 0) return this.dropUnreferenced(tx, serverId);
      await this.storeDefinitions(tx, server, { changes, discovered: false, now });
      const row = await this.updateServer(tx, server, { revision: server.revision + 1, updatedAt: now });
      const object = { kind: 'server', id: row.id } as const;
      const after = { nodeId, definitions: summary(changes) };
      await recordMutation(tx, ctx, { action: 'server.reportDefinitions', object, after });
      if (isServed(server.lifecycle)) await bumpConfigGeneration(tx, { serverIds: [serverId] });
    });
  }

  private async storeFailure(
    tx: Transaction,
    ctx: Context,
    before: ServerRow,
    begunAt: number,
    error: AppError,
    options: StoreOptions,
  ): Promise<ServerRow> {
    const problem = { discoveryProblem: error.code, discoveryProblemMessage: error.publicMessage };
    const row = await this.updateServer(tx, before, {
      discoveryAttemptedAt: new Date(begunAt),
      ...problem,
    });
    if (options.onDemand) {
      const object = { kind: 'server', id: row.id } as const;
      await recordMutation(tx, ctx, { action: 'server.discover', object, after: problem });
    }
    return row;
  }

  private async storeSuccess(
    tx: Transaction,
    ctx: Context,
    before: ServerRow,
    { begunAt, result, scans, verdicts }: ScannedDiscovery,
    options: StoreOptions,
  ): Promise<ServerRow> {
    const now = new Date(ctx.clock.now());
    const held = await tx.select().from(definitions).where(eq(definitions.serverId, before.id));
    const seen = seenDefinitions(result.definitions);
    await this.storeBodies(tx, before.id, result.definitions, scans, now);
    await this.webhooks.store(tx, ctx, before.id, verdicts);
    const standing = await this.webhooks.standing(tx, before);
    const judge = await judgeOf(tx, before, held, { seen, ...wordingsOf(result.definitions, scans), standing });
    const changes = planDefinitionChanges(held, seen, judge);
    const definitionsChanged = changes.added.length + changes.changed.length + changes.removed.length > 0;
    if (definitionsChanged) await this.storeDefinitions(tx, before, { changes, discovered: true, now });
    const update = observed(result);
    const changed = definitionsChanged || describesAnother(before, update);
    const row = await this.updateServer(tx, before, {
      ...update,
      discoveredAt: now,
      discoveryAttemptedAt: new Date(begunAt),
      discoveryProblem: null,
      discoveryProblemMessage: null,
      ...(changed ? { revision: before.revision + 1, updatedAt: now } : {}),
    });
    if (changed || options.onDemand) {
      const object = { kind: 'server', id: row.id } as const;
      const { protocolRevisions, transport } = row;
      const after = { protocolRevisions, transport, definitions: summary(changes) };
      const was = { protocolRevisions: before.protocolRevisions, transport: before.transport };
      await recordMutation(tx, ctx, { action: 'server.discover', object, before: was, after });
    }
    const nodesMustKnow =
      definitionsChanged ||
      describesAnother(before, { protocolRevisions: row.protocolRevisions, transport: row.transport });
    if (nodesMustKnow && isServed(before.lifecycle)) await bumpConfigGeneration(tx, { serverIds: [before.id] });
    return row;
  }

  /** What webhooks say of the wordings that nobody approved; not more than once of each. */
  private async askWebhooks(
    serverId: string,
    found: Found,
    kept: (held: readonly DefinitionRow[], found: Found) => ReadonlySet<string> | undefined = () => undefined,
  ): Promise<readonly DefinitionVerdict[]> {
    const { db } = this.database;
    const [server] = await db.select().from(servers).where(eq(servers.id, serverId));
    if (server === undefined || found.length === 0) return [];
    const held = await db.select().from(definitions).where(eq(definitions.serverId, serverId));
    const approved = new Map(held.map((row) => [`${row.kind} ${row.name}`, row.approvedDigests]));
    const digests = kept(held, found);
    const asked = found.filter(
      ({ kind, name, digest }) =>
        approved.get(`${kind} ${name}`)?.includes(digest) !== true && digests?.has(digest) !== false,
    );
    return this.webhooks.ask(server, asked);
  }

  /**
   * What the scan sees in each definition: its own words once for each digest, and each time how its names stand to those of
   * other tools, since these come and go.
   * @param isWhole whether this is all that the server has
   */
  private async scan(serverId: string, found: Found, isWhole: boolean): Promise<Scans> {
    const known = await this.database.db
      .select({ digest: definitionBodies.digest, findings: definitionBodies.findings })
      .from(definitionBodies)
      .where(and(eq(definitionBodies.serverId, serverId), eq(definitionBodies.scanVersion, definitionScanVersion)));
    const scans = new Map<string, Scan>(
      known.map(({ digest, findings }) => [digest, { findings: findings ?? [], isNew: false }]),
    );
    const names = await ToolNames.read(this.database.db, serverId, found, isWhole);
    let failed = 0;
    for (const definition of new Map(found.map((each) => [each.digest, each])).values()) {
      const { digest, raw } = definition;
      const before = scans.get(digest)?.findings;
      const relation = names.relationOf(definition);
      const isKnown = before !== undefined && !isNotScanned(before);
      const own = isKnown ? before.filter((finding) => !isRelational(finding)) : [];
      const { foreign } = relation;
      const isWanted = !isKnown || foreign.length > 0;
      const look = (): Promise<readonly DefinitionFinding[]> | readonly DefinitionFinding[] =>
        failed < failedScansMax ? this.scanner.scan({ raw, foreign, isKnown }) : [notScanned];
      const scanned = isWanted ? await look() : [];
      if (isNotScanned(scanned)) failed += 1;
      const findings = [...own, ...scanned, ...relation.findings];
      if (before === undefined || canonicalJson(findings) !== canonicalJson(before))
        scans.set(digest, { findings, isNew: true });
    }
    return scans;
  }

  /** Each wording that was not known, or not scanned in this way, with what the scan saw. */
  private async storeBodies(tx: Transaction, serverId: string, found: Found, scans: Scans, now: Date): Promise<void> {
    const bodies = new Map(found.map(({ digest, raw }) => [digest, raw]));
    const fresh = [...bodies].flatMap(([digest, raw]) => {
      const scan = scans.get(digest);
      return scan?.isNew === true ? [{ digest, raw: canonicalJson(raw), findings: scan.findings }] : [];
    });
    for (const chunk of inChunks(fresh)) {
      await tx
        .insert(definitionBodies)
        .values(chunk.map((body) => ({ serverId, ...body, scanVersion: definitionScanVersion, createdAt: now })))
        .onConflictDoUpdate({
          target: [definitionBodies.serverId, definitionBodies.digest],
          set: { findings: sql`excluded.findings`, scanVersion: sql`excluded.scan_version` },
        });
    }
  }

  private async updateServer(tx: Transaction, before: ServerRow, set: ServerUpdate): Promise<ServerRow> {
    const [row] = await tx.update(servers).set(set).where(eq(servers.id, before.id)).returning();
    if (row === undefined) throw new AppError('INTERNAL', { internal: 'server vanished under its lock' });
    return row;
  }

  private async storeDefinitions(
    tx: Transaction,
    server: ServerRow,
    {
      changes,
      discovered,
      now,
    }: { readonly changes: DefinitionChanges; readonly discovered: boolean; readonly now: Date },
  ): Promise<void> {
    const times = { createdAt: now, updatedAt: now };
    for (const chunk of inChunks(changes.added)) {
      await tx.insert(definitions).values(
        chunk.map(({ kind, name, digests, state, approvedDigests }) => ({
          id: uuidv7(now.getTime()),
          serverId: server.id,
          kind,
          name,
          nameKey: nameKeyOf({ kind, name }),
          digests: [...digests],
          state,
          approvedDigests: [...approvedDigests],
          discovered,
          firstSeenAt: now,
          lastSeenAt: now,
          ...times,
        })),
      );
    }
    const next = { revision: sql`${definitions.revision} + 1`, updatedAt: now };
    for (const { row, digests, reportedDigests, approvedDigests, state, driftClass } of changes.changed) {
      const seen = { digests: [...digests], reportedDigests: [...reportedDigests] };
      const standing = { state, driftClass, approvedDigests: [...approvedDigests] };
      const presence = { discovered: row.discovered || discovered, removedAt: null, lastSeenAt: now };
      const nameKey = nameKeyOf(row);
      await tx
        .update(definitions)
        .set({ ...seen, ...standing, ...presence, ...next, nameKey })
        .where(eq(definitions.id, row.id));
    }
    for (const chunk of inChunks(changes.removed)) {
      const ids = chunk.map((row) => row.id);
      const lastSeenAt = server.discoveredAt ?? now;
      await tx
        .update(definitions)
        .set({ removedAt: now, lastSeenAt, ...next })
        .where(inArray(definitions.id, ids));
    }
    await this.dropUnreferenced(tx, server.id);
  }

  /** Keeps what one upstream can make us store in bounds, however it changes from one discovery to the next. */
  private async dropUnreferenced(tx: Transaction, serverId: string): Promise<void> {
    await tx.execute(sql`
      delete from definitions where id in (
        select id from (
          select id, row_number() over (
            partition by state = 'quarantined' order by removed_at desc, id desc
          ) as place
          from definitions
          where server_id = ${serverId} and removed_at is not null and cardinality(approved_digests) = 0
        ) removed where place > ${removedKeptMax}
      )`);
    await tx.delete(definitionBodies).where(
      and(
        eq(definitionBodies.serverId, serverId),
        sql`${definitionBodies.digest} not in (
          select unnest(${definitions.digests} || ${definitions.reportedDigests} || ${definitions.approvedDigests})
          from ${definitions}
          where ${definitions.serverId} = ${serverId}
        )`,
      ),
    );
  }
}
