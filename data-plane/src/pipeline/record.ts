import {
  AppError,
  toAppError,
  type AuditOutcome,
  type AuditRecord,
  type Decision,
  type ErrorCode,
} from '@sallyport/schema';
import { randomHex, uuidv7, type Clock, type Log } from '@sallyport/schema/platform';
import { errorResponse } from '../mcp/error-response.ts';
import { parseTraceparent } from '../mcp/headers.ts';
import { eraOfHeaders } from '../mcp/revision.ts';
import type { AuditSpool } from '../telemetry/audit-spool.ts';
import type { Metrics } from '../telemetry/metrics.ts';
import { challengeOf } from './challenge.ts';
import { connectionNeeded } from './connection-needed.ts';
import type { Answer, ByteStream, Exchange, Follower, ProxyRequest, ProxyResponse } from './exchange.ts';

/** Longest text of a caller kept in a record, in characters; the digest covers the whole. */
const recordedTextLengthMax = 2048;
const userAgentLengthMax = 256;
const methodLengthMax = 128;

export interface RecordContext {
  readonly audit: Pick<AuditSpool, 'append' | 'appendDurable'>;
  readonly metrics: Pick<Metrics, 'exchangeClosed'>;
  readonly clock: Clock;
  readonly log: Log;
  /** The control plane's time, milliseconds since the epoch. */
  readonly now: () => number;
}

type AuditRecordCapture = Extract<AuditRecord, { type: 'opened' }>['capture'];

interface Ending {
  readonly status: number | null;
  readonly responseBytes: number;
  readonly firstByteAt: number | null;
}

/** Starts the record of an exchange, before anything is read of it. */
export function openRecord(request: ProxyRequest, context: RecordContext): Entry {
  const trace = parseTraceparent(request.headers.get('traceparent'));
  const traceId = trace?.traceId ?? randomHex(16);
  const receivedAt = context.now();
  const exchange: Exchange = {
    request,
    eventId: uuidv7(receivedAt),
    traceId,
    traceparent: `00-${traceId}-${randomHex(8)}-${trace?.flags ?? '01'}`,
    receivedAt,
    startedAt: context.clock.monotonic(),
    era: eraOfHeaders(request.headers),
    slug: null,
    message: null,
    protocolRevision: null,
    clientInfo: null,
    requestBytes: 0,
    paramsDigest: null,
    runtime: null,
    principal: null,
    credential: null,
    server: null,
    target: null,
    decision: null,
    upstreamCredential: null,
    forwarded: false,
    upstreamMs: null,
    upstreamRequests: null,
    upstreamRefusal: null,
    asks: 0,
    verdicts: null,
    capture: null,
    outcome: null,
    rpcErrorCode: null,
    errorCode: null,
  };
  return new Entry(exchange, context);
}

/**
 * The record of one exchange. Ends in exactly one of: `refused`, for what was never forwarded, or `opened` and
 * `closed`, which share the event's id.
 */
export class Entry implements Follower {
  readonly exchange: Exchange;
  readonly #context: RecordContext;
  readonly #releases: (() => void)[] = [];
  #status: number | null = null;
  #closed = false;

  constructor(exchange: Exchange, context: RecordContext) {
    this.exchange = exchange;
    this.#context = context;
  }

  /** To be run when the exchange has ended, in whatever way. */
  onEnd(release: () => void): void {
    this.#releases.push(release);
  }

  /**
   * Writes that the call is about to be made: resolves once the kernel has it, or, where the audit is strict, the disk.
   * Whoever waited for it calls `opened` then, before anything else.
   */
  writeOpened(): Promise<void> {
    return this.#append({ type: 'opened', ...this.#request() });
  }

  /** The record that the call is made stands: from now on its end is recorded as such. */
  opened(): void {
    this.exchange.forwarded = true;
    this.exchange.capture?.requestRecorded(this.exchange);
  }

