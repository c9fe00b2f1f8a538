import { AppError, canonicalJson, legacyRevisions, modernRevisions, sha256, toAppError } from '@sallyport/schema';
import { profileFor, profileOf, type ClientProfile } from '../bridge/client-profile.ts';
import { ModernToLegacy } from '../bridge/modern-to-legacy.ts';
import { callDigest, openCall, type CallOwner, type SealedCall } from '../bridge/sealed-call.ts';
import {
  discoverResult,
  isLogLevel,
  logLevelKey,
  mismatchedHeader,
  modernResult,
  type LogLevel,
} from '../bridge/translate.ts';
import { objectMember, stringMember, type JsonObject, type Message } from '../mcp/envelope.ts';
import { clientCapabilitiesKey, clientInfoKey } from '../mcp/revision.ts';
import { canBeAsked, type ChannelPool, type Lease } from '../upstream/channel-pool.ts';
import type { UpstreamResponse } from '../upstream/connections.ts';
import type { LegacyChannel, LegacyTransport } from '../upstream/legacy-channel.ts';
import { termsOf, type Bridge, type BridgeAnswer, type BridgedExchange } from './bridge.ts';
import type { Routed } from './exchange.ts';
import { paramsOf } from './legacy-clients.ts';
import { asUpstreamFailure, ModernCall } from './modern-call.ts';
import type { ListPolls } from './list-polls.ts';
import { openModernListening } from './modern-listening.ts';
import type { ParkedCalls } from './parked-calls.ts';
import type { PeerLink } from './peer-link.ts';
import type { Sighted } from './pinned-definitions.ts';
import { TranslatedResponse } from '../upstream/translated-response.ts';

export interface ModernClientsOptions {
  /** How a legacy upstream is reached; chosen by the server. */
  readonly transportOf: (routed: Routed) => LegacyTransport;
  readonly pool: ChannelPool;
  readonly parked: ParkedCalls;
  readonly peers: PeerLink;
  readonly polls: ListPolls;
  /** The control plane's time, milliseconds since the epoch. */
  readonly now: () => number;
  readonly sighted: Sighted;
}

interface Caller {
  readonly client: ClientProfile;
  /** Whether what the server sends on the stream that belongs to no call may be for it. */
  readonly isFollowed: boolean;
}

/** What the gateway calls itself where a client said nothing. */
const ownInfo = { name: 'sallyport', version: '0' };
const revisionToAsk = legacyRevisions[0];

/**
 * Carries modern clients to legacy upstreams: sessions are the bridge's own, and a call in which the upstream asks for
 * something is parked until its client returns, here or by way of another node.
 */
export class ModernClients implements Bridge {
  readonly #options: ModernClientsOptions;

  constructor(options: ModernClientsOptions) {
    this.#options = options;
  }

  async send(exchange: BridgedExchange): Promise<BridgeAnswer> {
    const { message } = exchange.authorized.routed.received;
    // Over HTTP a modern client has nothing to notify of: it cancels by closing its stream.
    if (message?.kind !== 'request') return { response: TranslatedResponse.bare(202), opens: null };
    return { response: await this.#request(exchange, message), opens: null };
  }

  close(): void {
    this.#options.parked.close();
    this.#options.pool.close();
  }

  async #request(exchange: BridgedExchange, message: Message): Promise<UpstreamResponse> {
    const params = paramsOf(exchange.body);
    const client = profileFor(clientOf(params), exchange.authorized.routed.server.document);
    switch (message.method) {
      case 'server/discover':
        return await this.#discover(exchange, client, message);
      case 'subscriptions/listen': {
        const open = () => this.#open(exchange, client);
        return await openModernListening(exchange, { id: message.id ?? '', params }, open, this.#options.polls);
      }
      default:
        return await this.#call(exchange, client, message, params);
    }
  }

  async #discover(exchange: BridgedExchange, client: ClientProfile, { id }: Message): Promise<UpstreamResponse> {
    const { routed } = exchange.authorized;
    const lease = await this.#lease(exchange, { client, isFollowed: canBeAsked(client.capabilities) }, false);
    const { initialized } = lease.channel;
    lease.release();
    const revisions = [...modernRevisions, ...routed.server.document.protocolRevisions];
    return TranslatedResponse.json(200, { jsonrpc: '2.0', id, result: discoverResult(initialized, revisions) });
  }

