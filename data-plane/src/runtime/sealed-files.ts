import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { open as openFile, readdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { open, seal, type SealingKey } from '@sallyport/schema/platform';

const temporarySuffix = '.tmp';

export type SealedRead =
  | { readonly state: 'absent' }
  /** Sealed with another key, changed, or cut. */
  | { readonly state: 'unreadable' }
  | { readonly state: 'read'; readonly text: string };

/**
 * Files of one directory, sealed with a key from outside of it; the file's name is authenticated, so one file cannot
 * stand in for another. A write is whole or not at all, and on the disk when it returns. Does NOT prevent that somebody
 * who may write to the directory puts back an older file of the same name.
 */
export class SealedFiles {
  readonly #directory: string;
  readonly #key: SealingKey;
  readonly #keys: ReadonlyMap<string, SealingKey>;

  constructor(directory: string, key: SealingKey) {
    this.#directory = directory;
    this.#key = key;
    this.#keys = new Map([[key.id, key]]);
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    // What an earlier process had not finished writing.
    for (const name of readdirSync(directory)) {
      if (name.endsWith(temporarySuffix)) rmSync(join(directory, name), { force: true });
    }
  }

  readSync(name: string): SealedRead {
    try {
      return this.#opened(name, readFileSync(join(this.#directory, name), 'utf8'));
    } catch (error) {
      if (isAbsence(error)) return { state: 'absent' };
      throw error;
    }
  }

  async read(name: string): Promise<SealedRead> {
    try {
      return this.#opened(name, await readFile(join(this.#directory, name), 'utf8'));
    } catch (error) {
      if (isAbsence(error)) return { state: 'absent' };
      throw error;
    }
  }

  #opened(name: string, sealed: string): SealedRead {
    const opened = open(this.#keys, purposeOf(name), sealed);
    return opened === undefined ? { state: 'unreadable' } : { state: 'read', text: opened.toString('utf8') };
  }

  writeSync(name: string, text: string): void {
    const path = join(this.#directory, name);
    const file = openSync(path + temporarySuffix, 'w', 0o600);
    try {
      writeSync(file, seal(this.#key, purposeOf(name), text));
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(path + temporarySuffix, path);
    const directory = openSync(this.#directory, 'r');
    try {
      fsyncSync(directory);
    } finally {
      closeSync(directory);
    }
  }

  /** The name is durable only after `syncDirectory`, which a caller with many files calls once. */
  async write(name: string, text: string): Promise<void> {
    const path = join(this.#directory, name);
    const file = await openFile(path + temporarySuffix, 'w', 0o600);
    try {
      await file.writeFile(seal(this.#key, purposeOf(name), text));
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(path + temporarySuffix, path);
  }

  async syncDirectory(): Promise<void> {
    const directory = await openFile(this.#directory, 'r');
    try {
      await directory.sync();
    } finally {
      await directory.close();
    }
  }

  async names(): Promise<string[]> {
    return readdir(this.#directory);
  }

  namesSync(): string[] {
    return readdirSync(this.#directory);
  }

  async remove(name: string): Promise<void> {
    await rm(join(this.#directory, name), { force: true });
  }
}

function isAbsence(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT';
}

function purposeOf(name: string): string {
  return `sallyport.nodeFile.v1|${name}`;
}
