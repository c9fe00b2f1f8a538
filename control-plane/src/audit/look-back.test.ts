import type { Clock } from '@sallyport/schema/platform';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { lookBack, type TimeStretch } from './look-back.ts';

const nowMs = Date.UTC(2030, 0, 1);
const dayMs = 86_400_000;
const everything: TimeStretch = { fromMs: -Infinity, toMs: Infinity };

/** A trail whose reading takes a time for each event that is there, whether or not it is asked for. */
class Trail {
  tookMs = 0;
  statements = 0;
  readonly clock: Clock = { now: () => nowMs, monotonic: () => this.tookMs };
  readonly #matching: readonly number[];
  readonly #msPerDay: number;

  constructor(matching: readonly number[], msPerDay: number) {
    this.#matching = [...matching].sort((a, b) => b - a);
    this.#msPerDay = msPerDay;
  }

  readonly read = (
    { fromMs, toMs }: TimeStretch,
    limit: number,
    timeoutMs?: number,
  ): Promise<readonly number[] | undefined> => {
    this.statements += 1;
    const found = this.#matching.filter((time) => time >= fromMs && time < toMs).slice(0, limit);
    const days = (Math.min(toMs, nowMs) - Math.max(fromMs, nowMs - 400 * dayMs)) / dayMs;
    const costMs = 1 + Math.max(0, days) * this.#msPerDay;
    this.tookMs += Math.min(costMs, timeoutMs ?? Infinity);
    return Promise.resolve(timeoutMs !== undefined && costMs > timeoutMs ? undefined : found);
  };

  get options() {
    return { clock: this.clock, read: this.read, isAnyBefore: this.isAnyBefore };
  }

  readonly isAnyBefore = (timeMs: number): Promise<boolean> =>
    Promise.resolve(this.#matching.some((time) => time < timeMs));
}

describe('looking back', () => {
  test('finds each row once, newest first, page after page, however long reading takes and however few match', () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: -3_650, max: 30 }), { maxLength: 30 }),
        fc.integer({ min: 1, max: 7 }),
        fc.double({ min: 0, max: 900, noNaN: true }),
        async (days, wanted, msPerDay) => {
          // None at the same time: what tells those apart is the caller's.
          const times = [...new Set(days)].map((day) => nowMs + day * dayMs + 1);
          const trail = new Trail(times, msPerDay);
          const found: number[] = [];
          let toMs = Infinity;
          for (;;) {
            const began = trail.tookMs;
            const page = await lookBack({ ...trail.options, wanted, range: { fromMs: -Infinity, toMs } });
            expect(trail.tookMs - began).toBeLessThan(700);
            found.push(...page.rows);
            if (page.stoppedAtMs === undefined && page.rows.length < wanted) break;
            const next = page.stoppedAtMs ?? page.rows.at(-1) ?? toMs;
            expect(next).toBeLessThan(toMs);
            toMs = next;
          }
          expect(found).toEqual(times.sort((a, b) => b - a));
        },
      ),
      { numRuns: 50 },
    ));

  test('comes to the end of a trail without a match in a few statements where there is little to read', async () => {
    const trail = new Trail([], 0.01);
    expect(await lookBack({ ...trail.options, wanted: 10, range: everything })).toEqual({
      rows: [],
      stoppedAtMs: undefined,
    });
    expect(trail.statements).toBeLessThan(10);
  });

  test('reads no further than it is asked to', async () => {
    const trail = new Trail([nowMs - dayMs, nowMs - 3 * dayMs, nowMs - 5 * dayMs], 0.01);
    const range = { fromMs: nowMs - 4 * dayMs, toMs: nowMs - 2 * dayMs };
    expect((await lookBack({ ...trail.options, wanted: 10, range })).rows).toEqual([nowMs - 3 * dayMs]);
  });

  test('finds what is said to be of the future', async () => {
    const trail = new Trail([nowMs + 9_000 * dayMs], 0.01);
    expect((await lookBack({ ...trail.options, wanted: 1, range: everything })).rows).toHaveLength(1);
  });
});
