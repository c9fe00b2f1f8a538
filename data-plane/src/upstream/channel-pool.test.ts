import { expect, test } from 'vitest';
import { ChannelPool, idleMax, idlePerPrincipalMax } from './channel-pool.ts';
import type { LegacyChannel } from './legacy-channel.ts';

/** @param closed what was closed, by name */
function channelNamed(name: string, closed: string[]): LegacyChannel {
  return {
    initialized: {},
    hasSession: true,
    request: () => Promise.reject(new Error('not asked here')),
    post: () => Promise.resolve(),
    listen: () => Promise.resolve(null),
    close: () => void closed.push(name),
  };
}

async function useOnce(pool: ChannelPool, principalId: string, key: string, closed: string[]): Promise<void> {
  const name = `${principalId}/${key}`;
  const options = { principalId, isFresh: false, events: null };
  (await pool.acquire(name, () => Promise.resolve(channelNamed(name, closed)), options)).release();
}

test('nobody keeps more idle sessions than his share, and nobody else loses one by it', async () => {
  const pool = new ChannelPool();
  const closed: string[] = [];
  await useOnce(pool, 'modest', 'a', closed);
  for (let at = 0; at < idlePerPrincipalMax + 10; at++) await useOnce(pool, 'greedy', String(at), closed);
  expect(pool.idleCount).toBe(idlePerPrincipalMax + 1);
  expect(closed).toEqual(Array.from({ length: 10 }, (_, at) => `greedy/${at}`));
  pool.close();
});

test('where all of them are too many, who has most gives up the one that is idle longest', async () => {
  const pool = new ChannelPool();
  const closed: string[] = [];
  await useOnce(pool, 'modest', 'a', closed);
  const greedy = Math.ceil(idleMax / idlePerPrincipalMax);
  for (let who = 0; who < greedy; who++) {
    for (let at = 0; at < idlePerPrincipalMax; at++) await useOnce(pool, `greedy-${who}`, String(at), closed);
  }
  expect(pool.idleCount).toBe(idleMax);
  expect(closed.length).toBeGreaterThan(0);
  expect(closed).not.toContain('modest/a');
  pool.close();
  expect(pool.idleCount).toBe(0);
});
