import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import {
  claimDirectory,
  createStateDirectory,
  describeProcess,
  ensureSecrets,
  readState,
  recordChildren,
  releaseDirectory,
  runningOwner,
  type StateDirectory,
  stateDirectory,
  writeState,
} from './state-directory.ts';

let parent = '';
let directory: StateDirectory;
beforeEach(() => {
  parent = mkdtempSync(join(tmpdir(), 'sallyport-state-'));
  directory = stateDirectory(parent);
  createStateDirectory(directory);
});
afterEach(() => rmSync(parent, { recursive: true, force: true }));

test('secrets are made once, differ, and are readable by the owner alone', () => {
  const secrets = ensureSecrets(directory, 2);
  expect(ensureSecrets(directory, 2)).toEqual(secrets);
  const all = [secrets.secretKey, ...secrets.nodeSecrets, secrets.queuePassword];
  expect(new Set(all).size).toBe(4);
  expect(statSync(directory.secretsFile).mode & 0o777).toBe(0o600);
});

test('state is kept, and a file that is not ours is named instead of guessed at', () => {
  writeState(directory, { ports: { entry: 7750 } });
  expect(readState(directory)).toEqual({ ports: { entry: 7750 } });
  writeFileSync(directory.stateFile, '{');
  expect(() => readState(directory)).toThrow(directory.stateFile);
});

test('a directory is claimed by one start at a time', () => {
  expect(claimDirectory(directory)).toEqual([]);
  expect(runningOwner(directory)?.pid).toBe(process.pid);
  expect(() => claimDirectory(directory)).toThrow(`already runs in ${directory.root} (process ${process.pid})`);
  releaseDirectory(directory);
  expect(claimDirectory(directory)).toEqual([]);
});

test('the claim of a process that is gone is taken over, and its living children are returned', () => {
  const alive = describeProcess('node-1', process.pid);
  const reused = { name: 'node-2', pid: process.pid, startTime: 'another' };
  recordChildren(directory, [alive, reused]);
  const run = { owner: { name: 'sallyport', pid: process.pid, startTime: 'another' }, children: [alive, reused] };
  writeFileSync(directory.runFile, JSON.stringify(run));
  expect(runningOwner(directory)).toBeUndefined();
  expect(claimDirectory(directory)).toEqual([alive]);
});

test('a claim that was cut by a power loss holds nobody up', () => {
  writeFileSync(directory.runFile, '{"own');
  expect(claimDirectory(directory)).toEqual([]);
});
