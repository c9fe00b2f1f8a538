import { randomInt } from 'node:crypto';
import { ListChanges, type WatchedList, watchedListNames, watchedLists } from '../bridge/list-changes.ts';
import type { MessageStream } from '../upstream/legacy-channel.ts';
import { readList } from './read-list.ts';

/** Between two readings of the same lists, in milliseconds; a quarter more or less, so that nodes do not ask in step. */
export const pollIntervalMs = 30_000;
const jitter = 0.25;

/** Who listens to an upstream that tells nobody. */
export interface ListListener {
  readonly lists: readonly WatchedList[];
  /** Sends a request for one page of a list; a poll asks by way of one of those who listen. */
  readonly ask: (method: string, cursor: string | undefined) => Promise<MessageStream>;
  readonly onChange: (list: WatchedList) => void;
}

/**
 * Reads the lists of upstreams that offer no stream to tell of changes, as long as somebody listens, and tells what
 * changed. All who listen to the same lists share one poll.
 */
export class ListPolls {
  readonly #polls = new Map<string, Poll>();
  readonly #intervalMs: number;

  constructor(intervalMs = pollIntervalMs) {
    this.#intervalMs = intervalMs;
  }

  /**
   * @param key of all that lists may differ by
   * @returns a function that ends it
   */
  join(key: string, listener: ListListener): () => void {
    const poll = this.#polls.get(key) ?? new Poll(this.#intervalMs);
    this.#polls.set(key, poll);
    poll.add(listener);
    return () => {
      poll.remove(listener);
      if (poll.isIdle && this.#polls.get(key) === poll) this.#polls.delete(key);
    };
  }
}

class Poll {
  readonly #listeners = new Set<ListListener>();
  readonly #changes = new ListChanges();
  readonly #intervalMs: number;
  #timer: NodeJS.Timeout | undefined;
  #isReading = false;

  constructor(intervalMs: number) {
    this.#intervalMs = intervalMs;
  }

  get isIdle(): boolean {
    return this.#listeners.size === 0;
  }

  add(listener: ListListener): void {
    this.#listeners.add(listener);
    // What is there when somebody begins to listen is what changes are held against.
    if (this.#timer === undefined && !this.#isReading) void this.#read();
  }

  remove(listener: ListListener): void {
    this.#listeners.delete(listener);
    if (this.isIdle) clearTimeout(this.#timer);
  }

  /** Never rejects. */
  async #read(): Promise<void> {
    this.#isReading = true;
    for (const list of watchedListNames) await this.#readOne(list);
    this.#isReading = false;
    if (this.isIdle) return;
    const spreadMs = Math.ceil(this.#intervalMs * jitter);
    this.#timer = setTimeout(() => void this.#read(), this.#intervalMs + randomInt(-spreadMs, spreadMs + 1));
  }

  async #readOne(list: WatchedList): Promise<void> {
    const [listener] = [...this.#listeners].filter(({ lists }) => lists.includes(list));
    if (listener === undefined) return;
    const entries: unknown[] = [];
    try {
      for (const [method, member] of watchedLists[list]) {
        entries.push(...(await readList(member, (_page, cursor) => listener.ask(method, cursor))));
      }
    } catch {
      // An upstream that fails now says nothing about its lists; whoever calls it hears of that.
      return;
    }
    if (!this.#changes.read(list, entries)) return;
    for (const each of this.#listeners) if (each.lists.includes(list)) each.onChange(list);
  }
}
