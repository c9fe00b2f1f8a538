import {
  findInterceptor,
  type Interceptor,
  invocationOf,
  isHooked,
  readInterception,
} from '../inspection/interceptor.ts';
import { legacyRevisions } from '../mcp-methods.ts';
import { webhookContract, type WebhookFailure, type WebhookVerdict } from '../inspection/webhook.ts';
import type { InspectionEvent } from '../inspection/webhook-event.ts';

/** What is listed is asked for again after that long. */
const listedForMs = 5 * 60_000;
const modernRevision = '2026-07-28';
const [newestLegacy] = legacyRevisions;
const clientInfo = { name: 'sallyport', version: '1' };

/** A JSON-RPC answer, and the session that it opened. */
export interface RpcAnswer {
  readonly result?: unknown;
  readonly sessionId: string | null;
}

/** Posts one JSON-RPC message, signed; answers with what came of it, or why nothing did. */
export type PostRpc = (
  id: string,
  text: string,
  headers: Readonly<Record<string, string>>,
) => Promise<RpcAnswer | WebhookFailure>;

interface Session {
  readonly revision: string;
  readonly sessionId: string | null;
  readonly interceptor: Interceptor;
  readonly openedAt: number;
}

interface Target {
  readonly id: string;
  readonly version: number;
  readonly interceptor: string;
}

/** Invokes interceptors of MCP servers: stateless ones of today's revision, and those of older ones, that want to be initialized. */
export class InterceptorClient {
  readonly #monotonic: () => number;
  readonly #sessions = new Map<string, Session & { readonly version: number }>();

  constructor(monotonic: () => number) {
    this.#monotonic = monotonic;
  }

  /** Never rejects for what a server does. */
  async invoke(target: Target, event: InspectionEvent, post: PostRpc): Promise<WebhookVerdict | WebhookFailure> {
    const asked = invocationOf(event);
    if (asked === undefined) return 'notInspectable';
    const known = this.#known(target);
    const session = known ?? (await this.#open(target, event.id, post));
    if (typeof session === 'string') return session;
    const { interceptor } = session;
    const { id, digest } = event;
    if (!isHooked(interceptor, asked)) {
      return { contract: webhookContract, id, digest, decision: 'allow', reasonCode: 'interceptor.notHooked' };
    }
    const { principal, traceId } = event.context;
    const params = {
      name: interceptor.name,
      event: asked.event,
      phase: asked.phase,
      payload: asked.payload,
      timeoutMs: event.deadlineMs,
      context: { principal, traceId, timestamp: new Date(event.at).toISOString() },
    };
    const answer = await call(session, id, 'interceptor/invoke', params, post);
    if (typeof answer === 'string') {
      // Its session may be over: the next one opens another.
      this.#sessions.delete(target.id);
      return known !== undefined && answer === 'status' ? this.invoke(target, event, post) : answer;
    }
    return readInterception(answer.result, interceptor, asked, event);
  }

  #known({ id, version }: Target): Session | undefined {
    const session = this.#sessions.get(id);
    if (session === undefined || session.version !== version) return undefined;
    return session.openedAt + listedForMs > this.#monotonic() ? session : undefined;
  }

  async #open(target: Target, id: string, post: PostRpc): Promise<Session | WebhookFailure> {
    const modern = { revision: modernRevision, sessionId: null };
    let place: Pick<Session, 'revision' | 'sessionId'> = modern;
    let listed = await call(modern, `${id}-list`, 'interceptors/list', {}, post);
    if (typeof listed === 'string') {
      if (listed === 'timeout' || listed === 'unreachable' || listed === 'noSigningKey') return listed;
      const params = { protocolVersion: newestLegacy, capabilities: {}, clientInfo };
      const greeted = await call({ revision: '', sessionId: null }, `${id}-initialize`, 'initialize', params, post);
      if (typeof greeted === 'string') return greeted;
      const protocolRevision = legacyRevisions.find((each) => each === agreedOn(greeted.result));
      // Nothing is said in a revision that nobody here knows.
      if (protocolRevision === undefined) return 'answerInvalid';
      place = { revision: protocolRevision, sessionId: greeted.sessionId };
      await post('', JSON.stringify({ jsonrpc: '2.0', method: 'notifications/initialized' }), headersOf(place, null));
      listed = await call(place, `${id}-list`, 'interceptors/list', {}, post);
      if (typeof listed === 'string') return listed;
    }
    const interceptor = findInterceptor(listed.result, target.interceptor);
    if (interceptor === undefined) return 'unknownInterceptor';
    const session = { ...place, interceptor, openedAt: this.#monotonic() };
    this.#sessions.set(target.id, { ...session, version: target.version });
    return session;
  }
}

/** The revision that a server answers `initialize` with: the one it was offered, or one of its own (lifecycle, Version Negotiation). */
function agreedOn(result: unknown): unknown {
  return typeof result === 'object' && result !== null && 'protocolVersion' in result ? result.protocolVersion : null;
}

type Place = Pick<Session, 'revision' | 'sessionId'>;

function call(place: Place, id: string, method: string, params: object, post: PostRpc) {
  const meta = {
    'io.modelcontextprotocol/protocolVersion': modernRevision,
    'io.modelcontextprotocol/clientInfo': clientInfo,
    'io.modelcontextprotocol/clientCapabilities': {},
  };
  const said = place.revision === modernRevision ? { ...params, _meta: meta } : params;
  return post(id, JSON.stringify({ jsonrpc: '2.0', id, method, params: said }), headersOf(place, method));
}

function headersOf({ revision, sessionId }: Place, method: string | null): Record<string, string> {
  return {
    accept: 'application/json, text/event-stream',
    ...(revision === '' ? {} : { 'mcp-protocol-version': revision }),
    ...(revision === modernRevision && method !== null ? { 'mcp-method': method } : {}),
    ...(sessionId === null ? {} : { 'mcp-session-id': sessionId }),
  };
}
