import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { systemClock } from '@sallyport/schema/platform';
import { freePort } from './ports.ts';
import { isAlive } from './process-table.ts';
import { describeProcess, type RunningProcess } from './state-directory.ts';
import { type ChildProgram, endLeftovers, Supervisor } from './supervise.ts';

let logDirectory = '';
let recorded: readonly RunningProcess[] = [];
let notified: string[] = [];
let supervisor: Supervisor;

beforeEach(() => {
  logDirectory = mkdtempSync(join(tmpdir(), 'sallyport-supervise-'));
  recorded = [];
  notified = [];
  supervisor = new Supervisor({
    logDirectory,
    clock: systemClock,
    record: (children) => (recorded = children),
    notify: (line) => notified.push(line),
    giveUp: (reason) => notified.push(reason),
  });
});
afterEach(async () => {
  await supervisor.stop();
  rmSync(logDirectory, { recursive: true, force: true });
});

const serving = `
  process.on('disconnect', () => process.exit());
  process.on('SIGTERM', () => { console.log(process.env.NAME + ' stops'); process.exit(); });
  require('node:http').createServer((_, response) => response.end()).listen(process.env.PORT, '127.0.0.1');
`;

async function program(name: string, script = serving): Promise<ChildProgram> {
  const port = String(await freePort());
  return {
    name,
    nodeArguments: ['-e', script],
    env: { PORT: port, NAME: name },
    readiness: { url: `http://127.0.0.1:${port}/readyz` },
  };
}

test('programs start, are recorded with their start time, and none is left after stop', async () => {
  await supervisor.start([await program('one'), await program('two')]);
  expect(recorded.map(({ name }) => name)).toEqual(['one', 'two']);
  const pids = [...supervisor.pids.values()];
  await supervisor.stop();
  expect(pids.filter(isAlive)).toEqual([]);
  expect(recorded).toEqual([]);
  expect(readFileSync(join(logDirectory, 'one.log'), 'utf8')).toBe('one stops\n');
});

test('a program that ends before it is ready fails the start with the end of its log', async () => {
  const broken = await program('broken', `console.error('no such table'); process.exit(3)`);
  await expect(supervisor.start([broken])).rejects.toThrow(/broken ended with 3.*broken\.log:\nno such table/s);
});

test('a program that ends is started again, and the person is told where its log lies', async () => {
  await supervisor.start([await program('one')]);
  const first = supervisor.pids.get('one') ?? 0;
  process.kill(first, 'SIGKILL');
  await expect.poll(() => notified.at(-1), { timeout: 10_000 }).toBe('one runs again.');
  expect(notified[0]).toMatch(/^one ended with SIGKILL; starting it again in 0\.25 s\. Its log: .*one\.log$/);
  expect(supervisor.pids.get('one')).not.toBe(first);
});

test('groups stop in the reverse order of their start', async () => {
  const watch = (name: string) =>
    `${serving} process.on('exit', () => require('node:fs').appendFileSync(${JSON.stringify(join(logDirectory, 'order'))}, '${name} '));`;
  await supervisor.start([await program('first', watch('first'))]);
  await supervisor.start([await program('second', watch('second'))]);
  await supervisor.stop();
  expect(readFileSync(join(logDirectory, 'order'), 'utf8').trim()).toBe('second first');
});

test('what a killed start left behind is ended, and a reused process id is left alone', async () => {
  const left: ChildProcess = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { stdio: 'ignore' });
  const pid = left.pid ?? 0;
  await endLeftovers([{ name: 'node-1', pid: process.pid, startTime: 'another' }], systemClock);
  await endLeftovers([describeProcess('node-1', pid)], systemClock);
  expect(isAlive(pid)).toBe(false);
});
