import { startNewHistory } from '@sallyport/control-plane/fleet';
import type { Clock } from '@sallyport/schema/platform';
import { afterEach, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import {
  administrator,
  change,
  converged,
  removeNodeDirectories,
  seedRows,
  startTestControlPlane,
  startTestNode,
  type TestControlPlane,
  type TestNode,
  testSecretKey,
} from '../kit/fleet.ts';
import { copyDatabase, createMigratedDatabase } from '../kit/postgres.ts';

let control: TestControlPlane | undefined;
let nodes: TestNode[] = [];

afterEach(async () => {
  await Promise.all(nodes.map((node) => node.stop()));
  nodes = [];
  await control?.stop();
  removeNodeDirectories();
});

/** A wall clock that tests set; the monotonic one runs on with it. */
function movableClock(): Clock & { wallMs: number; monotonicMs: number } {
  const clock = {
    wallMs: Date.UTC(2030, 0, 1),
    monotonicMs: 0,
    now: () => clock.wallMs + clock.monotonicMs,
    monotonic: () => clock.monotonicMs + performance.now(),
  };
  return clock;
}

test('nodes go on serving when the control plane is gone, also across a restart, until that is stale', async () => {
  const database = await createMigratedDatabase();
  control = await startTestControlPlane(database.url);
  await seedRows(control.database);
  const first = startTestNode(control.url, { joinToken: await control.joinToken() });
  nodes = [first];
  const revision = await converged(control, nodes);
  await control.stop();
  control = undefined;
  await waitFor('the node notices', () => !first.store.connected);
  expect(first.store.current?.serverBySlug.has('example')).toBe(true);
  await first.stop();

  const restarted = startTestNode('ws://127.0.0.1:1/', { directory: first.directory });
  nodes = [restarted];
  const runtime = restarted.store.current;
  expect(runtime?.revision).toBe(revision);
  expect(restarted.store.connected).toBe(false);
  expect(restarted.store.contactAgeMs()).toBeLessThan(60_000);
  expect(runtime !== undefined && restarted.store.isStale(runtime)).toBe(false);
  await restarted.stop();

  // Two days later it has been without contact for longer than the fleet allows (24 h).
  const clock = movableClock();
  clock.wallMs = systemNow() + 48 * 3_600_000;
  const late = startTestNode('ws://127.0.0.1:1/', { directory: first.directory, clock });
  nodes = [late];
  expect(late.store.current !== undefined && late.store.isStale(late.store.current)).toBe(true);
  await late.stop();

  // A clock that was set back says nothing about how long ago the contact was: the age is maximal.
  clock.wallMs = systemNow() - 3_600_000;
  const setBack = startTestNode('ws://127.0.0.1:1/', { directory: first.directory, clock });
  nodes = [setBack];
  expect(setBack.store.contactAgeMs()).toBe(Number.POSITIVE_INFINITY);
});

test('a node without the secret its files were sealed with has no configuration', async () => {
  control = await startTestControlPlane((await createMigratedDatabase()).url);
  await seedRows(control.database);
  const node = startTestNode(control.url, { joinToken: await control.joinToken() });
  nodes = [node];
  await converged(control, nodes);
  await node.stop();
  const options = { directory: node.directory, nodeSecret: 'another-secret-another-secret-another' };
  const other = startTestNode(control.url, options);
  nodes = [other];
  expect(other.store.current).toBeUndefined();
  expect(other.client.signer).toBeUndefined();
});

test('a database restored from an older backup does not strand the fleet', async () => {
  const original = await createMigratedDatabase();
  control = await startTestControlPlane(original.url);
  const rows = await seedRows(control.database);
  const joined = startTestNode(control.url, { joinToken: await control.joinToken({ usesMax: 1 }) });
  nodes = [joined];
  await converged(control, nodes);
  const { port } = control;
  await control.stop();
  const backup = await copyDatabase(original);

  // After the backup: another revision, a restart (so the node's key is one the backup does not know), another node.
  control = await startTestControlPlane(original.url, { port });
  await change(control.database, (tx) => tx`update grants set tools = '{after}' where id = ${rows.grantId}`);
  await joined.stop();
  const restarted = startTestNode(control.url, { directory: joined.directory });
  const late = startTestNode(control.url, { joinToken: await control.joinToken({ usesMax: 1 }) });
  nodes = [restarted, late];
  const lost = await converged(control, nodes);
  const ids = await Promise.all(nodes.map((node) => node.client.joined()));
  await control.stop();

  control = await startTestControlPlane(backup.url, { port });
  const restored = control;
  const problems = await waitFor(
    'both nodes are back and say what is wrong',
    async () => {
      const found = await Promise.all(ids.map((id) => restored.fleet.nodes.get(administrator, id)));
      return found.every((row) => row.problems.length > 0) && found.flatMap((row) => row.problems);
    },
    { deadlineMs: 20_000 },
  );
  expect(problems[0]?.message).toContain('sallyport admin new-history');
  expect(nodes.map(({ store }) => store.current?.revision)).toEqual([lost, lost]);

  await startNewHistory(backup.url, testSecretKey);
  const historyId = (
    await waitFor('a new history is published', async () => {
      const status = await restored.fleet.nodes.configStatus(administrator);
      return (
        status.configRevision > 0 && nodes.every(({ store }) => store.current?.historyId === status.historyId) && status
      );
    })
  ).historyId;
  await converged(restored, nodes);
  expect(nodes.map(({ store }) => store.current?.serverBySlug.get('example')?.grants[0]?.entry.tools)).toEqual([
    ['echo'],
    ['echo'],
  ]);
  expect(nodes.every(({ store }) => store.current?.historyId === historyId)).toBe(true);
});

function systemNow(): number {
  return Math.round(performance.timeOrigin + performance.now());
}
