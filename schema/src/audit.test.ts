import { expect, test } from 'vitest';
import { sha256 } from './canonical-json.ts';
import { auditRecordSchema, chainLine, epochSeed } from './audit.ts';

test('a line carries the hash of the line before and is itself what is hashed', () => {
  const first = chainLine(1, epochSeed('node', 'epoch'), { type: 'shed', time: 1, count: 2 });
  const second = chainLine(2, first.hash, { type: 'shed', time: 2, count: 1 });
  expect(sha256(first.line)).toBe(first.hash);
  const parsed = JSON.parse(second.line) as { previous: string; record: unknown };
  expect(parsed.previous).toBe(first.hash);
  expect(auditRecordSchema.parse(parsed.record)).toEqual({ type: 'shed', time: 2, count: 1 });
});
test('two nodes, and two epochs of one node, start from different seeds', () => {
  expect(new Set([epochSeed('a', '1'), epochSeed('a', '2'), epochSeed('b', '1')]).size).toBe(3);
});
