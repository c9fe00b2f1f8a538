import { AppError, toAppError } from '@sallyport/schema';
import { FairShares } from '../bridge/fair-shares.ts';
import { objectMember, type JsonObject } from '../mcp/envelope.ts';
import type { CallTerms, LegacyChannel, MessageStream } from './legacy-channel.ts';
import { isLasting } from './upstream-refusal.ts';

/** An idle session is ended after this long, in milliseconds. */
const idleMsMax = 60_000;
/** Idle sessions kept for one key, one principal, and in all; of who has most the one idle longest goes first. */
const idlePerKeyMax = 8;
export const idlePerPrincipalMax = 64;
export const idleMax = 1_000;

/** Waited before the stream of a session in use is opened again, in milliseconds. */
const reopenMs = 500;
/**
 * How long a call waits for its session's stream, in milliseconds: what a server asks there before it is open is lost. Some
 * servers begin to answer with the first event alone.
 */
const listeningMsMax = 500;

/** A session in the hands of one call. */
export interface Lease {
  readonly channel: LegacyChannel;
  /** What the session was last told; null where nothing. */
  logLevel: string | null;
  /** Gets what the upstream sends on no request's stream while the call has the session; set by the call. */
  onMessage: ((message: JsonObject) => void) | undefined;
  /** Gives the session back for others. */
  release(): void;
  /** Ends the session: forgotten, or in an unknown state. */
  discard(): void;
}

/**
 * Sessions with legacy upstreams for clients that have none. One call has a session for itself while it runs: what a
 * server asks or tells outside of any request's stream can then belong to nobody else, and the level of its log is the
 * call's own. Sessions are reused by the same principal, for the same capabilities, and by nobody else: the key says so.
 */
export class ChannelPool {
  readonly #idle = new Map<string, Entry[]>();
  readonly #entries = new Set<Entry>();
  readonly #shares = new FairShares<Entry>();
  #opened = 0;
  #closed = false;

