/** What a node is lent that runs the configuration before, as each does for a moment after every change. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import type { ClientAccount } from '../kit/administrator.ts';
import { type FakeUpstream, startFakeUpstream } from '../kit/fake-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { askModern } from '../kit/raw-mcp.ts';
import { startSyncProxy, type SyncProxy } from '../kit/sync-proxy.ts';
import { credential, credentialFields, keyFile, registerWith, withHeader } from './credential-kit.ts';

const firstSecret = 'canary-of-the-first-service-credential-0123456789';
const secondSecret = 'canary-of-the-second-service-credential-9876543210';
const slugs = ['replaced', 'renamed', 'unset'] as const;

let upstream: FakeUpstream;
let sync: SyncProxy;
let harness: Harness;
let client: ClientAccount;
const ids = new Map<string, string>();

beforeAll(async () => {
  upstream = await startFakeUpstream({ tools: ['look'] });
  sync = await startSyncProxy('');
  harness = await startHarness({
    upstreams: [upstream.url],
    nodes: 1,
    environment: { SALLYPORT_CREDENTIAL_KEY_FILE: keyFile() },
    syncUrlFor: (url) => {
      sync.target = url;
      return sync.url;
    },
  });
  const { administrator } = harness;
  for (const slug of slugs) {
    ids.set(slug, await registerWith(administrator, { slug, url: upstream.url }, withHeader(firstSecret)));
    await administrator.grant({ serverId: ids.get(slug) ?? '', tools: ['*'] });
  }
  client = await administrator.createClient('caller');
  await administrator.converged();
  // The node keeps what it has, which is a valid configuration, and nothing was lent to it yet.
  sync.passDown = (message) => (message.type.startsWith('manifest') ? undefined : message);
});
afterAll(async () => {
  await harness.stop();
  await sync.stop();
  await upstream.stop();
});

const put = (name: string, slug: string, input: object = {}) =>
  harness.administrator.mutate(name, { serverId: ids.get(slug), ...input }, credentialFields, credential);

const answered = z.object({ error: z.object({ code: z.number() }).optional() });

/** The code of the error of a call, if any, and what the upstream was shown. */
async function call(slug: string): Promise<{ readonly error: number | undefined; readonly shown: unknown[] }> {
  const before = upstream.requests.length;
  const asked = { method: 'tools/call', params: { name: 'look', arguments: { id: 'x' } } };
  const { body } = await askModern(harness.endpoint(slug, client.key), asked);
  // The server is discovered anew after each change, too.
  const calls = upstream.requests.slice(before).filter((request) => request.body.includes('"tools/call"'));
  const shown = calls.map(({ headers }) => headers['x-service-key'] ?? headers['x-other-key']);
  return { error: answered.parse(JSON.parse(body)).error?.code, shown };
}

test('a secret that was replaced is lent to a node that has not heard of it, and no call fails', async () => {
  const { revision } = await put('rotateServerCredential', 'replaced', withHeader(secondSecret));
  expect(await call('replaced')).toEqual({ error: undefined, shown: [secondSecret] });
  const { revision: next } = await put('setServerCredential', 'replaced', withHeader(firstSecret));
  expect(next).toBe(revision + 1);
});

test('where more than the secret changed, it is lent nothing until it has heard', async () => {
  const headers = [{ name: 'X-Other-Key', value: secondSecret }];
  await put('setServerCredential', 'renamed', { staticHeaders: { headers } });
  await put('rotateServerCredential', 'renamed', { staticHeaders: { headers } });
  await put('deleteServerCredential', 'unset');
  await put('setServerCredential', 'unset', withHeader(secondSecret));
  const refused = { error: 1037, shown: [] };
  expect([await call('renamed'), await call('unset')]).toEqual([refused, refused]);
  sync.passDown = (message) => message;
  sync.cut();
  await harness.administrator.converged();
  const ok = { error: undefined, shown: [secondSecret] };
  expect([await call('renamed'), await call('unset')]).toEqual([ok, ok]);
  expect(await call('replaced')).toEqual({ error: undefined, shown: [firstSecret] });
});
