import { AppError } from '@sallyport/schema';
import { open, seal } from '@sallyport/schema/platform';
import { z } from 'zod';
import type { Runtime } from '../runtime/runtime.ts';

const tokenBytesMax = 1024;
const purpose = 'sallyport.httpSseSession.v1';

/** Whose stream it is. */
export interface SseSessionOwner {
  readonly principalId: string;
  readonly principalEpoch: number;
  readonly serverId: string;
}

/** Where the event stream of an HTTP+SSE client is held. */
export interface SseSessionPlace {
  readonly nodeId: string;
  readonly streamId: string;
}

const sealedFields = z.tuple([z.string(), z.string()]);

/**
 * What an HTTP+SSE client posts its messages with: sealed, so that any node finds the one that holds the client's stream,
 * and nobody else can post there. It stands in a URL, which proxies may log; it does NOT authenticate.
 */
export function sealSseSession(
  runtime: Pick<Runtime, 'sealing'>,
  owner: SseSessionOwner,
  { nodeId, streamId }: SseSessionPlace,
): string {
  return seal(runtime.sealing.seal, purposeFor(owner), JSON.stringify([nodeId, streamId]));
}

/** @throws AppError SESSION_NOT_FOUND: forged, changed, another principal's or server's, from before a revocation */
export function openSseSession(
  runtime: Pick<Runtime, 'sealing'>,
  owner: SseSessionOwner,
  token: string,
): SseSessionPlace {
  const plaintext = token.length > tokenBytesMax ? undefined : open(runtime.sealing.open, purposeFor(owner), token);
  if (plaintext === undefined) throw new AppError('SESSION_NOT_FOUND');
  const [nodeId, streamId] = sealedFields.parse(JSON.parse(plaintext.toString('utf8')));
  return { nodeId, streamId };
}

function purposeFor({ principalId, principalEpoch, serverId }: SseSessionOwner): string {
  return JSON.stringify([purpose, principalId, principalEpoch, serverId]);
}
