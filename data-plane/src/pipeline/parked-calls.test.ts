import { afterEach, expect, test, vi } from 'vitest';
import type { Authorized } from './exchange.ts';
import {
  type ParkedCall,
  parkedBytesMax,
  parkedBytesPerPrincipalMax,
  ParkedCalls,
  parkedMax,
  parkedMsMax,
  parkedPerPrincipalMax,
} from './parked-calls.ts';

const expired: string[] = [];
let calls: ParkedCalls;

/** What the owner of parked calls looks at of an exchange. */
function authorizedFor(principalId: string): Authorized {
  const routed = { authenticated: { principal: { id: principalId } }, server: { document: { id: 's' } } };
  return { routed } as unknown as Authorized;
}

function parkedCall(callId: string, principalId: string, bytes = 1): ParkedCall {
  return {
    callId,
    digest: 'd',
    bytes,
    authorized: authorizedFor(principalId),
    resume: () => Promise.reject(new Error('not resumed here')),
    expire: () => expired.push(callId),
  };
}

function opened(): ParkedCalls {
  calls = new ParkedCalls({
    runtimes: { current: undefined, onSwap: () => () => undefined },
    reauthorize: (authorized) => authorized,
  });
  return calls;
}

afterEach(() => {
  calls.close();
  expired.length = 0;
  vi.useRealTimers();
});

test('one principal has a bounded number of calls waiting, and leaves room for others', () => {
  opened();
  for (let at = 0; at < parkedPerPrincipalMax; at += 1) calls.park(parkedCall(`a${at}`, 'ada'));
  expect(() => calls.park(parkedCall('more', 'ada'))).toThrow(expect.objectContaining({ code: 'RATE_LIMITED' }));
  calls.park(parkedCall('b', 'bob'));
  expect(calls.size).toBe(parkedPerPrincipalMax + 1);
});

test('a node has a bounded number of calls waiting', () => {
  opened();
  for (let at = 0; at < parkedMax; at += 1) calls.park(parkedCall(`c${at}`, `p${at}`));
  expect(() => calls.park(parkedCall('more', 'new'))).toThrow(expect.objectContaining({ code: 'OVERLOADED' }));
});

test('a node holds a bounded number of bytes of calls that wait', () => {
  opened();
  const whole = parkedBytesMax / parkedBytesPerPrincipalMax;
  for (let at = 0; at < whole; at += 1) calls.park(parkedCall(`c${at}`, `p${at}`, parkedBytesPerPrincipalMax));
  expect(() => calls.park(parkedCall('more', 'eve', 1))).toThrow(expect.objectContaining({ code: 'OVERLOADED' }));
});

test('one principal holds a share of them, however few its calls are', () => {
  opened();
  calls.park(parkedCall('large', 'ada', parkedBytesPerPrincipalMax - 1));
  calls.park(parkedCall('small', 'ada', 1));
  expect(() => calls.park(parkedCall('more', 'ada', 1))).toThrow(expect.objectContaining({ code: 'RATE_LIMITED' }));
  calls.park(parkedCall('other', 'bob', 1));
  expect(calls.size).toBe(3);
});

test('a call whose client does not come back expires, once, and makes room [P66]', () => {
  vi.useFakeTimers();
  opened().park(parkedCall('late', 'ada'));
  vi.advanceTimersByTime(parkedMsMax - 1);
  expect(expired).toEqual([]);
  vi.advanceTimersByTime(1);
  expect([expired, calls.size]).toEqual([['late'], 0]);
});
