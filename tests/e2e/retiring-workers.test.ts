/** A worker that is wanted no more, and a control plane that nobody reaches. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort } from '@sallyport/cli';
import { randomSecret } from '@sallyport/schema/platform';
import { afterEach, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import { Program } from '../kit/program.ts';

const directory = mkdtempSync(join(tmpdir(), 'sallyport-retiring-'));
const left = join(directory, 'worker-2');
let program: Program;

afterEach(async () => {
  await program.end('SIGKILL');
  rmSync(directory, { recursive: true, force: true });
});

/** The process of the worker that retires, once it has begun to use its directory. */
function retiringWorker(): number | undefined {
  const { pid = 0 } = program;
  if (!existsSync(join(left, 'config'))) return undefined;
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
    .split(' ')
    .filter(Boolean)
    .map(Number)
    .find((child) => readFileSync(`/proc/${child}/cmdline`, 'utf8').includes('--retire'));
}

test('a worker that is asked to stop before its spool is home leaves it where it is, and tries again', async () => {
  mkdirSync(left);
  writeFileSync(join(left, 'of-earlier'), 'what nobody has yet');
  const nobody = await freePort();
  const operationsPort = await freePort();
  const environment = {
    DATABASE_URL: `postgres://127.0.0.1:${nobody}/nobody`,
    SALLYPORT_CONTROL_PLANE_URL: `ws://127.0.0.1:${nobody}`,
    SALLYPORT_NODE_SECRET: randomSecret('node_'),
    SALLYPORT_JOIN_TOKEN: 'for-nobody',
    SALLYPORT_DATA_DIRECTORY: directory,
    SALLYPORT_WORKERS: '1',
    SALLYPORT_LISTEN_PORT: '0',
    SALLYPORT_OPERATIONS_PORT: String(operationsPort),
  };
  program = new Program('data-plane/dist/main.js', environment, `http://127.0.0.1:${operationsPort}`);
  program.begin();
  const first = await waitFor('the worker runs', retiringWorker, { deadlineMs: 60_000 });
  process.kill(first, 'SIGTERM');
  const isAnother = (): boolean => ![undefined, first].includes(retiringWorker());
  await waitFor('it is started again', isAnother, { deadlineMs: 60_000 });
  await program.end('SIGTERM');
  expect(existsSync(join(left, 'of-earlier'))).toBe(true);
});
