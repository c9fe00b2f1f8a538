import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import {
  administrator,
  change,
  converged,
  removeNodeDirectories,
  seedRows,
  type SeededRows,
  startTestControlPlane,
  startTestNode,
  type TestControlPlane,
  type TestNode,
} from '../kit/fleet.ts';
import { createMigratedDatabase } from '../kit/postgres.ts';

let control: TestControlPlane;
let rows: SeededRows;
let nodes: TestNode[] = [];

beforeAll(async () => {
  control = await startTestControlPlane((await createMigratedDatabase()).url);
  rows = await seedRows(control.database);
});
afterEach(async () => {
  await Promise.all(nodes.map((node) => node.stop()));
  nodes = [];
});
afterAll(async () => {
  await control.stop();
  removeNodeDirectories();
});

async function startNodes(count: number): Promise<TestNode[]> {
  const joinToken = await control.joinToken();
  nodes = Array.from({ length: count }, () => startTestNode(control.url, { joinToken }));
  await converged(control, count);
  return nodes;
}

test('a change reaches two nodes, and the API says on how many it is live', async () => {
  const both = await startNodes(2);
  for (const { store } of both) {
    expect(store.current?.serverBySlug.get('example')?.grants.map(({ entry }) => entry.id)).toEqual([rows.grantId]);
    expect(store.current?.principalById.get(rows.principalId)?.groups).toEqual([rows.groupId]);
    expect(store.connected).toBe(true);
  }
  const before = both[0]?.store.current?.revision ?? 0;
  await change(control.database, (tx) => tx`update grants set deleted_at = now() where id = ${rows.grantId}`);
  const revision = await converged(control, 2);
  expect(revision).toBe(before + 1);
  for (const { store } of both) {
    expect(store.current?.revision).toBe(revision);
    expect(store.current?.serverBySlug.get('example')?.grants).toEqual([]);
  }
  const status = await control.fleet.nodes.configStatus(administrator);
  expect(status.summary).toBe(`revision ${revision} is live on 2 of 2 nodes`);
  const convergence = await control.fleet.nodes.convergence(administrator, revision);
  expect(convergence.converged).toBe(true);
  await change(control.database, (tx) => tx`update grants set deleted_at = null where id = ${rows.grantId}`);
  await waitFor('the grant is back', () => both.every(({ store }) => store.current?.revision === revision + 1));
});
