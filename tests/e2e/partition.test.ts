/** What a node does that hears nothing of the control plane, and what the control plane says of it. */
import { request } from 'node:http';
import postgres from 'postgres';
import { systemClock } from '@sallyport/schema/platform';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { waitFor } from '../kit/condition.ts';
import { type EchoUpstream, startEchoUpstream } from '../kit/echo-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { askModern } from '../kit/raw-mcp.ts';
import { startSyncProxy, type SyncProxy } from '../kit/sync-proxy.ts';
import { modern } from '../data-plane/requests.ts';

const stalenessMaxMs = 10_000;
/** Open streams are looked at so often for what ends by time. */
const streamCheckMs = 5_000;
/** Limited by the server, by its only grant, and by the fleet's default. */
const slugs = ['impatient', 'bounded', 'patient'] as const;
type Slug = (typeof slugs)[number];

let upstream: EchoUpstream;
let harness: Harness;
/** Between the second node and the control plane. */
let proxy: SyncProxy;
let caller: { readonly key: string; readonly keyId: string };

beforeAll(async () => {
  upstream = await startEchoUpstream();
  proxy = await startSyncProxy('');
  const syncUrlFor = (syncUrl: string, index: number): string => {
    proxy.target = syncUrl;
    return index === 1 ? proxy.url : syncUrl;
  };
  harness = await startHarness({ upstreams: [upstream.url], syncUrlFor });
  const { administrator } = harness;
  caller = await administrator.createClient('caller');
  for (const slug of slugs) {
    const { id } = await administrator.registerServer(slug, upstream.url);
    const grantId = await administrator.grant({ serverId: id, tools: ['echo'] });
    if (slug === 'bounded') {
      const input = { id: grantId, configStalenessMaxMs: stalenessMaxMs };
      await administrator.mutate('updateGrant', input, 'id', z.object({ id: z.string() }));
    }
    if (slug !== 'impatient') continue;
    const input = { id, configStalenessMaxMs: stalenessMaxMs };
    await administrator.mutate('updateServer', input, 'id', z.object({ id: z.string() }));
  }
  await administrator.converged();
});
afterAll(async () => {
  await harness.stop();
  await proxy.stop();
  await upstream.stop();
});

/** Nothing passes any more; the connection stays, as it does behind a switch that lost its routes. */
function partition(): void {
  proxy.passUp = () => false;
  proxy.passDown = () => undefined;
}

function heal(): void {
  proxy.passUp = () => true;
  proxy.passDown = (message) => message;
  proxy.cut();
}

async function statusOf(slug: Slug | 'windowed', node = 1, key = caller.key): Promise<number> {
  const url = `${harness.nodes[node]?.url ?? ''}/mcp/${slug}`;
  return (await askModern({ url, key }, { method: 'tools/call', params: { name: 'echo', arguments: {} } })).status;
}

/** Resolves with the status and, as `ended`, the monotonic instant at which the subscription was over. */
function listen(
  slug: Slug,
): Promise<{ readonly status: number; readonly ended: Promise<number>; isOpen(): boolean; close(): void }> {
  const { headers, body } = modern('subscriptions/listen', { notifications: { toolsListChanged: true } });
  const all = {
    ...headers,
    authorization: `Bearer ${caller.key}`,
    accept: 'application/json, text/event-stream',
    'content-type': 'application/json',
  };
  return new Promise((resolve, reject) => {
    const url = `${harness.nodes[1]?.url ?? ''}/mcp/${slug}`;
    const outgoing = request(url, { method: 'POST', agent: false, headers: all }, (response) => {
      const ended = new Promise<number>((end) => {
        response.resume().on('error', () => undefined);
        response.once('close', () => end(performance.now()));
      });
      const isOpen = (): boolean => !response.closed;
      resolve({ status: response.statusCode ?? 0, ended, isOpen, close: () => outgoing.destroy() });
    });
    outgoing.on('error', reject);
    outgoing.end(body);
  });
}

