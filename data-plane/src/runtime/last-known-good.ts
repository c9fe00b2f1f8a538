import { type Manifest, manifestSchema, sha256 } from '@sallyport/schema';
import { z } from 'zod';
import { buildRuntime, type BuiltConfiguration } from './build-runtime.ts';
import type { SavedContact } from './runtime-store.ts';
import type { SealedFiles } from './sealed-files.ts';

/** Documents written (each with an fsync) at the same time. */
const writesAtOnceMax = 16;

const manifestFile = 'manifest';
const contactFile = 'contact';
const documentName = /^[0-9a-f]{64}$/;

const contactSchema = z.strictObject({
  controlPlaneTimeMs: z.number(),
  ageMs: z.number(),
  localTimeMs: z.number(),
  // Absent in what an earlier build wrote.
  bootTime: z.strictObject({ bootId: z.string(), elapsedMs: z.number() }).nullable().default(null),
});

export type LoadResult =
  | { readonly state: 'absent' }
  | { readonly state: 'unusable'; readonly problem: string }
  | { readonly state: 'loaded'; readonly built: BuiltConfiguration; readonly contact: SavedContact };

/**
 * The last configuration that was applied, on disk: one file per document named by its hash, the manifest, and what is
 * known of the control plane's time. The manifest is written last, so that it never names a document that is not there.
 */
export class LastKnownGood {
  readonly #files: SealedFiles;
  /** Hashes known to be on disk. */
  readonly #stored = new Set<string>();
  #contactWrite: Promise<void> = Promise.resolve();
  #contactSaved = false;
  #pruned = false;

  constructor(files: SealedFiles) {
    this.#files = files;
  }

  /** Reads and builds what an earlier process applied. A damaged part makes the whole unusable, never a part of it. */
  load(): LoadResult {
    try {
      return this.#load();
    } catch (error) {
      // A disk that fails to read: the control plane still has it all.
      if (error instanceof Error && 'syscall' in error) return { state: 'unusable', problem: error.message };
      throw error;
    }
  }

  #load(): LoadResult {
    const manifestText = this.#files.read(manifestFile);
    if (manifestText.state === 'absent') return { state: 'absent' };
    const contactText = this.#files.read(contactFile);
    if (manifestText.state !== 'read' || contactText.state !== 'read') {
      return { state: 'unusable', problem: 'the files do not open with this node secret' };
    }
    let manifest: Manifest;
    let contact: SavedContact;
    try {
      manifest = manifestSchema.parse(JSON.parse(manifestText.text));
      contact = contactSchema.parse(JSON.parse(contactText.text));
    } catch (error) {
      return { state: 'unusable', problem: error instanceof Error ? error.message : String(error) };
    }
    const result = buildRuntime(manifest, (hash) => {
      const document = this.#files.read(hash);
      return document.state === 'read' ? document.text : undefined;
    });
    if (!result.ok) return { state: 'unusable', problem: JSON.stringify(result.problems.slice(0, 3)) };
    for (const hash of Object.values(manifest.entries)) this.#stored.add(hash);
    return { state: 'loaded', built: result.built, contact };
  }

  /**
   * Makes the configuration durable; documents first, the manifest last. Then removes what no longer belongs to it.
   * @param bodies the documents that the configuration has and the one before had not, by hash
   */
  async save(manifest: Manifest, bodies: ReadonlyMap<string, string>, contact: SavedContact): Promise<void> {
    const wanted = new Set(Object.values(manifest.entries));
    const toWrite = [...bodies].filter(([hash]) => wanted.has(hash) && !this.#stored.has(hash));
    for (let from = 0; from < toWrite.length; from += writesAtOnceMax) {
      const batch = toWrite.slice(from, from + writesAtOnceMax);
      await Promise.all(batch.map(([hash, body]) => this.#files.write(hash, body)));
    }
    if (toWrite.length > 0) await this.#files.syncDirectory();
    for (const [hash] of toWrite) this.#stored.add(hash);
    for (const hash of wanted) if (!this.#stored.has(hash)) throw new Error(`document ${hash} is not on disk`);
    // Once is enough here: a file without one is of no use, and from then on it is written every now and then.
    if (!this.#contactSaved) await this.saveContact(contact);
    await this.#files.write(manifestFile, JSON.stringify(manifest));
    await this.#files.syncDirectory();
    await this.#prune(wanted);
  }

  /** Remembers the control plane's time; called every now and then, so that a restart knows how old its contact is. */
  saveContact(contact: SavedContact): Promise<void> {
    const write = this.#contactWrite.then(async () => {
      await this.#files.write(contactFile, JSON.stringify(contact));
      this.#contactSaved = true;
    });
    this.#contactWrite = write.catch(() => undefined);
    return write;
  }

  /** The directory is read once: after that, what is on disk and not wanted was stored by this process. */
  async #prune(wanted: ReadonlySet<string>): Promise<void> {
    if (!this.#pruned)
      for (const name of await this.#files.names()) if (documentName.test(name)) this.#stored.add(name);
    this.#pruned = true;
    for (const name of this.#stored) {
      if (wanted.has(name)) continue;
      await this.#files.remove(name);
      this.#stored.delete(name);
    }
  }
}

/** Whether the body is what its hash says. */
export function matchesHash(hash: string, body: string): boolean {
  return sha256(body) === hash;
}