  async #call(
    exchange: BridgedExchange,
    client: ClientProfile,
    message: Message,
    params: JsonObject,
  ): Promise<UpstreamResponse> {
    const { routed } = exchange.authorized;
    const method = message.method ?? '';
    const logLevel = objectMember(params, '_meta')?.[logLevelKey] ?? null;
    if (logLevel !== null && !isLogLevel(logLevel)) {
      throw new AppError('INVALID_PARAMS', { publicMessage: 'Invalid params: unknown log level' });
    }
    const digest = callDigest(method, params);
    const returned = this.#returnOf(routed, params, digest);
    const responses = objectMember(params, 'inputResponses') ?? {};
    if (returned?.kind === 'parked') return await this.#resume(exchange, digest, responses, returned);
    if (returned?.kind === 'before' && isDeclined(returned.questions, responses)) return declined(message);
    checkHeaders(routed, params);
    const isFollowed = canBeAsked(client.capabilities) || isTold(params);
    const caller: Caller = { client, isFollowed };
    const lease = await this.#prepared(exchange, caller, logLevel);
    const serverInfo = objectMember(lease.channel.initialized, 'serverInfo') ?? null;
    const machine = new ModernToLegacy({
      request: { id: message.id ?? '', method, params },
      upstreamId: routed.received.exchange.eventId,
      capabilities: client.capabilities,
      logLevel,
      serverInfo,
    });
    const call = new ModernCall(machine, exchange, {
      parked: this.#options.parked,
      nodeId: this.#options.peers.nodeId,
      digest,
      serverInfo,
      now: this.#options.now,
      sighted: this.#options.sighted,
      lease: (isFresh) => this.#lease(exchange, caller, isFresh),
    });
    return await call.run(lease, exchange);
  }

  /** A session in which the call can be made; another one where the first turns out to be forgotten. */
  async #prepared(exchange: BridgedExchange, caller: Caller, logLevel: LogLevel | null): Promise<Lease> {
    for (let isFresh = false; ; isFresh = true) {
      const lease = await this.#lease(exchange, caller, isFresh);
      try {
        await setLogLevel(lease, logLevel, exchange);
        return lease;
      } catch (thrown) {
        const error = toAppError(thrown);
        lease.discard();
        if (isFresh || error.code !== 'SESSION_NOT_FOUND') throw asUpstreamFailure(error);
      }
    }
  }

  /** What the client's `requestState` leads to; undefined where it brings none. @throws AppError INVALID_PARAMS */
  #returnOf(routed: Routed, params: JsonObject, digest: string): SealedCall | undefined {
    const { requestState } = params;
    if (requestState === undefined) return undefined;
    const owner = { ...ownerOf(routed), digest };
    const isText = typeof requestState === 'string';
    const call = isText ? openCall(routed.runtime, owner, requestState, this.#options.now()) : undefined;
    if (call === undefined) {
      throw new AppError('INVALID_PARAMS', { publicMessage: 'Invalid params: requestState is not valid' });
    }
    return call;
  }

  async #resume(
    exchange: BridgedExchange,
    digest: string,
    responses: JsonObject,
    { nodeId, callId }: Extract<SealedCall, { kind: 'parked' }>,
  ): Promise<UpstreamResponse> {
    const { parked, peers } = this.#options;
    const { routed } = exchange.authorized;
    const { principalId, serverId } = ownerOf(routed);
    const { message, request } = routed.received;
    const requestId = message?.id ?? '';
    const returned = { callId, principalId, serverId, digest, requestId, responses, timeoutMs: exchange.timeoutMs };
    exchange.beforeWrite();
    if (nodeId === peers.nodeId) return await parked.resume(returned, request.signal);
    return await peers.resume(nodeId, returned, request.signal);
  }

  async #lease(exchange: BridgedExchange, { client, isFollowed }: Caller, isFresh: boolean): Promise<Lease> {
    const { routed } = exchange.authorized;
    const { streamAgeMsMax } = routed.runtime.limits;
    const { principalId, principalEpoch, serverId } = ownerOf(routed);
    // A session belongs to whom the upstream took its opener for.
    const openedWith = [
      routed.server.document.credential?.revision ?? null,
      routed.received.exchange.upstreamCredential?.id ?? null,
    ];
    const parts = [serverId, routed.server.upstream.href, openedWith, principalId, principalEpoch, client];
    const events = isFollowed
      ? { ...termsOf(exchange, null, streamAgeMsMax), beforeWrite: () => undefined, onRequest: () => undefined }
      : null;
    const key = sha256(canonicalJson(parts));
    return await this.#options.pool.acquire(key, () => this.#open(exchange, client), { principalId, isFresh, events });
  }

  async #open(exchange: BridgedExchange, client: ClientProfile): Promise<LegacyChannel> {
    const { routed } = exchange.authorized;
    const initialize = {
      protocolVersion: revisionToAsk,
      capabilities: client.capabilities,
      clientInfo: client.info ?? ownInfo,
    };
    try {
      const transport = this.#options.transportOf(routed);
      return await transport.open(initialize, termsOf(exchange, routed.received.request.signal));
    } catch (error) {
      throw asUpstreamFailure(error);
    }
  }
}

