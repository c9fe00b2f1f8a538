import { AppError } from '@sallyport/schema';
import type { Batch } from '../mcp/batch.ts';
import { messageEvent } from '../mcp/sse.ts';
import type { ByteStream, Follower, ProxyRequest, ProxyResponse, Routed } from './exchange.ts';

/**
 * Batches exist in 2025-03-26 alone.
 * @throws AppError INVALID_REQUEST
 */
export function checkBatchRevision({ protocolRevision, session }: Routed): void {
  if (protocolRevision === '2025-03-26' && (session === null || session.protocolRevision === '2025-03-26')) return;
  throw new AppError('INVALID_REQUEST', {
    publicMessage: 'JSON-RPC batches are of revision 2025-03-26: send one message per request.',
  });
}

/**
 * Answers a batch: each message goes its own way, is decided, recorded and answered by itself. One JSON array where all
 * answers are JSON; an event stream as soon as one of them is, since a server may ask before it answers.
 */
export async function answerBatch(
  batch: Batch,
  request: ProxyRequest,
  handle: (request: ProxyRequest) => Promise<ProxyResponse>,
): Promise<ProxyResponse> {
  const { promise: firstStream, resolve: streams } = Promise.withResolvers<'stream'>();
  const responses = batch.map(async ({ body, isRequest }) => {
    const response = await handle({ ...request, readBody: (bytesMax) => given(body, bytesMax) });
    if (response.body !== null && !Buffer.isBuffer(response.body)) streams('stream');
    return { response, isRequest };
  });
  const whole = await Promise.race([Promise.all(responses), firstStream]);
  if (whole === 'stream') {
    const stream = new BatchStream(responses);
    const headers = ['content-type', 'text/event-stream', 'cache-control', 'no-store', 'x-accel-buffering', 'no'];
    return { status: 200, headers, body: stream, follower: stream };
  }
  const follower: Follower = {
    ended: (complete, _bytes, firstByteAt) => {
      for (const { response } of whole) response.follower?.ended(complete, bytesOf(response), firstByteAt);
    },
  };
  const answers = whole.flatMap(({ response: { body }, isRequest }) =>
    isRequest && Buffer.isBuffer(body) ? [body] : [],
  );
  if (answers.length === 0) return { status: 202, headers: ['cache-control', 'no-store'], body: null, follower };
  const joined = answers.flatMap((answer, index) => [index === 0 ? opening : separator, answer]);
  const headers = ['content-type', 'application/json', 'cache-control', 'no-store'];
  return { status: 200, headers, body: Buffer.concat([...joined, closing]), follower };
}

const opening = Buffer.from('[');
const separator = Buffer.from(',');
const closing = Buffer.from(']');

function given(body: Buffer, bytesMax: number): Promise<Buffer> {
  return body.length > bytesMax ? Promise.reject(new AppError('BODY_TOO_LARGE')) : Promise.resolve(body);
}

function bytesOf({ body }: ProxyResponse): number {
  return Buffer.isBuffer(body) ? body.length : 0;
}

interface MemberResponse {
  readonly response: ProxyResponse;
  readonly isRequest: boolean;
}

/** The answers of a batch on one stream, in the order they come; reads on only when the client took what there is. */
class BatchStream implements ByteStream, Follower {
  readonly #queue: Buffer[] = [];
  readonly #open: { readonly response: ProxyResponse; bytes: number }[] = [];
  readonly #done: Promise<void>;
  #pumping: number;
  #cancelled = false;
  #failure: { readonly error: unknown } | undefined;
  #wake: (() => void) | undefined;
  #room = Promise.withResolvers<void>();

  constructor(responses: readonly Promise<MemberResponse>[]) {
    this.#pumping = responses.length;
    this.#done = Promise.all(responses.map((response) => this.#pump(response))).then(() => undefined);
  }

  async next(): Promise<Buffer | undefined> {
    while (this.#queue.length === 0 && this.#pumping > 0 && !this.#cancelled) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const chunk = this.#cancelled ? undefined : this.#queue.shift();
    if (chunk === undefined && this.#failure !== undefined && !this.#cancelled) throw this.#failure.error;
    if (this.#queue.length === 0) {
      this.#room.resolve();
      this.#room = Promise.withResolvers<void>();
    }
    return chunk;
  }

  async cancel(): Promise<void> {
    this.#cancelled = true;
    this.#room.resolve();
    this.#wake?.();
    await Promise.all(this.#open.flatMap(({ response: { body } }) => (isStream(body) ? [body.cancel()] : [])));
    await this.#done;
  }

  ended(complete: boolean, _bytes: number, firstByteAt: number | null): void {
    for (const { response, bytes } of this.#open) response.follower?.ended(complete, bytes, firstByteAt);
  }

  /** Never rejects: a member that fails, as one whose end cannot be recorded, is the failure of the whole stream. */
  async #pump(pending: Promise<MemberResponse>): Promise<void> {
    try {
      await this.#read(await pending);
    } catch (error) {
      this.#failure ??= { error };
    }
    this.#pumping--;
    this.#wake?.();
  }

  async #read({ response, isRequest }: MemberResponse): Promise<void> {
    const member = { response, bytes: 0 };
    this.#open.push(member);
    const { body } = response;
    if (Buffer.isBuffer(body) && isRequest) await this.#put(member, messageEvent(body.toString('utf8')));
    else if (isStream(body)) {
      if (this.#cancelled) await body.cancel();
      for (let chunk = await body.next(); chunk !== undefined; chunk = await body.next())
        await this.#put(member, chunk);
    }
  }

  async #put(member: { bytes: number }, chunk: Buffer): Promise<void> {
    if (this.#cancelled) return;
    member.bytes += chunk.length;
    this.#queue.push(chunk);
    this.#wake?.();
    await this.#room.promise;
  }
}

function isStream(body: ProxyResponse['body']): body is ByteStream {
  return body !== null && !Buffer.isBuffer(body);
}
