import {
  type EncodedDocument,
  manifestChanges,
  type ManifestEntries,
  manifestHash,
  orderedEntries,
} from '@sallyport/schema';
import { type Clock, type Log } from '@sallyport/schema/platform';
import { and, desc, eq, inArray, isNull, lt, sql } from 'drizzle-orm';
import type { Database, Transaction } from '../database/client.ts';
import { configChannel } from '../database/config-generation.ts';
import { listen } from '../database/listen.ts';
import { collectGarbage } from './collect-garbage.ts';
import {
  type CompiledUnit,
  compileFleet,
  compileSnapshot,
  fleetUnit,
  indispensableKeys,
  type ObjectProblem,
  type PublicUrls,
  serverUnit,
  shardUnit,
} from './compile-snapshot.ts';
import { signingKeyOpener } from '../inspection/webhook-entry.ts';
import { currentHistory, documentPurpose, type FleetVault, notifyManifest, withFleetLock } from './fleet-keys.ts';
import {
  configDocuments,
  configEntries,
  configManifests,
  configProblems,
  oauthSigningKeys,
  type OAuthSigningKeyRow,
  sealingKeys,
  type SealingKeyRow,
} from './fleet.tables.ts';
import {
  readChanged,
  readConfiguration,
  readFleet,
  readGeneration,
  readUnits,
  type Wanted,
} from './read-configuration.ts';
import { rotateSealingKeys } from './sealing-keys.ts';
import { rotateSigningKeys } from './signing-keys.ts';

/**
 * A signal after a quiet time is answered at once; signals that come within this time of a compile's beginning are
 * answered together when it has passed.
 */
const coalesceMs = 50;
/** Also without a signal: a window ends, a key expires, a signal was lost. */
const reconcileIntervalMs = 30_000;
const retryDelayMs = 1_000;
/** How often what is out of use is removed, in milliseconds. */
const garbageIntervalMs = 60_000;
/** Rows written with one statement. */
const rowsAtOnceMax = 500;
/** Units read and compiled at once. */
const serversAtOnceMax = 100;
const shardsAtOnceMax = 16;

export interface Publication {
  readonly historyId: string;
  readonly revision: number;
  /** False when the compile gave what is published already. */
  readonly published: boolean;
}

export interface SnapshotPublisherOptions {
  readonly database: Database;
  readonly vault: FleetVault;
  /** Undefined where there is no authorization server. */
  readonly publicUrls: PublicUrls | undefined;
  readonly clock: Clock;
  readonly log: Log;
  /** Told of each compile with its duration in milliseconds. */
  readonly onCompiled?: ((outcome: CompileOutcome, durationMs: number) => void) | undefined;
}

export type CompileOutcome = 'published' | 'unchanged' | 'failed';

/**
 * The reconciler from rows to a published configuration. Woken by a signal without payload and by a timer; it always
 * reads everything, so a signal that is lost or comes twice changes nothing. At most one compile is in flight here,
 * and the fleet lock keeps it to one among all replicas.
 */
export class SnapshotPublisher {
  readonly #options: SnapshotPublisherOptions;
  #unlisten: (() => Promise<void>) | undefined;
  #interval: NodeJS.Timeout | undefined;
  #scheduled: NodeJS.Timeout | undefined;
  #running: Promise<void> | undefined;
  #dirty = false;
  #stopped = false;
  /** Undefined: the next compile looks through everything. */
  #compiledGeneration: number | undefined;
  #startedAt = Number.NEGATIVE_INFINITY;
  #collectedAt = Number.NEGATIVE_INFINITY;
  readonly #known: KnownUnits = new Map();
  #published: Published | undefined;

  constructor(options: SnapshotPublisherOptions) {
    this.#options = options;
  }

