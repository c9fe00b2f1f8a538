import {
  applyManifestChanges,
  type ConfigProblem,
  type ControlPlaneMessage,
  type Manifest,
  type ManifestDelta,
  type NodeMessage,
} from '@sallyport/schema';
import type { Clock, Log } from '@sallyport/schema/platform';
import { buildRuntimeInSlices, type BuiltConfiguration, hasItsHash, missingHashes } from './build-runtime.ts';
import { type LastKnownGood, matchesHash } from './last-known-good.ts';
import { MarkingWatch, type PausableSource } from './marking-watch.ts';
import type { NodeIdentity } from './node-identity.ts';
import type { RuntimeStore } from './runtime-store.ts';

/** Wait between attempts to write a configuration that serves already but is not on disk. */
const saveRetryMs = 5_000;

interface Target {
  readonly offer: Offer;
  readonly manifest: Manifest;
  readonly missing: Set<string>;
}

/** What an answer is to. Nonces of an earlier connection are never answered on a later one. */
interface Offer {
  readonly nonce: string;
  readonly connection: number;
}

interface Building {
  readonly manifest: Manifest;
  /** The latest that asked for this manifest. */
  offer: Offer;
}

export interface ManifestApplierOptions {
  readonly store: RuntimeStore;
  readonly lastKnownGood: LastKnownGood;
  readonly identity: NodeIdentity;
  readonly clock: Pick<Clock, 'monotonic'>;
  readonly log: Log;
  readonly send: (message: NodeMessage) => void;
  readonly alarm: (code: string, message: string) => void;
}

/**
 * Takes manifests and documents, in the order in which they arrive, to a running configuration: verify, parse, build
 * beside the running one, swap, write to disk, acknowledge. A newer manifest replaces one whose documents are still
 * awaited, or that is still being built: requests are served meanwhile, by the one that runs.
 */
export class ManifestApplier {
  readonly #options: ManifestApplierOptions;
  readonly #marking: MarkingWatch;
  #target: Target | undefined;
  #building: Building | undefined;
  /** Bodies received for a configuration that is not applied yet, by hash. */
  readonly #bodies = new Map<string, string>();
  /** Bodies of applied configurations that are not on disk yet. */
  readonly #unsaved = new Map<string, string>();
  #saving: Promise<void> = Promise.resolve();
  #retry: NodeJS.Timeout | undefined;
  #connection = 0;

  constructor(options: ManifestApplierOptions) {
    this.#options = options;
    this.#marking = new MarkingWatch(options.clock);
  }

  /** The connection ended: what was awaited on it will not come. What came whole is applied all the same. */
  disconnected(): void {
    this.#connection += 1;
    this.#target = undefined;
  }

