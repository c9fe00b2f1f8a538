import { revokeFamilies } from '@sallyport/control-plane/fleet';
import { systemClock } from '@sallyport/schema/platform';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import {
  administrator,
  change,
  copyDirectory,
  copyIdentity,
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
import { startSyncProxy, type SyncProxy } from '../kit/sync-proxy.ts';

let control: TestControlPlane;
let rows: SeededRows;
let nodes: TestNode[] = [];
let proxy: SyncProxy;

beforeAll(async () => {
  const publicUrls = { issuer: 'https://control.example.com', nodesUrl: 'https://mcp.example.com' };
  control = await startTestControlPlane((await createMigratedDatabase()).url, { publicUrls });
  rows = await seedRows(control.database);
  proxy = await startSyncProxy(control.url);
});
afterEach(async () => {
  await Promise.all(nodes.map((node) => node.stop()));
  nodes = [];
  proxy.reset();
});
afterAll(async () => {
  await proxy.stop();
  await control.stop();
  removeNodeDirectories();
});

/** Nodes that run what is published. */
async function startNodes(count: number, url = control.url): Promise<TestNode[]> {
  const joinToken = await control.joinToken();
  nodes = Array.from({ length: count }, () => startTestNode(url, { joinToken }));
  await converged(control, nodes);
  return nodes;
}

async function startNode(url: string): Promise<TestNode> {
  const [node] = await startNodes(1, url);
  if (node === undefined) throw new Error('no node');
  return node;
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
  const revision = await converged(control, both);
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

test('a node that comes back receives only what it lacks', async () => {
  const node = await startNode(proxy.url);
  const documentsAtFirst = proxy.passed.down.flatMap((message) =>
    message.type === 'documents' ? message.documents : [],
  );
  expect(documentsAtFirst.length).toBe(node.store.built?.parts.size);
  await node.stop();
  proxy.reset();
  await change(control.database, (tx) => tx`update grants set tools = '{echo,add}' where id = ${rows.grantId}`);
  await waitFor('it is published', async () => !(await control.fleet.nodes.configStatus(administrator)).pending);
  nodes = [startTestNode(proxy.url, { directory: node.directory })];
  await converged(control, nodes);
  const manifests = proxy.passed.down.filter(({ type }) => type === 'manifest' || type === 'manifestDelta');
  expect(manifests).toMatchObject([{ type: 'manifestDelta', delta: { removed: [] } }]);
  const documents = proxy.passed.down.flatMap((message) => (message.type === 'documents' ? message.documents : []));
  expect(documents.map(({ body }) => (JSON.parse(body) as { kind: string }).kind)).toEqual(['grants']);
});

test('a node that is up to date is sent no configuration when it connects again', async () => {
  await startNode(proxy.url);
  proxy.reset();
  proxy.cut();
  await waitFor('a heartbeat on the new connection', () => proxy.passed.up.some(({ type }) => type === 'pong'));
  const kinds = new Set<string>(proxy.passed.down.map(({ type }) => type));
  expect(kinds.has('manifest') || kinds.has('manifestDelta') || kinds.has('documents')).toBe(false);
});

test('a node killed between swap and acknowledgement converges after its restart', async () => {
  const node = await startNode(proxy.url);
  const before = node.store.current?.revision ?? 0;
  const beforeTheSwap = copyDirectory(node.directory);
  proxy.passUp = ({ type }) => type !== 'ack';
  await change(control.database, (tx) => tx`update grants set tools = '{one}' where id = ${rows.grantId}`);
  await waitFor('the node swapped', () => node.store.current?.revision === before + 1);
  await waitFor('the node would acknowledge', () => proxy.passed.up.filter(({ type }) => type === 'ack').length > 1);
  expect((await control.fleet.nodes.configStatus(administrator)).nodesLive).toBe(0);
  const afterTheWrite = copyDirectory(node.directory);
  proxy.target = 'ws://127.0.0.1:1/';
  proxy.cut();
  await node.stop();
  proxy.target = control.url;
  proxy.passUp = () => true;
  // A disk as it was before the new configuration was written, and one as it was after.
  for (const [directory, startsWith] of [
    [beforeTheSwap, before],
    [afterTheWrite, before + 1],
  ] as const) {
    copyIdentity(node.directory, directory);
    const restarted = startTestNode(control.url, { directory });
    nodes = [restarted];
    expect(restarted.store.current?.revision).toBe(startsWith);
    expect(await converged(control, nodes)).toBe(before + 1);
    expect(restarted.store.current?.revision).toBe(before + 1);
    await restarted.stop();
    copyIdentity(directory, node.directory);
  }
});

test('a sealing key seals only after every node has acknowledged it', async () => {
  const both = await startNodes(2);
  const sealing = both[0]?.store.current?.sealing.seal.id;
  const key = await control.fleet.nodes.rotateSealingKey(administrator, {});
  await waitFor('both nodes open it', () => both.every(({ store }) => store.current?.sealing.open.has(key.id)));
  expect(both.map(({ store }) => store.current?.sealing.seal.id)).toEqual([sealing, sealing]);
  await converged(control, both);
  control.fleet.publisher.reconcile();
  await waitFor('both nodes seal with it', () => both.every(({ store }) => store.current?.sealing.seal.id === key.id));
  expect(both.every(({ store }) => store.current?.sealing.open.has(sealing ?? ''))).toBe(true);
});

test('a key signs access tokens only after every node can verify with it', async () => {
  const { signingKeys, publisher } = control.fleet;
  const both = await startNodes(2);
  const [first] = await signingKeys.opened();
  const key = await signingKeys.rotate(administrator, {});
  await expect(signingKeys.rotate(administrator, {})).rejects.toMatchObject({ code: 'CONFLICT' });
  const kids = () => both.map(({ store }) => [...(store.current?.oauth?.keys.keys() ?? [])]);
  await waitFor('both nodes verify with it', () => kids().every((known) => known.includes(key.id)));
  expect((await signingKeys.opened())[0]?.id).toBe(first?.id);
  await converged(control, both);
  publisher.reconcile();
  await waitFor('it signs', async () => (await signingKeys.opened())[0]?.id === key.id);
  expect(kids().every((known) => known.includes(first?.id ?? ''))).toBe(true);
});

test('a revoked family of access tokens is in the record of its principal on every node', async () => {
  const both = await startNodes(2);
  const { db } = control.database;
  await db.transaction((tx) =>
    revokeFamilies(tx, [{ family: 'family-1', principalId: rows.principalId }], systemClock.now()),
  );
  const revoked = () => both.map(({ store }) => store.current?.principalById.get(rows.principalId)?.revokedFamilies);
  await waitFor('both nodes know', () => revoked().every((families) => families?.includes('family-1')));
  expect(revoked()).toEqual([['family-1'], ['family-1']]);
});

test('a removed node is disconnected and does not come back', async () => {
  const node = await startNode(control.url);
  await control.fleet.nodes.remove(administrator, { id: await node.client.joined() });
  await waitFor('it is disconnected', () => !node.store.connected);
  const status = await control.fleet.nodes.configStatus(administrator);
  expect(status.nodesTotal).toBe(0);
});
