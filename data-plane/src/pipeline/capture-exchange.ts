import { capturingPolicy, type PolicyDirection } from '@sallyport/schema';
import type { CapturedExchange, CapturedMessages, PayloadCapture } from '../telemetry/payload-capture.ts';
import type { Authorized, Exchange } from './exchange.ts';

/**
 * What is kept of an exchange's messages, as policies of its configuration want it; null where none does, which costs one
 * lookup. To be asked for once it is authorized: of what nobody may do nothing is kept but its record.
 */
export function captureOf(authorized: Authorized, captures: Pick<PayloadCapture, 'begin'>): ExchangeCapture | null {
  const { routed, target } = authorized;
  const { server, runtime, received, authenticated } = routed;
  const capturing = runtime.policies.of(server.document)?.capturing ?? null;
  if (capturing === null || received.kind === 'endSession') return null;
  const exchange = { principal: authenticated.principal, target, definitions: server.definitions };
  const begin = (direction: PolicyDirection): CapturedMessages | null => {
    const policy = capturingPolicy(capturing, direction, exchange);
    const bytesMax = policy?.entry.capture?.bytesMax;
    if (policy === null || bytesMax === undefined) return null;
    const secretMembers = secretMembersFor(authorized);
    return captures.begin({ direction, policyId: policy.entry.id, bytesMax, secretMembers, key: runtime.payloadKey });
  };
  const request = received.kind === 'message' ? begin('request') : null;
  const response = begin('response');
  return request === null && response === null ? null : new ExchangeCapture(received.body, request, response);
}

/** Of the tool; of all tools where it cannot be told which one a message is about. */
function secretMembersFor({ routed, target }: Authorized): readonly string[] {
  const { server } = routed;
  if (target !== null) {
    return target.kind === 'tool' ? (server.definitions.get('tool', target.name)?.secretMembers ?? []) : [];
  }
  return [...new Set(server.document.definitions.flatMap(({ secretMembers }) => secretMembers ?? []))];
}

/** The messages of one exchange that are kept: what the client sent, as it went on, and what was delivered to it. */
export class ExchangeCapture {
  readonly #request: CapturedMessages | null;
  readonly #response: CapturedMessages | null;
  #body: Buffer;

  /** @param body as received: kept where the request does not go on */
  constructor(body: Buffer, request: CapturedMessages | null, response: CapturedMessages | null) {
    this.#body = body;
    this.#request = request;
    this.#response = response;
  }

  /** For the record: which policy keeps what. */
  get policies(): { readonly request: string | null; readonly response: string | null } {
    return { request: this.#request?.plan.policyId ?? null, response: this.#response?.plan.policyId ?? null };
  }

  /** The request goes on as this. */
  goesOn(body: Buffer): void {
    this.#body = body;
  }

  /** A message was delivered, or was held back as it came. */
  answered(message: Buffer): void {
    this.#response?.add(message);
  }

  /** It is on record that the call is made, or that it was refused. */
  requestRecorded(exchange: Exchange): void {
    if (this.#request === null) return;
    this.#request.add(this.#body);
    this.#request.done(capturedExchange(exchange));
  }

  /** The exchange has ended; that it was made is on record. */
  responseRecorded(exchange: Exchange): void {
    this.#response?.done(capturedExchange(exchange));
  }
}

function capturedExchange({ eventId, receivedAt, server, principal, message, target }: Exchange): CapturedExchange {
  return {
    eventId,
    time: receivedAt,
    serverId: server?.document.id ?? '',
    principalId: principal?.id ?? '',
    method: message?.method ?? null,
    target,
  };
}
