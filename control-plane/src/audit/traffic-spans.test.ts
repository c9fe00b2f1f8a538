import fc from 'fast-check';
import { expect, test } from 'vitest';
import { trafficSpans } from './traffic-spans.ts';

const minuteMs = 60_000;
const lengths = { minute: minuteMs, hour: 60 * minuteMs, day: 1440 * minuteMs };
const at = (text: string): number => Date.parse(text);

test('a range of days is read by the day, and by hours and minutes only at its ends', () => {
  const spans = trafficSpans(at('2026-11-01T22:58:30Z'), at('2026-11-05T01:01:30Z'), -Infinity);
  expect(spans.map(({ unit, fromMs, toMs }) => [unit, (toMs - fromMs) / lengths[unit]])).toEqual([
    ['minute', 2],
    ['hour', 1],
    ['day', 3],
    ['hour', 1],
    ['minute', 2],
  ]);
});

test('what was counted before there were sums is read by the minute', () => {
  const spans = trafficSpans(at('2026-11-01T00:00:00Z'), at('2026-11-03T00:00:00Z'), at('2026-11-02T00:00:00Z'));
  expect(spans.map(({ unit }) => unit)).toEqual(['minute', 'day']);
});

test('whatever the range, its pieces are whole, in order, and cover exactly the minutes that begin in it', () => {
  const instant = fc.integer({ min: at('2026-10-30T00:00:00Z'), max: at('2026-11-04T00:00:00Z') });
  const length = fc.integer({ min: 1, max: 3 * lengths.day });
  const rolledFrom = fc.oneof(fc.constant(-Infinity), fc.constant(Infinity), instant);
  fc.assert(
    fc.property(instant, length, rolledFrom, (fromMs, lastsMs, rolledFromMs) => {
      const spans = trafficSpans(fromMs, fromMs + lastsMs, rolledFromMs);
      let next = Math.floor(fromMs / minuteMs) * minuteMs;
      for (const { unit, fromMs: begin, toMs } of spans) {
        expect(begin).toBe(next);
        expect(begin % lengths[unit]).toBe(0);
        expect((toMs - begin) % lengths[unit]).toBe(0);
        expect(unit === 'minute' || begin >= rolledFromMs).toBe(true);
        next = toMs;
      }
      expect(next).toBe(Math.ceil((fromMs + lastsMs) / minuteMs) * minuteMs);
    }),
  );
});
