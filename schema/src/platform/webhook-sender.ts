import {
  readVerdict,
  verdictBytesMax,
  type WebhookEntry,
  type WebhookFailure,
  type WebhookVerdict,
} from '../inspection/webhook.ts';
import { eventText, type InspectionEvent } from '../inspection/webhook-event.ts';
import type { Egress } from './guarded-egress.ts';
import { InterceptorClient, type RpcAnswer } from './interceptor-client.ts';
import { signWebhook } from './webhook-signing.ts';

/** Requests to one webhook at once, and those that wait for their turn. */
const concurrentMax = 32;
const waitingMax = 100;
/** Failures in a row, or more than half of at least `windowCallsMin` within the window, open the breaker. */
const failuresInRowMax = 5;
const windowMs = 10_000;
const windowCallsMin = 20;
const openMs = 5_000;
const jsonType = 'application/json';
const streamType = 'text/event-stream';

/** What came of one event, and how long it took. */
export interface WebhookAnswer {
  /** Null where the answer counts. */
  readonly failure: WebhookFailure | null;
  /** Null where there was no answer. */
  readonly status: number | null;
  readonly durationMs: number;
}

/** Of an event that asked for one. */
export type VerdictAnswer = WebhookAnswer &
  (
    | { readonly failure: null; readonly verdict: WebhookVerdict }
    | { readonly failure: WebhookFailure; readonly verdict: null }
  );

type Outcome<Said> = { readonly status: number | null } & (
  | { readonly failure: null; readonly said: Said }
  | { readonly failure: WebhookFailure; readonly said: null }
);

export type WebhookTarget = Pick<
  WebhookEntry,
  'id' | 'version' | 'url' | 'algorithm' | 'signingKeys' | 'deadlineMs' | 'interceptor'
>;

type HttpAnswer = Awaited<ReturnType<ReturnType<Egress['pool']>['request']>>;

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
  readonly #interceptors: InterceptorClient;

  constructor(options: WebhookSenderOptions) {
    this.#options = options;
    this.#interceptors = new InterceptorClient(options.monotonic);
  }

  /**
   * Asks for a verdict. Never rejects: what is no verdict about the event, as JSON in 200, is a failure.
   * @param leftMs where less than the webhook's own deadline is left
   */
  async ask(webhook: WebhookTarget, event: InspectionEvent, leftMs = webhook.deadlineMs): Promise<VerdictAnswer> {
    const { said, ...answer } = await this.#timed(webhook, leftMs, this.#asking(webhook, event));
    // The compiler does not see that the two go together.
    return { ...answer, verdict: said } as VerdictAnswer;
  }

  /** Hands over what is only to be taken. Never rejects: any status of 200 to 299 says that it was. */
  async deliver(
    webhook: WebhookTarget,
    event: { readonly id: string; readonly body: Buffer },
    leftMs = webhook.deadlineMs,
  ): Promise<WebhookAnswer> {
    const { failure, status, durationMs } = await this.#timed(webhook, leftMs, (signal) =>
      this.#exchange(webhook, event, signal, async ({ statusCode, body }) => {
        body.destroy();
        if (statusCode >= 200 && statusCode < 300) return { failure: null, said: null, status: statusCode };
        return failed(statusFailure(statusCode), statusCode);
      }),
    );
    return { failure, status, durationMs };
  }

  #asking(webhook: WebhookTarget, event: InspectionEvent): (signal: AbortSignal) => Promise<Outcome<WebhookVerdict>> {
    const { interceptor } = webhook;
    if (interceptor !== undefined) {
      return (signal) => this.#intercepted({ ...webhook, interceptor }, event, signal);
    }
    const sent = { id: event.id, body: Buffer.from(eventText(event)) };
    return async (signal) => {
      const outcome = await this.#exchange(webhook, sent, signal, (answer) => bodyOf(answer, [jsonType]));
      if (outcome.failure !== null) return outcome;
      const verdict = readVerdict(outcome.said, event);
      return typeof verdict === 'string' ? failed(verdict, outcome.status) : { ...outcome, said: verdict };
    };
  }

  async #timed<Said>(
    webhook: WebhookTarget,
    leftMs: number,
    attempt: (signal: AbortSignal) => Promise<Outcome<Said>>,
  ): Promise<Outcome<Said> & { readonly durationMs: number }> {
    const { monotonic } = this.#options;
    const startedAt = monotonic();
    const outcome = await this.#guarded(webhook, leftMs, attempt);
    return { ...outcome, durationMs: monotonic() - startedAt };
  }

  async #guarded<Said>(
    webhook: WebhookTarget,
    leftMs: number,
    attempt: (signal: AbortSignal) => Promise<Outcome<Said>>,
  ): Promise<Outcome<Said>> {
    const line = this.#line(webhook);
    if (line.breaker.isOpen()) return failed('breakerOpen');
    const signal = AbortSignal.timeout(Math.max(1, Math.floor(Math.min(leftMs, webhook.deadlineMs))));
    const refusal = await line.enter(signal);
    if (refusal !== undefined) {
      // That many ask at once is no fault of the receiver.
      line.breaker.record(undefined);
      return failed(refusal);
    }
    try {
      let outcome = await attempt(signal);
      // A kept connection that the receiver closed meanwhile says nothing of the receiver; the id tells it is the same.
      if (outcome.failure === 'unreachable') outcome = await attempt(signal);
      const hadItsTime = outcome.failure !== 'timeout' || leftMs >= webhook.deadlineMs;
      line.breaker.record(hadItsTime ? outcome.failure === null : undefined);
      return outcome;
    } finally {
      line.leave();
    }
  }

  #line({ id, version }: Pick<WebhookTarget, 'id' | 'version'>): Line {
    const known = this.#lines.get(id);
    // Whoever changed the webhook mended it, perhaps.
    if (known !== undefined && known.version === version) return known;
    const line = new Line(version, new Breaker(this.#options.monotonic));
    this.#lines.set(id, line);
    return line;
  }

  async #intercepted(
    webhook: WebhookTarget & { readonly interceptor: string },
    event: InspectionEvent,
    signal: AbortSignal,
  ): Promise<Outcome<WebhookVerdict>> {
    let status: number | null = null;
    const verdict = await this.#interceptors.invoke(webhook, event, async (id, text, headers) => {
      const sent = { id: id === '' ? event.id : id, body: Buffer.from(text) };
      const outcome = await this.#exchange(
        webhook,
        sent,
        signal,
        (answer) => (id === '' ? takenOf(answer) : rpcAnswerOf(answer, id)),
        headers,
      );
      status = outcome.status;
      return outcome.failure ?? outcome.said;
    });
    return typeof verdict === 'string' ? failed(verdict, status) : { failure: null, said: verdict, status };
  }

  async #exchange<Said>(
    webhook: WebhookTarget,
    { id, body }: SentEvent,
    signal: AbortSignal,
    read: (answer: HttpAnswer) => Promise<Outcome<Said>>,
    more: Readonly<Record<string, string>> = {},
  ): Promise<Outcome<Said>> {
    const signed = signWebhook(webhook.algorithm, webhook.signingKeys, id, this.#options.now(), body);
    if (signed === undefined) return failed('noSigningKey');
    try {
      const url = new URL(webhook.url);
      const headers = { 'content-type': jsonType, accept: jsonType, ...more, ...signed };
      const path = `${url.pathname}${url.search}`;
      const answer = await this.#options.egress.pool(url).request({ path, method: 'POST', headers, body, signal });
      // A body that is given up says so by an error, which nobody else would take.
      answer.body.on('error', () => undefined);
      return await read(answer);
    } catch (error) {
      if (signal.aborted) return failed('timeout');
      if (error instanceof Error) return failed('unreachable');
      throw error;
    }
  }
}

