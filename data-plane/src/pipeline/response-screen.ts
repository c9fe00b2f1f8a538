import { AppError, detectorsVersion, type InspectionResult, labelsMember } from '@sallyport/schema';
import { isObject } from '../mcp/envelope.ts';
import { errorMessage } from '../mcp/error-response.ts';
import { applyEdits, insertMember, memberRange, parseRange, scanJson } from '../mcp/json-scanner.ts';
import type { Authorized } from './exchange.ts';
import { blockedError, type Inspector, policiesFor } from './inspector.ts';
import { reviewMessage, type Reviewed } from './review-message.ts';
import { type AskRefusal, refusedAsk, withoutContext } from './upstream-asks.ts';

/** A message of the upstream's after everything looked at it. */
export interface Screened extends Reviewed {
  /** Why the answer may not be delivered; `bytes` then says so to whoever waits for it. */
  readonly refusal: AppError | null;
  /** The upstream asked something that does not reach the client, under this id, and waits for an answer. */
  readonly refusedId: string | number | null;
}

export interface ResponseScreenOptions {
  readonly inspector: Pick<Inspector, 'inspect' | 'note'>;
  readonly isBridged: boolean;
  /** Is told what was found in each message of the upstream's. */
  readonly observe: (authorized: Authorized, reviewed: Reviewed) => void;
}

/**
 * Looks at the messages of one answer on their way to the client, in order: reviews each, holds back what the server may
 * not ask, and inspects what is left under the policies that are about the exchange. What was split over events is read
 * together.
 */
export class ResponseScreen {
  readonly #options: ResponseScreenOptions;
  readonly #inspector: ResponseScreenOptions['inspector'];
  #carried = '';

  constructor(options: ResponseScreenOptions) {
    this.#options = options;
    this.#inspector = options.inspector;
  }

  /** Answers at once unless the message is long and a policy is about it. @throws AppError of `reviewMessage` */
  screen(bytes: Buffer, authorized: Authorized): Screened | Promise<Screened> {
    const { isBridged, observe } = this.#options;
    let reviewed = reviewMessage(bytes, { authorized, isBridged });
    observe(authorized, reviewed);
    if (reviewed.bytes === null) return passing(reviewed);
    const { unapprovedView } = reviewed;
    if (unapprovedView !== undefined) {
      return withheld(reviewed, authorized, new AppError('RESOURCE_NOT_AVAILABLE', { data: { uri: unapprovedView } }));
    }
    if (reviewed.asks.length > 0) {
      const refusal = refusedAsk(reviewed.asks, authorized);
      if (refusal !== undefined) return this.#refused(reviewed, authorized, refusal);
      reviewed = { ...reviewed, bytes: withoutContext(reviewed.bytes, reviewed.asks) };
    }
    const policies = policiesFor(authorized, 'response');
    if (policies === null) return delivered(reviewed, authorized);
    const message = { bytes: reviewed.bytes ?? bytes, carried: this.#carried };
    const result = this.#inspector.inspect(authorized, 'response', policies, message);
    return result instanceof Promise
      ? result.then((late) => this.#inspected(reviewed, authorized, late))
      : this.#inspected(reviewed, authorized, result);
  }

  /** A body that answers no request, such as an error to a notification. @throws AppError BLOCKED_BY_POLICY, … */
  async body(bytes: Buffer, authorized: Authorized): Promise<Buffer> {
    const { capture } = authorized.routed.received.exchange;
    const policies = policiesFor(authorized, 'response');
    const result =
      policies === null ? null : await this.#inspector.inspect(authorized, 'response', policies, { bytes });
    const changed = result === null || result.changed === null ? bytes : Buffer.from(result.changed);
    capture?.answered(changed);
    if (result?.isBlocked === true) throw blockedError(result);
    return changed;
  }

  #refused(reviewed: Reviewed, authorized: Authorized, reason: AskRefusal): Screened {
    this.#inspector.note(authorized.routed.received.exchange, {
      policyId: null,
      mode: 'enforce',
      direction: 'response',
      detector: 'upstreamRequest',
      version: detectorsVersion,
      decision: 'block',
      reason,
      severity: null,
      count: 1,
      places: [],
      durationMs: 0,
    });
    return withheld(reviewed, authorized, new AppError('UPSTREAM_REQUEST_REFUSED', { internal: reason }));
  }

  #inspected(reviewed: Reviewed, authorized: Authorized, result: InspectionResult): Screened {
    this.#carried = result.carried;
    if (result.isBlocked) return withheld(reviewed, authorized, blockedError(result));
    if (result.changed === null && result.labels.length === 0) return delivered(reviewed, authorized);
    const bytes = result.changed === null ? (reviewed.bytes ?? Buffer.alloc(0)) : Buffer.from(result.changed);
    const labelled = result.labels.length === 0 ? bytes : withLabels(bytes, result.labels);
    return delivered({ ...reviewed, bytes: labelled }, authorized);
  }
}

function delivered(reviewed: Reviewed, authorized: Authorized): Screened {
  keep(reviewed, authorized);
  return passing(reviewed);
}

/** What was held back is kept as it came. */
function keep({ bytes }: Reviewed, { routed }: Authorized): void {
  if (bytes !== null) routed.received.exchange.capture?.answered(bytes);
}

function passing(reviewed: Reviewed): Screened {
  return { ...reviewed, refusal: null, refusedId: null };
}

/** An answer becomes an error; a question is answered in the client's place; a notification is dropped. */
function withheld(reviewed: Reviewed, authorized: Authorized, error: AppError): Screened {
  keep(reviewed, authorized);
  // Neither question nor notification has an answer's id; a notification has none of its own either.
  if (reviewed.answerId === undefined) return { ...reviewed, bytes: null, refusal: null, refusedId: reviewed.callId };
  const { message } = authorized.routed.received;
  const answered =
    reviewed.isAnswer && message !== null
      ? message
      : { kind: 'request' as const, idText: JSON.stringify(reviewed.answerId) };
  const bytes = Buffer.from(errorMessage(error, answered));
  return { ...reviewed, bytes, refusal: error, refusedId: null, isError: true, rpcErrorCode: error.entry.jsonRpc };
}

/** The answer with the labels in `_meta` of its result; an error has no place for them. */
function withLabels(bytes: Buffer, labels: readonly string[]): Buffer {
  const scan = scanJson(bytes);
  const result = scan.ok ? scan.members.get('result') : undefined;
  if (result === undefined || !isObject(parseRange(bytes, result))) return bytes;
  const meta = memberRange(bytes, result, '_meta');
  const holder = meta !== undefined && isObject(parseRange(bytes, meta)) ? meta : undefined;
  const labelled = `${JSON.stringify(labelsMember)}:${JSON.stringify(labels)}`;
  if (holder !== undefined) {
    const present = memberRange(bytes, holder, labelsMember);
    // What a server says of itself is no label of ours.
    if (present !== undefined) return applyEdits(bytes, [{ ...present, replacement: JSON.stringify(labels) }]);
    return applyEdits(bytes, [insertMember(bytes, holder, labelled)]);
  }
  return meta === undefined ? applyEdits(bytes, [insertMember(bytes, result, `"_meta":{${labelled}}`)]) : bytes;
}
