import { AppError, toAppError } from '@sallyport/schema';
import { randomSecret } from '@sallyport/schema/platform';
import { legacyProfile, profileFor, type ClientProfile } from '../bridge/client-profile.ts';
import { LegacyToModern, type LegacyRequest } from '../bridge/legacy-to-modern.ts';
import { openQuestionId, sealQuestionId } from '../bridge/sealed-question.ts';
import {
  freshSession,
  type SessionName,
  type SessionState,
  subscribedUriLengthMax,
  subscriptionsPerSessionMax,
  type ToldState,
} from '../bridge/session-state.ts';
import { isLogLevel } from '../bridge/translate.ts';
import { isObject, isRequestId, objectMember, stringMember, type JsonObject, type Message } from '../mcp/envelope.ts';
import { parseLossless } from '../mcp/lossless-json.ts';
import type { Connections, UpstreamResponse } from '../upstream/connections.ts';
import type { Bridge, BridgeAnswer, BridgedExchange } from './bridge.ts';
import type { Routed } from './exchange.ts';
import { LegacyExchange } from './legacy-exchange.ts';
import { openLegacyListening } from './legacy-listening.ts';
import type { ListPolls } from './list-polls.ts';
import { ParamHeaderMap } from './param-header-map.ts';
import type { PeerLink, PeerNotice, RelayedResponse } from './peer-link.ts';
import type { Sighted } from './pinned-definitions.ts';
import { checkKnown, type Knowledge, SessionNews } from './session-news.ts';
import { TranslatedResponse } from '../upstream/translated-response.ts';

export interface LegacyClientsOptions {
  readonly connections: Pick<Connections, 'send'>;
  readonly peers: PeerLink;
  readonly polls: ListPolls;
  /** The control plane's time, milliseconds since the epoch. */
  readonly now: () => number;
  readonly sighted: Sighted;
}

/** What a session hears that set no level: a legacy server would choose, a modern one says nothing without. */
const defaultLogLevel = 'info';

/** A bridged session, as its token says. */
export interface BridgedSession extends SessionName {
  readonly client: ClientProfile;
  /** What it told since, as far as it is known here. */
  readonly state: SessionState;
  readonly knowledge: Knowledge;
}

/**
 * Carries legacy clients to modern upstreams. The session is a sealed token, made here; what a client tells later in its
 * session is known by every node (`SessionNews`); a question to the client is waited for on the node that holds its
 * request, and its response finds the way there from any other.
 */
export class LegacyClients implements Bridge {
  readonly #options: LegacyClientsOptions;
  readonly #headers = new ParamHeaderMap();
  readonly #news: SessionNews;
  readonly #underWay = new Map<string, LegacyExchange>();
  readonly #asking = new Map<string, { readonly principalId: string; readonly exchange: LegacyExchange }>();

  constructor(options: LegacyClientsOptions) {
    this.#options = options;
    this.#news = new SessionNews(options.peers, options.now);
  }

  async send(exchange: BridgedExchange): Promise<BridgeAnswer> {
    const { routed } = exchange.authorized;
    const { received } = routed;
    const message = received.message;
    if (message?.kind === 'request' && message.method === 'initialize')
      return await this.#initialize(exchange, message);
    const session = await this.#sessionOf(routed);
    if (received.kind === 'endSession') {
      await this.#news.change(session, { kind: 'ended' });
      return { response: TranslatedResponse.bare(200), opens: null };
    }
    if (message === null) {
      checkKnown(session.knowledge);
      const response = await openLegacyListening(exchange, session, { ...this.#options, news: this.#news });
      return { response, opens: null };
    }
    switch (message.kind) {
      case 'request':
        return { response: await this.#request(exchange, session, message), opens: null };
      case 'notification':
        this.#notified(session, message);
        return { response: TranslatedResponse.bare(202), opens: null };
      case 'response':
        await this.#responded(exchange, session, message);
        return { response: TranslatedResponse.bare(202), opens: null };
      default:
        return message.kind satisfies never;
    }
  }

  /** Another node's news. */
  notice(notice: PeerNotice): void {
    switch (notice.kind) {
      case 'session':
        this.#news.heard(notice, notice.told, notice.isWhole);
        return;
      case 'cancelled':
        this.#underWay.get(requestKey(notice.sessionId, notice.requestId))?.cancel();
        return;
      default:
        notice satisfies never;
    }
  }

  /** What this node knows of a session, for a node that asks; undefined where that is not all. */
  whole(name: SessionName): ToldState | undefined {
    return this.#news.states.whole(name);
  }

  /** A response to a question of this node's; false where there is none. */
  respond({ principalId, questionId, response }: RelayedResponse): boolean {
    const asking = this.#asking.get(questionId);
    if (asking === undefined || asking.principalId !== principalId) return false;
    asking.exchange.answered(questionId, response);
    return true;
  }

  close(): void {
    this.#news.close();
    for (const exchange of this.#underWay.values()) {
      exchange.fail(new AppError('NOT_READY', { internal: 'the node stops' }));
    }
  }

  async #sessionOf({ session, authenticated, server }: Routed): Promise<BridgedSession> {
    if (session?.client == null) throw new AppError('SESSION_REQUIRED');
    const name = { sessionId: session.upstreamSessionId, principalId: authenticated.principal.id };
    const { state, knowledge } = await this.#news.of(name);
    if (state.isEnded) throw new AppError('SESSION_NOT_FOUND');
    return { ...name, client: profileFor(session.client, server.document), state, knowledge };
  }

  async #initialize(exchange: BridgedExchange, message: Message): Promise<BridgeAnswer> {
    const { routed } = exchange.authorized;
    const client = legacyProfile(message.params, routed.protocolRevision);
    const told = profileFor(client, routed.server.document);
    const name = { sessionId: randomSecret('session_'), principalId: routed.authenticated.principal.id };
    const session: BridgedSession = { ...name, client: told, state: freshSession, knowledge: 'whole' };
    const response = await this.#carry(exchange, session, message, name.sessionId);
    this.#news.begin(name);
    return { response, opens: client };
  }

  async #request(exchange: BridgedExchange, session: BridgedSession, message: Message): Promise<UpstreamResponse> {
    const params = message.params;
    switch (message.method) {
      case 'ping':
        return answered(message, {});
      case 'logging/setLevel': {
        const { level } = params;
        if (!isLogLevel(level)) throw invalidParams('unknown level');
        checkKnown(session.knowledge);
        await this.#news.change(session, { kind: 'logLevel', level });
        return answered(message, {});
      }
      case 'resources/subscribe':
      case 'resources/unsubscribe': {
        const kind = message.method === 'resources/subscribe' ? 'subscribe' : 'unsubscribe';
        const uri = stringMember(params, 'uri') ?? '';
        if (uri.length > subscribedUriLengthMax) throw invalidParams('uri is too long');
        checkKnown(session.knowledge);
        const { subscriptions } = session.state;
        if (subscriptions.includes(uri) === (kind === 'subscribe')) return answered(message, {});
        if (kind === 'subscribe' && subscriptions.length >= subscriptionsPerSessionMax)
          throw invalidParams(`a session subscribes to ${subscriptionsPerSessionMax} resources at most`);
        await this.#news.change(session, { kind, uri });
        return answered(message, {});
      }
      default:
        return await this.#carry(exchange, session, message);
    }
  }

