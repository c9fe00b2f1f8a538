import { verdictBytesMax, type WebhookEntry, type WebhookFailure } from '../inspection/webhook.ts';
import type { Egress } from './guarded-egress.ts';
import { signWebhook } from './webhook-signing.ts';

/** Requests to one webhook at once, and those that wait for their turn. */
const concurrentMax = 32;
const waitingMax = 100;
/** Failures in a row, or more than half of at least `windowCallsMin` within the window, open the breaker. */
const failuresInRowMax = 5;
const windowMs = 10_000;
const windowCallsMin = 20;
const openMs = 5_000;

/** What a webhook answered, or why it did not in time, in full and in form. */
export type WebhookAnswer = Outcome & { readonly durationMs: number };

type Outcome = (
  | { readonly failure: null; readonly body: Buffer }
  | { readonly failure: WebhookFailure; readonly body: null }
) & {
  /** Null where there was no answer. */
  readonly status: number | null;
};

type Check = (body: Buffer) => WebhookFailure | undefined;

type Target = Pick<WebhookEntry, 'id' | 'version' | 'url' | 'algorithm' | 'signingKeys' | 'deadlineMs'>;

interface SentEvent {
  readonly id: string;
  readonly body: Buffer;
}

export interface WebhookSenderOptions {
  readonly egress: Pick<Egress, 'pool'>;
  /** The control plane's time, milliseconds since the epoch. */
  readonly now: () => number;
  readonly monotonic: () => number;
}

/**
 * Sends events to webhooks over guarded connections: signed, within a deadline, no redirect followed, at most so many at
 * once; one that goes on failing is not asked for a while.
 */
export class WebhookSender {
  readonly #options: WebhookSenderOptions;
  readonly #lines = new Map<string, Line>();

  constructor(options: WebhookSenderOptions) {
    this.#options = options;
  }

  /**
   * Never rejects. What is no JSON in 200 is a failure.
   * @param check says why the body is no answer, or undefined where it is one
   * @param deadlineMs where less than the webhook's own is left
   */
  async send(webhook: Target, event: SentEvent, check: Check, deadlineMs = webhook.deadlineMs): Promise<WebhookAnswer> {
    const { monotonic } = this.#options;
    const startedAt = monotonic();
    const outcome = await this.#outcome(webhook, event, check, deadlineMs);
    return { ...outcome, durationMs: monotonic() - startedAt };
  }

  async #outcome(webhook: Target, event: SentEvent, check: Check, deadlineMs: number): Promise<Outcome> {
    const line = this.#line(webhook);
    if (line.breaker.isOpen()) return failed('breakerOpen');
    const signal = AbortSignal.timeout(Math.max(1, Math.floor(Math.min(deadlineMs, webhook.deadlineMs))));
    const refusal = await line.enter(signal);
    if (refusal !== undefined) {
      line.breaker.record(false);
      return failed(refusal);
    }
    try {
      let answer = await this.#attempt(webhook, event, signal);
      // A kept connection that the receiver closed meanwhile says nothing of the receiver; the id tells it is the same.
      if (answer.failure === 'unreachable') answer = await this.#attempt(webhook, event, signal);
      const invalid = answer.failure === null ? check(answer.body) : undefined;
      line.breaker.record(answer.failure === null && invalid === undefined);
      return invalid === undefined ? answer : failed(invalid, answer.status);
    } finally {
      line.leave();
    }
  }

  #line({ id, version }: Pick<Target, 'id' | 'version'>): Line {
    const known = this.#lines.get(id);
    // Whoever changed the webhook mended it, perhaps.
    if (known !== undefined && known.version === version) return known;
    const line = new Line(version, new Breaker(this.#options.monotonic));
    this.#lines.set(id, line);
    return line;
  }

  async #attempt(webhook: Target, { id, body }: SentEvent, signal: AbortSignal): Promise<Outcome> {
    const signed = signWebhook(webhook.algorithm, webhook.signingKeys, id, this.#options.now(), body);
    if (signed === undefined) return failed('noSigningKey');
    try {
      const url = new URL(webhook.url);
      const headers = { 'content-type': 'application/json', accept: 'application/json', ...signed };
      const path = `${url.pathname}${url.search}`;
      const answer = await this.#options.egress.pool(url).request({ path, method: 'POST', headers, body, signal });
      const { statusCode: status } = answer;
      // A body that is given up says so by an error, which nobody else would take.
      answer.body.on('error', () => undefined);
      if (status !== 200) {
        answer.body.destroy();
        return failed(status >= 300 && status < 400 ? 'redirect' : 'status', status);
      }
      if (!isJson(answer.headers['content-type'])) {
        answer.body.destroy();
        return failed('contentType', status);
      }
      const read = await readBounded(answer.body);
      if (read === undefined) return failed('answerTooLarge', status);
      return { failure: null, body: read, status };
    } catch (error) {
      if (signal.aborted) return failed('timeout');
      if (error instanceof Error) return failed('unreachable');
      throw error;
    }
  }
}

