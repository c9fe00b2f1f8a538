import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Sketch } from './sketch.ts';

const values = fc.array(fc.double({ min: 0.001, max: 1e9, noNaN: true }), { minLength: 1, maxLength: 200 });

function sketchOf(numbers: readonly number[]): Sketch {
  const sketch = new Sketch();
  for (const number of numbers) sketch.add(number);
  return sketch;
}

test('every quantile is within 1 % of the value of that rank', () => {
  fc.assert(
    fc.property(values, fc.double({ min: 0, max: 1, noNaN: true }), (numbers, fraction) => {
      const sorted = [...numbers].sort((a, b) => a - b);
      const exact = sorted[Math.floor(fraction * (sorted.length - 1))] ?? 0;
      expect(Math.abs((sketchOf(numbers).quantile(fraction) ?? 0) - exact)).toBeLessThanOrEqual(exact * 0.010001);
    }),
  );
});
test('merging two sketches gives the sketch of both, in any order', () => {
  fc.assert(
    fc.property(values, values, (one, other) => {
      const merged = sketchOf(one);
      merged.merge(sketchOf(other));
      const reversed = sketchOf(other);
      reversed.merge(sketchOf(one));
      expect(merged.serialize()).toBe(sketchOf([...one, ...other]).serialize());
      expect(reversed.serialize()).toBe(merged.serialize());
    }),
  );
});
test('a serialized sketch comes back whole', () => {
  fc.assert(
    fc.property(values, (numbers) => {
      const text = sketchOf([0, ...numbers]).serialize();
      const parsed = Sketch.parse(text);
      expect(parsed?.serialize()).toBe(text);
      expect(parsed?.count).toBe(numbers.length + 1);
    }),
  );
});
test('an empty sketch has no quantile', () => expect(new Sketch().quantile(0.5)).toBeUndefined());
test.each(['', '{}', '[', '[1,2]', '[-1]', '["1"]', '[0,1,0]', '[0,1,-5]', '[0,99999,1]', '[0,5,1,0,1]', '[0.5]'])(
  'the text %j is no sketch',
  (text) => expect(Sketch.parse(text)).toBeUndefined(),
);
