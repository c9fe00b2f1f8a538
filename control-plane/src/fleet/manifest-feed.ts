import {
  applyManifestChanges,
  foldManifestChanges,
  type History,
  type Manifest,
  type ManifestDelta,
  manifestHash,
  orderedEntries,
  syncChunkBytes,
} from '@sallyport/schema';
import type { Log } from '@sallyport/schema/platform';
import { and, asc, desc, eq, gte, inArray, lte } from 'drizzle-orm';
import type { Database, Transaction } from '../database/client.ts';
import { listen } from '../database/listen.ts';
import { currentHistory, documentPurpose, type FleetVault, manifestChannel } from './fleet-keys.ts';
import { configDocuments, configEntries, configManifests, type ManifestRow } from './fleet.tables.ts';

/** Changes folded into one delta; a node further behind gets the whole. */
const changesPerDeltaMax = 1_000;
/** Deltas to the current manifest that are held. */
const deltasHeldMax = 100;
/** Answers with at most so many documents are shared between nodes, and so many of them. */
const documentsSharedMax = 8;
const answersSharedMax = 32;
/** Documents read from the database with one query. */
const documentsPerQueryMax = 64;
const retryDelayMs = 500;

type DocumentRow = typeof configDocuments.$inferSelect;

/** What a node says it runs. */
export interface NodeBase {
  readonly historyId: string;
  readonly revision: number;
  readonly hash: string;
}

export interface ManifestFeedOptions {
  readonly database: Database;
  readonly vault: FleetVault;
  readonly log: Log;
}

/** The published configuration as this process sends it to nodes: the newest whole one, and how others lead to it. */
export class ManifestFeed {
  readonly #options: ManifestFeedOptions;
  #current: Manifest | undefined;
  #history: History | undefined;
  #unlisten: (() => Promise<void>) | undefined;
  #refreshing: Promise<void> | undefined;
  #again = false;
  #stopped = false;
  /** What leads to the current manifest: most nodes stand at the same base, and ask at the same moment. */
  readonly #deltas = new Map<string, Promise<ManifestDelta | undefined>>();
  #deltasTo: Manifest | undefined;
  /** Documents asked for since the current manifest was published, by their hashes. */
  readonly #documents = new Map<string, Promise<readonly DocumentRow[]>>();
  #documentsOf: Manifest | undefined;
  readonly #listeners = new Set<() => void>();

  constructor(options: ManifestFeedOptions) {
    this.#options = options;
  }

  /** Undefined until something was published. */
  get current(): Manifest | undefined {
    return this.#current;
  }

  /** The history in force; known before anything is published. */
  get history(): History | undefined {
    return this.#history;
  }

