import { isUtf8 } from 'node:buffer';
import { type AuditBatch, type BatchContent, batchSigningTextOf, sha256 } from '@sallyport/schema';
import type { Clock, Log, QueueProducer } from '@sallyport/schema/platform';
import type { AuditSpool } from './audit-spool.ts';
import type { SpoolEpoch, SpoolPiece, SpoolRange } from './spool-epoch.ts';

/** The node's current key. `SyncClient.signer` is one. */
export interface BatchSigner {
  readonly nodeId: string;
  /** SPKI DER in base64. */
  readonly publicKey: string;
  /** Ed25519 in base64. */
  sign(text: string): string;
}

/** Of one epoch, as the control plane reports it over the sync socket. */
export interface EpochWatermark {
  readonly epoch: string;
  readonly sequence: number;
  readonly ended: boolean;
}

export interface AuditShipperOptions {
  readonly spool: AuditSpool;
  readonly queue: QueueProducer;
  /** What the spool holds; default the audit trail. */
  readonly content?: BatchContent;
  /** Asked at each batch: the key is renewed while the node runs. */
  readonly signer: () => BatchSigner;
  readonly clock: Clock;
  readonly log: Log;
}

/** What `drain` could not bring home. */
export interface DrainResult {
  readonly recordsUnconfirmed: number;
}

const batchLinesWanted = 100;
const batchBytesMax = 1024 * 1024;
/** A batch smaller than wanted is shipped when its first line has waited this long. */
const batchWaitMs = 500;
/** With a watermark a second, so many batches are what a node can ship in one: more calls than a core can carry. */
const batchesInFlightMax = 32;
/** Without a watermark that covers it, a batch is added again; its job id keeps it from being there twice. */
const resendAfterMs = 5_000;
const resendAfterMsMax = 15_000;
const retryAfterMs = 500;
const tickMs = 100;

/** What the queue is given. */
interface Batch {
  readonly jobId: string;
  readonly batch: Omit<AuditBatch, 'lines'>;
  readonly lines: Buffer;
}

interface Flight {
  readonly range: SpoolRange;
  readonly ended: boolean;
  /** What was read already; a repetition reads it again, so that nothing is held for as long as nobody confirms. */
  content: Buffer | undefined;
  attempts: number;
  /** Monotonic time of the next attempt. */
  dueAt: number;
}

interface EpochState {
  readonly epoch: SpoolEpoch;
  confirmed: number;
  endConfirmed: boolean;
  /** Next sequence to put into a batch. */
  next: number;
  flights: Flight[];
  /** Since when there are lines for the next batch. */
  waitingSince: number | undefined;
}

/**
 * Brings the spool's lines to the control plane through the queue, oldest epoch first, and trims the spool by what the
 * control plane confirms. A batch keeps its bounds until it is confirmed, so that repeating it is always the same job.
 */
export class AuditShipper {
  readonly #options: AuditShipperOptions;
  readonly #states: EpochState[];
  #timer: NodeJS.Timeout | undefined;
  #working: Promise<void> = Promise.resolve();
  #busy = false;
  #stopped = false;
  #draining = false;
  readonly #unsubscribe: () => void;