/**
 * A legacy upstream would not notice a header that says something else than the body. What is right for one of the
 * tool's approved definitions is right.
 * @throws AppError HEADER_MISMATCH
 */
function checkHeaders({ server, received }: Routed, params: JsonObject): void {
  if (received.message?.method !== 'tools/call') return;
  const maps = server.definitions.get('tool', stringMember(params, 'name') ?? '')?.paramHeaders ?? [];
  const mismatched = maps.map((expected) => mismatchedHeader(params, expected, received.request.headers));
  const [name] = mismatched;
  if (name === undefined || mismatched.includes(undefined)) return;
  throw new AppError('HEADER_MISMATCH', {
    publicMessage: `Mcp-Param-${name} does not equal the argument it mirrors.`,
  });
}

/** Whether a call wants to be told something while it runs, which some servers do on the stream that belongs to no call. */
function isTold(params: JsonObject): boolean {
  return objectMember(params, '_meta')?.['progressToken'] !== undefined;
}

function clientOf(params: JsonObject): ClientProfile {
  const meta = objectMember(params, '_meta') ?? {};
  return profileOf(objectMember(meta, clientCapabilitiesKey) ?? {}, objectMember(meta, clientInfoKey));
}

function ownerOf({ authenticated, server }: Routed): Omit<CallOwner, 'digest'> {
  const { principal } = authenticated;
  return { principalId: principal.id, principalEpoch: principal.epoch, serverId: server.document.id };
}

/** A session logs at one level; while a call has it, at the call's. */
async function setLogLevel(lease: Lease, level: LogLevel | null, exchange: BridgedExchange): Promise<void> {
  const { channel } = lease;
  const canLog = objectMember(objectMember(channel.initialized, 'capabilities') ?? {}, 'logging') !== undefined;
  if (level === null || lease.logLevel === level || !canLog) return;
  const id = `${exchange.authorized.routed.received.exchange.eventId}.level`;
  const message = { jsonrpc: '2.0', id, method: 'logging/setLevel', params: { level } };
  const messages = await channel.request(message, termsOf(exchange, null));
  for (let next = await messages.next(); next !== undefined; next = await messages.next()) {
    if (next['id'] === id) break;
  }
  messages.close();
  lease.logLevel = level;
}

function isDeclined(questions: readonly string[], responses: JsonObject): boolean {
  return questions.some((key) => {
    const action = stringMember(objectMember(responses, key) ?? {}, 'action');
    return action === 'decline' || action === 'cancel';
  });
}

/** The user does not want what the upstream needs first, so the upstream is not asked again. */
function declined({ id, method }: Message): UpstreamResponse {
  const text = 'The user declined what the MCP server needs before it does this.';
  const outcome =
    method === 'tools/call'
      ? { result: modernResult('tools/call', { content: [{ type: 'text', text }], isError: true }, null) }
      : { error: { code: -32603, message: text } };
  return TranslatedResponse.json(200, { jsonrpc: '2.0', id, ...outcome });
}
