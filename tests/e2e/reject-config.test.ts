import { canonicalJson, manifestHash, sha256 } from '@sallyport/schema';
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
import { startSyncProxy, type SyncProxy } from '../kit/sync-proxy.ts';

let control: TestControlPlane;
let rows: SeededRows;
let proxy: SyncProxy;
let nodes: TestNode[] = [];

beforeAll(async () => {
  control = await startTestControlPlane((await createMigratedDatabase()).url);
  rows = await seedRows(control.database);
  proxy = await startSyncProxy(control.url);
});
afterEach(async () => {
  await Promise.all(nodes.map((node) => node.stop()));
  nodes = [];
});
afterAll(async () => {
  await proxy.stop();
  await control.stop();
  removeNodeDirectories();
});

async function startNode(url: string): Promise<TestNode> {
  const node = startTestNode(url, { joinToken: await control.joinToken() });
  nodes = [node];
  await converged(control, nodes);
  return node;
}

/** Publishes what a control plane of another build might: a server document with a field this one does not know. */
async function publishUnknownField(): Promise<void> {
  const { raw } = control.database;
  await raw.begin(async (tx) => {
    const [newest] = await tx<{ history_id: string; revision: string; generation: string }[]>`
      select history_id, revision, generation from config_manifests order by revision desc limit 1`;
    const key = `server/${rows.serverId}`;
    const [entry] = await tx<{ body: string }[]>`
      select body from config_entries e join config_documents d on d.hash = e.hash where e.key = ${key}`;
    if (newest === undefined || entry === undefined) throw new Error('nothing is published');
    const body = canonicalJson({ ...(JSON.parse(entry.body) as object), quarantineUnlessSigned: true });
    const hash = sha256(body);
    await tx`insert into config_documents (hash, body, sealed) values (${hash}, ${body}, false)`;
    await tx`update config_entries set hash = ${hash} where key = ${key}`;
    const entries = await tx<{ key: string; hash: string }[]>`select key, hash from config_entries`;
    const whole = manifestHash(Object.fromEntries(entries.map((one) => [one.key, one.hash])));
    const changed = tx.json({ [key]: hash });
    await tx`insert into config_manifests (history_id, revision, hash, generation, changed, removed, published_at)
      values (${newest.history_id}, ${Number(newest.revision) + 1}, ${whole}, ${newest.generation}, ${changed}, '{}', now())`;
    await tx`select pg_notify('sallyport_manifest', '')`;
  });
}

test('a document a node cannot parse is refused, the old configuration serves, and the API shows node and problem', async () => {
  const node = await startNode(control.url);
  const serving = node.store.current;
  await publishUnknownField();
  const id = await node.client.joined();
  const shown = await waitFor('the API shows the refusal', async () => {
    const row = await control.fleet.nodes.get(administrator, id);
    return row.problems.length > 0 && row;
  });
  expect(shown.problems).toEqual([
    { document: `server/${rows.serverId}`, path: '', message: 'Unrecognized key: "quarantineUnlessSigned"' },
  ]);
  expect(shown.problemsRevision).toBe((serving?.revision ?? 0) + 1);
  expect(shown.appliedRevision).toBe(serving?.revision);
  expect(node.store.current).toBe(serving);
  expect(await control.fleet.nodes.statusOf(administrator, shown)).toBe('unconverged');
  expect((await control.fleet.nodes.configStatus(administrator)).summary).toMatch(/is live on 0 of 1 node$/);
  // A restart of the node changes nothing about what it can parse: it serves what it had.
  await node.stop();
  const again = startTestNode(control.url, { directory: node.directory });
  nodes = [again];
  expect(again.store.current?.revision).toBe(serving?.revision);
  // What can be parsed again is taken, and the problem is gone.
  await change(control.database, (tx) => tx`update servers set title = title`);
  await converged(control, nodes);
  const mended = await control.fleet.nodes.get(administrator, id);
  expect(mended.problems).toEqual([]);
  expect(await control.fleet.nodes.statusOf(administrator, mended)).toBe('live');
});

test('a document altered on its way is refused', async () => {
  const node = await startNode(proxy.url);
  const serving = node.store.current;
  proxy.passDown = (message) =>
    message.type === 'documents'
      ? {
          ...message,
          documents: message.documents.map(({ hash, body }) => ({ hash, body: body.replace('deny', 'allow') })),
        }
      : message;
  await change(control.database, (tx) => tx`update grants set effect = 'deny' where id = ${rows.grantId}`);
  const id = await node.client.joined();
  const shown = await waitFor('the API shows the refusal', async () => {
    const row = await control.fleet.nodes.get(administrator, id);
    return row.problems.length > 0 && row;
  });
  expect(shown.problems[0]?.message).toBe('the document does not match its hash');
  expect(node.store.current).toBe(serving);
  proxy.passDown = (message) => message;
  proxy.cut();
  await converged(control, nodes);
  expect(node.store.current?.serverBySlug.get('example')?.grants[0]?.entry.effect).toBe('deny');
});

test('an older revision replayed to a node is refused and raises an alarm', async () => {
  const node = await startNode(proxy.url);
  const before = node.store.current?.revision ?? 0;
  await change(control.database, (tx) => tx`update grants set tools = '{replay}' where id = ${rows.grantId}`);
  await converged(control, nodes);
  proxy.passDown = (message) =>
    message.type === 'manifestDelta' ? { ...message, delta: { ...message.delta, revision: before } } : message;
  await change(control.database, (tx) => tx`update grants set tools = '{echo}' where id = ${rows.grantId}`);
  const id = await node.client.joined();
  await waitFor('the alarm is shown', async () => {
    const alarms = await control.fleet.nodes.alarmsOf(id);
    return alarms?.some(({ code }) => code === 'MANIFEST_REFUSED');
  });
  expect(node.store.current?.revision).toBe(before + 1);
  proxy.passDown = (message) => message;
});

test('an object that cannot be published is withheld and named, and everything else goes on', async () => {
  const node = await startNode(control.url);
  const other = await seedRows(control.database, 'other');
  await converged(control, nodes);
  const tooManyStars = '*a'.repeat(9);
  await change(
    control.database,
    (tx) => tx`update grants set effect = 'deny', tools = ${[tooManyStars]} where id = ${other.grantId}`,
  );
  await change(control.database, (tx) => tx`update grants set tools = '{only}' where id = ${rows.grantId}`);
  await converged(control, nodes);
  // A deny that cannot be told to nodes takes the server it protects with it.
  expect([...(node.store.current?.serverBySlug.keys() ?? [])]).toEqual(['example']);
  expect(node.store.current?.serverBySlug.get('example')?.grants[0]?.entry.tools).toEqual(['only']);
  const { problems } = await control.fleet.nodes.configStatus(administrator);
  expect(problems.map(({ objectKind, objectId, path }) => `${objectKind} ${objectId} ${path}`).toSorted()).toEqual([
    `grant ${other.grantId} tools.0`,
    `server ${other.serverId} grants/${other.grantId}`,
  ]);
  await change(control.database, (tx) => tx`update grants set tools = '{fine}' where id = ${other.grantId}`);
  await converged(control, nodes);
  expect((await control.fleet.nodes.configStatus(administrator)).problems).toEqual([]);
  expect(node.store.current?.serverBySlug.size).toBe(2);
});