  onPublished(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async start(): Promise<void> {
    this.#unlisten = await listen(this.#options.database, manifestChannel, () => this.#refresh());
    await this.#load();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#unlisten?.();
    await this.#refreshing;
  }

  #refresh(): void {
    this.#again = true;
    if (this.#refreshing !== undefined || this.#stopped) return;
    this.#again = false;
    this.#refreshing = this.#load()
      .catch(async (error: unknown) => {
        this.#options.log.error({ err: error }, 'reading the published configuration failed; it is tried again');
        await new Promise((resolve) => setTimeout(resolve, retryDelayMs));
        this.#again = true;
      })
      .finally(() => {
        this.#refreshing = undefined;
        if (this.#again) this.#refresh();
      });
  }

  async #load(): Promise<void> {
    const { history, manifest: loaded } = await this.#options.database.db.transaction(
      (tx) => readManifest(tx, this.#current),
      { isolationLevel: 'repeatable read', accessMode: 'read only' },
    );
    this.#history = history;
    if (loaded === undefined) return;
    const before = this.#current;
    this.#current = loaded;
    if (before?.history.id === loaded.history.id && before.revision === loaded.revision) return;
    for (const listener of this.#listeners) listener();
  }

  /** What leads from a revision to the current one; undefined where only the whole can. */
  async deltaFrom(base: NodeBase): Promise<ManifestDelta | undefined> {
    const current = this.#current;
    if (this.#deltasTo !== current) this.#deltas.clear();
    this.#deltasTo = current;
    const key = `${base.historyId}/${base.revision}/${base.hash}`;
    let delta = this.#deltas.get(key);
    if (delta === undefined) {
      delta = this.#readDelta(base, current);
      if (this.#deltas.size < deltasHeldMax) this.#deltas.set(key, delta);
      // A failed query is asked anew by who comes next.
      delta.catch(() => this.#deltas.delete(key));
    }
    return delta;
  }

  async #readDelta(base: NodeBase, current: Manifest | undefined): Promise<ManifestDelta | undefined> {
    if (current === undefined || base.historyId !== current.history.id || base.revision >= current.revision) {
      return undefined;
    }
    if (current.revision - base.revision > changesPerDeltaMax) return undefined;
    const rows = await readChanges(this.#options.database.db, current.history.id, base.revision, current.revision);
    // The base itself must be one that was published in this history, and every step after it must still be known.
    if (rows.length !== current.revision - base.revision + 1 || rows[0]?.hash !== base.hash) return undefined;
    const { changed, removed } = foldManifestChanges(rows.slice(1));
    const { history, revision, hash } = current;
    return { history, base: base.revision, revision, hash, changed, removed: [...removed] };
  }

  /** What a change brought is asked for by every node at the same moment, so such answers are shared. */
  #readDocuments(hashes: readonly string[]): Promise<readonly DocumentRow[]> {
    const read = async (): Promise<readonly DocumentRow[]> =>
      this.#options.database.db
        .select()
        .from(configDocuments)
        .where(inArray(configDocuments.hash, [...hashes]));
    if (hashes.length > documentsSharedMax) return read();
    if (this.#documentsOf !== this.#current) this.#documents.clear();
    this.#documentsOf = this.#current;
    const key = hashes.join();
    let rows = this.#documents.get(key);
    if (rows === undefined) {
      rows = read();
      if (this.#documents.size < answersSharedMax) this.#documents.set(key, rows);
      rows.catch(() => this.#documents.delete(key));
    }
    return rows;
  }

  /**
   * The bodies of documents, in messages of about `syncChunkBytes`. Ends early, with `complete: false`, at a hash that
   * is not stored (any more) or does not open.
   */
  async *documents(
    hashes: readonly string[],
  ): AsyncGenerator<{ readonly complete: boolean; readonly documents: { hash: string; body: string }[] }> {
    let chunk: { hash: string; body: string }[] = [];
    let chunkBytes = 0;
    for (let from = 0; from < hashes.length; from += documentsPerQueryMax) {
      const batch = hashes.slice(from, from + documentsPerQueryMax);
      const rows = await this.#readDocuments(batch);
      for (const row of rows) {
        const body = row.sealed ? this.#options.vault.open(documentPurpose(row.hash), row.body) : row.body;
        if (body === undefined) return yield { complete: false, documents: [] };
        if (chunk.length > 0 && chunkBytes + body.length > syncChunkBytes) {
          yield { complete: true, documents: chunk };
          chunk = [];
          chunkBytes = 0;
        }
        chunk.push({ hash: row.hash, body });
        chunkBytes += body.length;
      }
      if (rows.length < new Set(batch).size) return yield { complete: false, documents: [] };
    }
    if (chunk.length > 0) yield { complete: true, documents: chunk };
  }
}

/** The current manifest: what is held, brought forward by the changes since, or read whole. */
async function readManifest(
  tx: Transaction,
  held: Manifest | undefined,
): Promise<{ readonly history: History; readonly manifest: Manifest | undefined }> {
  const history = await currentHistory(tx);
  const newest = (
    await tx
      .select({ revision: configManifests.revision, hash: configManifests.hash })
      .from(configManifests)
      .where(eq(configManifests.historyId, history.id))
      .orderBy(desc(configManifests.revision))
      .limit(1)
  )[0];
  if (newest === undefined) return { history, manifest: undefined };
  if (held?.history.id === history.id && held.revision === newest.revision) return { history, manifest: held };
  const forwarded = await bringForward(tx, held, history, newest);
  if (forwarded !== undefined) return { history, manifest: forwarded };
  const rows = await tx.select().from(configEntries);
  const entries = orderedEntries(rows.map(({ key, hash }) => [key, hash] as const));
  return { history, manifest: { history, ...newest, entries } };
}

async function bringForward(
  tx: Transaction,
  held: Manifest | undefined,
  history: History,
  newest: { readonly revision: number; readonly hash: string },
): Promise<Manifest | undefined> {
  if (held?.history.id !== history.id || newest.revision - held.revision > changesPerDeltaMax) return undefined;
  const rows = await readChanges(tx, history.id, held.revision, newest.revision);
  if (rows.length !== newest.revision - held.revision + 1) return undefined;
  const entries = applyManifestChanges(held.entries, foldManifestChanges(rows.slice(1)));
  if (manifestHash(entries) !== newest.hash) return undefined;
  return { history, revision: newest.revision, hash: newest.hash, entries };
}

type ChangeRow = Pick<ManifestRow, 'changed' | 'removed' | 'hash'>;

function readChanges(
  reader: Database['db'] | Transaction,
  historyId: string,
  from: number,
  to: number,
): Promise<ChangeRow[]> {
  return reader
    .select({ changed: configManifests.changed, removed: configManifests.removed, hash: configManifests.hash })
    .from(configManifests)
    .where(
      and(
        eq(configManifests.historyId, historyId),
        gte(configManifests.revision, from),
        lte(configManifests.revision, to),
      ),
    )
    .orderBy(asc(configManifests.revision));
}