  constructor(options: AuditShipperOptions) {
    this.#options = options;
    this.#states = options.spool.epochs.map((epoch) => ({
      epoch,
      confirmed: 0,
      endConfirmed: false,
      next: epoch.first,
      flights: [],
      waitingSince: undefined,
    }));
    this.#unsubscribe = options.spool.onSynced(() => this.#kick());
  }

  start(): void {
    this.#timer ??= setInterval(() => this.#kick(), tickMs).unref();
  }

  /** The epochs the spool holds, for the sync hello. */
  get epochs(): readonly string[] {
    return this.#states.map((state) => state.epoch.epoch);
  }

  get recordsUnconfirmed(): number {
    return this.#states.reduce(
      (sum, { epoch, confirmed }) => sum + epoch.last - Math.max(confirmed, epoch.first - 1),
      0,
    );
  }

  /** To be called with each watermark message. Epochs it does not name are left as they are. */
  onWatermark(watermarks: readonly EpochWatermark[]): void {
    for (const { epoch, sequence, ended } of watermarks) {
      const state = this.#states.find((candidate) => candidate.epoch.epoch === epoch);
      if (state === undefined) continue;
      // A control plane that came back from a backup knows less than it did: what is still here is shipped again.
      if (sequence < state.confirmed) {
        this.#options.log.warn({ epoch, from: state.confirmed, to: sequence }, 'the audit watermark went back');
        state.flights = [];
        state.next = sequence + 1;
        state.endConfirmed = false;
      }
      state.confirmed = sequence;
      state.endConfirmed ||= ended;
      state.flights = state.flights.filter(
        (flight) => flight.range.last > sequence || (flight.ended && !state.endConfirmed),
      );
      state.next = Math.max(state.next, sequence + 1);
    }
    this.#kick();
  }

  /**
   * Call after the spool is closed: ships all that is left and waits until the control plane has confirmed it, or the
   * deadline. What is left then stays on disk and is shipped at the next start.
   */
  async drain(deadlineMs: number): Promise<DrainResult> {
    this.#draining = true;
    const { clock, log } = this.#options;
    const end = clock.monotonic() + deadlineMs;
    while (this.#states.length > 0 && clock.monotonic() < end) {
      this.#kick();
      await new Promise((resolve) => setTimeout(resolve, tickMs / 4));
    }
    await this.stop();
    const { recordsUnconfirmed } = this;
    if (this.#states.length > 0) {
      log.warn({ recordsUnconfirmed, epochs: this.epochs }, 'the spool keeps what the control plane has not confirmed');
    }
    return { recordsUnconfirmed };
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearInterval(this.#timer);
    this.#unsubscribe();
    await this.#working;
    await this.#options.queue.close();
  }

  /** One pass at a time; a kick during a pass is served by the next tick. */
  #kick(): void {
    if (this.#busy || this.#stopped) return;
    this.#busy = true;
    this.#working = this.#pass()
      .catch((error: unknown) => this.#options.log.error({ err: error }, 'shipping the audit spool failed'))
      .finally(() => (this.#busy = false));
  }

  async #pass(): Promise<void> {
    for (const state of [...this.#states]) {
      await this.#settle(state);
      await this.#collect(state);
      for (const flight of [...state.flights]) {
        if (flight.dueAt > this.#options.clock.monotonic()) continue;
        // Where one batch finds no queue the next would wait as long for it; they have their turn in the next pass.
        if (this.#stopped || !(await this.#send(state, flight))) return;
      }
    }
  }

  /** Trims what is confirmed; an epoch that is confirmed with its end is forgotten. */
  async #settle(state: EpochState): Promise<void> {
    await state.epoch.trim(state.confirmed);
    const isHome = state.epoch.ended && state.endConfirmed && state.confirmed >= state.epoch.last;
    if (!isHome && !(state.epoch.ended && state.epoch.last === 0)) return;
    await state.epoch.remove();
    this.#states.splice(this.#states.indexOf(state), 1);
    const { epochs } = this.#options.spool;
    epochs.splice(epochs.indexOf(state.epoch), 1);
  }

  async #collect(state: EpochState): Promise<void> {
    const { epoch } = state;
    while (state.flights.length < batchesInFlightMax && !this.#stopped) {
      const available = Math.min(epoch.synced, epoch.last) - state.next + 1;
      if (available <= 0) return this.#collectEnd(state);
      const now = this.#options.clock.monotonic();
      state.waitingSince ??= now;
      const isWorthwhile = available >= batchLinesWanted || epoch.ended || this.#draining;
      if (!isWorthwhile && now - state.waitingSince < batchWaitMs) return;
      const piece = await epoch.take(state.next, batchBytesMax);
      if (piece === undefined) return;
      const { last } = piece.range;
      state.next = last + 1;
      state.waitingSince = undefined;
      state.flights.push(flightOf(piece, epoch.ended && last === epoch.last));
    }
  }

  /** An epoch whose lines are all shipped without its end being said yet: its last lines go again, with the end. */
  async #collectEnd(state: EpochState): Promise<void> {
    const { epoch } = state;
    state.waitingSince = undefined;
    if (!epoch.ended || state.endConfirmed || epoch.synced < epoch.last) return;
    if (state.flights.some((flight) => flight.ended)) return;
    const piece = await epoch.take(epoch.last, batchBytesMax);
    if (piece !== undefined) state.flights.push(flightOf(piece, true));
  }

  /** @returns whether the queue has it */
  async #send(state: EpochState, flight: Flight): Promise<boolean> {
    const { clock, log, queue } = this.#options;
    try {
      const { jobId, batch, lines } = await this.#batch(state.epoch, flight);
      await queue.add(jobId, batch, lines);
      flight.dueAt = clock.monotonic() + Math.min(resendAfterMs * 2 ** flight.attempts, resendAfterMsMax);
      flight.attempts += 1;
      return true;
    } catch (error) {
      log.debug({ err: error, epoch: state.epoch.epoch, first: flight.range.first }, 'a batch waits for the queue');
      flight.dueAt = clock.monotonic() + retryAfterMs;
      return false;
    }
  }

  async #batch(epoch: SpoolEpoch, flight: Flight): Promise<Batch> {
    const { first, last, undeliverableFrom } = flight.range;
    const signer = this.#options.signer();
    const lines = asUtf8(flight.content ?? (await epoch.read(flight.range)));
    flight.content = undefined;
    const unsigned = {
      nodeId: epoch.nodeId,
      epoch: epoch.epoch,
      first,
      last,
      undeliverableFrom,
      epochEnded: flight.ended,
      signedBy: signer.nodeId,
      publicKey: signer.publicKey,
    };
    const jobId = `${epoch.nodeId}.${epoch.epoch}.${first}-${last}${flight.ended ? '.end' : ''}`;
    const signature = signer.sign(batchSigningTextOf(unsigned, sha256(lines), this.#options.content));
    return { jobId, batch: { ...unsigned, signature }, lines };
  }
}

/** What is signed is text: where a disk gave back something else, the line is one that its chain does not fit. */
function asUtf8(bytes: Buffer): Buffer {
  return isUtf8(bytes) ? bytes : Buffer.from(bytes.toString('utf8'));
}

function flightOf({ range, content }: SpoolPiece, ended: boolean): Flight {
  return { range, ended, content, attempts: 0, dueAt: 0 };
}
