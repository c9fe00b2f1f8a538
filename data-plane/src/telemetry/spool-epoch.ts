import {
  mkdirSync,
  openSync,
  fsyncSync,
  closeSync,
  readdirSync,
  readFileSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { type FileHandle, open, rm, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { auditBatchLinesMax } from '@sallyport/schema';
import { z } from 'zod';

/** One file of a spool: whole lines, named by the sequence of the first. */
export interface Segment {
  readonly path: string;
  readonly first: number;
  /** Of the last line; `first` - 1 while empty. */
  last: number;
  bytes: number;
}

/** A stretch of lines of one segment, as it is shipped. */
export interface SpoolRange {
  readonly first: number;
  readonly last: number;
  /** Lines from here to `first` - 1 are not held any more. */
  readonly undeliverableFrom: number;
  readonly path: string;
  readonly offset: number;
  readonly bytes: number;
}

/** A stretch of lines and their bytes, without the end of the last. */
export interface SpoolPiece {
  readonly range: SpoolRange;
  /** Bytes of its own, that can be given away. */
  readonly content: Buffer;
}

const epochFileSchema = z.strictObject({ nodeId: z.string(), epoch: z.string(), build: z.string() });
const segmentName = /^(\d{16})\.jsonl$/;
const lineForm = /^\{"sequence":\d+,"previous":"[0-9a-f]{64}","record":\{.*\}\}$/;
const readBytesMax = 256 * 1024;
/** Lines differ in length: so much more than the average is read at first. */
const readMargin = 1.1;
const newline = 0x0a;

/** The lines one process start has written and that are not confirmed yet. */
export class SpoolEpoch {
  readonly nodeId: string;
  readonly epoch: string;
  readonly directory: string;
  readonly segments: Segment[];
  /** The process has ended: nothing will be appended. */
  ended: boolean;
  /** Highest line that survives power loss; only up to it may be shipped. */
  synced: number;
  /** Where the line after the last range read begins, so that reading on needs no scan. */
  #cursor: { readonly path: string; readonly sequence: number; readonly offset: number } | undefined;

  private constructor(
    identity: { readonly nodeId: string; readonly epoch: string },
    directory: string,
    segments: Segment[],
    ended: boolean,
  ) {
    this.nodeId = identity.nodeId;
    this.epoch = identity.epoch;
    this.directory = directory;
    this.segments = segments;
    this.ended = ended;
    this.synced = ended ? (segments.at(-1)?.last ?? 0) : 0;
  }

  /** Makes the directory of a new epoch, durably. */
  static create(
    root: string,
    identity: { readonly nodeId: string; readonly epoch: string; readonly build: string },
  ): SpoolEpoch {
    const directory = join(root, identity.epoch);
    mkdirSync(directory, { mode: 0o700 });
    writeFileSync(join(directory, 'epoch.json'), JSON.stringify(identity), { mode: 0o600, flush: true });
    syncDirectory(directory);
    syncDirectory(root);
    return new SpoolEpoch(identity, directory, [], false);
  }

  /**
   * An epoch that another process left. A torn end (the process or the machine died while writing) is cut off.
   * Undefined when the directory holds no lines and no identity.
   */
  static recover(root: string, name: string): { readonly epoch: SpoolEpoch; readonly cutBytes: number } | undefined {
    const directory = join(root, name);
    const identity = readIdentity(directory);
    if (identity?.epoch !== name) return undefined;
    const names = readdirSync(directory)
      .filter((file) => segmentName.test(file))
      .sort();
    const segments: Segment[] = [];
    let cutBytes = 0;
    for (const [at, file] of names.entries()) {
      const first = Number(segmentName.exec(file)?.[1]);
      const path = join(directory, file);
      const content = readFileSync(path);
      const kept = at === names.length - 1 ? wholeLinesBytes(content) : content.length;
      if (kept < content.length) {
        cutBytes += content.length - kept;
        truncateSync(path, kept);
      }
      segments.push({ path, first, last: first + countLines(content.subarray(0, kept)) - 1, bytes: kept });
    }
    return { epoch: new SpoolEpoch(identity, directory, segments, true), cutBytes };
  }

  get first(): number {
    return this.segments[0]?.first ?? 1;
  }

  get last(): number {
    return this.segments.at(-1)?.last ?? 0;
  }

  get bytes(): number {
    return this.segments.reduce((sum, segment) => sum + segment.bytes, 0);
  }

  addSegment(first: number): Segment {
    const path = join(this.directory, `${String(first).padStart(16, '0')}.jsonl`);
    const segment = { path, first, last: first - 1, bytes: 0 };
    this.segments.push(segment);
    return segment;
  }

  /**
   * The next lines from `sequence` on that may be shipped, with their bytes; undefined when there are none.
   * @param bytesMax at most so many; no less than the longest line
   */
  async take(sequence: number, bytesMax: number): Promise<SpoolPiece | undefined> {
    const at = this.segments.findIndex((candidate) => candidate.last >= sequence);
    const segment = this.segments[at];
    if (segment === undefined) return undefined;
    const first = Math.max(sequence, segment.first);
    const upTo = Math.min(segment.last, this.synced, first + auditBatchLinesMax - 1);
    if (upTo < first) return undefined;
    const before = this.segments[at - 1];
    const undeliverableFrom = first > segment.first ? first : before === undefined ? 1 : before.last + 1;
    const offset = await this.#offsetOf(segment, first);
    const found = await readLines(segment, offset, upTo - first + 1, bytesMax);
    if (found === undefined) return undefined;
    const { lines, content } = found;
    const last = first + lines - 1;
    this.#cursor = { path: segment.path, sequence: last + 1, offset: offset + content.length };
    const range = { first, last, undeliverableFrom, path: segment.path, offset, bytes: content.length };
    return { range, content: withoutEnd(content) };
  }

  /** The lines of a range once more: their bytes, without the last line's end. */
  async read(range: SpoolRange): Promise<Buffer> {
    const file = await open(range.path, 'r');
    try {
      const content = Buffer.allocUnsafeSlow(range.bytes);
      await readFully(file, content, range.offset);
      return withoutEnd(content);
    } finally {
      await file.close();
    }
  }

  /** Removes the segments that are confirmed whole; the one that may still grow, or that ends the epoch, stays. */
  async trim(watermark: number): Promise<void> {
    while (this.segments.length > 1 && (this.segments[0]?.last ?? Infinity) <= watermark) {
      const segment = this.segments.shift();
      if (segment !== undefined) await unlink(segment.path);
    }
  }

  async remove(): Promise<void> {
    await rm(this.directory, { recursive: true, force: true });
  }

  async #offsetOf(segment: Segment, sequence: number): Promise<number> {
    if (sequence === segment.first) return 0;
    if (this.#cursor?.path === segment.path && this.#cursor.sequence === sequence) return this.#cursor.offset;
    return await bytesOfLines(segment.path, sequence - segment.first);
  }
}

function readIdentity(directory: string): z.infer<typeof epochFileSchema> | undefined {
  try {
    return epochFileSchema.parse(JSON.parse(readFileSync(join(directory, 'epoch.json'), 'utf8')));
  } catch {
    return undefined;
  }
}

/** Without it a new file's name may be gone after power loss, though its content was written. */
export function syncDirectory(directory: string): void {
  const descriptor = openSync(directory, 'r');
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

/** The same without keeping the event loop from its work. */
export async function syncDirectoryLater(directory: string): Promise<void> {
  const handle = await open(directory, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

function countLines(content: Buffer): number {
  let lines = 0;
  for (let at = content.indexOf(newline); at >= 0; at = content.indexOf(newline, at + 1)) lines += 1;
  return lines;
}

/**
 * How much of the last segment to keep: all up to the last line that has the form of one. What follows was being
 * written when the process or the machine died, and nobody was answered on the strength of it. A line in the middle
 * that does not fit is kept: it is evidence, and the control plane reports it.
 */
function wholeLinesBytes(content: Buffer): number {
  let kept = 0;
  let offset = 0;
  for (let end = content.indexOf(newline); end >= 0; end = content.indexOf(newline, offset)) {
    const line = content.toString('utf8', offset, end);
    offset = end + 1;
    if (lineForm.test(line)) kept = offset;
  }
  return kept;
}

function withoutEnd(content: Buffer): Buffer {
  return content.subarray(0, content.length - 1);
}

async function readFully(file: FileHandle, content: Buffer, position: number): Promise<void> {
  let done = 0;
  while (done < content.length) {
    const { bytesRead } = await file.read(content, done, content.length - done, position + done);
    if (bytesRead === 0) throw new Error('the spool is shorter than its index says');
    done += bytesRead;
  }
}

/**
 * Whole lines from `offset` on with their ends, within both limits but at least one. Reads about as much as that many
 * lines take: of a long segment all that follows would be many times of what is wanted.
 */
async function readLines(
  segment: Segment,
  offset: number,
  linesMax: number,
  bytesMax: number,
): Promise<{ readonly lines: number; readonly content: Buffer } | undefined> {
  const lineBytes = segment.bytes / (segment.last - segment.first + 1);
  const file = await open(segment.path, 'r');
  try {
    const rest = segment.bytes - offset;
    for (let wanted = Math.ceil(lineBytes * linesMax * readMargin); ; wanted = bytesMax) {
      const content = Buffer.allocUnsafeSlow(Math.min(rest, bytesMax, wanted));
      await readFully(file, content, offset);
      let lines = 0;
      let end = 0;
      for (let at = content.indexOf(newline); at >= 0 && lines < linesMax; at = content.indexOf(newline, at + 1)) {
        lines += 1;
        end = at + 1;
      }
      if (lines > 0) return { lines, content: content.subarray(0, end) };
      if (content.length === Math.min(rest, bytesMax)) return undefined;
    }
  } finally {
    await file.close();
  }
}

/** How many bytes the first lines of a file take. */
async function bytesOfLines(path: string, lines: number): Promise<number> {
  const file = await open(path, 'r');
  try {
    const content = Buffer.allocUnsafe(readBytesMax);
    let left = lines;
    for (let read = 0; left > 0; ) {
      const { bytesRead } = await file.read(content, 0, content.length, read);
      if (bytesRead === 0) break;
      const chunk = content.subarray(0, bytesRead);
      for (let at = chunk.indexOf(newline); at >= 0; at = chunk.indexOf(newline, at + 1)) {
        left -= 1;
        if (left === 0) return read + at + 1;
      }
      read += bytesRead;
    }
    throw new Error('the spool has fewer lines than its index says');
  } finally {
    await file.close();
  }
}