  /** The response on its way; the record closes with its last byte, or when the client is gone. */
  follow(answer: Answer): ProxyResponse | Promise<ProxyResponse> {
    const { status, headers, body } = answer;
    this.#status = status;
    if (!this.#isStrict) return { status, headers, body, follower: this };
    if (body !== null && !Buffer.isBuffer(body)) {
      return { ...answer, body: new DurablyClosed(body, (bytes) => this.#close(bytes)), follower: this };
    }
    return this.#close(body?.length ?? 0).then(() => ({ ...answer, follower: this }));
  }

  /** The answer to a failure; what was never forwarded is recorded before the caller learns of it. */
  async fail(thrown: unknown): Promise<ProxyResponse> {
    let error = toAppError(thrown);
    const { exchange } = this;
    if (error.code === 'INTERNAL') {
      this.#context.log.error({ err: error.cause ?? error, traceId: exchange.traceId }, 'an exchange failed');
    }
    exchange.errorCode = error.code;
    // A legacy call goes on without its client, so what became of it is known.
    const isAborted = exchange.request.signal.aborted && (exchange.era === 'modern' || !exchange.forwarded);
    exchange.outcome = isAborted ? 'aborted' : outcomeOf(error);
    exchange.rpcErrorCode = error.entry.jsonRpc;
    let response =
      error.code === 'CONNECTION_NEEDED'
        ? connectionNeeded(error, exchange)
        : errorResponse(error, exchange.era, exchange.message, challengeOf(exchange, error));
    if (!exchange.forwarded) {
      try {
        await this.#writeRefused(exchange.request.signal.aborted ? null : response.status, response.body.length);
      } catch (unrecorded) {
        error = toAppError(unrecorded);
        this.#context.log.error({ err: unrecorded, traceId: exchange.traceId }, 'a refusal could not be recorded');
        response = errorResponse(new AppError('AUDIT_UNAVAILABLE'), exchange.era, exchange.message);
      }
      return { ...response, follower: this };
    }
    try {
      return await this.follow(response);
    } catch (unrecorded) {
      // Strict: its `opened` is on disk and stands for the call.
      this.#context.log.error({ err: unrecorded, traceId: exchange.traceId }, 'an end could not be recorded');
      return { ...errorResponse(new AppError('AUDIT_UNAVAILABLE'), exchange.era, exchange.message), follower: this };
    }
  }

  ended(complete: boolean, responseBytes: number, firstByteAt: number | null): void {
    if (!this.#closed && this.exchange.forwarded) {
      this.#closed = true;
      if (!complete && this.exchange.era === 'modern') this.exchange.outcome = 'aborted';
      const ending = { status: complete ? this.#status : null, responseBytes, firstByteAt };
      try {
        void this.#context.audit.append(this.#closedRecord(ending));
      } catch (unrecorded) {
        // Its `opened` is on disk and stands for the call; nothing more can be told to the client.
        this.#context.log.error({ err: unrecorded, traceId: this.exchange.traceId }, 'an end could not be recorded');
      }
      this.#count();
    }
    if (this.exchange.forwarded) this.exchange.capture?.responseRecorded(this.exchange);
    for (const release of this.#releases.splice(0)) release();
  }

  get #isStrict(): boolean {
    return this.exchange.server?.document.auditMode === 'strict';
  }

  /** Strict: on disk before the client can have seen the end. */
  async #close(responseBytes: number): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#count();
    const ending = { status: this.#status, responseBytes, firstByteAt: null };
    await this.#context.audit.appendDurable(this.#closedRecord(ending));
  }

  async #writeRefused(status: number | null, responseBytes: number): Promise<void> {
    this.#closed = true;
    this.#count();
    const record: AuditRecord = {
      type: 'refused',
      ...this.#request(),
      ...this.#response({ status, responseBytes, firstByteAt: null }),
    };
    await this.#append(record);
    this.exchange.capture?.requestRecorded(this.exchange);
  }

  #append(record: AuditRecord): Promise<void> {
    const { audit } = this.#context;
    return this.#isStrict ? audit.appendDurable(record) : audit.append(record);
  }

  #closedRecord(ending: Ending): AuditRecord {
    return {
      type: 'closed',
      eventId: this.exchange.eventId,
      time: this.exchange.receivedAt,
      ...this.#response(ending),
    };
  }

  #request() {
    const { exchange } = this;
    const { request, server, slug, target, decision, runtime } = exchange;
    return {
      eventId: exchange.eventId,
      time: exchange.receivedAt,
      principal: principalOf(exchange),
      client: {
        address: request.remoteAddress,
        userAgent: request.headers.get('user-agent')?.slice(0, userAgentLengthMax) ?? null,
        info: exchange.clientInfo,
      },
      server: slug === null ? null : { id: server?.document.id ?? null, slug },
      httpMethod: request.method,
      method: exchange.message?.method?.slice(0, methodLengthMax) ?? null,
      target: target === null ? null : { kind: target.kind, name: target.name.slice(0, recordedTextLengthMax) },
      protocolRevision: exchange.protocolRevision,
      decision:
        decision === null
          ? { effect: 'none' as const, reason: exchange.errorCode ?? 'INTERNAL', grantIds: [], shadow: null }
          : { ...decision, grantIds: [...decision.grantIds], shadow: shadowOf(decision) },
      config: runtime === null ? null : { historyId: runtime.historyId, revision: runtime.revision },
      paramsDigest: exchange.paramsDigest,
      requestBytes: exchange.requestBytes,
      traceId: exchange.traceId,
      credential: credentialOf(exchange),
      capture: this.#captured(),
    };
  }

