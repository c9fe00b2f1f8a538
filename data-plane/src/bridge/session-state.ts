import { FairShares } from './fair-shares.ts';
import type { LogLevel } from './translate.ts';

/** Sessions remembered on a node. */
const sessionsMax = 50_000;
/** Characters of URIs remembered on a node, of all sessions together. */
const rememberedLengthMax = 32 * 1024 * 1024;
/** Longest URI that a bridged session may subscribe to, in characters. */
export const subscribedUriLengthMax = 8_192;
/** Resources one session may subscribe to. */
export const subscriptionsPerSessionMax = 256;
/** Resources a session subscribed to and no more that are remembered, so that nodes agree which came last. */
const endedSubscriptionsMax = 256;

/** What a bridged legacy session has told since its token was sealed. */
export interface SessionState {
  readonly logLevel: LogLevel | null;
  /** URIs of `resources/subscribe`. */
  readonly subscriptions: readonly string[];
  /** The stream that the session listens with, of all that it opened on any node; null where it opened none. */
  readonly listeningId: string | null;
  readonly isEnded: boolean;
}

export const freshSession: SessionState = { logLevel: null, subscriptions: [], listeningId: null, isEnded: false };

/** One thing that a session tells. */
export type SessionChange =
  | { readonly kind: 'logLevel'; readonly level: LogLevel }
  | { readonly kind: 'subscribe' | 'unsubscribe'; readonly uri: string }
  | { readonly kind: 'listening'; readonly streamId: string }
  | { readonly kind: 'ended' };

/**
 * What nodes tell each other of a session, all of it or a part: each thing with the time it was told at, in the control
 * plane's time, so that it does not matter in which order news arrive, or how often.
 */
export interface ToldState {
  readonly logLevel?: { readonly level: LogLevel; readonly at: number } | undefined;
  readonly subscriptions?: readonly (readonly [uri: string, isSubscribed: boolean, at: number])[] | undefined;
  readonly listening?: { readonly streamId: string; readonly at: number } | undefined;
  readonly isEnded?: boolean | undefined;
}

/** A session, and whose it is. */
export interface SessionName {
  readonly sessionId: string;
  readonly principalId: string;
}

interface Session {
  /** Whether all that was told is known here; else some of it came while the rest is being asked for. */
  isWhole: boolean;
  logLevel: ToldState['logLevel'];
  listening: ToldState['listening'];
  isEnded: boolean;
  /** Undefined where it told of none, as nearly all of very many sessions. */
  subscriptions: Map<string, { readonly isSubscribed: boolean; readonly at: number }> | undefined;
  length: number;
}

/**
 * What bridged sessions told, in this node's memory. A legacy session has no token that could carry it: the client keeps
 * the one it was given. So nodes tell each other; one that does not know a session asks the others. Merging is free of
 * order, so that all who heard the same things know the same.
 */
export class SessionStates {
  readonly #sessions = new FairShares<Session>();
  readonly #listeners = new Map<string, Set<() => void>>();
  #length = 0;

  /** Whether the node knows all that the session told: it began here, or others said so. */
  knows({ sessionId, principalId }: SessionName): boolean {
    return this.#sessions.ownerOf(sessionId) === principalId && this.#sessions.get(sessionId)?.isWhole === true;
  }

  /** As far as it is known here. */
  get(sessionId: string): SessionState {
    const session = this.#sessions.get(sessionId);
    if (session === undefined) return freshSession;
    return {
      logLevel: session.logLevel?.level ?? null,
      subscriptions: [...(session.subscriptions ?? [])].flatMap(([uri, { isSubscribed }]) =>
        isSubscribed ? [uri] : [],
      ),
      listeningId: session.listening?.streamId ?? null,
      isEnded: session.isEnded,
    };
  }

  /** All that is known here, for a node that asks; undefined where that is not all there is. */
  whole(name: SessionName): ToldState | undefined {
    if (!this.knows(name)) return undefined;
    const session = this.#sessions.get(name.sessionId);
    if (session === undefined) return undefined;
    const { logLevel, listening, isEnded } = session;
    const subscriptions = [...(session.subscriptions ?? [])].map(
      ([uri, told]) => [uri, told.isSubscribed, told.at] as const,
    );
    return { logLevel, listening, isEnded, subscriptions };
  }