  async start(): Promise<void> {
    this.#unlisten = await listen(this.#options.database, configChannel, () => this.signal());
    this.#interval = setInterval(() => this.reconcile(), reconcileIntervalMs);
    this.signal();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearInterval(this.#interval);
    clearTimeout(this.#scheduled);
    await this.#unlisten?.();
    await this.#running;
  }

  /** Something may have changed. */
  signal(): void {
    this.#dirty = true;
    if (this.#scheduled !== undefined || this.#running !== undefined || this.#stopped) return;
    const waitMs = Math.max(0, this.#startedAt + coalesceMs - this.#options.clock.monotonic());
    this.#scheduled = setTimeout(() => this.#run(), waitMs);
  }

  /** Compiles soon even where no transaction said that anything changed: time passed, or nodes acknowledged. */
  reconcile(): void {
    this.#compiledGeneration = undefined;
    this.signal();
  }

  #run(): void {
    this.#scheduled = undefined;
    this.#dirty = false;
    this.#startedAt = this.#options.clock.monotonic();
    this.#running = this.publish()
      .then(() => undefined)
      .catch((error: unknown) => {
        this.#options.log.error({ err: error }, 'publishing the configuration failed; it is tried again');
        this.#dirty = true;
        return new Promise<void>((resolve) => setTimeout(resolve, this.#stopped ? 0 : retryDelayMs));
      })
      .finally(() => {
        this.#running = undefined;
        if (this.#dirty) this.signal();
      });
  }

  /** Not after each publication: the next one would wait for it. */
  async #collectGarbage(generation: number): Promise<void> {
    const { database, clock } = this.#options;
    if (clock.monotonic() - this.#collectedAt < garbageIntervalMs) return;
    this.#collectedAt = clock.monotonic();
    await collectGarbage(database, clock, generation);
  }

  /** Compiles and publishes now; undefined when no transaction has bumped the generation since the last compile. */
  async publish(): Promise<Publication | undefined> {
    const { clock } = this.#options;
    const since = this.#compiledGeneration;
    if ((await readGeneration(this.#options.database.db)) === since) return undefined;
    const startedAt = clock.monotonic();
    let outcome: CompileOutcome = 'failed';
    try {
      const publication = await this.#compile(since);
      outcome = publication.published ? 'published' : 'unchanged';
      return publication;
    } finally {
      this.#options.onCompiled?.(outcome, clock.monotonic() - startedAt);
    }
  }

  #compile(since: number | undefined): Promise<Publication> {
    const { database, vault, publicUrls, clock, log } = this.#options;
    return withFleetLock(database, async () => {
      // Nodes' acknowledgements let a key move on, and these raise no generation: the timer looks.
      if (since === undefined) {
        await rotateSealingKeys(database, clock);
        await rotateSigningKeys(database, clock);
      }
      const held: Held = { known: this.#known, published: this.#published, since };
      const result = await database.db.transaction((tx) => publishIn(tx, { vault, publicUrls }, held, clock.now()), {
        isolationLevel: 'repeatable read',
      });
      this.#compiledGeneration = result.generation;
      this.#published = result.newest;
      if (result.published) {
        log.info({ revision: result.revision, changed: result.changed, removed: result.removed }, 'published');
        await this.#collectGarbage(result.generation);
      }
      for (const problem of result.problems) log.error({ problem }, 'an object cannot be published and is withheld');
      return { historyId: result.historyId, revision: result.revision, published: result.published };
    });
  }
}

/** The newest manifest, with its entries. */
interface Published {
  readonly historyId: string;
  readonly revision: number;
  readonly hash: string;
  readonly entries: ManifestEntries;
}

/** What this process remembers from one compile to the next. */
interface Held {
  readonly known: KnownUnits;
  readonly published: Published | undefined;
  /** The generation compiled last, of which `known` is; undefined to look through everything. */
  readonly since: number | undefined;
}

interface PublishResult extends Publication {
  readonly generation: number;
  readonly newest: Published | undefined;
  readonly changed: number;
  readonly removed: number;
  readonly problems: readonly ObjectProblem[];
}

/** A unit compiled before, without the bodies of its documents. */
interface KnownUnit {
  readonly fingerprint: string;
  readonly hashes: ReadonlyMap<string, string>;
  readonly problems: readonly ObjectProblem[];
}

/** What this process compiled last, by unit: a pure function of each unit's fingerprint, so it can be kept on failure. */
type KnownUnits = Map<string, KnownUnit>;

interface Snapshot {
  readonly entries: Readonly<Record<string, string>>;
  /** Bodies of what was compiled just now, by hash. */
  readonly bodies: ReadonlyMap<string, EncodedDocument>;
  readonly problems: readonly ObjectProblem[];
  readonly sealingKeys: readonly SealingKeyRow[];
  readonly signingKeys: readonly OAuthSigningKeyRow[];
}

/** What a compile needs besides rows. */
type Sources = Pick<SnapshotPublisherOptions, 'vault' | 'publicUrls'>;

/** Where to look for changes: everywhere, or only in these units; and what to compile whether it changed or not. */
interface Search {
  readonly only?: Wanted | undefined;
  readonly again?: ReadonlySet<string>;
}

/** Compiles every unit whose rows are others than before, and those of `again`. */
async function compileChanged(
  tx: Transaction,
  sources: Sources,
  known: KnownUnits,
  nowMs: number,
  { only, again }: Search,
): Promise<Snapshot> {
  const units = await readUnits(tx, nowMs, only);
  const looked = only === undefined ? known.keys() : [...only.serverIds.map(serverUnit), ...only.shards.map(shardUnit)];
  for (const unit of looked) if (!units.has(unit)) known.delete(unit);
  const serverIds: string[] = [];
  const shards: number[] = [];
  let access = false;
  for (const [unit, { fingerprint, wanted }] of units) {
    if (known.get(unit)?.fingerprint === fingerprint && again?.has(unit) !== true) continue;
    serverIds.push(...wanted.serverIds);
    shards.push(...wanted.shards);
    access ||= wanted.access === true;
  }
  const bodies = new Map<string, EncodedDocument>();
  const keep = (compiled: ReadonlyMap<string, CompiledUnit>): void => {
    for (const [unit, { documents, problems }] of compiled) {
      const hashes = new Map(documents.map(({ key, hash }) => [key, hash]));
      known.set(unit, { fingerprint: units.get(unit)?.fingerprint ?? '', hashes, problems });
      for (const document of documents) bodies.set(document.hash, document);
    }
  };
  // In parts, so that heartbeats are answered while a first compile reads everything.
  for (const part of batches(serverIds, serversAtOnceMax)) {
    keep(compileSnapshot(await readConfiguration(tx, { serverIds: part, shards: [] }, nowMs)));
  }
  for (const part of batches(shards, shardsAtOnceMax)) {
    keep(compileSnapshot(await readConfiguration(tx, { serverIds: [], shards: part }, nowMs)));
  }
  if (access) keep(compileSnapshot(await readConfiguration(tx, { serverIds: [], shards: [], access }, nowMs)));
  const fleet = await readFleet(tx, sources.publicUrls);
  const openSecret = (row: SealingKeyRow): string | undefined => sources.vault.openSealingKey(row);
  keep(new Map([[fleetUnit, compileFleet(fleet, openSecret, signingKeyOpener(sources.vault))]]));
  const entries: Record<string, string> = {};
  for (const { hashes } of known.values()) for (const [key, hash] of hashes) entries[key] = hash;
  const problems = [...known.values()].flatMap((unit) => unit.problems);
  return { entries, bodies, problems, sealingKeys: fleet.sealingKeys, signingKeys: fleet.signingKeys };
}

/** The snapshot, with the body of every document that is not published as it is. */
async function compileFor(
  tx: Transaction,
  sources: Sources,
  known: KnownUnits,
  nowMs: number,
  published: ManifestEntries,
  only: Wanted | undefined,
): Promise<Snapshot> {
  const snapshot = await compileChanged(tx, sources, known, nowMs, { only });
  const { changed } = manifestChanges(published, snapshot.entries);
  const without = Object.entries(changed).filter(([, hash]) => !snapshot.bodies.has(hash));
  if (without.length === 0) return snapshot;
  // Known here, but published by nobody, or something else meanwhile: compile those units for their bodies too.
  const again = [...known].filter(([, { hashes }]) => without.some(([key]) => hashes.has(key)));
  const whole = await compileChanged(tx, sources, known, nowMs, { again: new Set(again.map(([unit]) => unit)) });
  return { ...whole, bodies: new Map([...snapshot.bodies, ...whole.bodies]) };
}

async function publishIn(tx: Transaction, sources: Sources, held: Held, nowMs: number): Promise<PublishResult> {
  const generation = await readGeneration(tx);
  const only = held.since === undefined ? undefined : await readChanged(tx, held.since, generation);
  const history = await currentHistory(tx);
  const newest = await newestManifest(tx, history.id);
  const published = await publishedEntries(tx, held.published, history.id, newest);
  const snapshot = await compileFor(tx, sources, held.known, nowMs, published, only);
  const { problems } = snapshot;
  const kept = Object.fromEntries(Object.entries(published).filter(([key]) => isIndispensable(key)));
  const entries = orderedEntries(Object.entries({ ...kept, ...snapshot.entries }));
  const hash = manifestHash(entries);
  await writeProblems(tx, problems, nowMs);
  const complete = indispensableKeys.every((key) => entries[key] !== undefined);
  if (!complete || newest?.hash === hash) {
    if (newest?.hash === hash) await confirmManifest(tx, history.id, newest.revision, generation);
    const same = newest && { historyId: history.id, ...newest, entries: published };
    const summary = { generation, newest: same, changed: 0, removed: 0, problems };
    return { historyId: history.id, revision: newest?.revision ?? 0, published: false, ...summary };
  }
  const { changed, removed } = manifestChanges(published, entries);
  const configRevision = (await highestRevision(tx)) + 1;
  await writeDocuments(tx, snapshot.bodies, changed, sources.vault);
  await writeEntries(tx, changed, removed);
  await tx.insert(configManifests).values({
    historyId: history.id,
    revision: configRevision,
    hash,
    generation,
    changed,
    removed: [...removed],
    publishedAt: new Date(nowMs),
  });
  await markKeysPublished(tx, snapshot, entries, configRevision);
  await notifyManifest(tx);
  const next = { historyId: history.id, revision: configRevision, hash, entries };
  const summary = { generation, newest: next, changed: Object.keys(changed).length, removed: removed.length, problems };
  return { historyId: history.id, revision: configRevision, published: true, ...summary };
}

/** The entries as they are stored; those held where they are still the newest manifest's. */
async function publishedEntries(
  tx: Transaction,
  held: Published | undefined,
  historyId: string,
  newest: Pick<Published, 'revision' | 'hash'> | undefined,
): Promise<ManifestEntries> {
  if (held !== undefined && held.historyId === historyId && held.hash === newest?.hash) {
    if (held.revision === newest.revision) return held.entries;
  }
  const entries: Record<string, string> = {};
  for (const entry of await tx.select().from(configEntries)) entries[entry.key] = entry.hash;
  return entries;
}

/** Documents that hold secrets are stored sealed. */
function isSecret(key: string): boolean {
  return key === 'keys' || key === 'webhooks';
}

function isIndispensable(key: string): boolean {
  return (indispensableKeys as readonly string[]).includes(key);
}

async function newestManifest(
  tx: Transaction,
  historyId: string,
): Promise<{ readonly revision: number; readonly hash: string } | undefined> {
  const rows = await tx
    .select({ revision: configManifests.revision, hash: configManifests.hash })
    .from(configManifests)
    .where(eq(configManifests.historyId, historyId))
    .orderBy(desc(configManifests.revision))
    .limit(1);
  return rows[0];
}

/** The newest manifest already says what the rows say now. */
async function confirmManifest(
  tx: Transaction,
  historyId: string,
  revision: number,
  generation: number,
): Promise<void> {
  await tx
    .update(configManifests)
    .set({ generation })
    .where(
      and(
        eq(configManifests.historyId, historyId),
        eq(configManifests.revision, revision),
        lt(configManifests.generation, generation),
      ),
    );
}

/** Over all histories: revisions go on rising, so that "412" names one configuration in every log. */
async function highestRevision(tx: Transaction): Promise<number> {
  const rows = await tx
    .select({ revision: sql<string>`coalesce(max(${configManifests.revision}), 0)` })
    .from(configManifests);
  return Number(rows[0]?.revision ?? 0);
}

async function writeDocuments(
  tx: Transaction,
  bodies: ReadonlyMap<string, EncodedDocument>,
  changed: ManifestEntries,
  vault: FleetVault,
): Promise<void> {
  const rows = Object.values(changed).flatMap((hash) => {
    const document = bodies.get(hash);
    if (document === undefined) return [];
    const sealed = isSecret(document.key);
    return { hash, body: sealed ? vault.seal(documentPurpose(hash), document.body) : document.body, sealed };
  });
  for (const batch of batches(rows)) await tx.insert(configDocuments).values(batch).onConflictDoNothing();
}

async function writeEntries(tx: Transaction, changed: ManifestEntries, removed: readonly string[]): Promise<void> {
  for (const batch of batches(Object.entries(changed).map(([key, hash]) => ({ key, hash })))) {
    await tx
      .insert(configEntries)
      .values(batch)
      .onConflictDoUpdate({ target: configEntries.key, set: { hash: sql`excluded.hash` } });
  }
  for (const batch of batches(removed)) await tx.delete(configEntries).where(inArray(configEntries.key, batch));
}

async function markKeysPublished(
  tx: Transaction,
  snapshot: Pick<Snapshot, 'sealingKeys' | 'signingKeys'>,
  entries: ManifestEntries,
  revision: number,
): Promise<void> {
  const unpublished = (rows: readonly { id: string; publishedRevision: number | null }[]): string[] =>
    rows.filter((row) => row.publishedRevision === null).map((row) => row.id);
  const sealing = unpublished(snapshot.sealingKeys);
  if (sealing.length > 0) {
    await tx
      .update(sealingKeys)
      .set({ publishedRevision: revision })
      .where(and(inArray(sealingKeys.id, sealing), isNull(sealingKeys.publishedRevision)));
  }
  // Only a process that knows the public URLs publishes the document that holds them.
  const signing = entries['oauth'] === undefined ? [] : unpublished(snapshot.signingKeys);
  if (signing.length > 0) {
    await tx
      .update(oauthSigningKeys)
      .set({ publishedRevision: revision })
      .where(and(inArray(oauthSigningKeys.id, signing), isNull(oauthSigningKeys.publishedRevision)));
  }
}

/** The problems as they are now; one that lasts keeps the time since when. */
async function writeProblems(tx: Transaction, problems: readonly ObjectProblem[], nowMs: number): Promise<void> {
  const identity = (problem: Pick<ObjectProblem, 'objectKind' | 'objectId' | 'path'>): string =>
    `${problem.objectKind}\n${problem.objectId}\n${problem.path}`;
  const current = new Map(problems.map((problem) => [identity(problem), problem]));
  const stored = await tx.select().from(configProblems);
  for (const row of stored) {
    const key = `${row.objectKind}\n${row.objectId}\n${row.path}`;
    if (current.get(key)?.message === row.message) {
      current.delete(key);
      continue;
    }
    await tx
      .delete(configProblems)
      .where(
        and(
          eq(configProblems.objectKind, row.objectKind),
          eq(configProblems.objectId, row.objectId),
          eq(configProblems.path, row.path),
        ),
      );
  }
  const since = new Date(nowMs);
  for (const batch of batches([...current.values()])) {
    await tx.insert(configProblems).values(batch.map((problem) => ({ ...problem, since })));
  }
}

function* batches<Item>(items: readonly Item[], size = rowsAtOnceMax): Generator<Item[]> {
  for (let from = 0; from < items.length; from += size) yield items.slice(from, from + size);
}