const nodeState = z.object({ node: z.object({ name: z.string() }), state: z.enum(['LIVE', 'UNCONVERGED', 'GONE']) });
const revocationStatus = z.object({ converged: z.boolean(), summary: z.string(), nodes: z.array(nodeState) });

async function statesAt(configRevision: number): Promise<z.infer<typeof revocationStatus> & { names: string[] }> {
  const document = `query ($configRevision: Int!) {
    revocationStatus(configRevision: $configRevision) { converged summary nodes { node { name } state } }
  }`;
  const answer = z.object({ revocationStatus });
  const { revocationStatus: status } = await harness.administrator.api.ask(document, { configRevision }, answer);
  return { ...status, names: status.nodes.map(({ node, state }) => `${node.name} ${state}`).toSorted() };
}

async function published(): Promise<number> {
  const answer = z.object({ configStatus: z.object({ configRevision: z.number(), pending: z.boolean() }) });
  return waitFor('everything is published', async () => {
    const { configStatus } = await harness.administrator.api.ask(
      '{ configStatus { configRevision pending } }',
      {},
      answer,
    );
    return !configStatus.pending && configStatus.configRevision;
  });
}

describe('a node that is cut off from the control plane', () => {
  test('refuses after 10 s what may be 10 s old and serves the rest, streams alike, and is not counted as live', async () => {
    const [impatient, bounded, patient] = await Promise.all(slugs.map((slug) => listen(slug)));
    const victim = await harness.administrator.createClient('victim');
    const before = await harness.administrator.converged();
    expect((await statesAt(before)).names).toEqual(['node-1 LIVE', 'node-2 LIVE']);

    partition();
    const cutAt = performance.now();
    await harness.administrator.mutate('revokeApiKey', { id: victim.keyId }, 'id', z.object({ id: z.string() }));
    const revocation = await published();
    await waitFor('the other node enforces it', async () => (await statesAt(revocation)).names.includes('node-1 LIVE'));
    await waitFor('the lost one is out of contact', async () =>
      (await statesAt(before)).names.includes('node-2 UNCONVERGED'),
    );
    expect(await statesAt(revocation)).toMatchObject({
      converged: false,
      summary: `revision ${revocation} is live on 1 of 2 nodes`,
    });
    expect(await statusOf('patient', 0, victim.key)).toBe(401);

    let lastServed = cutAt;
    await waitFor('the impatient server is refused', async () => {
      const asked = performance.now();
      const status = await statusOf('impatient');
      if (status === 200) lastServed = asked;
      return status === 503;
    });
    const refusedAt = performance.now();
    // The last heartbeat was heard up to 2 s before the cut.
    expect(lastServed - cutAt).toBeGreaterThan(stalenessMaxMs - 3_000);
    expect(refusedAt - cutAt).toBeLessThan(stalenessMaxMs + 1_000);
    // To whom an old configuration opens nothing, the server is not there.
    expect(await statusOf('bounded')).toBe(404);
    expect(await statusOf('patient')).toBe(200);
    // What it does not know of is the price of going on.
    expect(await statusOf('patient', 1, victim.key)).toBe(200);
    for (const stream of [impatient, bounded]) {
      expect(((await stream?.ended) ?? Number.NaN) - cutAt).toBeLessThan(stalenessMaxMs + streamCheckMs + 1_000);
    }
    expect(patient?.isOpen()).toBe(true);
    patient?.close();

    heal();
    await waitFor('it has caught up', async () => (await statesAt(revocation)).converged);
    expect(await Promise.all(slugs.map((slug) => statusOf(slug)))).toEqual([200, 200, 200]);
    expect(await statusOf('patient', 1, victim.key)).toBe(401);
  });

  test('opens and closes the windows of grants by itself', async () => {
    const { administrator } = harness;
    const { id: serverId } = await administrator.registerServer('windowed', upstream.url);
    const [leaving, coming] = [await administrator.createClient('leaving'), await administrator.createClient('coming')];
    const turnMs = systemClock.now() + 8_000;
    const turn = new Date(turnMs).toISOString();
    for (const [{ principalId }, window] of [
      [leaving, { notAfter: turn }],
      [coming, { notBefore: turn }],
    ] as const) {
      const subject = { kind: 'SERVICE_ACCOUNT', id: principalId };
      const input = { name: 'window', subject, serverId, effect: 'ALLOW', tools: ['echo'], ...window };
      await administrator.mutate('createGrant', input, 'id', z.object({ id: z.string() }));
    }
    await administrator.converged();
    partition();
    // The node reckons the control plane's time from heartbeats, so that it is off by some milliseconds.
    const slackMs = 250;
    const before = new Set<string>();
    await waitFor('the turn', async () => {
      const askedMs = systemClock.now();
      const statuses = [await statusOf('windowed', 1, leaving.key), await statusOf('windowed', 1, coming.key)];
      const isBefore = systemClock.now() < turnMs - slackMs;
      const isAfter = askedMs > turnMs + slackMs;
      if (isBefore) before.add(String(statuses));
      return isAfter && String(statuses) === '404,200';
    });
    expect([...before]).toEqual(['200,404']);
    expect(harness.nodes[1]?.store.connected).toBe(false);
    heal();
    await administrator.converged();
  });

  test('is not made younger by a local clock that was set back, running or restarted', async () => {
    await harness.administrator.converged();
    const clock = { ...systemClock, aheadMs: 0, now: () => systemClock.now() + clock.aheadMs };
    await harness.restartNode(1, clock);
    await harness.administrator.converged();
    partition();
    const store = harness.nodes[1]?.store;
    await waitFor('it notices', () => store?.connected === false);
    clock.aheadMs = -3_600_000;
    expect(store?.contactAgeMs()).toBeGreaterThan(3_000);
    expect(await statusOf('patient')).toBe(200);

    // Without the control plane, by a clock that is behind what was saved: it may have been away for ever.
    const restarted = await harness.restartNode(1, { ...systemClock, now: () => systemClock.now() - 7_200_000 });
    expect(restarted.store.contactAgeMs()).toBe(Number.POSITIVE_INFINITY);
    expect(await Promise.all(slugs.map((slug) => statusOf(slug)))).toEqual([503, 404, 503]);

    heal();
    await harness.administrator.converged();
    expect(await statusOf('patient')).toBe(200);
  });
});

