import { AppError } from '@sallyport/schema';
import {
  type SessionChange,
  type SessionName,
  type SessionState,
  SessionStates,
  type ToldState,
} from '../bridge/session-state.ts';
import type { PeerLink } from './peer-link.ts';

/** A client waits this long for other nodes to hear what it told, in milliseconds; they hear it later then. */
const hearingMsMax = 1_000;
/** After this long a node that was not reached is told again, in milliseconds. */
const againMs = 2_000;
/** Sessions of which one node is still to be told; beyond, the oldest is told no more: the node asks when it needs to. */
const owedMax = 1_000;
/** Before others are asked again for a session that none of them knew, in milliseconds. */
const askAgainMs = 5_000;
const unknownMax = 1_000;

/**
 * How much of a session this node knows: all of it; nothing, since those who knew it are gone; or nothing so far, since
 * a node that may know it was not reached.
 */
export type Knowledge = 'whole' | 'lost' | 'unsure';

/**
 * Keeps what nodes know of bridged sessions in step. Each session is told to all nodes when it begins, and whatever it
 * tells before it is answered; a node that started later, or was not reached, asks the others when it meets the session.
 */
export class SessionNews {
  readonly states = new SessionStates();
  readonly #peers: PeerLink;
  readonly #now: () => number;
  readonly #asking = new Map<string, Promise<Knowledge>>();
  readonly #unknown = new Map<string, { readonly knowledge: Knowledge; readonly until: number }>();
  readonly #owed = new Map<string, Map<string, SessionName>>();
  #timer: NodeJS.Timeout | undefined;
  #isClosed = false;

  /** @param now the control plane's time, milliseconds since the epoch */
  constructor(peers: PeerLink, now: () => number) {
    this.#peers = peers;
    this.#now = now;
  }

  begin(name: SessionName): void {
    this.states.complete(name, []);
    void this.#spread(name, {}, true);
  }

  /** Resolves when the other nodes know it, or are not to be reached in time: they are told later. */
  async change(name: SessionName, change: SessionChange): Promise<void> {
    const told = this.states.tell(name, change, this.#now());
    const heard = Promise.withResolvers<void>();
    const timer = setTimeout(heard.resolve, hearingMsMax);
    await Promise.race([this.#spread(name, told, false), heard.promise]);
    clearTimeout(timer);
  }

  /** Another node's news. */
  heard(name: SessionName, told: ToldState, isWhole: boolean): void {
    if (isWhole) this.states.complete(name, [told]);
    else this.states.merge(name, told);
  }

  /** The session, as far as it is known; asks the other nodes where it is not. */
  async of(name: SessionName): Promise<{ readonly state: SessionState; readonly knowledge: Knowledge }> {
    const knowledge = this.states.knows(name) ? 'whole' : await this.#ask(name);
    return { state: this.states.get(name.sessionId), knowledge };
  }

  close(): void {
    this.#isClosed = true;
    clearTimeout(this.#timer);
  }

  async #ask(name: SessionName): Promise<Knowledge> {
    const { sessionId } = name;
    const unknown = this.#unknown.get(sessionId);
    if (unknown !== undefined && unknown.until > this.#now()) return unknown.knowledge;
    const asking = this.#asking.get(sessionId) ?? this.#askAll(name).finally(() => this.#asking.delete(sessionId));
    this.#asking.set(sessionId, asking);
    return await asking;
  }

  async #askAll({ sessionId, principalId }: SessionName): Promise<Knowledge> {
    const name = { sessionId, principalId };
    this.states.expect(name);
    const { known, unreached } = await this.#peers.askSession(name);
    this.#unknown.delete(sessionId);
    if (known.length > 0) {
      this.states.complete(name, known);
      return 'whole';
    }
    this.states.giveUp(name);
    const knowledge = unreached > 0 ? 'unsure' : 'lost';
    this.#unknown.set(sessionId, { knowledge, until: this.#now() + askAgainMs });
    dropOldest(this.#unknown, unknownMax);
    return knowledge;
  }

  async #spread(
    { sessionId, principalId }: SessionName,
    told: ToldState,
    isWhole: boolean,
    nodeId?: string,
  ): Promise<void> {
    const missed = await this.#peers.tell({ kind: 'session', sessionId, principalId, told, isWhole }, nodeId);
    for (const each of missed) this.#owe(each, { sessionId, principalId });
  }

  #owe(nodeId: string, name: SessionName): void {
    const owed = this.#owed.get(nodeId) ?? new Map<string, SessionName>();
    this.#owed.set(nodeId, owed.set(name.sessionId, name));
    dropOldest(owed, owedMax);
    if (this.#isClosed) return;
    this.#timer ??= setTimeout(() => void this.#tellAgain(), againMs).unref();
  }

  /** A node that is no more is owed nothing: the link tells nobody then. */
  async #tellAgain(): Promise<void> {
    const owed = [...this.#owed];
    this.#owed.clear();
    for (const [nodeId, names] of owed) {
      for (const name of names.values()) {
        const whole = this.states.whole(name);
        if (whole !== undefined) await this.#spread(name, whole, true, nodeId);
        // One that is not reached costs one attempt a turn.
        if (this.#owed.has(nodeId)) {
          for (const rest of names.values()) this.#owe(nodeId, rest);
          break;
        }
      }
    }
    this.#timer = undefined;
    if (this.#owed.size > 0 && !this.#isClosed) this.#timer = setTimeout(() => void this.#tellAgain(), againMs).unref();
  }
}

function dropOldest<K>(map: Map<K, unknown>, max: number): void {
  for (const key of map.keys()) {
    if (map.size <= max) return;
    map.delete(key);
  }
}

/**
 * What depends on all that a session told, as its subscriptions do, cannot be done where that is not known.
 * @throws AppError SESSION_NOT_FOUND where it is gone with those who knew it, so that the client begins anew;
 *   PEER_UNREACHABLE where a node may know it
 */
export function checkKnown(knowledge: Knowledge): void {
  switch (knowledge) {
    case 'whole':
      return;
    case 'lost':
      throw new AppError('SESSION_NOT_FOUND', { internal: 'no node knows any more what the session told' });
    case 'unsure':
      throw new AppError('PEER_UNREACHABLE', { internal: 'a node that may know the session was not reached' });
    default:
      knowledge satisfies never;
  }
}
