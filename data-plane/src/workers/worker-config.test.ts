import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { forgetWorker } from './worker-config.ts';

const directory = mkdtempSync(join(tmpdir(), 'sallyport-workers-'));
afterEach(() => rmSync(directory, { recursive: true, force: true }));

test('of a worker whose spool is stored all is removed, unless a part of it could not be read', () => {
  const left = join(directory, 'worker-2');
  const aside = join(left, 'spool', 'unreadable-of-earlier');
  mkdirSync(aside, { recursive: true });
  writeFileSync(join(aside, 'lines'), 'what nobody has');
  expect(forgetWorker(directory, 2)).toBe(false);
  expect(existsSync(join(aside, 'lines'))).toBe(true);
  rmSync(aside, { recursive: true });
  expect(forgetWorker(directory, 2)).toBe(true);
  expect(existsSync(left)).toBe(false);
});
