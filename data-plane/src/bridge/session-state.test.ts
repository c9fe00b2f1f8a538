import { expect, test } from 'vitest';
import { SessionStates, subscribedUriLengthMax } from './session-state.ts';

test('what sessions subscribe to is bounded in all: the one touched longest ago is forgotten', () => {
  const states = new SessionStates();
  const uri = 'x'.repeat(subscribedUriLengthMax - 8);
  for (let session = 0; session < 20; session++) {
    for (let at = 0; at < 256; at++) states.apply(`s${session}`, { kind: 'subscribe', uri: `${uri}${at}` });
  }
  expect(states.get('s0').subscriptions).toHaveLength(0);
  expect(states.get('s19').subscriptions).toHaveLength(256);
});
