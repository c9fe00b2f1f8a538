/** What a change costs on the wire, counted in bytes as they are sent, heartbeats and all. */
import { bumpConfigGeneration } from '@sallyport/control-plane/fleet';
import { afterAll, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import { startTestControlPlane, type TestControlPlane } from '../kit/fleet.ts';
import { seedLargeConfiguration } from '../kit/large-configuration.ts';
import { LightNode } from '../kit/light-node.ts';
import { createMigratedDatabase } from '../kit/postgres.ts';

const stops: (() => Promise<void> | void)[] = [];
afterAll(async () => {
  for (const stop of stops.reverse()) await stop();
});
const changes = 5;
/** On a machine that is busy, some come while a change is awaited. */
const heartbeatBytes = 1024;

interface Site {
  readonly control: TestControlPlane;
  readonly node: LightNode;
  /** Of the manifest as a whole. */
  readonly wholeBytes: number;
}

async function startSite(servers: number): Promise<Site> {
  const control = await startTestControlPlane((await createMigratedDatabase()).url);
  stops.push(() => control.stop());
  const size = { servers, definitions: 10, grants: 2, principals: servers, groups: 5 };
  await seedLargeConfiguration(control.database.raw as never, size);
  await waitFor('all is published', async () => {
    const [row] = await control.database.raw`select count(*) from config_entries where key like 'server/%'`;
    return Number(row?.['count']) === servers;
  });
  const node = new LightNode({ url: control.url, joinToken: await control.joinToken(), name: 'light' });
  stops.push(() => node.stop());
  await waitFor('the node has the whole', () => node.revision > 0);
  return { control, node, wholeBytes: node.bytesReceived };
}

/** One grant on each of the first servers becomes another, in one transaction. @returns the bytes that the node got */
async function change({ control, node }: Site, servers: number, value: string): Promise<number> {
  const before = { revision: node.revision, bytes: node.bytesReceived };
  await control.database.db.transaction(async (tx) => {
    const rows = (await tx.execute(
      `update grants set tools = array['${value}'] where id in
         (select distinct on (server_id) id from grants order by server_id, id limit ${servers}) returning server_id`,
    )) as unknown as { server_id: string }[];
    await bumpConfigGeneration(tx, { serverIds: rows.map((row) => row.server_id) });
  });
  await waitFor('the node has the change', () => node.revision > before.revision);
  return node.bytesReceived - before.bytes;
}

async function meanOf(site: Site, servers: number): Promise<number> {
  let sum = 0;
  for (let at = 0; at < changes; at++) sum += await change(site, servers, `tool_${servers}_${at}`);
  return sum / changes;
}

test('the bytes of a change follow the change, not the configuration', async () => {
  const small = await startSite(20);
  const large = await startSite(400);
  const one = await meanOf(small, 1);
  const oneAmongMany = await meanOf(large, 1);
  const tenAmongMany = await meanOf(large, 10);
  // The manifest of twenty times as much is many times as long, and a change is no share of it.
  expect(large.wholeBytes).toBeGreaterThan(5 * small.wholeBytes);
  expect(oneAmongMany).toBeLessThan(one * 1.5 + heartbeatBytes);
  expect(oneAmongMany).toBeLessThan(large.wholeBytes / 10);
  expect(tenAmongMany).toBeLessThan(oneAmongMany * 10 * 1.2);
});
