/**
 * How soon what the gateway calls with for somebody ends when it is taken away: on nodes in contact, on one that hears
 * nothing, and for what is under way. `pnpm bench revocation` has the distribution over 20 runtimes.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { z } from 'zod';
import { keyFile } from '../credentials/credential-kit.ts';
import { waitFor } from '../kit/condition.ts';
import { type EchoUpstream, startEchoUpstream } from '../kit/echo-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { startSyncProxy, type SyncProxy } from '../kit/sync-proxy.ts';
import { type FakeIdentityProvider, startFakeIdentityProvider } from '../oauth/fake-identity-provider.ts';
import { connectUsers } from '../oauth/federation-kit.ts';
import {
  createCredentialVictim,
  createCredentialWorld,
  type CredentialKind,
  credentialKinds,
  type CredentialOutside,
  type CredentialWorld,
  startCredentialOutside,
} from '../revocation/credential-victims.ts';
import { type LightRuntime, startLightRuntime } from '../revocation/light-runtime.ts';
import { lightSite, nodeSite, openStream, revokeOne, type Site } from '../revocation/trial.ts';
import type { Victim } from '../revocation/victims.ts';

/** DESIGN.md promises a p99 of 1 s and at most 5 s; a machine that runs other tests besides is given the latter. */
const boundMs = 5_000;
const nodeCount = 3;
const lightCount = 2;
const stalenessMaxMs = 6_000;

const directory = mkdtempSync(join(tmpdir(), 'sallyport-light-'));
let upstream: EchoUpstream;
let idp: FakeIdentityProvider;
let outside: CredentialOutside;
let harness: Harness;
/** Between the last node and the control plane. */
let proxy: SyncProxy;
let world: CredentialWorld;
let lights: readonly LightRuntime[];
let nodes: readonly Site[];

beforeAll(async () => {
  upstream = await startEchoUpstream();
  idp = await startFakeIdentityProvider('http://127.0.0.1');
  outside = await startCredentialOutside();
  proxy = await startSyncProxy('');
  const syncUrlFor = (syncUrl: string, index: number): string => {
    proxy.target = syncUrl;
    return index === nodeCount - 1 ? proxy.url : syncUrl;
  };
  harness = await startHarness({
    upstreams: [upstream.url, idp.issuer, ...outside.urls],
    nodes: nodeCount,
    environment: { SALLYPORT_CREDENTIAL_KEY_FILE: keyFile() },
    authorizationServer: true,
    syncUrlFor,
  });
  const { administrator, controlPlane } = harness;
  const issuer = new URL(controlPlane.graphqlUrl ?? '').origin;
  const shared = await administrator.registerServer('shared', upstream.url);
  const without = {
    administrator,
    serverId: shared.id,
    slug: shared.slug,
    disposable: shared,
    issuer,
    users: await connectUsers(administrator, idp, issuer),
    nodesUrl: harness.entryOrigin,
    openSession: () => Promise.reject(new Error('no legacy session is opened here')),
  };
  world = await createCredentialWorld(without, outside, upstream.url);
  const joinToken = await administrator.createJoinToken(lightCount);
  const syncUrl = controlPlane.syncUrl ?? '';
  lights = Array.from({ length: lightCount }, (_, at) =>
    startLightRuntime({ syncUrl, joinToken, name: `light-${at}`, directory: join(directory, `${at}`) }),
  );
  nodes = harness.nodes.map(({ url }, at) => nodeSite(`node-${at}`, url, upstream.arrivals));
}, 120_000);
afterAll(async () => {
  await Promise.all((lights ?? []).map((light) => light.stop()));
  await harness.stop();
  await proxy.stop();
  await outside.stop();
  await upstream.stop();
  await idp.stop();
  rmSync(directory, { recursive: true, force: true });
});

const nodeUrls = (): string[] => harness.nodes.map(({ url }) => url);

/** What the upstream answers. The gateway itself answers with an error, of the protocol or of the tool. */
const answered = z.object({
  result: z.object({ isError: z.literal(false).optional(), content: z.array(z.unknown()) }),
});

