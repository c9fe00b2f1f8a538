import { setTimeout as delay } from 'node:timers/promises';
import {
  AppError,
  canonicalJson,
  checkDefinition,
  definitionDigest,
  type DefinitionFinding,
  definitionScanVersion,
  type DiscoveryResult,
  plainServerInfo,
  type Sighting,
} from '@sallyport/schema';
import { and, eq, isNull } from 'drizzle-orm';
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
import { dropUnreferenced, type Scan, type Scans, storeBodies, storeDefinitions } from './definition-rows.ts';
import { DefinitionScanner, isNotScanned, notScanned } from './definition-scanner.ts';
import type { HealthService } from './health.service.ts';
import { isServed } from './lifecycle.ts';
import { lockServer } from './server-row.service.ts';
import { isRelational, ToolNames } from './tool-names.ts';

/** Definitions of one server that only nodes saw and nobody approved; there is no room for more. */
const sightedKeptMax = 1_000;
/** Scans of one discovery that may fail before the rest of it is not scanned: others wait for the same thread. */
const failedScansMax = 3;
/** For so long a scan is waited for before what drifted is taken out of service without it, in milliseconds. */
const scanGraceMs = 250;
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

/** What was seen, with what is known of it. */
interface Sighted {
  readonly found: Found;
  readonly scans: Scans;
  readonly verdicts: readonly DefinitionVerdict[];
  /** Digests of what was kept before anybody looked at it. */
  readonly unscanned?: readonly string[];
}

/** Who saw it: a node, or the control plane itself, at an address that the server may not have any more. */
type Seer = { readonly nodeId: string } | { readonly url: string };

/**
 * What sightings change, as far as there is room for what nobody approved.
 * @param newsOf digests that are known already, and of which more is known now
 */
function keptSightings(
  held: readonly DefinitionRow[],
  seen: readonly SeenDefinition[],
  judge: Judge,
  newsOf: readonly string[] = [],
) {
  const waiting = held.filter((row) => !row.discovered && row.approvedDigests.length === 0).length;
  const planned = planSightings(held, seen, judge, new Set(newsOf));
  return { ...planned, added: planned.added.slice(0, Math.max(0, sightedKeptMax - waiting)) };
}

