import fc from 'fast-check';
import { Histogram, Registry } from 'prom-client';
import { expect, test } from 'vitest';
import { DurationHistogram } from './duration-histogram.ts';

const buckets = [0.001, 0.01, 1];
const named = { name: 'x_seconds', help: 'Help.' };
// Multiples of a power of two, whose sums are exact in whatever order.
const seconds = fc.nat(4_096).map((n) => n / 2_048);

test('what is shown is what a histogram of prom-client shows, without a label and with one', async () => {
  const observed = fc.array(fc.tuple(fc.constantFrom('a', 'b'), seconds), { maxLength: 40 });
  await fc.assert(
    fc.asyncProperty(observed, async (values) => {
      for (const label of [undefined, 'detector']) {
        const [ours, theirs] = [new Registry(), new Registry()];
        const mine = new DurationHistogram({ ...named, buckets, registry: ours, ...(label && { label }) });
        const labelNames = label === undefined ? [] : [label];
        const other = new Histogram({ ...named, buckets, labelNames, registers: [theirs] });
        for (const [value, duration] of values) {
          mine.count(duration, label === undefined ? '' : value);
          if (label === undefined) other.observe(duration);
          else other.observe({ [label]: value }, duration);
        }
        expect(await ours.metrics()).toBe(await theirs.metrics());
      }
    }),
  );
});