async function call(url: string, victim: Victim, values: object) {
  const { slug, headers, body } = victim.call('');
  const message = JSON.parse(body) as { params: object };
  const params = { ...message.params, arguments: values };
  const response = await fetch(`${url}/mcp/${slug}`, {
    method: 'POST',
    headers,
    body: JSON.stringify({ ...message, params }),
  });
  const text = await response.text();
  return { status: response.status, text, isAnswered: answered.safeParse(parsed(text)).success };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Waits until each node calls for a victim. */
async function admitted(victim: Victim): Promise<void> {
  for (const url of nodeUrls()) {
    await waitFor('the node calls', async () => (await call(url, victim, {})).isAnswered);
  }
}

/** A secret that is replaced is taken away from nobody. */
const leavesCalls = (kind: CredentialKind): boolean => kind === 'secret of service replaced';

test.each(credentialKinds)(
  '%s: within the bound no runtime calls with what it ended, and what is open with it ends, toward the upstream too',
  async (kind) => {
    const victim = await createCredentialVictim(kind, world);
    await admitted(victim);
    const calls = nodeUrls().map((url) => call(url, victim, { delayMs: 3_600_000 }));
    await waitFor('the calls are under way', () => upstream.callsWaiting === nodeCount);
    let answers: readonly { readonly isAnswered: boolean }[] = [];
    const restore = async (): Promise<void> => {
      if (leavesCalls(kind)) upstream.answerWaiting();
      answers = await Promise.all(calls);
      await victim.restore();
    };
    const runtimes = [...nodes, lightSite(lights)];
    const { admittedMs, streamMs } = await revokeOne({ ...victim, restore }, runtimes, nodeUrls());
    expect(admittedMs).toHaveLength(nodeCount + lightCount);
    expect(Math.max(...admittedMs)).toBeLessThan(boundMs);
    expect(streamMs).toHaveLength(nodeCount);
    expect(Math.max(...streamMs)).toBeLessThan(boundMs);
    expect(answers.map(({ isAnswered }) => isAnswered)).toEqual(nodeUrls().map(() => leavesCalls(kind)));
    await waitFor('the upstream holds nothing', () => upstream.streamsOpen + upstream.callsWaiting === 0);
  },
);

test('a node that hears nothing calls with an ended token within the staleness bound alone, and never when it is back', async () => {
  const kind: CredentialKind = 'account disconnected';
  const bounded = { id: world.connectable.id, configStalenessMaxMs: stalenessMaxMs };
  await world.administrator.mutate('updateServer', bounded, 'id', z.object({ id: z.string() }));
  const victim = await createCredentialVictim(kind, world);
  await admitted(victim);
  const lost = harness.nodes[nodeCount - 1]?.url ?? '';
  const stream = await openStream(lost, victim.stream);
  proxy.passUp = () => false;
  proxy.passDown = () => undefined;
  await victim.revoke();
  for (const url of nodeUrls().filter((one) => one !== lost)) {
    await waitFor('the others call no more', async () => !(await call(url, victim, {})).isAnswered, {
      deadlineMs: boundMs,
    });
  }
  const refused = await waitFor('the lost node refuses', async () => {
    const answer = await call(lost, victim, {});
    return answer.status === 503 ? answer : undefined;
  });
  expect(refused.text).not.toContain('/oauth/connect/');
  await stream.ended;
  await waitFor('the stream toward the upstream has ended', () => upstream.streamsOpen === 0);
  proxy.passUp = () => true;
  proxy.passDown = (message) => message;
  proxy.cut();
  let asked = 0;
  await waitFor('the node is back', async () => {
    const { text } = await call(lost, victim, { nonce: `back-${++asked}` });
    return text.includes('/oauth/connect/');
  });
  const arrived = Array.from({ length: asked }, (_, at) => upstream.arrivals.has(`back-${at + 1}`));
  expect(arrived).not.toContain(true);
});
