import { AppError, toAppError } from '@sallyport/schema';
import { openSession, type OpenedSession } from '../bridge/sealed-session.ts';
import { assumedLegacyRevision } from '../mcp/revision.ts';
import type { Runtime, ServerRuntime } from '../runtime/runtime.ts';
import { accessRequest } from './access-request.ts';
import { decideKnown } from './credential.ts';
import type { DecisionContext } from './decisions.ts';
import type { Authenticated, Routed } from './exchange.ts';

/**
 * Finds the server of the endpoint and, for a legacy client, opens its session. A server the principal has no grant on
 * is answered like none at all, whatever became of its session, which would tell the two apart.
 * @throws AppError NOT_FOUND, SESSION_NOT_FOUND
 */
export function route(
  authenticated: Authenticated,
  runtime: Runtime,
  { decisions, runtimes }: DecisionContext,
): Routed {
  const { received, principal } = authenticated;
  const { exchange } = received;
  const server = runtime.serverBySlug.get(received.slug);
  if (server === undefined) throw new AppError('NOT_FOUND');
  exchange.server = server;
  const nowMs = runtimes.now();
  const opened = sessionOf(authenticated, runtime, server, nowMs);
  if (opened !== null && !(opened instanceof AppError)) exchange.clientInfo ??= opened.clientInfo;
  const request = accessRequest({ exchange, principal, server, runtime, runtimes }, null);
  const set = decisions.get(server, principal, nowMs);
  const known = decideKnown(set, authenticated.credential, server, runtime, request);
  exchange.decision = known;
  if (known.effect === 'deny') throw new AppError('NOT_FOUND');
  if (opened instanceof AppError) throw opened;
  const protocolRevision = received.statedRevision ?? opened?.protocolRevision ?? assumedLegacyRevision;
  exchange.protocolRevision = protocolRevision;
  return { received, authenticated, runtime, server, protocolRevision, session: opened };
}

/** The session a legacy client presents, or why there is none; null where it presents none. */
function sessionOf(
  { received, principal }: Authenticated,
  runtime: Runtime,
  server: ServerRuntime,
  nowMs: number,
): OpenedSession | AppError | null {
  // A modern client has no sessions; a header it sends all the same means nothing (2026-07-28, Streamable HTTP).
  const token = received.era === 'legacy' ? received.request.headers.get('mcp-session-id') : undefined;
  if (token === undefined) return null;
  const expected = {
    principalId: principal.id,
    principalEpoch: principal.epoch,
    serverId: server.document.id,
    nowMs,
  };
  try {
    return openSession(runtime, token, expected);
  } catch (error) {
    return toAppError(error);
  }
}
