import { describe, expect, test } from 'vitest';
import { FailedAttempts } from './failed-attempts.ts';

function attemptsAt(clock: { at: number }): FailedAttempts {
  return new FailedAttempts({ clock: { now: () => 0, monotonic: () => clock.at } });
}
function fail(attempts: FailedAttempts, address: string, times: number): void {
  for (let n = 0; n < times; n++) attempts.failed(address);
}

describe('failed attempts', () => {
  test('are bounded by network, and allowed again at a steady pace', () => {
    const clock = { at: 0 };
    const attempts = attemptsAt(clock);
    fail(attempts, '203.0.113.1', 59);
    expect(attempts.isOver('203.0.113.1')).toBe(false);
    fail(attempts, '203.0.113.1', 100);
    expect(attempts.isOver('203.0.113.1')).toBe(true);
    expect(attempts.isOver('203.0.113.2')).toBe(false);
    clock.at = 999;
    expect(attempts.isOver('203.0.113.1')).toBe(true);
    clock.at = 1_000;
    expect(attempts.isOver('203.0.113.1')).toBe(false);
    attempts.failed('203.0.113.1');
    expect(attempts.isOver('203.0.113.1')).toBe(true);
  });

  test('of all addresses of one IPv6 network count together', () => {
    const attempts = attemptsAt({ at: 0 });
    for (let n = 0; n < 60; n++) attempts.failed(`2001:db8:0:1::${n.toString(16)}`);
    expect(attempts.isOver('2001:db8:0:1:ffff::1')).toBe(true);
    expect(attempts.isOver('2001:db8:0:2::1')).toBe(false);
  });

  test('from ever new networks take no more memory than is set aside for them', () => {
    const attempts = attemptsAt({ at: 0 });
    fail(attempts, '198.51.100.1', 60);
    for (let n = 0; n < 10_000; n++) attempts.failed(`10.${n >> 16}.${(n >> 8) & 255}.${n & 255}`);
    expect(attempts.isOver('198.51.100.1')).toBe(false);
  });
});
