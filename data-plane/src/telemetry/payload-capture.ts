import {
  payloadIdentity,
  type PayloadKeyDocument,
  type PayloadOmission,
  type PayloadRecord,
  type PolicyDirection,
} from '@sallyport/schema';
import type { Log, SealedMessages, SealJob } from '@sallyport/schema/platform';
import type { AuditSpool } from './audit-spool.ts';

const methodLengthMax = 256;
const targetLengthMax = 2_048;
/** What a message and a direction take in memory beside the bytes of messages: else a flood of small ones had no bound. */
const messageCostBytes = 256;
const directionCostBytes = 2_048;

export interface PayloadCaptureOptions {
  readonly nodeId: string;
  readonly spool: Pick<AuditSpool, 'append' | 'hasRoomFor'>;
  /** Takes secrets out and seals, in a thread: of a large message that takes longer than others may wait. */
  readonly seal: (job: SealJob) => Promise<SealedMessages>;
  /** Of all messages that wait to be sealed, streams that go on and what keeping each takes included. */
  readonly heldBytesMax: number;
  readonly metrics: {
    /** One direction of an exchange was captured, or left out, and why. */
    captured(omission: PayloadOmission | null): void;
  };
  readonly log: Pick<Log, 'warn'>;
}

/** Whose payload it is, once that is known. */
export type CapturedExchange = Pick<
  PayloadRecord,
  'eventId' | 'time' | 'serverId' | 'principalId' | 'method' | 'target'
>;

/** What one policy keeps of one direction of an exchange. */
export interface CapturePlan {
  readonly direction: PolicyDirection;
  readonly policyId: string;
  readonly bytesMax: number;
  /** Members that schemas of the tool say are secret. */
  readonly secretMembers: readonly string[];
  /** Undefined where the configuration has none: nothing is kept then. */
  readonly key: PayloadKeyDocument | undefined;
}

/**
 * Keeps messages of exchanges for auditors: holds them while the exchange runs, then takes secrets out, seals them and
 * writes them to a spool of their own, one after the other. What cannot be inspected, sealed or held is left out and told
 * so. Nothing here delays an exchange or its audit record, or makes either fail.
 */
export class PayloadCapture {
  readonly #options: PayloadCaptureOptions;
  #heldBytes = 0;
  #working: Promise<void> = Promise.resolve();

  constructor(options: PayloadCaptureOptions) {
    this.#options = options;
  }

