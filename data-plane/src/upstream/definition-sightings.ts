import { canonicalJson, type Sighting, sha256, sightingsBytesMax, sightingsMax } from '@sallyport/schema';

/** How long a sighting waits for others to go along with it, and between two rounds, in milliseconds. */
const flushIntervalMs = 250;
/** Messages of one round; what is left waits for the next. */
const messagesPerFlushMax = 4;
/** Definitions and characters that wait; what does not fit is told when it is seen again. */
const waitingMax = 512;
const waitingLengthMax = 8 * 1024 * 1024;
/** What was told is told again no sooner, should the message have been lost; in milliseconds. */
const repeatAfterMs = 60_000;
const toldMax = 8_192;

interface Waiting {
  readonly serverId: string;
  readonly sighting: Sighting;
  readonly length: number;
}

/**
 * What this node withheld since nobody approved it, on its way to the control plane: each once in a while however often
 * it is seen, few messages at a time, and no more than some of them kept.
 */
export class DefinitionSightings {
  readonly #now: () => number;
  readonly #send: (serverId: string, sightings: readonly Sighting[]) => boolean;
  /** When each was told, or taken in to be, by server and digest; the longest ago first. */
  readonly #told = new Map<string, number>();
  #waiting: Waiting[] = [];
  #waitingLength = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: {
    /** Monotonic, in milliseconds. */
    readonly now: () => number;
    /** False where there is nobody to tell at the moment. */
    readonly send: (serverId: string, sightings: readonly Sighting[]) => boolean;
  }) {
    this.#now = options.now;
    this.#send = options.send;
  }

  seen(serverId: string, sightings: readonly Sighting[]): void {
    for (const sighting of sightings) this.#take(serverId, sighting);
    if (this.#waiting.length > 0) this.#flushLater();
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#flush();
    clearTimeout(this.#timer);
    this.#waiting = [];
  }

  #take(serverId: string, sighting: Sighting): void {
    const text = canonicalJson(sighting.raw);
    const key = `${serverId} ${sighting.kind} ${sha256(text)}`;
    const toldAt = this.#told.get(key);
    if (toldAt !== undefined && this.#now() - toldAt < repeatAfterMs) return;
    const isFull = this.#waiting.length >= waitingMax || this.#waitingLength + text.length > waitingLengthMax;
    if (isFull) return;
    this.#told.delete(key);
    this.#told.set(key, this.#now());
    const [oldest] = this.#told.keys();
    if (this.#told.size > toldMax && oldest !== undefined) this.#told.delete(oldest);
    this.#waiting.push({ serverId, sighting, length: text.length });
    this.#waitingLength += text.length;
  }

  #flushLater(): void {
    if (this.#timer !== undefined) return;
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#flush();
    }, flushIntervalMs);
    this.#timer.unref();
  }

  #flush(): void {
    for (let count = 0; count < messagesPerFlushMax && this.#waiting.length > 0; count++) {
      const message = this.#nextMessage();
      const [first] = message;
      if (
        first === undefined ||
        !this.#send(
          first.serverId,
          message.map(({ sighting }) => sighting),
        )
      )
        break;
      const sent = new Set(message);
      this.#waiting = this.#waiting.filter((one) => !sent.has(one));
      for (const { length } of message) this.#waitingLength -= length;
    }
    if (this.#waiting.length > 0) this.#flushLater();
  }

  /** As many of one server as one message holds. */
  #nextMessage(): readonly Waiting[] {
    const message: Waiting[] = [];
    let length = 0;
    for (const one of this.#waiting) {
      if (one.serverId !== this.#waiting[0]?.serverId || message.length >= sightingsMax) continue;
      // A character is three bytes of UTF-8 at most.
      if (message.length > 0 && (length + one.length) * 3 > sightingsBytesMax) continue;
      length += one.length;
      message.push(one);
    }
    return message;
  }
}
