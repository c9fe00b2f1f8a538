import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type SessionChange, SessionStates, subscribedUriLengthMax, type ToldState } from './session-state.ts';

const session = { sessionId: 's', principalId: 'p' };

const changes: fc.Arbitrary<SessionChange> = fc.oneof(
  fc.record({ kind: fc.constant('logLevel' as const), level: fc.constantFrom('debug' as const, 'error' as const) }),
  fc.record({ kind: fc.constantFrom('subscribe' as const, 'unsubscribe' as const), uri: fc.constantFrom('a', 'b') }),
  fc.record({ kind: fc.constant('listening' as const), streamId: fc.constantFrom('x', 'y') }),
);

/** What of a session can be seen, whatever order it was learnt in. */
function seen(states: SessionStates) {
  const state = states.get('s');
  return { ...state, subscriptions: state.subscriptions.toSorted() };
}

describe('what a session told', () => {
  test('is the same on all nodes that heard it, in whatever order and however often', () => {
    const told = fc.array(fc.tuple(changes, fc.nat(2), fc.nat(3)), { maxLength: 12 });
    const property = fc.property(told, fc.infiniteStream(fc.nat()), (taken, order) => {
      const nodes = [0, 1, 2].map(() => new SessionStates());
      for (const node of nodes) node.complete(session, []);
      const news = taken.map(([change, at, nowMs]): ToldState | undefined => nodes[at]?.tell(session, change, nowMs));
      for (const node of nodes) {
        const shuffled = [...news, ...news].map((each) => [order.next().value ?? 0, each] as const);
        for (const [, each] of shuffled.sort(([a], [b]) => a - b)) if (each !== undefined) node.merge(session, each);
      }
      const [first, ...others] = nodes.map(seen);
      for (const other of others) expect(other).toEqual(first);
    });
    fc.assert(property);
  });

  test('at one node after another is what was told last, though the clock of the second is behind', () => {
    const [one, other] = [new SessionStates(), new SessionStates()];
    for (const node of [one, other]) node.complete(session, []);
    other.merge(session, one.tell(session, { kind: 'logLevel', level: 'error' }, 1_000));
    one.merge(session, other.tell(session, { kind: 'logLevel', level: 'debug' }, 10));
    expect([one.get('s').logLevel, other.get('s').logLevel]).toEqual(['debug', 'debug']);
  });

  test('is not known in parts, but parts that come while the rest is asked for are not lost', () => {
    const [one, late] = [new SessionStates(), new SessionStates()];
    one.complete(session, []);
    late.merge(session, one.tell(session, { kind: 'subscribe', uri: 'a' }, 1));
    expect(late.knows(session)).toBe(false);
    late.expect(session);
    const asked = one.whole(session);
    late.merge(session, one.tell(session, { kind: 'subscribe', uri: 'b' }, 2));
    expect([late.knows(session), late.whole(session)]).toEqual([false, undefined]);
    late.complete(session, asked === undefined ? [] : [asked]);
    expect(late.get('s').subscriptions.toSorted()).toEqual(['a', 'b']);
    expect(late.knows({ ...session, principalId: 'another' })).toBe(false);
  });

  test('is bounded in all: whoever told most is the first of whom something is forgotten', () => {
    const states = new SessionStates();
    const uri = 'x'.repeat(subscribedUriLengthMax - 8);
    const of = (principalId: string, at: number) => ({ sessionId: `${principalId}${at}`, principalId });
    states.complete(of('modest', 0), []);
    states.tell(of('modest', 0), { kind: 'subscribe', uri: 'a' }, 1);
    for (let at = 0; at < 20; at++) {
      states.complete(of('greedy', at), []);
      for (let part = 0; part < 256; part++)
        states.tell(of('greedy', at), { kind: 'subscribe', uri: `${uri}${part}` }, 1);
    }
    expect(states.knows(of('greedy', 0))).toBe(false);
    expect(states.get('greedy19').subscriptions).toHaveLength(256);
    expect(states.get('modest0').subscriptions).toEqual(['a']);
  });
});