  begin(plan: CapturePlan): CapturedMessages {
    return new CapturedMessages(plan, {
      hold: (bytes) => {
        if (this.#heldBytes + bytes > this.#options.heldBytesMax) return false;
        this.#heldBytes += bytes;
        return true;
      },
      done: (captured, exchange) => {
        this.#working = this.#working
          .then(() => this.#keep(captured, exchange))
          .finally(() => (this.#heldBytes -= captured.heldBytes));
      },
    });
  }

  /** Bytes of messages in memory, with what keeping them takes. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  /** Resolves when all that ended until now is in the spool, or the time is up, in milliseconds. */
  async settled(timeoutMs: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const overdue = new Promise<void>((resolve) => (timer = setTimeout(resolve, timeoutMs)));
    await Promise.race([this.#working, overdue]);
    clearTimeout(timer);
  }

  /** Never rejects: what fails is left out. */
  async #keep(captured: CapturedMessages, ended: CapturedExchange): Promise<void> {
    const { metrics, log, spool } = this.#options;
    let record: PayloadRecord;
    try {
      record = await this.#sealed(captured, ended);
    } catch (error) {
      log.warn({ err: error, eventId: ended.eventId }, 'a payload was not kept');
      const target = ended.target === null ? null : { ...ended.target, name: '[not inspected]' };
      record = omittedRecord(captured, { ...ended, target }, captured.omission ?? 'notInspected');
    }
    metrics.captured(record.omission);
    try {
      await spool.append(record);
    } catch (error) {
      // Closed: the node has stopped, and its record of the exchange says that there should be a payload.
      log.warn({ err: error, eventId: ended.eventId }, 'a payload was lost');
    }
  }

  async #sealed(captured: CapturedMessages, ended: CapturedExchange): Promise<PayloadRecord> {
    const { nodeId, seal, spool, log } = this.#options;
    const { plan, messages } = captured;
    const keyId = plan.key?.id ?? '';
    const done = await seal({
      // It stands in clear beside what is sealed, and a URI may carry a secret.
      target: ended.target?.name ?? null,
      messages: captured.omission === null ? joined(messages) : null,
      secretMembers: plan.secretMembers,
      publicKey: plan.key?.publicKey ?? '',
      identity: payloadIdentity(nodeId, { ...ended, direction: plan.direction, policyId: plan.policyId }, keyId),
    });
    if (done.problem !== null) log.warn({ problem: done.problem, eventId: ended.eventId }, 'a payload was not kept');
    const target = ended.target === null ? null : { ...ended.target, name: done.target ?? '' };
    const omitted = (why: PayloadOmission): PayloadRecord => omittedRecord(captured, { ...ended, target }, why);
    if (done.sealed === null) return omitted(captured.omission ?? done.omission ?? 'notInspected');
    const { messagesOmitted } = captured;
    const { redactions, sealed } = done;
    const kept = { messages: messages.length, messagesOmitted, redactions, omission: null };
    const record: PayloadRecord = { ...omitted('spoolFull'), ...kept, sealed: { keyId, ...sealed } };
    // The sealed texts are of characters that JSON leaves as they are, and long.
    const frame = JSON.stringify({ ...record, sealed: { keyId, wrappedKey: '', content: '' } });
    const bytes = Buffer.byteLength(frame) + sealed.wrappedKey.length + sealed.content.length;
    return spool.hasRoomFor(bytes) ? record : omitted('spoolFull');
  }
}

/** Copied once, into bytes that can be given away. */
function joined(messages: readonly Buffer[]): NonNullable<SealJob['messages']> {
  const lengths = messages.map(({ length }) => length);
  const bytes = new Uint8Array(lengths.reduce((sum, length) => sum + length, 0));
  let at = 0;
  for (const message of messages) {
    bytes.set(message, at);
    at += message.length;
  }
  return { bytes, lengths };
}

interface CaptureHome {
  /** Whether there is room for so many bytes more, which then are taken. */
  readonly hold: (bytes: number) => boolean;
  readonly done: (captured: CapturedMessages, exchange: CapturedExchange) => void;
}

/** Messages of one direction while their exchange runs. */
export class CapturedMessages {
  readonly plan: CapturePlan;
  readonly messages: Buffer[] = [];
  /** Taken of the bound of all. */
  heldBytes = 0;
  #keptBytes = 0;
  /** Of all that passed, kept or not. */
  bytes = 0;
  messagesOmitted = 0;
  #overloaded = false;
  #isDone = false;
  readonly #home: CaptureHome;

  constructor(plan: CapturePlan, home: CaptureHome) {
    this.plan = plan;
    this.#home = home;
  }

  /** Why nothing is kept; null where something is, or nothing came. */
  get omission(): PayloadOmission | null {
    if (this.plan.key === undefined) return 'noKey';
    if (this.messages.length > 0 || this.messagesOmitted === 0) return null;
    return this.#overloaded ? 'overloaded' : 'tooLarge';
  }

  /** Once a message was left out, so are all after it: what is kept is the beginning, without gaps. */
  add(message: Buffer): void {
    if (this.#isDone) return;
    this.bytes += message.length;
    const fits = this.messagesOmitted === 0 && this.plan.key !== undefined;
    if (!fits || this.#keptBytes + message.length > this.plan.bytesMax || !this.#hold(message.length)) {
      this.messagesOmitted += 1;
      return;
    }
    this.#keptBytes += message.length;
    // What it is part of may be larger, or used again.
    this.messages.push(Buffer.from(message));
  }

  /** The exchange is on record; nothing is kept of one that is not. */
  done(exchange: CapturedExchange): void {
    if (this.#isDone) return;
    this.#isDone = true;
    this.#home.done(this, exchange);
  }

  #hold(length: number): boolean {
    const bytes = length + messageCostBytes + (this.messages.length === 0 ? directionCostBytes : 0);
    const isHeld = this.#home.hold(bytes);
    if (isHeld) this.heldBytes += bytes;
    else this.#overloaded = true;
    return isHeld;
  }
}

function omittedRecord(
  captured: CapturedMessages,
  exchange: CapturedExchange,
  omission: PayloadOmission,
): PayloadRecord {
  const { plan, messages, messagesOmitted, bytes } = captured;
  const { target, method } = exchange;
  return {
    type: 'payload',
    ...exchange,
    method: method?.slice(0, methodLengthMax) ?? null,
    target: target === null ? null : { kind: target.kind, name: target.name.slice(0, targetLengthMax) },
    direction: plan.direction,
    policyId: plan.policyId,
    messages: 0,
    messagesOmitted: messages.length + messagesOmitted,
    bytes,
    redactions: 0,
    omission,
    sealed: null,
  };
}
