import { setTimeout as delay } from 'node:timers/promises';
import type { AuditBatch } from '@sallyport/schema';

/** Lines of one epoch that continue each other, of one batch or of several that are stored together. */
export type Stretch = Omit<AuditBatch, 'publicKey' | 'signature'>;

/** The batch that this one continues has not been stored yet. */
export class PredecessorMissing extends Error {}

/** A batch that came before the one it continues waits for it this long, in steps. */
const predecessorWaitMs = 500;
const predecessorStepMs = 50;
/** Stretches that are stored at once: each holds a connection to the database. */
const storingMax = 4;
/** Lines stored in one transaction; no less than one batch. */
const stretchLinesMax = 2_000;

interface Waiting {
  readonly batch: AuditBatch;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
  readonly timer: NodeJS.Timeout;
  /** Has waited long enough for what it continues. */
  isOverdue: boolean;
}

/** Batches in hand, each with those of its epoch and shipper. */
export class EpochLanes {
  readonly #store: (stretch: Stretch) => Promise<void>;
  readonly #lanes = new Map<string, EpochLane>();
  #storing = 0;
  /** Lanes that wait for their turn. */
  readonly #turns: (() => void)[] = [];

  /** @param store rejects with PredecessorMissing where lines before the stretch are not stored */
  constructor(store: (stretch: Stretch) => Promise<void>) {
    this.#store = store;
  }

  /** Resolves when the batch is stored; rejects with what kept it from that. */
  add(batch: AuditBatch): Promise<void> {
    const key = `${batch.nodeId} ${batch.epoch} ${batch.signedBy}`;
    let lane = this.#lanes.get(key);
    if (lane === undefined) {
      lane = new EpochLane({
        store: this.#store,
        inTurn: (work) => this.#inTurn(work),
        onEmpty: () => this.#lanes.delete(key),
      });
      this.#lanes.set(key, lane);
    }
    return lane.add(batch);
  }

  async #inTurn(work: () => Promise<boolean>): Promise<boolean> {
    while (this.#storing >= storingMax) await new Promise<void>((resolve) => this.#turns.push(resolve));
    this.#storing += 1;
    try {
      return await work();
    } finally {
      this.#storing -= 1;
      this.#turns.shift()?.();
    }
  }
}

interface LaneOptions {
  readonly store: (stretch: Stretch) => Promise<void>;
  readonly inTurn: (work: () => Promise<boolean>) => Promise<boolean>;
  readonly onEmpty: () => void;
}

/**
 * The batches of one epoch that are in hand here. They are stored in the order of their chain whatever order they came
 * in, and those that continue each other in one transaction: beside each other they would only find each other missing.
 */
class EpochLane {
  readonly #options: LaneOptions;
  #waiting: Waiting[] = [];
  #isRunning = false;
  /** Ends the wait for a predecessor: it may have come. */
  #wake: (() => void) | undefined;

  constructor(options: LaneOptions) {
    this.#options = options;
  }

  add(batch: AuditBatch): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const waiting: Waiting = {
      batch,
      resolve,
      reject,
      timer: setTimeout(() => (waiting.isOverdue = true), predecessorWaitMs),
      isOverdue: false,
    };
    this.#waiting.push(waiting);
    this.#wake?.();
    if (!this.#isRunning) void this.#run();
    return promise;
  }

  async #run(): Promise<void> {
    this.#isRunning = true;
    while (this.#waiting.length > 0) {
      const isStored = await this.#options.inTurn(() => this.#storeFirst());
      if (!isStored && this.#waiting.length > 0) await this.#pause();
    }
    this.#isRunning = false;
    this.#options.onEmpty();
  }

  /** @returns false where what comes before it is missing */
  async #storeFirst(): Promise<boolean> {
    const taken = this.#take();
    try {
      await this.#options.store(stretchOf(taken.map(({ batch }) => batch)));
      for (const { resolve } of settled(taken)) resolve();
      return true;
    } catch (error) {
      const isMissing = error instanceof PredecessorMissing;
      const given = taken.filter(({ isOverdue }) => !isMissing || isOverdue);
      for (const { reject } of settled(given)) reject(error);
      this.#waiting.push(...taken.filter((each) => !given.includes(each)));
      return !isMissing;
    }
  }

  /** The batch that comes first, and those that continue it. */
  #take(): Waiting[] {
    this.#waiting.sort((a, b) => a.batch.first - b.batch.first || a.batch.last - b.batch.last);
    let lines = 0;
    const end = this.#waiting.findIndex(({ batch }, at) => {
      const before = this.#waiting[at - 1]?.batch;
      lines += batch.lines.length;
      return before !== undefined && (lines > stretchLinesMax || !continues(batch, before));
    });
    return this.#waiting.splice(0, end < 0 ? this.#waiting.length : end);
  }

  async #pause(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    await Promise.race([delay(predecessorStepMs), promise]);
    this.#wake = undefined;
  }
}

function continues(batch: AuditBatch, before: AuditBatch): boolean {
  return batch.first === before.last + 1 && !before.epochEnded;
}

function settled(all: readonly Waiting[]): readonly Waiting[] {
  for (const { timer } of all) clearTimeout(timer);
  return all;
}

/** @param batches one at least, each continuing the one before, all shipped by the same node */
function stretchOf(batches: readonly AuditBatch[]): Stretch {
  const [first, last] = [batches[0], batches.at(-1)];
  if (first === undefined || last === undefined) throw new Error('a stretch has lines');
  if (batches.length === 1) return first;
  return {
    ...first,
    last: last.last,
    lines: batches.flatMap(({ lines }) => lines),
    epochEnded: last.epochEnded,
  };
}
