import { isObject, objectMember, stringMember, type JsonObject } from '../mcp/envelope.ts';
import { canAnswer, clientRequests } from './client-profile.ts';
import {
  isLogLevel,
  legacyParams,
  logLevels,
  methodNotFound,
  modernError,
  modernResult,
  urlElicitationRequired,
  withoutTask,
  type LogLevel,
} from './translate.ts';

/** Questions a call may have open at once; more are refused toward the upstream. */
export const questionsOpenMax = 16;
/** Of all those questions, in characters of JSON. */
export const questionsLengthMax = 2 * 1024 * 1024;
/** Notifications kept for a client that is away answering, in number and in characters; the oldest go first. */
export const notificationsKeptMax = 64;
export const notificationsLengthMax = 256 * 1024;

/** What happens to a bridged call of a modern client. */
export type ModernToLegacyEvent =
  /** A message of the upstream's, on the call's stream or known to belong to it. */
  | { readonly type: 'upstreamMessage'; readonly message: JsonObject }
  /** The stream is over for good. */
  | { readonly type: 'upstreamEnded' }
  /** No further question came within the settle window. */
  | { readonly type: 'settled' }
  /** The client came back with answers: a new request with an id of its own. */
  | { readonly type: 'resumed'; readonly id: string | number; readonly responses: JsonObject }
  /** The client's stream is closed, which cancels (2026-07-28 basic/patterns/cancellation); or a deadline passed. */
  | { readonly type: 'clientGone' }
  /** Nobody came back in time, or may any more. */
  | { readonly type: 'expired' };

/** What has to be done next, in this order. */
export type ModernToLegacyEffect =
  /** Send the call itself. */
  | { readonly type: 'send'; readonly message: JsonObject }
  /** Send a response or notification to the upstream. */
  | { readonly type: 'post'; readonly message: JsonObject }
  /** Give the client a notification on the stream of its request. */
  | { readonly type: 'deliver'; readonly message: JsonObject }
  /** Say `settled` when the settle window is over. */
  | { readonly type: 'settle' }
  /** Answer the client that input is required, with a `requestState` that leads back here; the call waits. */
  | { readonly type: 'park'; readonly id: string | number; readonly questions: JsonObject }
  /** Likewise, but the upstream has ended: what leads back makes the call anew, once all answers accept. */
  | { readonly type: 'askBefore'; readonly id: string | number; readonly questions: JsonObject }
  /** The response to the client's request under way; each of them gets one at most. */
  | { readonly type: 'answer'; readonly message: JsonObject }
  /** Nothing more will be read: the call is over and its session free. */
  | { readonly type: 'finished' }
  /** Close the call's stream: it was cancelled. */
  | { readonly type: 'abandon' };

export interface ModernCall {
  readonly id: string | number;
  readonly method: string;
  readonly params: JsonObject;
}

export interface ModernToLegacyOptions {
  readonly request: ModernCall;
  /** Unused before in the session. */
  readonly upstreamId: string;
  /** As the client declared with this request. */
  readonly capabilities: JsonObject;
  readonly logLevel: LogLevel | null;
  readonly serverInfo: JsonObject | null;
}

interface Question {
  readonly id: unknown;
  readonly method: string;
  readonly params: JsonObject;
  readonly length: number;
}

const internalError = -32603;
/** Belong to no request: they go to who listens. */
const unrelated = /^notifications\/(?:.*list_changed|resources\/updated|elicitation\/complete|tasks\/.*|initialized)$/;

/**
 * One request of a modern client at a legacy upstream: events in, effects out, no sockets and no clocks. What the
 * upstream asks of the client while it works becomes an `input_required`; the call is parked until the client comes
 * back, with a request of its own, and goes on. Each request of the client is answered once at most, and the upstream
 * hears of the end of each call exactly once: by its own response, or by `notifications/cancelled`.
 */
export class ModernToLegacy {
  readonly #options: ModernToLegacyOptions;
  #state: 'new' | 'running' | 'parked' | 'done' = 'new';
  /** The client's request under way; undefined while none is. */
  #attached: string | number | undefined;
  #settling = false;
  #rounds = 0;
  /** Open, by the key the client knows each by. */
  readonly #questions = new Map<string, Question>();
  #questionsLength = 0;
  #kept: { readonly message: JsonObject; readonly length: number }[] = [];
  /** The upstream's response that came while nobody was there to take it. */
  #outcome: JsonObject | undefined;

  constructor(options: ModernToLegacyOptions) {
    this.#options = options;
    this.#attached = options.request.id;
  }

  get isDone(): boolean {
    return this.#state === 'done';
  }

  get isParked(): boolean {
    return this.#state === 'parked';
  }