  /** Gives up what is being built, and resolves when nothing is being written any more. */
  async settled(): Promise<void> {
    this.#building = undefined;
    this.#marking.stop();
    clearTimeout(this.#retry);
    await this.#saving;
  }

  whole(nonce: string, manifest: Manifest): void {
    this.#offer(nonce, manifest);
  }

  delta(nonce: string, delta: ManifestDelta): void {
    const applied = this.#options.store.built?.manifest;
    if (applied?.history.id !== delta.history.id || applied.revision !== delta.base) {
      this.#options.send({ type: 'needWhole', nonce });
      return;
    }
    const entries = applyManifestChanges(applied.entries, delta);
    this.#offer(nonce, { history: delta.history, revision: delta.revision, hash: delta.hash, entries });
  }

  /** @param source where they come from; stopped at times while more are to come */
  documents(message: Extract<ControlPlaneMessage, { type: 'documents' }>, source: PausableSource): void {
    const target = this.#target;
    if (target === undefined || target.offer.nonce !== message.nonce) return;
    for (const { hash, body } of message.documents) {
      if (!target.missing.has(hash)) continue;
      if (!matchesHash(hash, body)) {
        this.#target = undefined;
        this.#nack(target.offer, [{ document: hash, path: '', message: 'the document does not match its hash' }]);
        return;
      }
      target.missing.delete(hash);
      this.#bodies.set(hash, body);
    }
    if (target.missing.size === 0) void this.#apply(target);
    else void this.#marking.holdBack(source);
  }

  #offer(nonce: string, manifest: Manifest): void {
    const offer: Offer = { nonce, connection: this.#connection };
    const problem = this.#refusal(manifest);
    if (problem !== undefined) {
      this.#target = undefined;
      this.#options.alarm('MANIFEST_REFUSED', problem);
      this.#nack(offer, [{ document: 'manifest', path: '', message: problem }]);
      return;
    }
    const building = this.#building;
    if (building !== undefined && isSame(building.manifest, manifest)) {
      building.offer = offer;
      return;
    }
    this.#building = undefined;
    const wanted = missingHashes(manifest.entries, this.#options.store.built);
    for (const hash of this.#bodies.keys()) if (!wanted.has(hash)) this.#bodies.delete(hash);
    const missing = new Set([...wanted].filter((hash) => !this.#bodies.has(hash)));
    this.#target = { offer, manifest, missing };
    if (missing.size === 0) void this.#apply(this.#target);
    else this.#options.send({ type: 'need', nonce, hashes: [...missing] });
  }

  /** Why this manifest must not be looked at any further. */
  #refusal(manifest: Manifest): string | undefined {
    const { identity, store } = this.#options;
    if (!hasItsHash(manifest)) return 'the hash does not match the entries';
    if (!identity.acceptsHistory(manifest.history)) {
      return `history ${manifest.history.id} is not signed by the fleet key or is older than one seen before`;
    }
    const applied = store.built?.manifest;
    if (applied === undefined || applied.history.id !== manifest.history.id) return undefined;
    if (manifest.revision < applied.revision) {
      return `revision ${manifest.revision} is lower than the applied ${applied.revision} of the same history`;
    }
    if (manifest.revision === applied.revision && manifest.hash !== applied.hash) {
      return `revision ${manifest.revision} has another content than the applied one`;
    }
    return undefined;
  }

  async #apply({ offer, manifest }: Target): Promise<void> {
    const { store, clock, log } = this.#options;
    this.#target = undefined;
    const building: Building = { manifest, offer };
    this.#building = building;
    const body = (hash: string): string | undefined => this.#bodies.get(hash);
    const isWanted = (): boolean => this.#building === building;
    const result = await buildRuntimeInSlices(manifest, body, store.built, {
      clock,
      marking: this.#marking,
      isWanted,
    });
    if (result === undefined || this.#building !== building) return;
    this.#building = undefined;
    if (!result.ok) {
      log.error({ revision: manifest.revision, problems: result.problems }, 'configuration refused');
      this.#nack(building.offer, result.problems);
      return;
    }
    store.swap(result.built);
    log.info({ historyId: manifest.history.id, revision: manifest.revision }, 'configuration applied');
    for (const [hash, body] of this.#bodies) this.#unsaved.set(hash, body);
    this.#bodies.clear();
    this.#save(building.offer, result.built);
  }

  #save(offer: Offer, built: BuiltConfiguration): void {
    this.#saving = this.#saving.then(async () => {
      const contact = this.#options.store.save();
      if (contact === undefined) return;
      const bodies = new Map(this.#unsaved);
      try {
        await this.#options.lastKnownGood.save(built.manifest, bodies, contact);
      } catch (error) {
        this.#saveFailed(offer, built, error);
        return;
      }
      // What runs by now may have documents that came after this configuration, and were not written with it.
      const running = this.#options.store.built;
      const owed = new Set(running === built ? [] : Object.values(running?.manifest.entries ?? {}));
      for (const hash of bodies.keys()) if (!owed.has(hash)) this.#unsaved.delete(hash);
      this.#answer(offer, { type: 'ack', nonce: offer.nonce, revision: built.manifest.revision });
    });
  }

  /** It serves, but a restart would fall back: not acknowledged, said so, and tried again. */
  #saveFailed(offer: Offer, built: BuiltConfiguration, error: unknown): void {
    const message = `applied but not written to disk: ${error instanceof Error ? error.message : String(error)}`;
    this.#options.alarm('LAST_KNOWN_GOOD_NOT_WRITTEN', message);
    this.#nack(offer, [{ document: 'manifest', path: '', message }]);
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => {
      if (this.#options.store.built === built) this.#save(offer, built);
    }, saveRetryMs);
    this.#retry.unref();
  }

  #nack(offer: Offer, problems: readonly ConfigProblem[]): void {
    const appliedRevision = this.#options.store.current?.revision ?? null;
    this.#answer(offer, { type: 'nack', nonce: offer.nonce, appliedRevision, problems: [...problems] });
  }

  #answer(offer: Offer, message: NodeMessage): void {
    if (offer.connection === this.#connection) this.#options.send(message);
  }
}

function isSame(one: Manifest, other: Manifest): boolean {
  return one.hash === other.hash && one.revision === other.revision && one.history.id === other.history.id;
}
