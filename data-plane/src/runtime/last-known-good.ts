import { type Manifest, manifestSchema, sha256 } from '@sallyport/schema';
import { z } from 'zod';
import { buildRuntime, type BuiltConfiguration } from './build-runtime.ts';
import type { SavedContact } from './runtime-store.ts';
import type { SealedFiles, SealedRead } from './sealed-files.ts';

/** Packs written (each with an fsync) at the same time: half of the threads that fsyncs of the audit spool need, too. */
const writesAtOnceMax = 2;
/** Documents are put into packs of about this size, in characters: sealing one stops the event loop for little. */
const packLengthMax = 64 * 1024;

const manifestFile = 'manifest';
const contactFile = 'contact';
/** Several documents: a line with the hash and the length of each, as JSON, and their bodies one after the other. */
const packName = /^pack-[0-9a-f]{64}$/;
/** One document, named by its hash, as earlier builds wrote them. */
const documentName = /^[0-9a-f]{64}$/;
const packIndex = z.array(z.tuple([z.string(), z.number().int().nonnegative()]));

type Document = readonly [hash: string, body: string];

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
 * The last configuration that was applied, on disk: its documents in packs, the manifest, and what is known of the control
 * plane's time. The manifest is written last, so that it never names a document that is not there. A pack that holds
 * more of what is gone than of what is wanted is written anew, so the disk holds about twice the configuration at most.
 */
export class LastKnownGood {
  readonly #files: SealedFiles;
  /** The file that each document is in, by its hash. */
  readonly #fileOf = new Map<string, string>();
  /** What each file holds, gone or not. */
  readonly #hashesIn = new Map<string, readonly string[]>();
  #contactWrite: Promise<void> = Promise.resolve();
  #contactSaved = false;
  #leftoversRemoved = false;

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
    const manifestText = this.#files.readSync(manifestFile);
    if (manifestText.state === 'absent') return { state: 'absent' };
    const contactText = this.#files.readSync(contactFile);
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
    const bodies = this.#readDocuments();
    const result = buildRuntime(manifest, (hash) => bodies.get(hash));
    if (!result.ok) return { state: 'unusable', problem: JSON.stringify(result.problems.slice(0, 3)) };
    return { state: 'loaded', built: result.built, contact };
  }

  #readDocuments(): ReadonlyMap<string, string> {
    const bodies = new Map<string, string>();
    for (const name of this.#files.namesSync().filter(isDocumentFile)) {
      const documents = documentsOf(name, this.#files.readSync(name));
      this.#hashesIn.set(
        name,
        documents.map(([hash]) => hash),
      );
      for (const [hash, body] of documents) {
        bodies.set(hash, body);
        this.#fileOf.set(hash, name);
      }
    }
    return bodies;
  }

  /**
   * Makes the configuration durable; documents first, the manifest last. Then removes what no longer belongs to it.
   * @param bodies the documents that the configuration has and the one before had not, by hash
   */
  async save(manifest: Manifest, bodies: ReadonlyMap<string, string>, contact: SavedContact): Promise<void> {
    const wanted = new Set(Object.values(manifest.entries));
    const added = [...bodies].filter(([hash]) => wanted.has(hash) && !this.#fileOf.has(hash));
    await this.#writePacks([...(await this.#inSparseFiles(wanted)), ...added]);
    for (const hash of wanted) if (!this.#fileOf.has(hash)) throw new Error(`document ${hash} is not on disk`);
    // Once is enough here: a file without one is of no use, and from then on it is written every now and then.
    if (!this.#contactSaved) await this.saveContact(contact);
    await this.#files.write(manifestFile, JSON.stringify(manifest));
    await this.#files.syncDirectory();
    await this.#prune(wanted);
  }

  /** What is still wanted of files most of whose documents are not, or are in another file. */
  async #inSparseFiles(wanted: ReadonlySet<string>): Promise<Document[]> {
    const moving: Document[] = [];
    for (const [name, hashes] of this.#hashesIn) {
      if (hashes.length === 1) continue;
      const live = hashes.filter((hash) => wanted.has(hash) && this.#fileOf.get(hash) === name);
      if (live.length === 0 || live.length * 2 > hashes.length) continue;
      const kept = new Set(live);
      moving.push(...documentsOf(name, await this.#files.read(name)).filter(([hash]) => kept.has(hash)));
    }
    return moving;
  }

  async #writePacks(documents: readonly Document[]): Promise<void> {
    if (documents.length === 0) return;
    const packs = packed(documents);
    const written: { readonly name: string; readonly hashes: readonly string[] }[] = [];
    const write = async (): Promise<void> => {
      for (const { hashes, text } of packs) {
        const name = `pack-${sha256(text)}`;
        await this.#files.write(name, text);
        written.push({ name, hashes });
      }
    };
    await Promise.all(Array.from({ length: writesAtOnceMax }, write));
    await this.#files.syncDirectory();
    for (const { name, hashes } of written) {
      this.#hashesIn.set(name, hashes);
      for (const hash of hashes) this.#fileOf.set(hash, name);
    }
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

  /** Removes the files that hold nothing that is wanted, and once those that nobody knows. */
  async #prune(wanted: ReadonlySet<string>): Promise<void> {
    for (const [name, hashes] of this.#hashesIn) {
      if (hashes.some((hash) => wanted.has(hash) && this.#fileOf.get(hash) === name)) continue;
      await this.#files.remove(name);
      this.#hashesIn.delete(name);
      for (const hash of hashes) if (this.#fileOf.get(hash) === name) this.#fileOf.delete(hash);
    }
    if (this.#leftoversRemoved) return;
    for (const name of await this.#files.names()) {
      if (isDocumentFile(name) && !this.#hashesIn.has(name)) await this.#files.remove(name);
    }
    this.#leftoversRemoved = true;
  }
}

function isDocumentFile(name: string): boolean {
  return packName.test(name) || documentName.test(name);
}

/** What is in a file; nothing where it does not open, so that the build finds out what is missing. */
function documentsOf(name: string, file: SealedRead): readonly Document[] {
  if (file.state !== 'read') return [];
  if (documentName.test(name)) return [[name, file.text]];
  const end = file.text.indexOf('\n');
  let at = end + 1;
  return packIndex.parse(JSON.parse(file.text.slice(0, end))).map(([hash, length]) => {
    const from = at;
    at += length;
    return [hash, file.text.slice(from, at)] as const;
  });
}

function* packed(
  documents: readonly Document[],
): Generator<{ readonly hashes: readonly string[]; readonly text: string }> {
  const pack = (part: readonly Document[]) => ({
    hashes: part.map(([hash]) => hash),
    text: `${JSON.stringify(part.map(([hash, body]) => [hash, body.length]))}\n${part.map(([, body]) => body).join('')}`,
  });
  let part: Document[] = [];
  let length = 0;
  for (const document of documents) {
    const [, body] = document;
    if (part.length > 0 && length + body.length > packLengthMax) {
      yield pack(part);
      part = [];
      length = 0;
    }
    part.push(document);
    length += body.length;
  }
  yield pack(part);
}

/** Whether the body is what its hash says. */
export function matchesHash(hash: string, body: string): boolean {
  return sha256(body) === hash;
}
