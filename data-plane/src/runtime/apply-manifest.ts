import {
  applyManifestChanges,
  type ConfigProblem,
  type ControlPlaneMessage,
  type Manifest,
  type ManifestDelta,
  manifestHash,
  type NodeMessage,
} from '@sallyport/schema';
import type { Log } from '@sallyport/schema/platform';
import { buildRuntime, type BuiltConfiguration, missingHashes } from './build-runtime.ts';
import { type LastKnownGood, matchesHash } from './last-known-good.ts';
import type { NodeIdentity } from './node-identity.ts';
import type { RuntimeStore } from './runtime-store.ts';

/** Wait between attempts to write a configuration that serves already but is not on disk. */
const saveRetryMs = 5_000;

interface Target {
  readonly nonce: string;
  readonly manifest: Manifest;
  readonly missing: Set<string>;
}

export interface ManifestApplierOptions {
  readonly store: RuntimeStore;
  readonly lastKnownGood: LastKnownGood;
  readonly identity: NodeIdentity;
  readonly log: Log;
  readonly send: (message: NodeMessage) => void;
  readonly alarm: (code: string, message: string) => void;
}

/**
 * Takes manifests and documents, in the order in which they arrive, to a running configuration: verify, parse, build
 * beside the running one, swap, write to disk, acknowledge. A newer manifest replaces one whose documents are still
 * awaited.
 */
export class ManifestApplier {
  readonly #options: ManifestApplierOptions;
  #target: Target | undefined;
  /** Bodies received for a configuration that is not applied yet, by hash. */
  readonly #bodies = new Map<string, string>();
  /** Bodies of applied configurations that are not on disk yet. */
  readonly #unsaved = new Map<string, string>();
  #saving: Promise<void> = Promise.resolve();
  #retry: NodeJS.Timeout | undefined;
  /** Nonces of an earlier connection are never answered on a later one. */
  #connection = 0;

  constructor(options: ManifestApplierOptions) {
    this.#options = options;
  }

  /** The connection ended: what was awaited on it will not come. */
  disconnected(): void {
    this.#connection += 1;
    this.#target = undefined;
  }

  /** Resolves when nothing is being written any more. */
  async settled(): Promise<void> {
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

  documents(message: Extract<ControlPlaneMessage, { type: 'documents' }>): void {
    const target = this.#target;
    if (target === undefined || target.nonce !== message.nonce) return;
    for (const { hash, body } of message.documents) {
      if (!target.missing.has(hash)) continue;
      if (!matchesHash(hash, body)) {
        this.#nack(target.nonce, [{ document: hash, path: '', message: 'the document does not match its hash' }]);
        return;
      }
      target.missing.delete(hash);
      this.#bodies.set(hash, body);
    }
    if (target.missing.size === 0) this.#apply(target);
  }

  #offer(nonce: string, manifest: Manifest): void {
    const problem = this.#refusal(manifest);
    if (problem !== undefined) {
      this.#options.alarm('MANIFEST_REFUSED', problem);
      this.#nack(nonce, [{ document: 'manifest', path: '', message: problem }]);
      return;
    }
    const wanted = missingHashes(manifest.entries, this.#options.store.built);
    for (const hash of this.#bodies.keys()) if (!wanted.has(hash)) this.#bodies.delete(hash);
    const missing = new Set([...wanted].filter((hash) => !this.#bodies.has(hash)));
    this.#target = { nonce, manifest, missing };
    if (missing.size === 0) this.#apply(this.#target);
    else this.#options.send({ type: 'need', nonce, hashes: [...missing] });
  }

  /** Why this manifest must not be looked at any further. */
  #refusal(manifest: Manifest): string | undefined {
    const { identity, store } = this.#options;
    if (manifestHash(manifest.entries) !== manifest.hash) return 'the hash does not match the entries';
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

  #apply(target: Target): void {
    const { store, log } = this.#options;
    this.#target = undefined;
    const result = buildRuntime(target.manifest, (hash) => this.#bodies.get(hash), store.built);
    if (!result.ok) {
      log.error({ revision: target.manifest.revision, problems: result.problems }, 'configuration refused');
      this.#nack(target.nonce, result.problems);
      return;
    }
    store.swap(result.built);
    log.info({ historyId: target.manifest.history.id, revision: target.manifest.revision }, 'configuration applied');
    for (const [hash, body] of this.#bodies) this.#unsaved.set(hash, body);
    this.#bodies.clear();
    this.#save(target.nonce, result.built);
  }

  #save(nonce: string, built: BuiltConfiguration): void {
    const connection = this.#connection;
    this.#saving = this.#saving.then(async () => {
      const contact = this.#options.store.save();
      if (contact === undefined) return;
      const bodies = new Map(this.#unsaved);
      try {
        await this.#options.lastKnownGood.save(built.manifest, bodies, contact);
      } catch (error) {
        this.#saveFailed(nonce, built, connection, error);
        return;
      }
      for (const hash of bodies.keys()) this.#unsaved.delete(hash);
      if (connection === this.#connection) {
        this.#options.send({ type: 'ack', nonce, revision: built.manifest.revision });
      }
    });
  }

  /** It serves, but a restart would fall back: not acknowledged, said so, and tried again. */
  #saveFailed(nonce: string, built: BuiltConfiguration, connection: number, error: unknown): void {
    const message = `applied but not written to disk: ${error instanceof Error ? error.message : String(error)}`;
    this.#options.alarm('LAST_KNOWN_GOOD_NOT_WRITTEN', message);
    if (connection === this.#connection) this.#nack(nonce, [{ document: 'manifest', path: '', message }]);
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => {
      if (this.#options.store.built === built) this.#save(nonce, built);
    }, saveRetryMs);
    this.#retry.unref();
  }

  #nack(nonce: string, problems: readonly ConfigProblem[]): void {
    this.#target = undefined;
    const appliedRevision = this.#options.store.current?.revision ?? null;
    this.#options.send({ type: 'nack', nonce, appliedRevision, problems: [...problems] });
  }
}
