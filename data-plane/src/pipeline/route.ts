import { AppError } from '@sallyport/schema';
import { openSession } from '../bridge/sealed-session.ts';
import { assumedLegacyRevision } from '../mcp/revision.ts';
import type { Runtime } from '../runtime/runtime.ts';
import type { DecisionCache } from './decisions.ts';
import type { Authenticated, Routed } from './exchange.ts';

/**
 * Finds the server of the endpoint and, for a legacy client, opens its session. A server the principal has no grant on
 * is answered like none at all, and before its session is looked at, which would tell the two apart.
 * @throws AppError NOT_FOUND, SESSION_NOT_FOUND
 */
export function route(authenticated: Authenticated, runtime: Runtime, decisions: DecisionCache, nowMs: number): Routed {
  const { received, principal } = authenticated;
  const { exchange } = received;
  const server = runtime.serverBySlug.get(received.slug);
  if (server === undefined) throw new AppError('NOT_FOUND');
  exchange.server = server;
  const known = decisions.get(server, principal, nowMs).server;
  exchange.decision = known;
  if (known.effect === 'deny') throw new AppError('NOT_FOUND');
  // A modern client has no sessions; a header it sends all the same means nothing (2026-07-28, Streamable HTTP).
  const token = received.era === 'legacy' ? received.request.headers.get('mcp-session-id') : undefined;
  const session =
    token === undefined
      ? null
      : openSession(runtime, token, {
          principalId: principal.id,
          principalEpoch: principal.epoch,
          serverId: server.document.id,
          nowMs,
        });
  const protocolRevision = received.statedRevision ?? session?.protocolRevision ?? assumedLegacyRevision;
  exchange.protocolRevision = protocolRevision;
  exchange.clientInfo ??= session?.clientInfo ?? null;
  return { received, authenticated, runtime, server, protocolRevision, session };
}
