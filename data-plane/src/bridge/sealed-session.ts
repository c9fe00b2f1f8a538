import { AppError, isProtocolRevision, type ProtocolRevision } from '@sallyport/schema';
import { open, seal } from '@sallyport/schema/platform';
import { isObject } from '../mcp/envelope.ts';
import type { Runtime } from '../runtime/runtime.ts';
import type { ClientProfile } from './client-profile.ts';

/** Longest token handed to a client, in bytes: it comes back in a header of every request. */
export const sessionTokenBytesMax = 2048;

const purpose = 'sallyport.legacySession.v1';
const visibleAscii = /^[\x21-\x7e]+$/;

/** A legacy client's session, and whose it is: one of the upstream's own, or one with the bridge to a modern upstream. */
export interface OpenedSession {
  /** The upstream's id of it; of a bridged session an id of the bridge's own. */
  readonly upstreamSessionId: string;
  readonly principalId: string;
  readonly principalEpoch: number;
  readonly serverId: string;
  readonly protocolRevision: ProtocolRevision;
  /** As the client said of itself at `initialize`; for the record only. */
  readonly clientInfo: string | null;
  /** In the control plane's time, milliseconds since the epoch. */
  readonly expiresAt: number;
  /** What a bridged session's client said of itself; null where the session is the upstream's own. */
  readonly client: ClientProfile | null;
}

/**
 * The `Mcp-Session-Id` for a client: the upstream's id sealed with whom and what it is for, so that any node can serve
 * it and nobody else can use it. Does NOT authenticate: every request still needs its API key.
 * @throws AppError UPSTREAM_PROTOCOL where the upstream's id is not visible ASCII or too long
 */
export function sealSession(runtime: Pick<Runtime, 'sealing'>, session: OpenedSession): string {
  if (!visibleAscii.test(session.upstreamSessionId)) {
    throw new AppError('UPSTREAM_PROTOCOL', { internal: 'session id is not visible ASCII' });
  }
  const token = seal(
    runtime.sealing.seal,
    purpose,
    JSON.stringify([
      session.upstreamSessionId,
      session.principalId,
      session.principalEpoch,
      session.serverId,
      session.protocolRevision,
      session.clientInfo,
      session.expiresAt,
      session.client,
    ]),
  );
  if (token.length > sessionTokenBytesMax) {
    throw new AppError('UPSTREAM_PROTOCOL', { internal: 'session id is too long to be sealed' });
  }
  return token;
}

/**
 * Opens a token for this principal and server, with any published key. Forged, changed, expired, another's: all the
 * same SESSION_NOT_FOUND (404), which tells a client to initialize anew.
 */
export function openSession(
  runtime: Pick<Runtime, 'sealing'>,
  token: string,
  expected: {
    readonly principalId: string;
    readonly principalEpoch: number;
    readonly serverId: string;
    readonly nowMs: number;
  },
): OpenedSession {
  const session = token.length > sessionTokenBytesMax ? undefined : parse(open(runtime.sealing.open, purpose, token));
  if (
    session === undefined ||
    session.principalId !== expected.principalId ||
    session.principalEpoch !== expected.principalEpoch ||
    session.serverId !== expected.serverId ||
    session.expiresAt <= expected.nowMs
  ) {
    throw new AppError('SESSION_NOT_FOUND');
  }
  return session;
}

function parse(plaintext: Buffer | undefined): OpenedSession | undefined {
  if (plaintext === undefined) return undefined;
  const fields: unknown = JSON.parse(plaintext.toString('utf8'));
  if (!Array.isArray(fields)) return undefined;
  const [upstreamSessionId, principalId, principalEpoch, serverId, protocolRevision, clientInfo, expiresAt]: unknown[] =
    fields;
  // Tokens of the release before have no such field: their sessions are upstreams' own.
  const client = clientOf(fields[7] ?? null);
  if (
    typeof upstreamSessionId !== 'string' ||
    typeof principalId !== 'string' ||
    typeof principalEpoch !== 'number' ||
    typeof serverId !== 'string' ||
    !isProtocolRevision(protocolRevision) ||
    !(clientInfo === null || typeof clientInfo === 'string') ||
    typeof expiresAt !== 'number' ||
    client === undefined
  ) {
    return undefined;
  }
  return { upstreamSessionId, principalId, principalEpoch, serverId, protocolRevision, clientInfo, expiresAt, client };
}

function clientOf(value: unknown): ClientProfile | null | undefined {
  if (value === null) return null;
  if (!isObject(value)) return undefined;
  const { capabilities, info } = value;
  return isObject(capabilities) && (info === null || isObject(info)) ? { capabilities, info } : undefined;
}
