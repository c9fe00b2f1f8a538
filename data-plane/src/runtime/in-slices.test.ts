import { constants, type PerformanceEntry, PerformanceObserver } from 'node:perf_hooks';
import { systemClock } from '@sallyport/schema/platform';
import { expect, test } from 'vitest';
import { inSlices } from './in-slices.ts';
import { MarkingWatch } from './marking-watch.ts';

const itemsHeld = 4_096;
const itemsMost = 40_000;

/** Gives V8 some 200 MiB of old objects to mark. @returns when each step was begun */
function* allocate(isEnough: () => boolean): Generator<undefined, number[]> {
  const begun: number[] = [];
  const held: string[][] = [];
  while (!isEnough() && begun.length < itemsMost) {
    begun.push(performance.now());
    held[begun.length % itemsHeld] = Array.from({ length: 1_000 }, (_, n) => `an object of its own: ${n}`);
    yield;
  }
  return begun;
}

test('nothing is computed while V8 marks what lives, which requests would pay for', { timeout: 60_000 }, async () => {
  const markings: { readonly from: number; readonly to: number }[] = [];
  let from: number | undefined;
  const observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries() as (PerformanceEntry & { readonly detail: { readonly kind: number } })[]) {
      const { detail, startTime, duration } = entry;
      if (detail.kind === constants.NODE_PERFORMANCE_GC_INCREMENTAL) from = startTime + duration;
      if (detail.kind !== constants.NODE_PERFORMANCE_GC_MAJOR || from === undefined) continue;
      // Shorter ones may be over before they are noticed; of longer ones not the whole is waited for.
      if (startTime - from > 60) markings.push({ from, to: Math.min(startTime, from + 800) });
      from = undefined;
    }
  });
  observer.observe({ entryTypes: ['gc'] });
  const watch = new MarkingWatch(systemClock);
  const begun = await inSlices(
    allocate(() => markings.length > 0),
    { clock: systemClock, marking: watch, isWanted: () => true },
  );
  watch.stop();
  observer.disconnect();
  expect(markings).toHaveLength(1);
  // The slice in which it begins is not cut short; in the rest after it is noticed.
  for (const { from, to } of markings) expect(begun?.filter((at) => at > (from + to) / 2 && at < to)).toEqual([]);
});

test('what comes over a connection is held back while V8 marks, and let in after it', { timeout: 60_000 }, async () => {
  const watch = new MarkingWatch(systemClock);
  const source = {
    isPaused: false,
    pause: () => void (source.isPaused = true),
    resume: () => void (source.isPaused = false),
  };
  await watch.holdBack(source);
  expect(source.isPaused).toBe(false);
  await inSlices(
    allocate(() => watch.isOn),
    { clock: systemClock, marking: { isOn: false }, isWanted: () => true },
  );
  expect(watch.isOn).toBe(true);
  const over = watch.holdBack(source);
  expect(source.isPaused).toBe(true);
  await over;
  expect([watch.isOn, source.isPaused]).toEqual([false, false]);
  watch.stop();
});

test('a computation that is not wanted any more is given up while V8 marks, too', async () => {
  const begun = Date.now();
  const steps = allocate(() => false);
  expect(
    await inSlices(steps, { clock: systemClock, marking: { isOn: true }, isWanted: () => Date.now() - begun < 100 }),
  ).toBeUndefined();
});

test('a computation that is not wanted any more is given up, and one that fails says so', async () => {
  let asked = 0;
  const steps = allocate(() => false);
  expect(
    await inSlices(steps, { clock: systemClock, marking: { isOn: false }, isWanted: () => asked++ < 2 }),
  ).toBeUndefined();
  function* failing(): Generator<undefined, never> {
    yield;
    throw new Error('as it happens');
  }
  await expect(
    inSlices(failing(), { clock: systemClock, marking: { isOn: false }, isWanted: () => true }),
  ).rejects.toThrow('as it happens');
});
