/** Records as nodes write them, and keys as nodes have them. */
import { generateKeyPairSync, sign } from 'node:crypto';
import type { BatchSigner } from '@sallyport/data-plane/telemetry';
import type { ClosedRecord, OpenedRecord, RefusedRecord } from '@sallyport/schema';
import { systemClock, uuidv7 } from '@sallyport/schema/platform';

export function eventId(): string {
  return uuidv7(systemClock.now());
}

/** A key pair of a node, as the sync client has one. */
export function nodeSigner(nodeId: string = uuidv7(systemClock.now())): BatchSigner {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519');
  return {
    nodeId,
    publicKey: publicKey.export({ type: 'spki', format: 'der' }).toString('base64'),
    sign: (text) => sign(null, Buffer.from(text), privateKey).toString('base64'),
  };
}

const response = {
  outcome: 'success',
  status: 200,
  rpcErrorCode: null,
  errorCode: null,
  responseBytes: 120,
  durationMs: 12.5,
  firstByteMs: 8,
  upstreamMs: 7,
  upstreamRequests: null,
  verdicts: null,
} as const;

export function openedRecord(id: string = eventId(), more: Partial<OpenedRecord> = {}): OpenedRecord {
  return {
    type: 'opened',
    eventId: id,
    time: Math.floor(systemClock.now()),
    principal: { id: 'principal', kind: 'serviceAccount', name: 'caller', keyId: 'key', clientId: null, tokenId: null },
    client: { address: '192.0.2.1', userAgent: 'test', info: null },
    server: { id: 'server', slug: 'counter' },
    httpMethod: 'POST',
    method: 'tools/call',
    target: { kind: 'tool', name: 'count' },
    protocolRevision: '2026-07-28',
    decision: { effect: 'allow', reason: 'GRANTED', grantIds: ['grant'], shadow: null },
    config: { historyId: 'history', revision: 7 },
    paramsDigest: null,
    requestBytes: 200,
    traceId: '0af7651916cd43dd8448eb211c80319c',
    credential: null,
    capture: null,
    ...more,
  };
}

export function closedRecord(opened: OpenedRecord, more: Partial<ClosedRecord> = {}): ClosedRecord {
  return { type: 'closed', eventId: opened.eventId, time: opened.time, ...response, ...more };
}

export function refusedRecord(more: Partial<RefusedRecord> = {}): RefusedRecord {
  return { ...openedRecord(), ...response, outcome: 'refused', status: 403, type: 'refused', ...more };
}
