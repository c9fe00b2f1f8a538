import { expect, test } from 'vitest';
import { nodeStatus } from './node.service.ts';

const nowMs = 1_000_000;
const published = { historyId: 'h', revision: 5 };
const node = (ageMs: number, changes: Partial<Parameters<typeof nodeStatus>[0]> = {}) => ({
  lastContactAt: new Date(nowMs - ageMs),
  leftAt: null,
  removedAt: null,
  appliedHistoryId: 'h',
  appliedRevision: 5,
  ...changes,
});

test('a node is live only in contact and at the newest revision of the history in force', () => {
  expect(nodeStatus(node(5_000), published, nowMs)).toBe('live');
  expect(nodeStatus(node(5_001), published, nowMs)).toBe('unconverged');
  expect(nodeStatus(node(0, { appliedRevision: 4 }), published, nowMs)).toBe('unconverged');
  expect(nodeStatus(node(0, { appliedHistoryId: 'other' }), published, nowMs)).toBe('unconverged');
  expect(nodeStatus(node(0, { appliedRevision: null }), published, nowMs)).toBe('unconverged');
  expect(nodeStatus(node(0), undefined, nowMs)).toBe('unconverged');
});

test('a node is gone when unseen for 60 s, when it said goodbye, when it was removed', () => {
  expect(nodeStatus(node(60_000), published, nowMs)).toBe('unconverged');
  expect(nodeStatus(node(60_001), published, nowMs)).toBe('gone');
  expect(nodeStatus(node(0, { leftAt: new Date(nowMs) }), published, nowMs)).toBe('gone');
  expect(nodeStatus(node(0, { removedAt: new Date(nowMs) }), published, nowMs)).toBe('gone');
  expect(nodeStatus(node(0, { lastContactAt: null }), published, nowMs)).toBe('gone');
});
