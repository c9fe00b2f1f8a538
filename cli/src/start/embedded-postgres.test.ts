import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type EmbeddedPostgres, startEmbeddedPostgres } from './embedded-postgres.ts';
import { isAlive } from './process-table.ts';

let directory = '';
const started: EmbeddedPostgres[] = [];
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'sallyport-postgres-'));
});
afterEach(async () => {
  await Promise.all(started.splice(0).map((postgres) => postgres.stop()));
  rmSync(directory, { recursive: true, force: true });
});

async function start(): Promise<EmbeddedPostgres> {
  const postgres = await startEmbeddedPostgres({ directory, settings: ['fsync=off'] });
  started.push(postgres);
  return postgres;
}

/** Asks for TLS, which every PostgreSQL answers with one byte before any login. */
function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(Buffer.from('0000000804d2162f', 'hex')));
    socket.once('data', (data) => {
      socket.destroy();
      resolve(data.toString() === 'N');
    });
    socket.once('error', () => resolve(false));
  });
}

test('the server listens until it is stopped, and its data directory is its own', async () => {
  const postgres = await start();
  expect(await answers(postgres.port)).toBe(true);
  expect(statSync(directory).mode & 0o777).toBe(0o700);
  expect(postgres.url).toContain(readFileSync(join(directory, 'password'), 'utf8').trim());
  await postgres.stop();
  expect(isAlive(postgres.pid)).toBe(false);
});

test('a server left over in the directory is stopped, and a stale pid file does not stop a start', async () => {
  const left = await start();
  const postgres = await start();
  expect(await left.ended).toContain('PostgreSQL ended with 0');
  expect(await answers(postgres.port)).toBe(true);
  await postgres.stop();
  writeFileSync(join(directory, 'data', 'postmaster.pid'), `${process.pid}\n`);
  expect(await answers((await start()).port)).toBe(true);
});

test('a server that cannot start says why', async () => {
  await expect(startEmbeddedPostgres({ directory, settings: ['no_such_setting=1'] })).rejects.toThrow(
    /PostgreSQL did not start.*no_such_setting/s,
  );
});
