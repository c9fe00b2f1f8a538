import { generateKeyPairSync, sign, verify } from 'node:crypto';
import { metricsSigningText, type MetricsWindow, metricsWindowSchema, Sketch } from '@sallyport/schema';
import { createLog, type QueueProducer } from '@sallyport/schema/platform';
import { Registry } from 'prom-client';
import { expect, test } from 'vitest';
import { Metrics } from './metrics.ts';

const minuteMs = 60_000;
const { publicKey, privateKey } = generateKeyPairSync('ed25519');
const signer = {
  nodeId: 'node',
  publicKey: publicKey.export({ type: 'spki', format: 'der' }).toString('base64'),
  sign: (text: string) => sign(null, Buffer.from(text), privateKey).toString('base64'),
};

/** A queue that takes what comes, is away, or takes it and does not say so. */
class Taken implements QueueProducer {
  readonly windows: { readonly id: string; readonly window: MetricsWindow }[] = [];
  refused = 0;
  /** How many it takes before it is away. */
  takes = Number.POSITIVE_INFINITY;
  /** Resolves when it answers. */
  answers: Promise<void> = Promise.resolve();

  async add(id: string, data: object): Promise<void> {
    await this.answers;
    if (this.windows.length >= this.takes) {
      this.refused++;
      throw new Error('away');
    }
    this.windows.push({ id, window: metricsWindowSchema.parse(data) });
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

function startMetrics(queue: QueueProducer) {
  let timeMs = 1_000 * minuteMs;
  const clock = { now: () => timeMs, monotonic: () => timeMs };
  const log = createLog({ name: 'test', level: 'silent' });
  const metrics = new Metrics({ epoch: 'e', signer, queue, registry: new Registry(), clock, now: clock.now, log });
  const call = (server: number, tool: number): void =>
    metrics.exchangeClosed({
      serverId: `s-${server}`,
      slug: `s-${server}`,
      target: { kind: 'tool', name: `tool_${tool}` },
      method: 'tools/call',
      outcome: 'success',
      durationMs: 5,
      upstreamMs: 4,
    });
  return { metrics, call, pass: (ms: number) => void (timeMs += ms) };
}

/** Until what is sent was answered. */
const settled = () => new Promise((resolve) => setImmediate(resolve));

const rowsOf = (queue: Taken) => queue.windows.flatMap(({ window }) => window.rows);

test('a window of very many rows is sent in parts that are short work, each signed and counted as its own', async () => {
  const queue = new Taken();
  const { metrics, call } = startMetrics(queue);
  for (let n = 0; n < 3_000; n++) call(n % 400, Math.floor(n / 400));
  for (let n = 0; n < 3_000; n++) call(n % 400, Math.floor(n / 400));
  await metrics.close(10_000);
  const { windows } = queue;
  expect(Math.max(...windows.map(({ window }) => window.rows.length))).toBeLessThanOrEqual(250);
  expect(rowsOf(queue)).toHaveLength(3_000);
  expect(rowsOf(queue).reduce((sum, { sketch }) => sum + (Sketch.parse(sketch)?.count ?? 0), 0)).toBe(6_000);
  expect(new Set(rowsOf(queue).map(({ serverId, target }) => `${serverId} ${target?.name}`)).size).toBe(3_000);
  // The control plane counts each (node, epoch, start) once, and adds up by the minute of the start.
  expect(new Set(windows.map(({ window }) => window.windowStart)).size).toBe(windows.length);
  expect(new Set(windows.map(({ id }) => id)).size).toBe(windows.length);
  expect(new Set(windows.map(({ window }) => Math.floor(window.windowStart / minuteMs))).size).toBe(1);
  for (const { window } of windows) {
    const signature = Buffer.from(window.signature, 'base64');
    expect(verify(null, Buffer.from(metricsSigningText(window)), publicKey, signature)).toBe(true);
  }
});

test('what a queue that is away did not take comes later, each part once and under the same id', async () => {
  const queue = new Taken();
  const { metrics, call, pass } = startMetrics(queue);
  queue.takes = 1;
  for (let n = 0; n < 600; n++) call(n, 0);
  pass(10_000);
  call(1_000, 0);
  await settled();
  expect([queue.windows.length, queue.refused]).toEqual([1, 1]);
  queue.takes = Number.POSITIVE_INFINITY;
  await metrics.close(10_000);
  expect(rowsOf(queue)).toHaveLength(601);
  expect(new Set(queue.windows.map(({ id }) => id)).size).toBe(queue.windows.length);
});

test('the next window never begins where parts of the one before did, also when time is corrected backwards', async () => {
  const queue = new Taken();
  const { metrics, call, pass } = startMetrics(queue);
  for (let n = 0; n < 1_000; n++) call(n, 0);
  pass(-5_000);
  metrics.flush();
  call(0, 0);
  await metrics.close(10_000);
  const starts = queue.windows.map(({ window }) => window.windowStart);
  expect(rowsOf(queue)).toHaveLength(1_001);
  expect(new Set(starts).size).toBe(starts.length);
});

test('a queue that is away for very long costs the oldest parts, never memory without end', async () => {
  const queue = new Taken();
  const { metrics, call, pass } = startMetrics(queue);
  queue.takes = 0;
  for (let n = 0; n < 500; n++) {
    call(n, 0);
    pass(10_000);
    await settled();
  }
  expect(queue.refused).toBeGreaterThan(100);
  queue.takes = Number.POSITIVE_INFINITY;
  await metrics.close(10_000);
  expect(rowsOf(queue)).toHaveLength(400);
  expect(rowsOf(queue).at(-1)?.serverId).toBe('s-499');
});

test('a part that is dropped while it is sent takes no other with it', async () => {
  const queue = new Taken();
  const { metrics, call, pass } = startMetrics(queue);
  const { promise, resolve } = Promise.withResolvers<void>();
  queue.answers = promise;
  for (let n = 0; n < 401; n++) {
    call(n, 0);
    pass(10_000);
    await settled();
  }
  metrics.flush();
  resolve();
  await metrics.close(10_000);
  expect(rowsOf(queue).map(({ serverId }) => serverId)).toEqual(Array.from({ length: 401 }, (_, n) => `s-${n}`));
});

test('a node that stops waits for a queue that does not answer until its deadline', async () => {
  const queue = new Taken();
  const { metrics, call } = startMetrics(queue);
  const { promise, resolve } = Promise.withResolvers<void>();
  queue.answers = promise;
  for (let n = 0; n < 600; n++) call(n, 0);
  await metrics.close(20);
  resolve();
  await settled();
  expect(queue.windows).toHaveLength(1);
});

test('what detectors did is sent in parts, too', async () => {
  const queue = new Taken();
  const { metrics } = startMetrics(queue);
  for (let n = 0; n < 700; n++) metrics.inspected({ id: `s-${n}`, slug: `s-${n}` }, 'secret', 1);
  await metrics.close(10_000);
  expect(queue.windows.map(({ window }) => window.inspections.length)).toEqual([250, 250, 200]);
});