const unjudged: Judge = {
  isSevere: () => false,
  driftOf: () => 'review',
  isRisky: () => true,
  webhooksOn: () => 'unanswered',
  autoApproval: 'none',
};
/** How far it drifted is said by who looks at it later; until then it is out of service. */
const unlooked: Judge = { ...unjudged, driftOf: () => 'same' };

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

  /**
   * Bumps the generation and writes an audit event only when something changed. What drifted is out of service before
   * anybody is asked about it: after a moment also before it is scanned, however long that takes.
   */
  async store(ctx: Context, serverId: string, outcome: DiscoveryOutcome, options: StoreOptions): Promise<ServerRow> {
    const { result } = outcome;
    if (result instanceof AppError) {
      return this.inTransaction(ctx, serverId, outcome, options, (tx, before) =>
        this.storeFailure(tx, ctx, before, outcome.begunAt, result, options),
      );
    }
    const { definitions: found } = result;
    const isTried = options.dryRun === true;
    const scanning = this.scan(serverId, found, true);
    if (!isTried) await this.withholdMeanwhile(ctx, { url: outcome.url }, serverId, { found, scanning });
    const scans = await scanning;
    const keep = (how: StoreOptions, about: DiscoveryOutcome, verdicts: readonly DefinitionVerdict[]) =>
      this.inTransaction(ctx, serverId, about, how, (tx, before) =>
        this.storeSuccess(tx, ctx, before, { begunAt: outcome.begunAt, result, scans, verdicts }, how),
      );
    // What may be approved by itself meanwhile is asked about all the same, since webhooks in shadow are.
    const asked = await this.unapproved(serverId, found);
    const row = await keep(options, outcome, []);
    // Outside of transactions, since it takes its time; a dry run tells nobody.
    const verdicts = isTried ? [] : await this.webhooks.ask(row, asked);
    return verdicts.length === 0 ? row : keep({ onDemand: false }, { ...outcome, sight: null }, verdicts);
  }

  /** Nothing is stored of a server that has another address by now. */
  private inTransaction(
    ctx: Context,
    serverId: string,
    { url, sight }: DiscoveryOutcome,
    options: StoreOptions,
    keep: (tx: Transaction, before: ServerRow) => Promise<ServerRow>,
  ): Promise<ServerRow> {
    return mutate(this.database, options, async (tx) => {
      const before = await lockServer(tx, serverId);
      if (before.url !== url) return before;
      if (sight !== null) {
        const { latencyMs, problem } = sight;
        const state = problem === null ? 'healthy' : 'unhealthy';
        await this.health.observe(tx, { serverId, state, observedAt: ctx.clock.now(), latencyMs, problem });
      }
      return keep(tx, before);
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
    const seer = { nodeId };
    const scanning = this.scan(serverId, found, false);
    const unscanned = await this.withholdMeanwhile(ctx, seer, serverId, { found, scanning });
    const scans = await scanning;
    const asked = await this.unapproved(serverId, found, sightedDigests);
    // What drifted is out of service at once, however long webhooks take; what they say may change what becomes of it.
    await this.keepSightings(ctx, seer, serverId, { found, scans, verdicts: [], unscanned });
    const [server] = await this.database.db.select().from(servers).where(eq(servers.id, serverId));
    const verdicts = server === undefined ? [] : await this.webhooks.ask(server, asked);
    if (verdicts.length > 0) await this.keepSightings(ctx, seer, serverId, { found, scans, verdicts });
  }

  /**
   * Where a scan takes longer than a moment, what drifted waits for it out of service.
   * @returns digests of that
   */
  private async withholdMeanwhile(
    ctx: Context,
    seer: Seer,
    serverId: string,
    { found, scanning }: { readonly found: Found; readonly scanning: Promise<unknown> },
  ): Promise<readonly string[]> {
    const isSlow = await Promise.race([scanning.then(() => false), delay(scanGraceMs, true, { ref: false })]);
    if (!isSlow) return [];
    const served = await this.database.db
      .select()
      .from(definitions)
      .where(and(eq(definitions.serverId, serverId), eq(definitions.state, 'approved'), isNull(definitions.removedAt)));
    const approved = new Map(served.map((row) => [`${row.kind} ${row.name}`, row.approvedDigests]));
    const drifted = found.filter(
      ({ kind, name, digest }) => approved.get(`${kind} ${name}`)?.includes(digest) === false,
    );
    if (drifted.length === 0) return [];
    const scans = new Map(drifted.map(({ digest }) => [digest, { findings: [notScanned], isNew: true }]));
    await this.keepSightings(ctx, seer, serverId, { found: drifted, scans, verdicts: [] }, unlooked);
    return drifted.map(({ digest }) => digest);
  }

  /** @param judge in place of what is known, where nobody has looked yet */
  private async keepSightings(
    ctx: Context,
    seer: Seer,
    serverId: string,
    { found, scans, verdicts, unscanned = [] }: Sighted,
    judge?: Judge,
  ): Promise<void> {
    await this.database.db.transaction(async (tx) => {
      const server = await lockServer(tx, serverId);
      if ('url' in seer && server.url !== seer.url) return;
      const now = new Date(ctx.clock.now());
      const held = await tx.select().from(definitions).where(eq(definitions.serverId, serverId));
      const seen = seenDefinitions(found);
      await storeBodies(tx, serverId, found, { scans, isScanned: judge === undefined, now });
      await this.webhooks.store(tx, ctx, serverId, verdicts);
      const standing = await this.webhooks.standing(tx, server);
      const known = judge ?? (await judgeOf(tx, server, held, { seen, ...wordingsOf(found, scans), standing }));
      const newsOf = [...unscanned, ...verdicts.map(({ digest }) => digest)];
      const changes = keptSightings(held, seen, known, newsOf);
      if (changes.added.length + changes.changed.length === 0) return dropUnreferenced(tx, serverId);
      await storeDefinitions(tx, server, { changes, discovered: false, now });
      const row = await this.updateServer(tx, server, { revision: server.revision + 1, updatedAt: now });
      const object = { kind: 'server', id: row.id } as const;
      const what = { definitions: summary(changes), ...(judge === undefined ? {} : { isScanned: false }) };
      await recordMutation(
        tx,
        ctx,
        'url' in seer
          ? { action: 'server.discover', object, after: what }
          : { action: 'server.reportDefinitions', object, after: { ...seer, ...what } },
      );
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
    await storeBodies(tx, before.id, result.definitions, { scans, isScanned: true, now });
    await this.webhooks.store(tx, ctx, before.id, verdicts);
    const standing = await this.webhooks.standing(tx, before);
    const judge = await judgeOf(tx, before, held, { seen, ...wordingsOf(result.definitions, scans), standing });
    const changes = planDefinitionChanges(held, seen, judge);
    const definitionsChanged = changes.added.length + changes.changed.length + changes.removed.length > 0;
    if (definitionsChanged) await storeDefinitions(tx, before, { changes, discovered: true, now });
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
      const seenOf = ({ protocolRevisions, transport, serverInfo, slug }: ServerRow) => ({
        protocolRevisions,
        transport,
        serverInfo: serverInfo === null ? null : plainServerInfo(serverInfo, slug),
      });
      const after = { ...seenOf(row), definitions: summary(changes) };
      const was = seenOf(before);
      await recordMutation(tx, ctx, { action: 'server.discover', object, before: was, after });
    }
    const nodesMustKnow =
      definitionsChanged ||
      describesAnother(before, { protocolRevisions: row.protocolRevisions, transport: row.transport });
    if (nodesMustKnow && isServed(before.lifecycle)) await bumpConfigGeneration(tx, { serverIds: [before.id] });
    return row;
  }

  /** The wordings that nobody approved, which webhooks are asked about. */
  private async unapproved(
    serverId: string,
    found: Found,
    kept: (held: readonly DefinitionRow[], found: Found) => ReadonlySet<string> | undefined = () => undefined,
  ): Promise<Found> {
    if (found.length === 0) return [];
    const held = await this.database.db.select().from(definitions).where(eq(definitions.serverId, serverId));
    const approved = new Map(held.map((row) => [`${row.kind} ${row.name}`, row.approvedDigests]));
    const digests = kept(held, found);
    return found.filter(
      ({ kind, name, digest }) =>
        approved.get(`${kind} ${name}`)?.includes(digest) !== true && digests?.has(digest) !== false,
    );
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

  private async updateServer(tx: Transaction, before: ServerRow, set: ServerUpdate): Promise<ServerRow> {
    const [row] = await tx.update(servers).set(set).where(eq(servers.id, before.id)).returning();
    if (row === undefined) throw new AppError('INTERNAL', { internal: 'server vanished under its lock' });
    return row;
  }
}