  /**
   * The session itself tells something, at this node.
   * @returns what to tell the others
   */
  tell(name: SessionName, change: SessionChange, nowMs: number): ToldState {
    const told = stamped(this.#of(name), change, nowMs);
    this.#merge(name, told);
    return told;
  }

  /** News of another node; kept where the session is known or being asked for, since a part is not the whole. */
  merge(name: SessionName, told: ToldState): void {
    if (this.#sessions.ownerOf(name.sessionId) === name.principalId) this.#merge(name, told);
  }

  /** From now on parts of a session are kept that the node does not know yet. */
  expect(name: SessionName): void {
    this.#of(name);
  }

  /** All that was told of it is known from now on. */
  complete(name: SessionName, told: readonly ToldState[]): void {
    this.#of(name).isWhole = true;
    for (const part of told) this.#merge(name, part);
  }

  /** Nobody knew the session after all: no part of it is kept. */
  giveUp({ sessionId }: SessionName): void {
    if (this.#sessions.get(sessionId)?.isWhole === false) this.#forget(sessionId);
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

  #of({ sessionId, principalId }: SessionName): Session {
    const known = this.#sessions.ownerOf(sessionId) === principalId ? this.#sessions.get(sessionId) : undefined;
    if (known !== undefined) return known;
    const session: Session = {
      isWhole: false,
      logLevel: undefined,
      listening: undefined,
      isEnded: false,
      subscriptions: undefined,
      length: 0,
    };
    this.#sessions.set(principalId, sessionId, session);
    this.#makeRoom(sessionId);
    return session;
  }

  #merge(name: SessionName, told: ToldState): void {
    const { sessionId } = name;
    const session = this.#of(name);
    const before = session.length;
    mergeInto(session, told);
    this.#length += session.length - before;
    this.#makeRoom(sessionId);
    for (const listener of this.#listeners.get(sessionId) ?? []) listener();
  }

  /** Whoever holds most forgets what was used longest ago; not the session that is under way. */
  #makeRoom(sessionId: string): void {
    while (this.#sessions.size > sessionsMax || this.#length > rememberedLengthMax) {
      const owner = this.#sessions.largest();
      const [oldest] = owner === undefined ? [] : this.#sessions.heldBy(owner);
      if (oldest === undefined || (oldest[0] === sessionId && this.#sessions.size === 1)) return;
      this.#forget(oldest[0]);
    }
  }

  #forget(sessionId: string): void {
    this.#length -= this.#sessions.delete(sessionId)?.length ?? 0;
  }
}

/** A change with its time, which is later than that of all it undoes, whatever the clocks of nodes say. */
function stamped(session: Session, change: SessionChange, nowMs: number): ToldState {
  const after = (told: { readonly at: number } | undefined): number => Math.max(nowMs, (told?.at ?? 0) + 1);
  switch (change.kind) {
    case 'logLevel':
      return { logLevel: { level: change.level, at: after(session.logLevel) } };
    case 'subscribe':
    case 'unsubscribe': {
      const at = after(session.subscriptions?.get(change.uri));
      return { subscriptions: [[change.uri, change.kind === 'subscribe', at]] };
    }
    case 'listening':
      return { listening: { streamId: change.streamId, at: after(session.listening) } };
    case 'ended':
      return { isEnded: true };
    default:
      return change satisfies never;
  }
}

function mergeInto(session: Session, told: ToldState): void {
  const { logLevel, listening, subscriptions = [], isEnded = false } = told;
  if (isLater(logLevel, session.logLevel, ({ level }) => level)) session.logLevel = logLevel;
  if (isLater(listening, session.listening, ({ streamId }) => streamId)) session.listening = listening;
  for (const [uri, isSubscribed, at] of subscriptions) {
    const next = { isSubscribed, at };
    const known = session.subscriptions?.get(uri);
    if (!isLater(next, known, (one) => String(one.isSubscribed))) continue;
    if (known === undefined) session.length += uri.length;
    (session.subscriptions ??= new Map()).set(uri, next);
  }
  session.isEnded ||= isEnded;
  dropEnded(session);
}

function dropEnded(session: Session): void {
  for (const uri of session.isEnded ? [...(session.subscriptions?.keys() ?? [])] : longEnded(session)) {
    session.subscriptions?.delete(uri);
    session.length -= uri.length;
  }
}

/** Of the subscriptions that ended those before the last `endedSubscriptionsMax`. */
function longEnded({ subscriptions }: Session): string[] {
  const ended = [...(subscriptions ?? [])]
    .filter(([, { isSubscribed }]) => !isSubscribed)
    .sort(([, a], [, b]) => a.at - b.at);
  return ended.slice(0, Math.max(0, ended.length - endedSubscriptionsMax)).map(([uri]) => uri);
}

/** Of two that were told at the same time the nodes must choose the same. */
function isLater<T extends { readonly at: number }>(
  told: T | undefined,
  known: T | undefined,
  textOf: (told: T) => string,
): told is T {
  if (told === undefined) return false;
  return known === undefined || told.at > known.at || (told.at === known.at && textOf(told) > textOf(known));
}