test('a node that was killed, or removed, is named as gone as long as it may serve', async () => {
  const configRevision = await harness.administrator.converged();
  partition();
  const sql = postgres(harness.databaseUrl, { max: 1 });
  // As if a minute had passed since it was heard.
  await waitFor('it is gone', async () => {
    await sql`update nodes set last_contact_at = now() - interval '70 seconds' where name = 'node-2'`;
    return (await statesAt(configRevision)).names.includes('node-2 GONE');
  });
  expect(await statesAt(configRevision)).toMatchObject({
    converged: true,
    summary: `revision ${configRevision} is live on 1 of 1 node; 1 gone`,
    names: ['node-1 LIVE', 'node-2 GONE'],
  });
  await sql`update nodes set last_contact_at = now() - interval '25 hours' where name = 'node-2'`;
  expect((await statesAt(configRevision)).names).toEqual(['node-1 LIVE']);

  heal();
  await waitFor('it is back', async () => (await statesAt(configRevision)).names.includes('node-2 LIVE'));
  const [row] = await sql<{ id: string }[]>`select id from nodes where name = 'node-2'`;
  await harness.administrator.mutate('removeNode', { id: row?.id ?? '' }, 'id', z.object({ id: z.string() }));
  expect((await statesAt(configRevision)).names).toEqual(['node-1 LIVE', 'node-2 GONE']);
  await sql.end();
});
