import { systemClock } from '@sallyport/schema/platform';
import postgres from 'postgres';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { askModern } from '../kit/raw-mcp.ts';

let upstream: FakeUpstream;
let harness: Harness;
let sql: postgres.Sql;
let key: string;

beforeAll(async () => {
  upstream = await startFakeUpstream();
  harness = await startHarness({ upstreams: [upstream.url], nodes: 1 });
  sql = postgres(harness.databaseUrl, { max: 2 });
  const server = await harness.administrator.registerServer('counter', upstream.url);
  ({ key } = await harness.administrator.createClient('caller'));
  await harness.administrator.grant({ serverId: server.id, tools: ['count'] });
  await harness.administrator.converged();
});
afterAll(async () => {
  await sql.end();
  await harness.stop();
  await upstream.stop();
});

async function call(id: string): Promise<number> {
  const request = { method: 'tools/call', params: { name: 'count', arguments: { id } } };
  return (await askModern({ url: `${harness.nodes[0]?.url ?? ''}/mcp/counter`, key }, request)).status;
}

test('a node that joins anew while it runs goes on: what it counts and records is stored under both of its ids', async () => {
  const [former] = await sql<{ id: string }[]>`select id from nodes`;
  expect(await call('before')).toBe(200);
  // As after a restore from a backup in which the key of this node had been replaced.
  await sql`update join_tokens set uses_max = null`;
  await sql`update node_keys set superseded_at = now()`;
  await sql`update nodes set connection_id = null`;
  const newId = await waitFor('the node has joined under another id', async () => {
    const [row] = await sql<{ id: string }[]>`
      select id from nodes where id <> ${former?.id ?? ''} and applied_revision is not null`;
    return row?.id;
  });
  // Its former identity has been silent for long enough that another may ship its spool.
  await sql`update audit_epochs set updated_at = now() - interval '2 minutes' where ended_at is null`;
  expect(await call('after')).toBe(200);
  // Stopping it ships what it counted; its next window would be due in ten seconds.
  await harness.restartNode(0, systemClock);
  await waitFor('traffic of the new id', async () => {
    const windows = await sql`select 1 from traffic_windows where node_id = ${newId}`;
    return windows.length > 0;
  });
  await waitFor('records of both calls', async () => {
    const events = await sql`select 1 from audit_events where kind = 'exchange' and outcome = 'success'`;
    return events.length === 2;
  });
});