  /** Of what was never forwarded nothing was delivered that could be kept. */
  #captured(): AuditRecordCapture {
    const policies = this.exchange.capture?.policies ?? null;
    if (policies === null || !this.#closed) return policies;
    return policies.request === null ? null : { ...policies, response: null };
  }

  #response({ status, responseBytes, firstByteAt }: Ending) {
    const { exchange } = this;
    return {
      outcome: exchange.outcome ?? ('success' as const),
      status,
      rpcErrorCode: exchange.rpcErrorCode,
      errorCode: exchange.errorCode,
      responseBytes,
      durationMs: this.#elapsedMs(),
      firstByteMs: firstByteAt === null ? null : firstByteAt - exchange.startedAt,
      upstreamMs: exchange.upstreamMs,
      upstreamRequests: exchange.upstreamRequests === null ? null : [...exchange.upstreamRequests],
      verdicts: exchange.verdicts === null ? null : [...exchange.verdicts],
    };
  }

  #elapsedMs(): number {
    return this.#context.clock.monotonic() - this.exchange.startedAt;
  }

  #count(): void {
    const { server, slug, message, target, outcome, upstreamMs } = this.exchange;
    this.#context.metrics.exchangeClosed({
      serverId: server?.document.id ?? null,
      slug,
      target,
      method: message?.method ?? null,
      outcome: outcome ?? 'success',
      durationMs: this.#elapsedMs(),
      upstreamMs,
    });
  }
}

/** Holds back the end of a stream until the record of it is on disk. */
class DurablyClosed implements ByteStream {
  readonly #stream: ByteStream;
  readonly #close: (bytes: number) => Promise<void>;
  #bytes = 0;
  #cancelled = false;

  constructor(stream: ByteStream, close: (bytes: number) => Promise<void>) {
    this.#stream = stream;
    this.#close = close;
  }

  async next(): Promise<Buffer | undefined> {
    const chunk = await this.#stream.next();
    if (chunk !== undefined) this.#bytes += chunk.length;
    else if (!this.#cancelled) await this.#close(this.#bytes);
    return chunk;
  }

  cancel(): Promise<void> {
    this.#cancelled = true;
    return this.#stream.cancel();
  }
}

/** Failures of form, as against of right or of capacity. */
const malformed: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'BODY_TOO_LARGE',
  'HEADERS_TOO_LARGE',
  'HEADER_MISMATCH',
  'INVALID_PARAMS',
  'INVALID_REQUEST',
  'METHOD_NOT_ALLOWED',
  'NOT_ACCEPTABLE',
  'PARSE_ERROR',
  'REQUEST_TIMEOUT',
  'UNSUPPORTED_MEDIA_TYPE',
]);

function principalOf({ principal, credential }: Exchange) {
  if (principal === null || credential === null) return null;
  const { id, kind, name } = principal;
  return credential.kind === 'apiKey'
    ? { id, kind, name, keyId: credential.id, clientId: null, tokenId: null }
    : { id, kind, name, keyId: null, clientId: credential.token.clientId, tokenId: credential.token.id };
}

function credentialOf({ upstreamCredential, server }: Exchange) {
  const mode = server?.document.credential?.mode;
  if (upstreamCredential === null || mode === undefined) return null;
  return { id: upstreamCredential.id, mode, issuer: upstreamCredential.issuer };
}

function shadowOf({ shadow }: Decision) {
  return shadow === null ? null : { effect: shadow.effect, grantIds: [...shadow.grantIds] };
}

function outcomeOf(error: AppError): AuditOutcome {
  if (malformed.has(error.code)) return 'malformed';
  if (error.entry.owner === 'upstream' || error.code === 'UPSTREAM_REFUSED') return 'upstreamFailure';
  return error.code === 'INTERNAL' ? 'error' : 'refused';
}
