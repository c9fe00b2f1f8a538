import type { Sighting } from '@sallyport/schema';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { DefinitionSightings } from './definition-sightings.ts';

beforeEach(() => vi.useFakeTimers());
afterEach(() => vi.useRealTimers());

function sightingsOf(connected = true) {
  const sent: { serverId: string; names: unknown[] }[] = [];
  const state = { nowMs: 0, connected };
  const sightings = new DefinitionSightings({
    now: () => state.nowMs,
    send: (serverId, told) => {
      if (state.connected) sent.push({ serverId, names: told.map(({ raw }) => raw['name']) });
      return state.connected;
    },
  });
  return { sightings, sent, state };
}
const tool = (name: string, more: object = {}): Sighting => ({ kind: 'tool', raw: { name, ...more } });

test('what is seen again and again is told once in a minute', async () => {
  const { sightings, sent, state } = sightingsOf();
  for (let count = 0; count < 5; count++) sightings.seen('s', [tool('a')]);
  await vi.advanceTimersByTimeAsync(1_000);
  sightings.seen('s', [tool('a'), tool('b')]);
  await vi.advanceTimersByTimeAsync(1_000);
  expect(sent).toEqual([
    { serverId: 's', names: ['a'] },
    { serverId: 's', names: ['b'] },
  ]);
  state.nowMs = 60_000;
  sightings.seen('s', [tool('a')]);
  await vi.advanceTimersByTimeAsync(1_000);
  expect(sent).toHaveLength(3);
});

test('an upstream that makes up definitions costs a few messages a second and a bounded memory', async () => {
  const { sightings, sent } = sightingsOf();
  sightings.seen(
    's',
    Array.from({ length: 10_000 }, (_, index) => tool(`t${index}`)),
  );
  await vi.advanceTimersByTimeAsync(250);
  expect(sent.length).toBeLessThanOrEqual(4);
  await vi.advanceTimersByTimeAsync(60_000);
  expect(sent.flatMap(({ names }) => names).length).toBeLessThanOrEqual(512);
  for (const { names } of sent) expect(names.length).toBeLessThanOrEqual(64);
});

test('what could not be told waits for a connection', async () => {
  const { sightings, sent, state } = sightingsOf(false);
  sightings.seen('s', [tool('a')]);
  sightings.seen('other', [tool('a')]);
  await vi.advanceTimersByTimeAsync(5_000);
  expect(sent).toEqual([]);
  state.connected = true;
  await vi.advanceTimersByTimeAsync(1_000);
  expect(sent).toEqual([
    { serverId: 's', names: ['a'] },
    { serverId: 'other', names: ['a'] },
  ]);
});
