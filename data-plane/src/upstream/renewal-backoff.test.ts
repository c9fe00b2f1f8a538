import { expect, test } from 'vitest';
import { RenewalBackoff } from './renewal-backoff.ts';

const minuteMs = 60_000;

test('three renewals are had at once, others after a while, of each account for itself', () => {
  const backoff = new RenewalBackoff();
  const at = (now: number) => backoff.allows('ada', now);
  expect([at(0), at(0), at(0), at(0)]).toEqual([true, true, true, false]);
  expect(backoff.allows('bob', 0)).toBe(true);
  expect([at(999), at(1_000), at(2_999), at(3_000)]).toEqual([false, true, false, true]);
});

test('however long it goes on, the wait is five minutes at most', () => {
  const backoff = new RenewalBackoff();
  let allowed = 0;
  for (let now = 0; now < 60 * minuteMs; now += 1_000) if (backoff.allows('ada', now)) allowed++;
  expect(allowed).toBeGreaterThan(60 / 5);
  expect(allowed).toBeLessThan(60 / 5 + 12);
});

test('after ten minutes without any, or where the time was set back, nothing is held and nobody waits', () => {
  const backoff = new RenewalBackoff();
  const exhaust = (now: number) => {
    while (backoff.allows('ada', now));
  };
  exhaust(minuteMs);
  backoff.sweep(10 * minuteMs);
  expect(backoff.size).toBe(1);
  backoff.sweep(11 * minuteMs);
  expect(backoff.size).toBe(0);
  exhaust(20 * minuteMs);
  expect(backoff.allows('ada', 19 * minuteMs)).toBe(true);
});
