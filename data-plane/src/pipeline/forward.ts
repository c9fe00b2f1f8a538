import { AppError, isProtocolRevision, protocolRevisions, refusedCapabilities } from '@sallyport/schema';
import { type EventOwner, openEventId } from '../bridge/sealed-event-id.ts';
import type { OpenedTask } from '../bridge/sealed-task.ts';
import type { Message } from '../mcp/envelope.ts';
import { declaredEdits } from '../mcp/extensions.ts';
import { forwardedHeaders, mirroredHeader } from '../mcp/headers.ts';
import { memberRange, applyEdits, removeMember, type Edit } from '../mcp/json-scanner.ts';
import { unsupportedRevision } from '../mcp/revision.ts';
import type { Runtime } from '../runtime/runtime.ts';
import type { Cancellation, Connections, UpstreamRequest } from '../upstream/connections.ts';
import type { CallCredential, UpstreamCredentials } from '../upstream/credentials.ts';
import type { ObservedHealth } from '../upstream/observed-health.ts';
import { withoutOurAnswer } from './connection-needed.ts';
import { bridgeFor, checkSession, type BridgeAnswer, type Bridges } from './bridge.ts';
import {
  isOpenEnded,
  type Authorized,
  type Forwarded,
  type Inspected,
  type Routed,
  type RuntimeSource,
  traceHeaders,
} from './exchange.ts';

/**
 * A call that waited no longer than this since it was decided needs no second look at what ends by time (keys, windows,
 * the age of the configuration), in milliseconds.
 */
const decisionAgeMsMax = 250;

export interface ForwardContext {
  readonly connections: Pick<Connections, 'send'>;
  readonly credentials: Pick<UpstreamCredentials, 'ofCall'>;
  readonly bridges: Bridges;
  readonly health: Pick<ObservedHealth, 'answered' | 'failed'>;
  readonly runtimes: Pick<RuntimeSource, 'current'>;
  readonly clock: { monotonic(): number };
  /** Decides again, under the given configuration. */
  readonly reauthorize: (authorized: Authorized, runtime: Runtime) => Authorized;
  /** Of the exchange: nothing is sent before it says that the call is about to be made. */
  readonly record: { writeOpened(): Promise<void>; opened(): void };
}

/**
 * Sends the exchange to its upstream. The decision is made again if the configuration changed since, the record is
 * written first, and only what the protocol needs of the client's headers goes along. All of that may take its time
 * (the disk, a connection, a place in the pool), so the decision is looked at once more when the first byte is about to
 * be written; a call refused there was recorded as opened and closes as refused, with `upstreamMs` null: never sent.
 * @throws AppError of authorize, UNSUPPORTED_PROTOCOL_REVISION, AUDIT_UNAVAILABLE, UPSTREAM_…
 */
export async function forward(inspected: Inspected, context: ForwardContext): Promise<Forwarded> {
  const { clock } = context;
  const running = context.runtimes.current;
  const before = inspected.authorized;
  let authorized =
    running === undefined || running === before.routed.runtime ? before : context.reauthorize(before, running);
  const decidedAt = clock.monotonic();
  const { routed } = authorized;
  const { exchange } = routed.received;
  exchange.runtime = routed.runtime;
  checkEra(routed);
  checkSession(routed);
  const credential = context.credentials.ofCall(routed.server, routed.authenticated.principal);
  if (credential !== null) {
    const first = credential.current();
    exchange.upstreamCredential = first instanceof Promise ? await first : first;
  }
  const send = way(inspected, authorized, context, credential);
  await context.record.writeOpened();
  context.record.opened();
  routed.received.request.onForward?.();
  const sentAt = clock.monotonic();
  const serverId = routed.server.document.id;
  let refused = false;
  const beforeWrite = (): void => {
    const current = context.runtimes.current ?? authorized.routed.runtime;
    if (current === authorized.routed.runtime && clock.monotonic() - decidedAt <= decisionAgeMsMax) return;
    refused = true;
    authorized = stillThere(context.reauthorize(authorized, current), routed);
    refused = false;
  };
  try {
    const { response, opens, isBridged } = await send(beforeWrite);
    context.health.answered(serverId, response.status, clock.monotonic() - sentAt);
    exchange.upstreamMs = clock.monotonic() - sentAt;
    return { inspected, authorized, response, credential, isBridged, opens };
  } catch (error) {
    if (!refused) exchange.upstreamMs = clock.monotonic() - sentAt;
    if (!refused && !routed.received.request.signal.aborted) context.health.failed(serverId, error);
    throw error;
  }
}

/** The request was made, with its credential, and its connection chosen, for one address. */
function stillThere(authorized: Authorized, { server }: Routed): Authorized {
  const { upstream, document } = authorized.routed.server;
  const isSame =
    upstream.href === server.upstream.href && document.credential?.revision === server.document.credential?.revision;
  if (isSame) return authorized;
  throw new AppError('NOT_READY', { internal: 'the server moved to another URL, or its credential was changed' });
}

/** An answer of either way. */
type Sent = BridgeAnswer & Pick<Forwarded, 'isBridged'>;

/** 2025-11-25 basic/transports: a disconnect is no cancellation; since 2026-07-28 it is one. */
function cancellation({ received }: Routed): Cancellation | null {
  return received.era === 'modern' || received.kind !== 'message' ? received.request.signal : null;
}

