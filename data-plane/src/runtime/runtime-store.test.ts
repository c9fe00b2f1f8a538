import { defaultLimits } from '@sallyport/schema';
import type { Clock } from '@sallyport/schema/platform';
import { beforeEach, expect, test } from 'vitest';
import { buildFromDocuments } from './build-runtime.ts';
import { RuntimeStore } from './runtime-store.ts';

const hourMs = 3_600_000;
let wallMs = 0;
let monotonicMs = 0;
const clock: Clock = { now: () => wallMs, monotonic: () => monotonicMs };
const secret = Buffer.alloc(32, 1).toString('base64');
const built = buildFromDocuments([defaultLimits, { kind: 'keys', sealing: [{ id: 'k', secret, use: 'seal' }] }]);

beforeEach(() => {
  wallMs = Date.UTC(2030, 0, 1);
  monotonicMs = 500;
});

function pass(ms: number): void {
  wallMs += ms;
  monotonicMs += ms;
}

test('time is the control plane’s, whatever the local clock says', () => {
  const store = new RuntimeStore({ clock });
  store.contact(1_000_000);
  pass(250);
  wallMs += 10 * hourMs;
  expect(store.now()).toBe(1_000_250);
  expect(store.contactAgeMs()).toBe(250);
});

test('a store is connected for 5 s after it was heard, and not after its socket closed', () => {
  const store = new RuntimeStore({ clock });
  expect(store.connected).toBe(false);
  store.contact(0);
  pass(5_000);
  expect(store.connected).toBe(true);
  pass(1);
  expect(store.connected).toBe(false);
  store.contact(0);
  store.detach();
  expect(store.connected).toBe(false);
  expect(store.contactAgeMs()).toBe(0);
});

test('the age of the last contact goes on across a restart, down time included', () => {
  const first = new RuntimeStore({ clock });
  first.contact(7 * hourMs);
  pass(hourMs);
  const saved = first.save();
  pass(2 * hourMs);
  monotonicMs = 3;
  const second = new RuntimeStore({ clock });
  if (saved === undefined) throw new Error('nothing saved');
  second.restore(saved);
  expect(second.contactAgeMs()).toBe(3 * hourMs);
  expect(second.now()).toBe(10 * hourMs);
  pass(21 * hourMs);
  expect(second.isStale(built.runtime)).toBe(false);
  pass(1);
  expect(second.isStale(built.runtime)).toBe(true);
});

test('a local clock set back since makes the age maximal, until there is contact', () => {
  const first = new RuntimeStore({ clock });
  first.contact(hourMs);
  const saved = first.save();
  if (saved === undefined) throw new Error('nothing saved');
  wallMs -= 2_000;
  const second = new RuntimeStore({ clock });
  second.restore(saved);
  expect(second.contactAgeMs()).toBe(Number.POSITIVE_INFINITY);
  expect(second.isStale(built.runtime)).toBe(true);
  expect(second.save()).toBeUndefined();
  second.contact(hourMs);
  expect(second.isStale(built.runtime)).toBe(false);
});

test.each([
  ['the same start of the machine', 'b', 30 * hourMs],
  ['another start of the machine, of which only the clock tells', 'c', 10 * hourMs],
])('a clock set back by less than the process was away does not make the age less: %s', (_case, bootId, ageMs) => {
  const saved = new RuntimeStore({ clock, bootTime: () => ({ bootId: 'b', elapsedMs: 5 }) });
  saved.contact(hourMs);
  const written = saved.save();
  if (written === undefined) throw new Error('nothing saved');
  pass(10 * hourMs);
  const store = new RuntimeStore({ clock, bootTime: () => ({ bootId, elapsedMs: 30 * hourMs + 5 }) });
  store.restore(written);
  expect(store.contactAgeMs()).toBe(ageMs);
});

test('without any contact a configuration is stale', () => {
  const store = new RuntimeStore({ clock });
  expect(store.isStale(built.runtime)).toBe(true);
});

test('listeners hear of each swap, with what ran before', () => {
  const store = new RuntimeStore({ clock });
  const heard: unknown[] = [];
  const unsubscribe = store.onSwap((runtime, before) => heard.push([runtime, before]));
  store.swap(built);
  store.swap(built);
  unsubscribe();
  store.swap(built);
  expect(heard).toEqual([
    [built.runtime, undefined],
    [built.runtime, built.runtime],
  ]);
});
