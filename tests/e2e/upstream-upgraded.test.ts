import type { Era } from '@sallyport/schema';
import postgres from 'postgres';
import { afterEach, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import type { Endpoint } from '../kit/mcp-clients.ts';
import { askModern, openLegacySession } from '../kit/raw-mcp.ts';

let upstream: FakeUpstream;
let harness: Harness;
let endpoint: Endpoint;
let serverId: string;

async function start(eras: Era): Promise<void> {
  upstream = await startFakeUpstream({ eras });
  harness = await startHarness({ upstreams: [upstream.url] });
  const { administrator } = harness;
  serverId = (await administrator.registerServer('changing', upstream.url)).id;
  const { key, principalId } = await administrator.createClient('caller');
  await administrator.grant({ serverId, subject: { kind: 'SERVICE_ACCOUNT', id: principalId }, tools: ['count'] });
  await administrator.converged();
  endpoint = harness.endpoint('changing', key);
}

/** The same address, another version of the server behind it; the last discovery is a minute ago. */
async function becomes(eras: Era): Promise<void> {
  await upstream.stop();
  upstream = await startFakeUpstream({ eras, port: Number(new URL(upstream.url).port) });
  const sql = postgres(harness.databaseUrl, { max: 1 });
  await sql`update servers set discovery_attempted_at = discovery_attempted_at - interval '1 minute' where id = ${serverId}`;
  await sql.end();
}

afterEach(async () => {
  await harness.stop();
  await upstream.stop();
});

const call = { method: 'tools/call', params: { name: 'count', arguments: {} } } as const;
const succeeded = (body: string): boolean => body.includes('executed');

/** Every node was told that the server speaks this era and no other. */
async function learnt(era: Era): Promise<void> {
  await waitFor(`all nodes to know it as ${era}`, () =>
    harness.nodes.every(({ store }) => {
      const eras = store.current?.serverBySlug.get('changing')?.eras;
      return eras?.size === 1 && eras.has(era);
    }),
  );
}

test('an upstream that moves to 2026-07-28 is known as such without a restart and without an administrator [P38]', async () => {
  await start('legacy');
  const ask = await openLegacySession(endpoint);
  expect(succeeded((await ask(call)).body)).toBe(true);
  await becomes('modern');
  // Its own traffic tells: the session's next call meets a server of the other era.
  await ask(call);
  await learnt('modern');
  expect(succeeded((await askModern(endpoint, call)).body)).toBe(true);
});

test('an upstream that is set back to a legacy revision does likewise', async () => {
  await start('modern');
  expect(succeeded((await askModern(endpoint, call)).body)).toBe(true);
  await becomes('legacy');
  await askModern(endpoint, call);
  await learnt('legacy');
  const ask = await openLegacySession(endpoint);
  expect(succeeded((await ask(call)).body)).toBe(true);
});
