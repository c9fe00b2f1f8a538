import { type Verdict, verdictsMax } from '@sallyport/schema';
import { expect, test } from 'vitest';
import { withVerdict } from './inspector.ts';

const verdict = (reason: string, more: Partial<Verdict> = {}): Verdict => ({
  policyId: 'p',
  mode: 'enforce',
  direction: 'response',
  detector: 'secret',
  version: '2',
  decision: 'label',
  reason,
  severity: 'low',
  count: 1,
  places: [],
  durationMs: 1,
  ...more,
});

test('a record that is full of labels still tells what stopped something', () => {
  let verdicts: readonly Verdict[] = [];
  for (let at = 0; at < verdictsMax + 3; at += 1) verdicts = withVerdict(verdicts, verdict(`label${at}`));
  verdicts = withVerdict(verdicts, verdict('shadow', { mode: 'shadow', decision: 'block' }));
  expect(verdicts.length).toBe(verdictsMax);
  expect(verdicts.some(({ reason }) => reason === 'shadow')).toBe(false);
  for (let at = 0; at < verdictsMax + 3; at += 1) {
    verdicts = withVerdict(verdicts, verdict(`block${at}`, { decision: 'block' }));
  }
  expect(verdicts.length).toBe(verdictsMax);
  expect(verdicts.every(({ decision }) => decision === 'block')).toBe(true);
});
