import {
  closeSync,
  constants,
  fdatasync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { AppError, type AuditRecord, chainText, epochSeed, type PayloadRecord } from '@sallyport/schema';
import { type Clock, type Log, uuidv7 } from '@sallyport/schema/platform';
import { type Segment, SpoolEpoch, syncDirectory, syncDirectoryLater } from './spool-epoch.ts';

const syncData = promisify(fdatasync);
const segmentBytesMax = 4 * 1024 * 1024;
/** A line above this is written with its longest strings cut: what a client sends must not fill the spool. */
const lineBytesMaxDefault = 64 * 1024;
const clippedCharacters = 1024;
/** What a line has around its record, in bytes at most. */
const lineFrameBytesMax = 160;
/** Share of the spool kept free for closing what was opened. */
const closeReserveFraction = 0.02;
/** Buffered records written at once, in characters of JSON, so that a burst does not gather in memory. */
const pendingCharactersMax = 256 * 1024;
/** Unsynced lines wait at most this long for their fsync. */
const syncIntervalMs = 200;
/** The log says at most this often that records are shed or refused. */
const logIntervalMs = 10_000;

/** Of directories of a spool that are no epoch to be read: they stay for whoever can make something of them. */
export const setAsidePrefix = 'unreadable-';

/** What a spool holds: records of the audit trail, or payloads, which have a spool of their own. */
export type SpooledRecord = AuditRecord | PayloadRecord;

export interface AuditSpoolOptions {
  /** Begins the codes of its alarms, and names it in the log; default the audit trail's. */
  readonly content?: 'AUDIT' | 'PAYLOAD';
  /** Of this process's epoch; default a new id. */
  readonly epoch?: string;
  /** Longer lines are clipped, in bytes; default 64 KiB. */
  readonly lineBytesMax?: number;
  /** Survives the process: the one place of a node that holds what cannot be lost. Created when missing. */
  readonly directory: string;
  readonly nodeId: string;
  readonly build: string;
  readonly auditSpoolBytesMax: number;
  readonly clock: Clock;
  /** The control plane's time, in milliseconds. */
  readonly now: () => number;
  readonly log: Log;
  /** Something an operator must know; called at most once per occasion. */
  readonly onAlarm: (code: string, message: string) => void;
}

/** A waiter for the fsync of its line. */
interface Waiter {
  readonly sequence: number;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

/** Records of one turn of the event loop, which one write hands to the kernel. */
interface Batch {
  /** Each with its JSON. */
  readonly entries: { readonly record: SpooledRecord; readonly text: string }[];
  characters: number;
  readonly written: Promise<void>;
  readonly resolve: () => void;
}

/**
 * The audit trail of this process until the control plane has it: append-only files with a hash chain, one epoch per
 * process start. What `append` resolved survives the death of the process, what `appendDurable` resolved the loss of
 * power. Lines stand in the order of the calls. Records of one turn of the event loop share one write.
 */
export class AuditSpool {
  /** Epochs of earlier processes first, this one's last. */
  readonly epochs: SpoolEpoch[];
  readonly #options: AuditSpoolOptions;
  readonly #live: SpoolEpoch;
  #segment: Segment;
  #descriptor: number;
  /** The directory has a file that it may not have after power loss. */
  #hasNewName = false;
  /** Full segments that await their last fsync. */
  readonly #retired: number[] = [];
  #previous: string;
  #waiters: Waiter[] = [];
  #syncing: Promise<void> | undefined;
  #syncTimer: NodeJS.Timeout | undefined;
  readonly #shed: ShedCount;
  #batch: Batch | undefined;
  #alarmed = false;
  /** Monotonic time of the last line in the log, by the alarm's code. */
  readonly #loggedAt = new Map<string, number>();
  /** After a failed fsync a later one may succeed though the bytes are lost: from then on nothing counts as synced. */
  #syncFailed = false;
  #closed = false;
  readonly #syncListeners = new Set<() => void>();

  private constructor(options: AuditSpoolOptions, older: readonly SpoolEpoch[], live: SpoolEpoch, shed: ShedCount) {
    this.#options = options;
    this.#live = live;
    this.epochs = [...older, live];
    this.#shed = shed;
    this.#previous = epochSeed(options.nodeId, live.epoch);
    this.#segment = live.addSegment(1);
    this.#descriptor = openSync(this.#segment.path, 'wx', 0o600);
    syncDirectory(live.directory);
  }

  /** Takes up what earlier processes left and opens this process's epoch. Only one process may use a directory. */
  static open(options: AuditSpoolOptions): AuditSpool {
    mkdirSync(options.directory, { recursive: true, mode: 0o700 });
    const older: SpoolEpoch[] = [];
    const names = readdirSync(options.directory, { withFileTypes: true })
      .filter((entry) => entry.isDirectory() && !entry.name.startsWith(setAsidePrefix))
      .map((entry) => entry.name);
    for (const name of names.sort()) {
      const recovered = SpoolEpoch.recover(options.directory, name);
      if (recovered === undefined) {
        renameSync(join(options.directory, name), join(options.directory, `${setAsidePrefix}${name}`));
        options.onAlarm('SPOOL_EPOCH_UNREADABLE', `the spool epoch ${name} has no readable identity and is set aside`);
        continue;
      }
      if (recovered.cutBytes > 0) options.log.warn({ epoch: name, bytes: recovered.cutBytes }, 'cut a torn spool end');
      older.push(recovered.epoch);
    }
    const epoch = options.epoch ?? uuidv7(Math.floor(options.clock.now()));
    const identity = { nodeId: options.nodeId, epoch, build: options.build };
    const live = SpoolEpoch.create(options.directory, identity);
    const spool = new AuditSpool(options, older, live, new ShedCount(join(options.directory, 'shed')));
    void spool.append({ type: 'epochOpened', time: spool.#time(), nodeId: options.nodeId, build: options.build });
    spool.#flush();
    return spool;
  }

  /** Of this process. */
  get epoch(): string {
    return this.#live.epoch;
  }

  get bytes(): number {
    return this.epochs.reduce((sum, epoch) => sum + epoch.bytes, 0);
  }

  /** Whether a line of so many bytes fits, and leaves the reserve. */
  hasRoomFor(bytes: number): boolean {
    return this.#fits(bytes + lineFrameBytesMax);
  }

  /** Records shed since the last one was written. */
  get shedCount(): number {
    return this.#shed.count;
  }

  /**
   * Resolves when the kernel has the record, at the end of this turn of the event loop at the latest; never rejects.
   * When the spool is full or the disk refuses, the record is counted as shed, which is itself recorded as soon as there
   * is room, and an alarm is raised.
   * @throws AppError AUDIT_UNAVAILABLE, at once, when the spool is closed
   */
  append(record: SpooledRecord): Promise<void> {
    this.#assertOpen();
    const batch = (this.#batch ??= this.#newBatch());
    // As text, since what it is made of may change until it is written.
    const text = JSON.stringify(record);
    batch.entries.push({ record, text });
    batch.characters += text.length;
    if (batch.characters >= pendingCharactersMax) this.#flush();
    return batch.written;
  }

  /**
   * Writes the record and resolves when it survives power loss.
   * @throws AppError AUDIT_UNAVAILABLE when it cannot; then the exchange must not go on.
   */
  async appendDurable(record: SpooledRecord): Promise<void> {
    this.#assertOpen();
    if (this.#syncFailed) throw new AppError('AUDIT_UNAVAILABLE', { internal: 'an fsync of the audit spool failed' });
    this.#flush();
    try {
      this.#write(record, JSON.stringify(record));
    } catch (error) {
      this.#alarm('SPOOL_REFUSING', 'is full or its disk refuses: strict servers refuse', error);
      throw new AppError('AUDIT_UNAVAILABLE', { internal: 'the audit spool does not take the record', cause: error });
    }
    try {
      await this.#synced(this.#live.last);
    } catch (error) {
      throw new AppError('AUDIT_UNAVAILABLE', { internal: 'fsync of the audit spool failed', cause: error });
    }
  }

  /** Told after each fsync: there may be something to ship. */
  onSynced(listener: () => void): () => void {
    this.#syncListeners.add(listener);
    return () => this.#syncListeners.delete(listener);
  }

  /** Ends this process's epoch: everything written is synced, and nothing can be appended. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#flush();
    try {
      this.#recordShed();
    } catch (error) {
      this.#options.log.error(
        { err: error, count: this.#shed.count },
        'records were shed and there is no room to say so',
      );
    }
    this.#closed = true;
    clearTimeout(this.#syncTimer);
    await this.#syncing?.catch(() => undefined);
    await this.#sync().catch((error: unknown) =>
      this.#options.log.error({ err: error }, 'the spool could not be synced'),
    );
    this.#live.ended = true;
    for (const descriptor of [...this.#retired, this.#descriptor]) closeSync(descriptor);
    this.#shed.close();
  }

  #time(): number {
    return Math.max(0, Math.floor(this.#options.now()));
  }

  #assertOpen(): void {
    if (this.#closed) throw new AppError('AUDIT_UNAVAILABLE', { internal: 'the audit spool is closed' });
  }

  #newBatch(): Batch {
    const { promise, resolve } = Promise.withResolvers<void>();
    setImmediate(this.#flush);
    return { entries: [], characters: 0, written: promise, resolve };
  }

  readonly #flush = (): void => {
    const batch = this.#batch;
    if (batch === undefined) return;
    this.#batch = undefined;
    if (!this.#writeTogether(batch)) for (const { record, text } of batch.entries) this.#writeOrShed(record, text);
    batch.resolve();
  };

  /** @returns false where something about one of the records, the room or the disk asks for a closer look at each */
  #writeTogether({ entries, characters }: Batch): boolean {
    // No character takes more than three bytes, and the rest of a line is short.
    const bytesAtMost = 3 * characters + entries.length * lineFrameBytesMax;
    if (this.#shed.count > 0 || !this.#fits(bytesAtMost)) return false;
    if (entries.some(({ text }) => text.length > this.#lineBytesMax - lineFrameBytesMax)) return false;
    let sequence = this.#live.last;
    let previous = this.#previous;
    let lines = '';
    for (const { text } of entries) {
      const chained = chainText(++sequence, previous, text);
      previous = chained.hash;
      lines += `${chained.line}\n`;
    }
    try {
      this.#writeLines(lines, sequence, previous);
    } catch {
      return false;
    }
    return true;
  }

  get #lineBytesMax(): number {
    return this.#options.lineBytesMax ?? lineBytesMaxDefault;
  }

  #writeOrShed(record: SpooledRecord, text: string): void {
    try {
      this.#write(record, text);
    } catch (error) {
      this.#shed.add(1);
      this.#alarm('SPOOL_SHEDDING', 'is full or its disk refuses: records are shed and counted', error);
    }
  }

  /** @param text the record's JSON */
  #write(record: SpooledRecord, text: string): void {
    if (record.type !== 'shed' && record.type !== 'epochOpened') this.#recordShed();
    const sequence = this.#live.last + 1;
    let chained = chainText(sequence, this.#previous, text);
    if (chained.line.length > this.#lineBytesMax) chained = chainText(sequence, this.#previous, clipped(record));
    const isReserved = record.type === 'closed' || record.type === 'shed';
    // That a payload is lost is told where there is no room for it.
    const mayUseReserve = isReserved || (record.type === 'payload' && record.sealed === null);
    const bytes = Buffer.byteLength(chained.line) + 1;
    if (!this.#fits(bytes, mayUseReserve)) throw new Error('the audit spool has reached its size');
    this.#writeLines(`${chained.line}\n`, sequence, chained.hash);
  }

  /** Whether there is room for so many bytes more. */
  #fits(bytes: number, mayUseReserve = false): boolean {
    const limit = this.#options.auditSpoolBytesMax;
    return this.bytes + bytes <= (mayUseReserve ? limit : limit * (1 - closeReserveFraction));
  }

  /** Whole lines, up to that of `last`, whose hash is `previous`. */
  #writeLines(lines: string, last: number, previous: string): void {
    const content = Buffer.from(lines);
    if (this.#segment.bytes >= segmentBytesMax) this.#rotate(this.#live.last + 1);
    writeFully(this.#descriptor, content, this.#segment.bytes);
    this.#segment.bytes += content.length;
    this.#segment.last = last;
    this.#previous = previous;
    this.#scheduleSync();
  }

  #scheduleSync(): void {
    this.#syncTimer ??= setTimeout(() => {
      this.#syncTimer = undefined;
      this.#startSync();
    }, syncIntervalMs).unref();
  }

  #recordShed(): void {
    const count = this.#shed.count;
    if (count === 0) return;
    const record: AuditRecord = { type: 'shed', time: this.#time(), count };
    this.#write(record, JSON.stringify(record));
    // Only now: a process that dies in between counts twice rather than not at all.
    this.#shed.clear();
    this.#alarmed = false;
  }

  #rotate(first: number): void {
    const descriptor = openSync(join(this.#live.directory, `${String(first).padStart(16, '0')}.jsonl`), 'wx', 0o600);
    // Its name must survive too before its lines count as synced; the calls that are under way need not wait for that.
    this.#hasNewName = true;
    this.#retired.push(this.#descriptor);
    this.#descriptor = descriptor;
    this.#segment = this.#live.addSegment(first);
  }

  #synced(sequence: number): Promise<void> {
    return new Promise<void>((resolve, reject) => {
      this.#waiters.push({ sequence, resolve, reject });
      this.#startSync();
    });
  }

  /** One fsync at a time; whoever comes meanwhile shares the next one. */
  #startSync(): void {
    if (this.#syncing !== undefined || this.#closed || this.#syncFailed) return;
    this.#syncing = this.#sync()
      .catch((error: unknown) => this.#alarm('SPOOL_SYNC_FAILED', 'cannot be synced', error))
      .finally(() => {
        this.#syncing = undefined;
        // Lines that came while an fsync ran, which may take longer than the interval, have asked in vain.
        if (this.#waiters.length > 0) this.#startSync();
        else if (this.#live.last > this.#live.synced && !this.#closed) this.#scheduleSync();
      });
  }

  async #sync(): Promise<void> {
    clearTimeout(this.#syncTimer);
    this.#syncTimer = undefined;
    const upTo = this.#live.last;
    const retired = this.#retired.length;
    // Before anything is waited for: what is written meanwhile may be in another file.
    const descriptors = [...this.#retired, this.#descriptor];
    const waiters = this.#waiters;
    this.#waiters = [];
    const hasNewName = this.#hasNewName;
    this.#hasNewName = false;
    try {
      if (hasNewName) await syncDirectoryLater(this.#live.directory);
      for (const descriptor of descriptors) await syncData(descriptor);
    } catch (error) {
      this.#syncFailed = true;
      const reason = error instanceof Error ? error : new Error(String(error));
      for (const waiter of waiters) waiter.reject(reason);
      throw error;
    }
    for (const descriptor of this.#retired.splice(0, retired)) closeSync(descriptor);
    this.#live.synced = upTo;
    for (const waiter of waiters) waiter.resolve();
    for (const listener of this.#syncListeners) listener();
  }

  #alarm(problem: string, told: string, error: unknown): void {
    const now = this.#options.clock.monotonic();
    const { content = 'AUDIT' } = this.#options;
    const code = `${content}_${problem}`;
    const message = `the ${content.toLowerCase()} spool ${told}`;
    // Not a line a record: the log may lie on the disk that is full.
    if (now - (this.#loggedAt.get(code) ?? Number.NEGATIVE_INFINITY) >= logIntervalMs) {
      this.#loggedAt.set(code, now);
      this.#options.log.error({ err: error, code, shed: this.#shed.count }, message);
    }
    if (this.#alarmed) return;
    this.#alarmed = true;
    this.#options.onAlarm(code, message);
  }
}

/** Writes at a fixed position, so that what a failed write left behind is overwritten by the next one. */
function writeFully(descriptor: number, content: Buffer, position: number): void {
  let done = 0;
  try {
    while (done < content.length) {
      done += writeSync(descriptor, content, done, content.length - done, position + done);
    }
  } catch (error) {
    // A disk that is full still lets a file be cut; if not, recovery cuts the torn line.
    if (done > 0) ftruncateSync(descriptor, position);
    throw error;
  }
}

/** The record's JSON with its long strings cut; digests and ids are short and stay whole. */
function clipped(record: SpooledRecord): string {
  return JSON.stringify(record, (_, value: unknown) =>
    typeof value === 'string' && value.length > clippedCharacters ? `${value.slice(0, clippedCharacters)}…` : value,
  );
}

/**
 * How many records were shed and not yet recorded, in a file of fixed size: writing it needs no room on a full disk,
 * and it survives the death of the process.
 */
class ShedCount {
  readonly #descriptor: number;
  #count: number;

  constructor(path: string) {
    this.#descriptor = openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600);
    this.#count = Number(readFileSync(path, 'latin1')) || 0;
    this.#store();
  }

  get count(): number {
    return this.#count;
  }

  add(count: number): void {
    this.#count += count;
    this.#store();
  }

  clear(): void {
    this.#count = 0;
    this.#store();
  }

  close(): void {
    closeSync(this.#descriptor);
  }

  #store(): void {
    writeSync(this.#descriptor, String(this.#count).padStart(16, '0'), 0, 'latin1');
  }
}