  /**
   * @param key of all that a session may not be shared across
   * @param options.principalId whose it is
   * @param options.isFresh an idle session will not do: the one before was forgotten
   * @param options.terms for the stream of what belongs to no request; null where nothing on it could be for the call
   * @throws AppError of `open`
   */
  async acquire(
    key: string,
    open: () => Promise<LegacyChannel>,
    options: { readonly principalId: string; readonly isFresh: boolean; readonly events: CallTerms | null },
  ): Promise<Lease> {
    if (options.isFresh) this.#drop(key);
    const idle = options.isFresh ? undefined : this.#take(key);
    if (idle !== undefined) {
      if (options.events !== null) await idle.listen(options.events);
      return idle;
    }
    const entry = new Entry(
      { key, id: String(++this.#opened), principalId: options.principalId },
      await open(),
      this.#returned,
      this.#discarded,
    );
    if (this.#closed) {
      entry.channel.close();
      throw new AppError('NOT_READY', { internal: 'the node stops' });
    }
    this.#entries.add(entry);
    if (options.events !== null) await entry.listen(options.events);
    return entry;
  }

  get size(): number {
    return this.#entries.size;
  }

  /** Sessions that nobody uses at the moment. */
  get idleCount(): number {
    return this.#shares.size;
  }

  close(): void {
    this.#closed = true;
    for (const entry of [...this.#entries]) entry.discard();
    this.#idle.clear();
  }

  #take(key: string): Entry | undefined {
    const entries = this.#idle.get(key);
    const entry = entries?.pop();
    if (entries?.length === 0) this.#idle.delete(key);
    if (entry === undefined) return undefined;
    this.#shares.delete(entry.id);
    entry.wake();
    return entry;
  }

  #drop(key: string): void {
    for (let entry = this.#take(key); entry !== undefined; entry = this.#take(key)) entry.discard();
  }

  readonly #returned = (entry: Entry): void => {
    const entries = this.#idle.get(entry.key) ?? [];
    if (this.#closed || entries.length >= idlePerKeyMax) {
      entry.discard();
      return;
    }
    entries.push(entry);
    this.#idle.set(entry.key, entries);
    this.#shares.set(entry.principalId, entry.id, entry);
    entry.sleep(idleMsMax);
    if (this.#shares.countOf(entry.principalId) > idlePerPrincipalMax) this.#discardOldest(entry.principalId);
    else if (this.#shares.size > idleMax) this.#discardOldest(this.#shares.largest() ?? entry.principalId);
  };

  #discardOldest(principalId: string): void {
    const [oldest] = this.#shares.heldBy(principalId);
    oldest?.[1].discard();
  }

  readonly #discarded = (entry: Entry): void => {
    this.#entries.delete(entry);
    const entries = this.#idle.get(entry.key);
    const at = entries?.indexOf(entry) ?? -1;
    if (entries === undefined || at < 0) return;
    entries.splice(at, 1);
    this.#shares.delete(entry.id);
    if (entries.length === 0) this.#idle.delete(entry.key);
  };
}

class Entry implements Lease {
  readonly key: string;
  readonly id: string;
  readonly principalId: string;
  readonly channel: LegacyChannel;
  readonly #returned: (entry: Entry) => void;
  readonly #discarded: (entry: Entry) => void;
  readonly #closing = new AbortController();
  logLevel: string | null = null;
  onMessage: ((message: JsonObject) => void) | undefined;
  #isOver = false;
  #isListening = false;
  /** Of the session's idle time; while it is in use, of its stream. */
  #timer: NodeJS.Timeout | undefined;

  constructor(
    name: { readonly key: string; readonly id: string; readonly principalId: string },
    channel: LegacyChannel,
    returned: (entry: Entry) => void,
    discarded: (entry: Entry) => void,
  ) {
    this.key = name.key;
    this.id = name.id;
    this.principalId = name.principalId;
    this.channel = channel;
    this.#returned = returned;
    this.#discarded = discarded;
  }

  release(): void {
    if (this.#isOver) return;
    this.onMessage = undefined;
    clearTimeout(this.#timer);
    this.#returned(this);
  }

  discard(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    clearTimeout(this.#timer);
    this.onMessage = undefined;
    this.#closing.abort();
    this.#discarded(this);
    this.channel.close();
  }

  sleep(idleMs: number): void {
    this.#timer = setTimeout(() => this.discard(), idleMs);
    this.#timer.unref();
  }

  wake(): void {
    clearTimeout(this.#timer);
  }

  /**
   * Reads what belongs to no request, as long as the upstream offers it; a session works without. Resolves when the
   * upstream has answered, or has not for long; never rejects.
   */
  listen(terms: CallTerms): Promise<void> {
    if (this.#isListening || this.#isOver) return Promise.resolve();
    this.#isListening = true;
    return new Promise((resolve) => {
      const late = setTimeout(resolve, listeningMsMax);
      void this.#follow({ ...terms, signal: this.#closing.signal }, () => {
        clearTimeout(late);
        resolve();
      });
    });
  }

  async #follow(terms: CallTerms, onAnswered: () => void): Promise<void> {
    try {
      const messages = await this.channel.listen(terms).finally(onAnswered);
      if (messages === null) return;
      await this.#read(messages, terms);
    } catch (error) {
      const failure = toAppError(error);
      if (failure.code === 'SESSION_NOT_FOUND') return this.discard();
      // Asked again it would say no again; the session may go on without.
      if (isLasting(failure)) return;
    }
    // Servers and what is before them let go of quiet streams. The call that has the session may still be asked there.
    this.#isListening = false;
    if (this.onMessage !== undefined) this.#timer = setTimeout(() => void this.listen(terms), reopenMs).unref();
  }

  async #read(messages: MessageStream, terms: CallTerms): Promise<void> {
    for (let message = await messages.next(); message !== undefined; message = await messages.next()) {
      if (message['method'] === 'ping' && message['id'] !== undefined) {
        await this.channel.post({ jsonrpc: '2.0', id: message['id'], result: {} }, terms);
      } else {
        this.onMessage?.(message);
      }
    }
  }
}

/** Whether a client could be asked anything at all. */
export function canBeAsked(capabilities: JsonObject): boolean {
  return ['sampling', 'elicitation', 'roots'].some((name) => objectMember(capabilities, name) !== undefined);
}
