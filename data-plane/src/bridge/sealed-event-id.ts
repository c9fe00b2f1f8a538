import { AppError } from '@sallyport/schema';
import { open, seal } from '@sallyport/schema/platform';
import type { Runtime } from '../runtime/runtime.ts';

const purpose = 'sallyport.eventId.v1';
/** What may stand in a header (RFC 9110 §5.5), byte by byte. */
const headerValue = /^[\t\x20-\x7e\x80-\xff]*$/;

/** Whose stream it was. */
export interface EventOwner {
  readonly principalId: string;
  readonly principalEpoch: number;
  readonly serverId: string;
  /** The upstream's own; null where it keeps none. */
  readonly upstreamSessionId: string | null;
}

/**
 * The event id for a client: the upstream's, sealed for whom the stream was. Upstreams look up what to send again by
 * the event id alone, so another principal's id would bring another principal's messages.
 */
export function sealEventId(runtime: Pick<Runtime, 'sealing'>, owner: EventOwner, eventId: string): string {
  return seal(runtime.sealing.seal, purposeFor(owner), eventId);
}

/**
 * The upstream's event id, by which a client takes up its stream again: the value of a header, a character a byte.
 * @throws AppError SESSION_NOT_FOUND where it was not sealed for this principal, server and session: the client begins anew
 */
export function openEventId(runtime: Pick<Runtime, 'sealing'>, owner: EventOwner, sealed: string): string {
  const eventId = open(runtime.sealing.open, purposeFor(owner), sealed)?.toString('latin1');
  if (eventId === undefined || !headerValue.test(eventId)) throw new AppError('SESSION_NOT_FOUND');
  return eventId;
}

function purposeFor({ principalId, principalEpoch, serverId, upstreamSessionId }: EventOwner): string {
  return JSON.stringify([purpose, principalId, principalEpoch, serverId, upstreamSessionId]);
}