/** What speaks no revision the gateway knows cannot be translated to either. */
function checkEra({ server, received }: Routed): void {
  if (server.eras.size > 0) return;
  const spoken = server.document.protocolRevisions.filter(isProtocolRevision);
  throw unsupportedRevision(received.statedRevision, spoken.length > 0 ? spoken : protocolRevisions);
}

/**
 * The way to the upstream: the exchange as it came, or over a bridge where the upstream does not speak the client's era.
 * What cannot be sent is refused here, before the record says that it was.
 */
function way(
  inspected: Inspected,
  authorized: Authorized,
  context: ForwardContext,
  credential: CallCredential | null,
): (beforeWrite: () => void) => Promise<Sent> {
  const { routed } = authorized;
  const timeoutMs = timeoutOf(routed, context);
  const bridge = bridgeFor(routed, context.bridges);
  if (bridge !== null) {
    const { body } = inspected;
    const headers = traceHeaders(routed.received);
    return async (beforeWrite) => {
      const answer = await bridge.send({ authorized, body, headers, credential, beforeWrite, timeoutMs });
      return { ...answer, isBridged: true };
    };
  }
  const request = upstreamRequest(inspected, authorized, timeoutMs, credential);
  return async (beforeWrite) => {
    const response = await context.connections.send({ ...request, beforeWrite }, cancellation(routed));
    return { response, opens: null, isBridged: false };
  };
}

/** Milliseconds that are left for the exchange. */
function timeoutOf({ received, runtime }: Routed, { clock }: ForwardContext): number {
  const { limits } = runtime;
  if (isOpenEnded(received)) return limits.streamAgeMsMax;
  return Math.max(1, limits.exchangeTimeoutMs - (clock.monotonic() - received.exchange.startedAt));
}

function upstreamRequest(
  inspected: Inspected,
  authorized: Authorized,
  totalTimeoutMs: number,
  credential: CallCredential | null,
): Omit<UpstreamRequest, 'beforeWrite'> {
  const { routed, rule, tasks } = authorized;
  const { authenticated, received, runtime, server, session } = routed;
  const { request, era, kind } = received;
  const method = request.method === 'GET' || request.method === 'DELETE' ? request.method : 'POST';
  const [task] = rule?.permission === 'task' ? tasks : [];
  const name = task === undefined ? null : mirroredHeader(task.taskId);
  const headers = [...forwardedHeaders(request.headers, era, method, name), ...traceHeaders(received)];
  if (session !== null) headers.push('mcp-session-id', session.upstreamSessionId);
  const lastEventId = era === 'legacy' && method === 'GET' ? request.headers.get('last-event-id') : undefined;
  if (lastEventId !== undefined) headers.push('last-event-id', openEventId(runtime, ownerOf(routed), lastEventId));
  const { limits } = runtime;
  return {
    transport: server.document.transport,
    principalId: authenticated.principal.id,
    credential,
    url: server.upstream,
    method,
    headers,
    body: kind === 'message' ? bodyFor(inspected, authorized) : null,
    firstByteTimeoutMs: limits.upstreamConnectTimeoutMs + limits.upstreamFirstByteTimeoutMs,
    totalTimeoutMs,
  };
}

function ownerOf({ authenticated, server, session }: Routed): EventOwner {
  const { principal } = authenticated;
  return {
    principalId: principal.id,
    principalEpoch: principal.epoch,
    serverId: server.document.id,
    upstreamSessionId: session?.upstreamSessionId ?? null,
  };
}

/** The received bytes, but for what must not pass: extensions that are not let through, and ids that only clients know. */
function bodyFor({ body }: Inspected, { routed, tasks }: Authorized): Buffer {
  const { message, era } = routed.received;
  if (message === null) return body;
  const { extensions, asks } = routed.server.document;
  return applyEdits(body, [
    ...declaredEdits(body, message, extensions, refusedCapabilities(asks)),
    ...(era === 'modern' ? withoutOurAnswer(body, message) : legacyTaskEdits(body, message)),
    ...taskEdits(body, message, tasks),
  ]);
}

/** Tasks of 2025-11-25 are not carried; who does not offer them runs such a call like any other (basic/utilities/tasks). */
function legacyTaskEdits(body: Buffer, { method, params, paramsRange }: Message): Edit[] {
  if (method !== 'tools/call' || !('task' in params) || paramsRange === null) return [];
  return removeMember(body, paramsRange, 'task');
}

/** Puts the upstream's own ids where a request names tasks. */
function taskEdits(body: Buffer, message: Message, tasks: readonly OpenedTask[]): Edit[] {
  const { paramsRange } = message;
  const [task] = tasks;
  if (paramsRange === null || task === undefined) return [];
  if (message.method !== 'subscriptions/listen') {
    const range = memberRange(body, paramsRange, 'taskId');
    return range === undefined ? [] : [{ ...range, replacement: JSON.stringify(task.taskId) }];
  }
  const notifications = memberRange(body, paramsRange, 'notifications');
  const range = notifications === undefined ? undefined : memberRange(body, notifications, 'taskIds');
  return range === undefined ? [] : [{ ...range, replacement: JSON.stringify(tasks.map(({ taskId }) => taskId)) }];
}