  start(): ModernToLegacyEffect[] {
    if (this.#state !== 'new') return [];
    this.#state = 'running';
    const { request, upstreamId } = this.#options;
    const params = legacyParams(withoutTask(request.method, request.params));
    const message = {
      jsonrpc: '2.0',
      id: upstreamId,
      method: request.method,
      ...(params === undefined ? {} : { params }),
    };
    return [{ type: 'send', message }];
  }

  handle(event: ModernToLegacyEvent): ModernToLegacyEffect[] {
    if (this.#state === 'done' || this.#state === 'new') return [];
    switch (event.type) {
      case 'upstreamMessage':
        return this.#fromUpstream(event.message);
      case 'upstreamEnded':
        return this.#ended({
          error: { code: internalError, message: 'The MCP server ended its answer without a response.' },
        });
      case 'settled':
        return this.#settled();
      case 'resumed':
        return this.#resumed(event.id, event.responses);
      case 'clientGone':
        return this.#state === 'parked' ? [] : this.#abandon('The client went away.');
      case 'expired':
        return this.#abandon('The client did not come back.');
      default:
        return event satisfies never;
    }
  }

  #fromUpstream(message: JsonObject): ModernToLegacyEffect[] {
    const { method, id } = message;
    if (typeof method === 'string') {
      return id === undefined ? this.#notified(method, message) : this.#asked(method, message);
    }
    if (id !== this.#options.upstreamId && !(id === null && objectMember(message, 'error') !== undefined)) return [];
    return this.#ended(message);
  }

  #notified(method: string, message: JsonObject): ModernToLegacyEffect[] {
    const params = objectMember(message, 'params') ?? {};
    if (unrelated.test(method)) return [];
    if (method === 'notifications/cancelled') return this.#withdrawn(params['requestId']);
    if (method === 'notifications/message' && !this.#isWanted(params['level'])) return [];
    if (this.#attached !== undefined) return [{ type: 'deliver', message }];
    this.#keep(message);
    return [];
  }

  #keep(message: JsonObject): void {
    this.#kept.push({ message, length: lengthOf(message) });
    let length = this.#kept.reduce((sum, kept) => sum + kept.length, 0);
    while (this.#kept.length > notificationsKeptMax || length > notificationsLengthMax) {
      length -= this.#kept.shift()?.length ?? 0;
    }
  }

  /** A legacy server logs as its session says, a modern one what the request asks for, and nothing without. */
  #isWanted(level: unknown): boolean {
    const { logLevel } = this.#options;
    return logLevel !== null && isLogLevel(level) && logLevels.indexOf(level) >= logLevels.indexOf(logLevel);
  }

  /** The upstream takes back one of its own questions. */
  #withdrawn(requestId: unknown): ModernToLegacyEffect[] {
    for (const [key, question] of this.#questions) {
      if (question.id !== requestId) continue;
      this.#questions.delete(key);
      this.#questionsLength -= question.length;
    }
    return [];
  }

  #asked(method: string, message: JsonObject): ModernToLegacyEffect[] {
    const { id } = message;
    const params = objectMember(message, 'params') ?? {};
    if (method === 'ping') return [{ type: 'post', message: { jsonrpc: '2.0', id, result: {} } }];
    if (!canAnswer(this.#options.capabilities, method, params)) {
      const error = { code: methodNotFound, message: `The client does not support ${method}` };
      return [{ type: 'post', message: { jsonrpc: '2.0', id, error } }];
    }
    const length = lengthOf(params);
    if (this.#questions.size >= questionsOpenMax || this.#questionsLength + length > questionsLengthMax) {
      const error = { code: internalError, message: 'Too many requests at once' };
      return [{ type: 'post', message: { jsonrpc: '2.0', id, error } }];
    }
    const { elicitationId: _id, ...asked } = params;
    this.#rounds++;
    this.#questionsLength += length;
    this.#questions.set(`r${this.#rounds}_${clientRequests[method] ?? ''}`, { id, method, params: asked, length });
    if (this.#attached === undefined || this.#settling) return [];
    this.#settling = true;
    return [{ type: 'settle' }];
  }

  #settled(): ModernToLegacyEffect[] {
    this.#settling = false;
    if (this.#attached === undefined || this.#questions.size === 0) return [];
    return this.#park(this.#attached);
  }

  #park(id: string | number): ModernToLegacyEffect[] {
    this.#state = 'parked';
    this.#attached = undefined;
    const questions = Object.fromEntries([...this.#questions].map(([key, question]) => [key, asInput(question)]));
    return [{ type: 'park', id, questions }];
  }

  #resumed(id: string | number, responses: JsonObject): ModernToLegacyEffect[] {
    // While a request is under way the same state leads nowhere: the driver refuses it.
    if (this.#state !== 'parked') return [];
    if (this.#outcome === undefined) {
      const answered = [...this.#questions].every(([key, { method, params }]) =>
        isAnswer(method, params, Object.hasOwn(responses, key) ? responses[key] : undefined),
      );
      // Missing or unfit answers are asked for again; that is no error (2026-07-28 basic/patterns/mrtr).
      if (!answered) return this.#park(id);
    }
    this.#state = 'running';
    this.#attached = id;
    const effects: ModernToLegacyEffect[] = this.#kept.map(({ message }) => ({ type: 'deliver', message }));
    this.#kept = [];
    if (this.#outcome !== undefined) return [...effects, ...this.#ended(this.#outcome)];
    for (const [key, question] of this.#questions) {
      effects.push({ type: 'post', message: { jsonrpc: '2.0', id: question.id, result: responses[key] } });
    }
    this.#forgetQuestions();
    return effects;
  }

  #ended(outcome: JsonObject): ModernToLegacyEffect[] {
    if (this.#attached === undefined) {
      const isFirst = this.#outcome === undefined;
      this.#outcome ??= outcome;
      this.#forgetQuestions();
      return isFirst ? [{ type: 'finished' }] : [];
    }
    const { request, serverInfo, capabilities } = this.#options;
    const id = this.#attached;
    const wasFinished = this.#outcome !== undefined;
    this.#end();
    const finished: ModernToLegacyEffect[] = wasFinished ? [] : [{ type: 'finished' }];
    const result = objectMember(outcome, 'result');
    if (result !== undefined) {
      const translated = modernResult(request.method, result, serverInfo);
      return [{ type: 'answer', message: { jsonrpc: '2.0', id, result: translated } }, ...finished];
    }
    const error = objectMember(outcome, 'error') ?? {
      code: internalError,
      message: 'The MCP server sent neither a result nor an error.',
    };
    const questions = questionsBefore(error, capabilities);
    if (questions !== undefined) return [{ type: 'askBefore', id, questions }, ...finished];
    const translated = modernError(request.method, request.params, error);
    return [{ type: 'answer', message: { jsonrpc: '2.0', id, error: translated } }, ...finished];
  }

  #abandon(reason: string): ModernToLegacyEffect[] {
    const wasFinished = this.#outcome !== undefined;
    this.#end();
    if (wasFinished) return [];
    const params = { requestId: this.#options.upstreamId, reason };
    return [
      { type: 'post', message: { jsonrpc: '2.0', method: 'notifications/cancelled', params } },
      { type: 'abandon' },
    ];
  }

  #forgetQuestions(): void {
    this.#questions.clear();
    this.#questionsLength = 0;
  }

  #end(): void {
    this.#state = 'done';
    this.#attached = undefined;
    this.#forgetQuestions();
    this.#kept = [];
  }
}

