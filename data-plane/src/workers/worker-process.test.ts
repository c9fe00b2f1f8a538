import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Log, systemClock } from '@sallyport/schema/platform';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { WorkerProcess } from './worker-process.ts';

const { execPath } = process;
const log = { error: () => undefined } as unknown as Log;
let directory: string;
let program: string;
let worker: WorkerProcess;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'sallyport-worker-'));
  program = join(directory, 'program.mjs');
  worker = new WorkerProcess({
    worker: 1,
    args: [],
    program,
    drainTimeoutMs: 5_000,
    clock: systemClock,
    log,
    onEnded: () => true,
  });
});
afterEach(async () => {
  process.execPath = execPath;
  await worker.stop();
  rmSync(directory, { recursive: true, force: true });
});

test('a worker that the system had no room to start is started once there is', async () => {
  writeFileSync(program, `process.on('message', ({ id, about }) => process.send({ id, about, text: 'here' }));`);
  process.execPath = join(directory, 'missing');
  worker.start();
  await vi.waitFor(() => expect(worker.restarts).toBeGreaterThan(0), { timeout: 10_000 });
  process.execPath = execPath;
  await vi.waitFor(async () => expect(await worker.ask('metrics')).toMatchObject({ text: 'here' }), {
    timeout: 20_000,
  });
});

test('one that is asked to stop before it began with anything has stopped cleanly', async () => {
  writeFileSync(program, 'setInterval(() => undefined, 1000);');
  worker.start();
  expect(await worker.stop()).toBe(true);
  expect(await worker.ask('metrics')).toBeUndefined();
});
