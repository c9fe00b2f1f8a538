import { hash } from 'node:crypto';
import { canonicalJson } from '@sallyport/schema';
import { open, seal } from '@sallyport/schema/platform';
import type { JsonObject } from '../mcp/envelope.ts';
import type { Runtime } from '../runtime/runtime.ts';

const purpose = 'sallyport.call.v1';
/** Longest `requestState` that is looked at, in characters. */
const stateLengthMax = 4096;

/** Whose call it is, and of what; only the same principal can return to it, with the same request. */
export interface CallOwner {
  readonly principalId: string;
  readonly principalEpoch: number;
  readonly serverId: string;
  /** `callDigest` of the request. */
  readonly digest: string;
}

/** What a client's return leads to. */
export type SealedCall =
  /** A call that waits on a node. */
  | { readonly kind: 'parked'; readonly nodeId: string; readonly callId: string }
  /** A call to be made anew, once these questions are answered. */
  | { readonly kind: 'before'; readonly questions: readonly string[] };

/** The `requestState` for a client, good until `expiresAt` (the control plane's time, milliseconds). */
export function sealCall(
  runtime: Pick<Runtime, 'sealing'>,
  owner: CallOwner,
  call: SealedCall,
  expiresAt: number,
): string {
  return seal(runtime.sealing.seal, purposeFor(owner), JSON.stringify({ ...call, expiresAt }));
}

/**
 * What a `requestState` leads to; undefined where it is forged, changed, expired, of another principal or server, or
 * comes with another request than the one it was given for.
 */
export function openCall(
  runtime: Pick<Runtime, 'sealing'>,
  owner: CallOwner,
  state: string,
  nowMs: number,
): SealedCall | undefined {
  const opened = state.length > stateLengthMax ? undefined : open(runtime.sealing.open, purposeFor(owner), state);
  if (opened === undefined) return undefined;
  // Authenticated: it is what `sealCall` wrote.
  const call = JSON.parse(opened.toString('utf8')) as SealedCall & { readonly expiresAt: number };
  return call.expiresAt > nowMs ? call : undefined;
}

/** SHA-256 of what a request asks: method and params without the envelope, answers and state; hex. */
export function callDigest(method: string, params: JsonObject): string {
  const { _meta, inputResponses: _responses, requestState: _state, ...asked } = params;
  return hash('sha256', canonicalJson([method, asked]));
}

function purposeFor({ principalId, principalEpoch, serverId, digest }: CallOwner): string {
  return JSON.stringify([purpose, principalId, principalEpoch, serverId, digest]);
}
