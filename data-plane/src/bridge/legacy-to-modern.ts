import type { ProtocolRevision } from '@sallyport/schema';
import { isObject, objectMember, stringMember, type JsonObject } from '../mcp/envelope.ts';
import { canAnswer, type ClientProfile } from './client-profile.ts';
import { initializeResult, legacyError, legacyResult, modernParams, withoutTask, type LogLevel } from './translate.ts';

/** Rounds of questions one request may take, a retry for its headers included. */
export const roundsMax = 16;
/** Questions one round may ask. */
export const questionsPerRoundMax = 16;

/** What happens to a bridged request of a legacy client. */
export type LegacyToModernEvent =
  /** A message of the upstream's answer to the request sent in this round. */
  | { readonly type: 'upstreamMessage'; readonly round: number; readonly message: JsonObject }
  /** That answer is over. */
  | { readonly type: 'upstreamEnded'; readonly round: number }
  /** The client's response to a question; exactly one of `result` and `error`. */
  | { readonly type: 'clientAnswered'; readonly questionId: string; readonly response: JsonObject }
  /** The header map of the tool was read anew after the upstream found a header missing. */
  | { readonly type: 'headersRead' }
  /** `notifications/cancelled`, a deadline, or the end of the node. A closed connection is none of them. */
  | { readonly type: 'cancelled' };

/** What has to be done next, in this order. */
export type LegacyToModernEffect =
  /** Send this request to the upstream, as the request of this round. */
  | { readonly type: 'send'; readonly round: number; readonly message: JsonObject }
  /** Read which arguments of the called tool travel in headers, then say `headersRead`. */
  | { readonly type: 'readHeaders' }
  /** Give the client a notification on the stream of its request. */
  | { readonly type: 'deliver'; readonly message: JsonObject }
  /** Give the client a request on that stream; its response comes as `clientAnswered`. */
  | { readonly type: 'ask'; readonly questionId: string; readonly message: JsonObject }
  /** The response to the client's request: the last effect, and given once. */
  | { readonly type: 'answer'; readonly message: JsonObject }
  /** Close what is open toward the upstream: the last effect, with no response. */
  | { readonly type: 'stop' };

export interface LegacyRequest {
  readonly id: string | number;
  readonly method: string;
  readonly params: JsonObject;
}

export interface LegacyToModernOptions {
  readonly request: LegacyRequest;
  readonly client: ClientProfile;
  readonly revision: ProtocolRevision;
  readonly logLevel: LogLevel | null;
  /** Stands for the server where it does not say its name. */
  readonly serverName: string;
  /** Ids of requests toward the upstream start with it. */
  readonly requestIdPrefix: string;
  readonly newQuestionId: () => string;
}

interface Question {
  readonly key: string;
  readonly method: string;
}

const headerMismatch = -32020;
const internalError = -32603;
const progressMethod = 'notifications/progress';

/**
 * One request of a legacy client at a modern upstream: events in, effects out, no sockets and no clocks. What the
 * upstream asks of the user (`input_required`) becomes requests on the client's stream; when all are answered, the
 * request is made again with the answers. Answers once at most, and does nothing after its end.
 */
export class LegacyToModern {
  readonly #options: LegacyToModernOptions;
  #round = 0;
  #done = false;
  /** The tool's headers are read anew once at most; meanwhile the round is over. */
  #headers: 'unread' | 'reading' | 'read' = 'unread';
  #progress = -Infinity;
  #state: string | undefined;
  #answers: Record<string, unknown> | undefined;
  /** Of the round under way, by the id the client knows it by. */
  readonly #questions = new Map<string, Question>();

  constructor(options: LegacyToModernOptions) {
    this.#options = options;
  }

  get isDone(): boolean {
    return this.#done;
  }

  /** Ids of the questions the client has not answered. */
  get openQuestions(): readonly string[] {
    return [...this.#questions.keys()];
  }

  start(): LegacyToModernEffect[] {
    return this.#send();
  }

  /** A request of the bridge's own for one page of the upstream's tools. */
  listTools(page: number, cursor: string | undefined): JsonObject {
    const { client, requestIdPrefix } = this.#options;
    const params = modernParams(cursor === undefined ? {} : { cursor }, client, null);
    return { jsonrpc: '2.0', id: `${requestIdPrefix}tools.${page}`, method: 'tools/list', params };
  }

  handle(event: LegacyToModernEvent): LegacyToModernEffect[] {
    if (this.#done) return [];
    switch (event.type) {
      case 'upstreamMessage':
        return event.round === this.#round ? this.#fromUpstream(event.message) : [];
      case 'upstreamEnded':
        return event.round === this.#round && !this.#isWaiting
          ? this.#fail(internalError, 'The MCP server ended its answer without a response.')
          : [];
      case 'clientAnswered':
        return this.#fromClient(event.questionId, event.response);
      case 'headersRead':
        if (this.#headers !== 'reading') return [];
        this.#headers = 'read';
        return this.#send();
      case 'cancelled':
        this.#end();
        return [{ type: 'stop' }];
      default:
        return event satisfies never;
    }
  }

  /** Of the round under way, toward the upstream. */
  get #requestId(): string {
    return `${this.#options.requestIdPrefix}${this.#round}`;
  }

  get #isAsking(): boolean {
    return this.#questions.size > 0;
  }

  /** For someone else than the upstream, whose answer to this round is known. */
  get #isWaiting(): boolean {
    return this.#isAsking || this.#headers === 'reading';
  }