function failed(failure: WebhookFailure, status: number | null = null): Outcome {
  return { failure, body: null, status };
}

function isJson(contentType: string | string[] | undefined): boolean {
  const [type = ''] = (typeof contentType === 'string' ? contentType : '').split(';');
  return type.trim().toLowerCase() === 'application/json';
}

async function readBounded(body: AsyncIterable<Buffer>): Promise<Buffer | undefined> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of body) {
    length += chunk.length;
    // Leaving the loop closes the connection.
    if (length > verdictBytesMax) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, length);
}

/** The requests to one webhook: how many there are, and how they fared. */
class Line {
  readonly version: number;
  readonly breaker: Breaker;
  readonly #waiting: (() => void)[] = [];
  #open = 0;

  constructor(version: number, breaker: Breaker) {
    this.version = version;
    this.breaker = breaker;
  }

  /** Resolves when it is one's turn, or with why it is not. */
  async enter(signal: AbortSignal): Promise<Extract<WebhookFailure, 'overloaded' | 'timeout'> | undefined> {
    if (this.#open < concurrentMax) {
      this.#open++;
      return undefined;
    }
    if (this.#waiting.length >= waitingMax) return 'overloaded';
    const { promise, resolve } = Promise.withResolvers<'timeout' | undefined>();
    const turn = (): void => resolve(undefined);
    const giveUp = (): void => {
      const at = this.#waiting.indexOf(turn);
      if (at < 0) return;
      this.#waiting.splice(at, 1);
      resolve('timeout');
    };
    this.#waiting.push(turn);
    signal.addEventListener('abort', giveUp, { once: true });
    return await promise;
  }

  leave(): void {
    const next = this.#waiting.shift();
    // The place goes on to whoever waits.
    if (next === undefined) this.#open--;
    else next();
  }
}

/** Closed, open for a while, then half open: one call is let through, and what comes of it decides. */
class Breaker {
  readonly #monotonic: () => number;
  #failuresInRow = 0;
  #calls: { readonly at: number; readonly isSuccess: boolean }[] = [];
  #openUntil = 0;
  #isTrying = false;

  constructor(monotonic: () => number) {
    this.#monotonic = monotonic;
  }

  isOpen(): boolean {
    if (this.#openUntil === 0) return false;
    if (this.#monotonic() < this.#openUntil || this.#isTrying) return true;
    this.#isTrying = true;
    return false;
  }

  record(isSuccess: boolean): void {
    const now = this.#monotonic();
    if (this.#isTrying && isSuccess) {
      this.#openUntil = 0;
      this.#calls = [];
    }
    this.#isTrying = false;
    this.#failuresInRow = isSuccess ? 0 : this.#failuresInRow + 1;
    this.#calls = this.#calls.filter(({ at }) => at > now - windowMs);
    this.#calls.push({ at: now, isSuccess });
    const failures = this.#calls.filter((call) => !call.isSuccess).length;
    const isMostly = this.#calls.length >= windowCallsMin && failures * 2 > this.#calls.length;
    if (!isSuccess && (this.#failuresInRow >= failuresInRowMax || isMostly)) this.#openUntil = now + openMs;
  }
}
