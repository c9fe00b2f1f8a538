import type { LogLevel } from './translate.ts';

/** Sessions remembered on a node; beyond, the one touched longest ago is forgotten. */
const sessionsMax = 20_000;
/** Characters of URIs remembered on a node, of all sessions together; beyond, likewise. */
const rememberedLengthMax = 32 * 1024 * 1024;
/** Longest URI that a bridged session may subscribe to, in characters. */
export const subscribedUriLengthMax = 8_192;
/** Resources one session may subscribe to. */
export const subscriptionsPerSessionMax = 256;

/** What a bridged legacy session has told since its token was sealed. */
export interface SessionState {
  readonly logLevel: LogLevel | null;
  /** URIs of `resources/subscribe`. */
  readonly subscriptions: readonly string[];
  readonly isEnded: boolean;
}

export const freshSession: SessionState = { logLevel: null, subscriptions: [], isEnded: false };

/** One change, as nodes tell it each other. */
export type SessionChange =
  | { readonly kind: 'logLevel'; readonly level: LogLevel }
  | { readonly kind: 'subscribe' | 'unsubscribe'; readonly uri: string }
  | { readonly kind: 'ended' };

/**
 * What bridged sessions told, by session id, in this node's memory. A legacy session has no token that could carry it:
 * the client keeps the one it was given. So each change is told to the other nodes as well; a node that was not reached,
 * or started later, does not know it, and the session goes on there as if it had not been said.
 */
export class SessionStates {
  readonly #states = new Map<string, SessionState>();
  readonly #listeners = new Map<string, Set<() => void>>();
  #length = 0;

  get(sessionId: string): SessionState {
    return this.#states.get(sessionId) ?? freshSession;
  }

  apply(sessionId: string, change: SessionChange): void {
    const state = changed(this.get(sessionId), change);
    this.#forget(sessionId);
    this.#states.set(sessionId, state);
    this.#length += lengthOf(state);
    while (this.#states.size > sessionsMax || this.#length > rememberedLengthMax) {
      const [oldest] = this.#states.keys();
      if (oldest === undefined) break;
      this.#forget(oldest);
    }
    for (const listener of this.#listeners.get(sessionId) ?? []) listener();
  }

  #forget(sessionId: string): void {
    this.#length -= lengthOf(this.get(sessionId));
    this.#states.delete(sessionId);
  }

  /** @returns a function that ends the subscription */
  onChange(sessionId: string, listener: () => void): () => void {
    const listeners = this.#listeners.get(sessionId) ?? new Set();
    listeners.add(listener);
    this.#listeners.set(sessionId, listeners);
    return () => {
      listeners.delete(listener);
      if (listeners.size === 0) this.#listeners.delete(sessionId);
    };
  }
}

function lengthOf({ subscriptions }: SessionState): number {
  return subscriptions.reduce((sum, uri) => sum + uri.length, 0);
}

function changed(state: SessionState, change: SessionChange): SessionState {
  switch (change.kind) {
    case 'logLevel':
      return { ...state, logLevel: change.level };
    case 'subscribe': {
      const others = state.subscriptions.filter((uri) => uri !== change.uri);
      return { ...state, subscriptions: [...others, change.uri].slice(-subscriptionsPerSessionMax) };
    }
    case 'unsubscribe':
      return { ...state, subscriptions: state.subscriptions.filter((uri) => uri !== change.uri) };
    case 'ended':
      return { ...freshSession, isEnded: true };
    default:
      return change satisfies never;
  }
}
