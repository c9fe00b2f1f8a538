/**
 * What goes over streams that belong to no call: `subscriptions/listen` of one era, GET and `resources/subscribe` of the
 * other. Pure, message by message.
 */
import { objectMember, stringMember, type JsonObject } from '../mcp/envelope.ts';
import { announcedLists, listChangedMethod, listChangedMethods, type WatchedList } from './list-changes.ts';
import { modernParams, serverInfoKey, subscriptionIdKey } from './translate.ts';
import type { ClientProfile } from './client-profile.ts';

/** The members of a listen's `notifications` that switch on a kind, and the list that each is about. */
const listKinds = {
  toolsListChanged: 'tools',
  promptsListChanged: 'prompts',
  resourcesListChanged: 'resources',
} as const;
const listKindNames = Object.keys(listKinds) as (keyof typeof listKinds)[];
const resourceUpdated = 'notifications/resources/updated';

/** The request by which a legacy client's GET listens at a modern upstream: to all it would have been told. */
export function listenRequest(id: string, client: ClientProfile, uris: readonly string[]): JsonObject {
  const notifications = {
    toolsListChanged: true,
    promptsListChanged: true,
    resourcesListChanged: true,
    ...(uris.length === 0 ? {} : { resourceSubscriptions: uris }),
  };
  const params = modernParams({ notifications }, client, null);
  return { jsonrpc: '2.0', id, method: 'subscriptions/listen', params };
}

/** A message of a modern upstream's listen stream, for a legacy client. */
export type ListenMessage =
  | { readonly type: 'acknowledged' }
  | { readonly type: 'notification'; readonly message: JsonObject }
  /** The upstream ends the subscription, or refuses it. */
  | { readonly type: 'ended'; readonly isRefused: boolean }
  | { readonly type: 'nothing' };

export function readListenMessage(message: JsonObject): ListenMessage {
  const method = stringMember(message, 'method');
  if (method === undefined) return { type: 'ended', isRefused: objectMember(message, 'error') !== undefined };
  if (method === 'notifications/subscriptions/acknowledged') return { type: 'acknowledged' };
  if (method !== resourceUpdated && !listChangedMethods.has(method)) return { type: 'nothing' };
  const { _meta, ...params } = objectMember(message, 'params') ?? {};
  const { [subscriptionIdKey]: _id, ...meta } = objectMember({ _meta }, '_meta') ?? {};
  const kept = Object.keys(meta).length === 0 ? params : { ...params, _meta: meta };
  const notification = { jsonrpc: '2.0', method, ...(Object.keys(kept).length === 0 ? {} : { params: kept }) };
  return { type: 'notification', message: notification };
}

/** A modern client's listen at a legacy upstream: what of it the upstream can give, and what it is told. */
export class ModernListening {
  readonly #id: string | number;
  readonly #serverInfo: JsonObject | null;
  /** The lists of whose changes it is told. */
  readonly lists: readonly WatchedList[];
  /** The resources to subscribe to at the upstream. */
  readonly uris: readonly string[];
  readonly #accepted: JsonObject;

  /**
   * @param id of the client's request
   * @param asked its `params.notifications`
   * @param initialized the upstream's result of `initialize`
   */
  constructor(id: string | number, asked: JsonObject, initialized: JsonObject) {
    const capabilities = objectMember(initialized, 'capabilities') ?? {};
    const announced = announcedLists(capabilities);
    const accepted = listKindNames.filter((kind) => asked[kind] === true && announced.includes(listKinds[kind]));
    const uris = asked['resourceSubscriptions'];
    this.uris =
      Array.isArray(uris) && objectMember(capabilities, 'resources')?.['subscribe'] === true
        ? [...new Set(uris.filter((uri) => typeof uri === 'string'))]
        : [];
    this.lists = accepted.map((kind) => listKinds[kind]);
    this.#id = id;
    this.#serverInfo = objectMember(initialized, 'serverInfo') ?? null;
    this.#accepted = Object.fromEntries(accepted.map((kind) => [kind, true]));
  }

  /** The first message of the stream. @param hasStream whether the upstream tells of resources at all */
  acknowledgement(hasStream: boolean): JsonObject {
    const resources = hasStream && this.uris.length > 0 ? { resourceSubscriptions: this.uris } : {};
    const notifications = { ...this.#accepted, ...resources };
    const params = { _meta: { [subscriptionIdKey]: this.#id }, notifications };
    return { jsonrpc: '2.0', method: 'notifications/subscriptions/acknowledged', params };
  }

  /** A notification of the upstream as the client is told it; undefined where it did not ask for it. */
  translate(message: JsonObject): JsonObject | undefined {
    const method = stringMember(message, 'method');
    const params = objectMember(message, 'params') ?? {};
    if (method === undefined || 'id' in message) return undefined;
    const isWanted =
      this.lists.some((list) => method === listChangedMethod(list)) ||
      (method === resourceUpdated && this.uris.includes(stringMember(params, 'uri') ?? ''));
    if (!isWanted) return undefined;
    const _meta = { ...objectMember(params, '_meta'), [subscriptionIdKey]: this.#id };
    return { jsonrpc: '2.0', method, params: { ...params, _meta } };
  }

  /** The response that ends the subscription. */
  completion(): JsonObject {
    const _meta = {
      [subscriptionIdKey]: this.#id,
      ...(this.#serverInfo === null ? {} : { [serverInfoKey]: this.#serverInfo }),
    };
    return { jsonrpc: '2.0', id: this.#id, result: { resultType: 'complete', _meta } };
  }
}