function failed(failure: WebhookFailure, status: number | null = null): Outcome<never> & { readonly said: null } {
  return { failure, said: null, status };
}

/** Of a notification, nothing but that it was taken is told. */
async function takenOf({ statusCode, body }: HttpAnswer): Promise<Outcome<RpcAnswer>> {
  body.destroy();
  if (statusCode >= 300) return failed('status', statusCode);
  return { failure: null, said: { sessionId: null }, status: statusCode };
}

/** The JSON-RPC answer to a request, alone or as an event of a stream; an error is none. */
async function rpcAnswerOf(answer: HttpAnswer, id: string): Promise<Outcome<RpcAnswer>> {
  const outcome = await bodyOf(answer, [jsonType, streamType]);
  if (outcome.failure !== null) return outcome;
  const { status } = outcome;
  const text = outcome.said.toString('utf8');
  const isStream = mediaType(answer) === streamType;
  const messages = (isStream ? dataOf(text) : [text]).map(parsedObject).filter((each) => each !== undefined);
  const message = messages.find((each) => each['id'] === id);
  if (message === undefined) return failed(messages.length === 0 ? 'answerInvalid' : 'foreignVerdict', status);
  if (message['jsonrpc'] !== '2.0' || !('result' in message)) return failed('answerInvalid', status);
  const session = answer.headers['mcp-session-id'];
  const sessionId = typeof session === 'string' ? session : null;
  return { failure: null, said: { result: message['result'], sessionId }, status };
}

/** The data of each event of a stream (HTML, server-sent events), its lines joined. */
function dataOf(text: string): string[] {
  return text.split(/(?:\r\n|\r|\n){2}/).map((event) =>
    event
      .split(/\r\n|\r|\n/)
      .flatMap((line) => (line.startsWith('data:') ? [line.slice(5).replace(/^ /, '')] : []))
      .join('\n'),
  );
}

function parsedObject(text: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? { ...value } : undefined;
  } catch {
    return undefined;
  }
}

/** The body of a 200 in one of these media types. */
async function bodyOf(answer: HttpAnswer, types: readonly string[]): Promise<Outcome<Buffer>> {
  const { statusCode: status, body } = answer;
  if (status !== 200 || !types.includes(mediaType(answer))) {
    body.destroy();
    return failed(status === 200 ? 'contentType' : statusFailure(status), status);
  }
  const read = await readBounded(body);
  return read === undefined ? failed('answerTooLarge', status) : { failure: null, said: read, status };
}

function statusFailure(status: number): WebhookFailure {
  return status >= 300 && status < 400 ? 'redirect' : 'status';
}

function mediaType({ headers }: HttpAnswer): string {
  const contentType = headers['content-type'];
  const [type = ''] = (typeof contentType === 'string' ? contentType : '').split(';');
  return type.trim().toLowerCase();
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

  /** @param isSuccess undefined where what came of a call says nothing of the receiver */
  record(isSuccess: boolean | undefined): void {
    if (isSuccess === undefined) {
      this.#isTrying = false;
      return;
    }
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
