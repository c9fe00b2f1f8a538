import { Worker } from 'node:worker_threads';
import type { DetectionInput } from '@sallyport/schema';
import { afterEach, expect, test } from 'vitest';
import { DetectorPool, type DetectorPoolOptions } from './detector-pool.ts';

// Composed here, so that no scanner takes this file for a leak.
const token = ['ghp', 'q7Rk2mVx9Tz4Lp8Wc3Yh6Nb1Jd5Gf0Sa2E4u'].join('_');
const input = (text: string): DetectionInput => ({
  texts: [{ text, role: 'text', member: 'text' }],
  kind: 'content',
  detectors: ['secret'],
  carried: '',
});

let pool: DetectorPool | undefined;
afterEach(() => pool?.close());

function open(options: Partial<DetectorPoolOptions> = {}): DetectorPool {
  pool = new DetectorPool({ threadsMax: 1, ...options });
  return pool;
}

/** A thread that does what the code says with each message. */
const doing = (code: string) => () =>
  new Worker(`const { parentPort } = require('node:worker_threads'); ${code}`, { eval: true });
const silent = doing(`parentPort.on('message', () => undefined)`);

test('a thread finds what the event loop would, many texts one after the other', async () => {
  const looks = [token, 'nothing', `${'word '.repeat(10_000)}${token}`].map((text) => open().detect(input(text)));
  const categories = (await Promise.all(looks)).map(({ findings }) => findings.map(({ category }) => category));
  expect(categories).toEqual([['githubToken'], [], ['githubToken']]);
});

test('a look whose thread dies is refused, and the next one gets another thread', async () => {
  let started = 0;
  const dies = doing(`parentPort.on('message', () => process.exit(1))`);
  const answers = doing(`parentPort.on('message', () => parentPort.postMessage({ findings: [], durations: {} }))`);
  const waiting = open({ start: () => (started++ === 0 ? dies() : answers()) });
  await expect(waiting.detect(input('a'))).rejects.toThrow(/ended/);
  expect(await waiting.detect(input('b'))).toEqual({ findings: [], durations: {} });
});

test('a look whose thread fails is refused', async () => {
  const throws = doing(`parentPort.on('message', () => { throw new Error('broken') })`);
  await expect(open({ start: throws }).detect(input('a'))).rejects.toThrow(/ended/);
});

test('where the system has no room for a thread looks are refused with the reason, those that wait too, until it has', async () => {
  const room = [false, true, false, true];
  const fine = doing(
    `parentPort.on('message', ({ texts }) => texts[0].text === 'dies' ? process.exit(1) : parentPort.postMessage('seen'))`,
  );
  const start = (): Worker => {
    if (room.shift() !== true) throw new Error('no room');
    return fine();
  };
  const waiting = open({ start });
  await expect(waiting.detect(input('a'))).rejects.toThrow(/no room/);
  const looks = await Promise.allSettled([waiting.detect(input('dies')), waiting.detect(input('b'))]);
  expect(looks.map((look) => look.status === 'rejected' && String(look.reason))).toEqual([
    expect.stringContaining('ended'),
    expect.stringContaining('no room'),
  ]);
  expect(await waiting.detect(input('c'))).toBe('seen');
});

test('a look that takes too long is refused, and so is one that finds no thread in time', async () => {
  const waiting = open({ start: silent, timeoutMs: 50 });
  const looks = await Promise.allSettled([waiting.detect(input('a')), waiting.detect(input('b'))]);
  expect(looks.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
});

test('more looks or more text than may wait are refused at once', async () => {
  const waiting = open({ start: silent });
  const looks = Array.from({ length: 65 }, () => waiting.detect(input('a')));
  for (const look of looks) look.catch(() => undefined);
  await expect(waiting.detect(input('b'))).rejects.toThrow(/no thread is free/);
  await pool?.close();
  const large = open({ start: silent });
  large.detect(input('a')).catch(() => undefined);
  await expect(large.detect(input('x'.repeat(17 * 1_048_576)))).rejects.toThrow(/no thread is free/);
});

test('a pool that is closed refuses what waits and what comes', async () => {
  const waiting = open({ start: silent });
  const looks = [waiting.detect(input('a')), waiting.detect(input('b'))];
  const refused = Promise.allSettled(looks);
  await waiting.close();
  expect((await refused).map(({ status }) => status)).toEqual(['rejected', 'rejected']);
  await expect(waiting.detect(input('c'))).rejects.toThrow(/no thread is free/);
});