  async #carry(
    exchange: BridgedExchange,
    session: BridgedSession,
    { id, method }: Message,
    newSessionId?: string,
  ): Promise<UpstreamResponse> {
    const { routed } = exchange.authorized;
    const { principal } = routed.authenticated;
    const request: LegacyRequest = { id: id ?? '', method: method ?? '', params: paramsOf(exchange.body) };
    const owner = { principalId: principal.id, sessionId: session.sessionId };
    const machine = new LegacyToModern({
      request,
      client: session.client,
      revision: routed.protocolRevision,
      logLevel: session.state.logLevel ?? defaultLogLevel,
      serverName: routed.server.document.slug,
      requestIdPrefix: `${routed.received.exchange.eventId}.`,
      newQuestionId: () => sealQuestionId(routed.runtime, owner, this.#options.peers.nodeId),
    });
    const key = requestKey(session.sessionId, request.id);
    const carried: LegacyExchange = new LegacyExchange(machine, exchange, {
      connections: this.#options.connections,
      headers: this.#headers,
      sighted: this.#options.sighted,
      newSessionId,
      onAsk: (questionId) => this.#asking.set(questionId, { principalId: principal.id, exchange: carried }),
      onAnswered: (questionId) => this.#asking.delete(questionId),
      onEnd: () => {
        if (this.#underWay.get(key) === carried) this.#underWay.delete(key);
      },
    });
    this.#underWay.set(key, carried);
    return await carried.run();
  }

  #notified(session: BridgedSession, message: Message): void {
    const requestId = message.params['requestId'];
    if (message.method !== 'notifications/cancelled') return;
    if (!isRequestId(requestId)) return;
    const underWay = this.#underWay.get(requestKey(session.sessionId, requestId));
    if (underWay !== undefined) underWay.cancel();
    else void this.#options.peers.tell({ kind: 'cancelled', sessionId: session.sessionId, requestId });
  }

  /** @throws AppError PEER_UNREACHABLE; a response nobody waits for any more is taken and dropped */
  async #responded(exchange: BridgedExchange, session: BridgedSession, message: Message): Promise<void> {
    const { routed } = exchange.authorized;
    const { peers } = this.#options;
    const principalId = routed.authenticated.principal.id;
    const questionId = String(message.id ?? '');
    const nodeId = openQuestionId(routed.runtime, { principalId, sessionId: session.sessionId }, questionId);
    if (nodeId === undefined) return;
    const response = messageOf(exchange.body);
    const serverId = routed.server.document.id;
    const relayed = { principalId, serverId, sessionId: session.sessionId, questionId, response };
    if (nodeId === peers.nodeId) this.respond(relayed);
    else await peers.respond(nodeId, relayed);
  }
}

function requestKey(sessionId: string, requestId: string | number): string {
  return `${sessionId}\n${JSON.stringify(requestId)}`;
}

function invalidParams(reason: string): AppError {
  return new AppError('INVALID_PARAMS', { publicMessage: `Invalid params: ${reason}` });
}

function answered(message: Message, result: JsonObject): TranslatedResponse {
  return TranslatedResponse.json(200, { jsonrpc: '2.0', id: message.id, result });
}

/** The message again, with every number as it was written. */
export function messageOf(body: Buffer): JsonObject {
  const value = parseLossless(body.toString('utf8'));
  if (!isObject(value)) throw toAppError(new Error('a parsed body is no object'));
  return value;
}

export function paramsOf(body: Buffer): JsonObject {
  return objectMember(messageOf(body), 'params') ?? {};
}