function lengthOf(value: JsonObject): number {
  return JSON.stringify(value).length;
}

function asInput({ method, params }: Question): JsonObject {
  return Object.keys(params).length === 0 ? { method } : { method, params };
}

/** The URLs that a legacy server wants visited before it does its work; undefined where it asks for nothing like it. */
function questionsBefore(error: JsonObject, capabilities: JsonObject): JsonObject | undefined {
  const asked = objectMember(error, 'data')?.['elicitations'];
  if (error['code'] !== urlElicitationRequired || !Array.isArray(asked)) return undefined;
  const questions = asked.filter(isObject).slice(0, questionsOpenMax);
  if (questions.length === 0) return undefined;
  if (!questions.every((params) => canAnswer(capabilities, 'elicitation/create', params))) return undefined;
  return Object.fromEntries(
    questions.map(({ elicitationId: _id, ...params }, at) => [
      `u${at + 1}_elicitation`,
      { method: 'elicitation/create', params },
    ]),
  );
}

/** Whether a client's answer is one to this question; the upstream is asked to believe it. */
export function isAnswer(method: string, params: JsonObject, answer: unknown): boolean {
  if (!isObject(answer)) return false;
  switch (method) {
    case 'elicitation/create':
      return isElicited(params, answer);
    case 'roots/list':
      return Array.isArray(answer['roots']);
    default:
      return answer['content'] !== undefined;
  }
}

function isElicited(params: JsonObject, answer: JsonObject): boolean {
  const action = answer['action'];
  if (action === 'decline' || action === 'cancel') return true;
  if (action !== 'accept') return false;
  if (params['mode'] === 'url') return true;
  const content = objectMember(answer, 'content');
  if (content === undefined) return false;
  const schema = objectMember(params, 'requestedSchema') ?? {};
  const required = Array.isArray(schema['required']) ? schema['required'] : [];
  if (!required.every((name) => typeof name === 'string' && Object.hasOwn(content, name))) return false;
  return Object.entries(objectMember(schema, 'properties') ?? {}).every(
    ([name, property]) => !Object.hasOwn(content, name) || hasType(property, content[name]),
  );
}

/** By the types that forms have (2025-11-25 client/elicitation); whatever else a schema says is for the upstream. */
function hasType(schema: unknown, value: unknown): boolean {
  switch (isObject(schema) ? stringMember(schema, 'type') : undefined) {
    case 'string':
      return typeof value === 'string';
    case 'boolean':
      return typeof value === 'boolean';
    case 'number':
    case 'integer':
      return typeof value === 'number';
    case 'array':
      return Array.isArray(value);
    default:
      return true;
  }
}
