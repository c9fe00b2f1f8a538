import { expect, test } from 'vitest';
import { convertUnits } from './example-units.ts';

test.each([
  [26.2, 'mi', 'km', 42.1648128],
  [212, 'fahrenheit', 'celsius', 100],
  [-40, 'celsius', 'fahrenheit', -40],
  [1, 'lb', 'g', 453.59237],
] as const)('%d %s is as many %s as the definition says', (value, from, to, expected) => {
  expect(convertUnits(value, from, to)).toBeCloseTo(expected, 9);
});

test('units of different dimensions do not convert', () => {
  expect(convertUnits(1, 'm', 'kg')).toBeUndefined();
});