  #send(): LegacyToModernEffect[] {
    if (this.#round >= roundsMax) return this.#fail(internalError, 'The MCP server asked too many times.');
    const { request, client, logLevel } = this.#options;
    this.#round++;
    const isHandshake = request.method === 'initialize';
    const params = {
      ...modernParams(isHandshake ? {} : withoutTask(request.method, request.params), client, logLevel),
      ...(this.#answers === undefined ? {} : { inputResponses: this.#answers }),
      ...(this.#state === undefined ? {} : { requestState: this.#state }),
    };
    const message = {
      jsonrpc: '2.0',
      id: this.#requestId,
      method: isHandshake ? 'server/discover' : request.method,
      params,
    };
    return [{ type: 'send', round: this.#round, message }];
  }

  #fromUpstream(message: JsonObject): LegacyToModernEffect[] {
    if (typeof message['method'] === 'string') return this.#notified(message['method'], message);
    // A second response in one round is no response to anything.
    if (this.#isWaiting) return [];
    const { request, serverName, revision } = this.#options;
    const error = objectMember(message, 'error');
    // An answer to something else is not given to this client, whatever mixed them up.
    const isOwn = message['id'] === this.#requestId || (message['id'] == null && error !== undefined);
    if (!isOwn) return [];
    if (error !== undefined) return this.#refused(error);
    const result = objectMember(message, 'result');
    if (result === undefined) return this.#fail(internalError, 'The MCP server sent neither a result nor an error.');
    switch (result['resultType'] ?? 'complete') {
      case 'complete':
        return this.#answer({
          result:
            request.method === 'initialize'
              ? initializeResult(result, revision, serverName)
              : legacyResult(request.method, result),
        });
      case 'input_required':
        return this.#ask(result);
      default:
        return this.#fail(internalError, 'The MCP server answered in a way this protocol revision does not have.');
    }
  }

  #notified(method: string, message: JsonObject): LegacyToModernEffect[] {
    const params = objectMember(message, 'params') ?? {};
    switch (method) {
      case progressMethod: {
        const progress = params['progress'];
        // A new round may start to count anew; toward the client it only ever grows.
        if (typeof progress !== 'number' || progress <= this.#progress) return [];
        this.#progress = progress;
        return [{ type: 'deliver', message }];
      }
      case 'notifications/message':
        return [{ type: 'deliver', message }];
      default:
        // Nothing else belongs on the stream of a request, and a modern server makes no requests.
        return [];
    }
  }

  #refused(error: JsonObject): LegacyToModernEffect[] {
    const { request } = this.#options;
    if (error['code'] === headerMismatch && request.method === 'tools/call' && this.#headers === 'unread') {
      this.#headers = 'reading';
      return [{ type: 'readHeaders' }];
    }
    return this.#answer({ error: legacyError(request.method, error) });
  }

  #ask(result: JsonObject): LegacyToModernEffect[] {
    const asked = Object.entries(objectMember(result, 'inputRequests') ?? {});
    this.#state = stringMember(result, 'requestState');
    this.#answers = undefined;
    if (asked.length === 0) {
      return this.#state === undefined
        ? this.#fail(internalError, 'The MCP server asked for input and did not say which.')
        : this.#send();
    }
    if (asked.length > questionsPerRoundMax) return this.#fail(internalError, 'The MCP server asks too much at once.');
    const effects: LegacyToModernEffect[] = [];
    for (const [key, value] of asked) {
      const method = isObject(value) ? (stringMember(value, 'method') ?? '') : '';
      const params = (isObject(value) ? objectMember(value, 'params') : undefined) ?? {};
      if (!canAnswer(this.#options.client.capabilities, method, params)) {
        this.#questions.clear();
        return this.#fail(internalError, 'The MCP server asked for input this client cannot give.');
      }
      const questionId = this.#options.newQuestionId();
      this.#questions.set(questionId, { key, method });
      const message = { jsonrpc: '2.0', id: questionId, method, ...this.#legacyQuestion(params, questionId) };
      effects.push({ type: 'ask', questionId, message });
    }
    this.#answers = {};
    return effects;
  }

  #legacyQuestion(params: JsonObject, questionId: string): { params?: JsonObject } {
    const { mode, ...others } = params;
    if (mode === 'url') return { params: { ...params, elicitationId: questionId } };
    const kept = mode === undefined || this.#options.revision === '2025-11-25' ? params : others;
    return Object.keys(kept).length === 0 ? {} : { params: kept };
  }

  #fromClient(questionId: string, response: JsonObject): LegacyToModernEffect[] {
    const question = this.#questions.get(questionId);
    if (question === undefined || this.#answers === undefined) return [];
    this.#questions.delete(questionId);
    const error = objectMember(response, 'error');
    const result = objectMember(response, 'result');
    if (result !== undefined) this.#answers = { ...this.#answers, [question.key]: result };
    // A question about a form has an answer for this; the others end the request.
    else if (question.method === 'elicitation/create')
      this.#answers = { ...this.#answers, [question.key]: { action: 'cancel' } };
    else {
      const code = error?.['code'];
      const reason = error === undefined ? undefined : stringMember(error, 'message');
      return this.#fail(typeof code === 'number' ? code : internalError, reason ?? 'The client gave no answer.');
    }
    return this.#isAsking ? [] : this.#send();
  }

  #fail(code: number, text: string): LegacyToModernEffect[] {
    return this.#answer({ error: { code, message: text } });
  }

  #answer(outcome: { readonly result: JsonObject } | { readonly error: JsonObject }): LegacyToModernEffect[] {
    this.#end();
    return [{ type: 'answer', message: { jsonrpc: '2.0', id: this.#options.request.id, ...outcome } }];
  }

  #end(): void {
    this.#done = true;
    this.#questions.clear();
  }
}
