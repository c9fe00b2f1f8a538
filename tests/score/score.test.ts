import { expect, test } from 'vitest';
import { scores, valueScores } from './score.ts';

const rows = new Map(scores().map((row) => [row.set, row]));

test.each(['plain', 'capitals', 'lookAlikes', 'zeroWidth', 'framed'])(
  'nine in ten poisoned definitions are flagged, written %s',
  (writing) => {
    expect(rows.get(`definition: all, ${writing}`)?.flagged).toBeGreaterThanOrEqual(0.9);
  },
);

test.each(['plain', 'capitals', 'lookAlikes', 'zeroWidth', 'framed'])(
  'six in ten injections in content are flagged, written %s',
  (writing) => {
    expect(rows.get(`content: all, ${writing}`)?.flagged).toBeGreaterThanOrEqual(0.6);
  },
);

test('no technique of poisoning goes mostly unseen', () => {
  const attacks = Array.from(rows.values()).filter(
    ({ set }) => set.startsWith('definition: ') && !set.endsWith('benign'),
  );
  expect(attacks.filter(({ flagged }) => flagged <= 0.5)).toEqual([]);
});

test('of texts chosen to look like attacks, hardly any is flagged and none is blocked', () => {
  expect(rows.get('definition: benign')).toMatchObject({ severe: 0 });
  expect(rows.get('content: benign')).toMatchObject({ severe: 0 });
  expect(rows.get('definition: benign')?.flagged).toBeLessThanOrEqual(0.1);
  expect(rows.get('content: benign')?.flagged).toBeLessThanOrEqual(0.1);
});

test('credentials are found, and what only looks like them hardly ever', () => {
  const values = new Map(valueScores().map((row) => [row.set, row.flagged]));
  expect(values.get('secrets')).toBeGreaterThanOrEqual(0.95);
  expect(values.get('secrets: near misses')).toBeLessThanOrEqual(0.15);
  expect(values.get('secrets: clean')).toBeLessThanOrEqual(0.03);
  expect(values.get('personal data: recall')).toBeGreaterThanOrEqual(0.95);
  expect(values.get('personal data: precision')).toBeGreaterThanOrEqual(0.97);
});
