/** The bound of a revocation in short; `pnpm bench revocation` has the distribution over 20 runtimes. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type EchoUpstream, startEchoUpstream } from '../kit/echo-upstream.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { type FakeIdentityProvider, startFakeIdentityProvider } from '../oauth/fake-identity-provider.ts';
import { connectUsers } from '../oauth/federation-kit.ts';
import { type LightRuntime, startLightRuntime } from '../revocation/light-runtime.ts';
import { lightSite, nodeSite, openLegacySession, revokeOne, type Site } from '../revocation/trial.ts';
import { createVictim, revocationKinds, type World } from '../revocation/victims.ts';

/** DESIGN.md promises a p99 of 1 s and at most 5 s; a machine that runs other tests besides is given the latter. */
const boundMs = 5_000;
const lightCount = 4;
const slug = 'shared';

const directory = mkdtempSync(join(tmpdir(), 'sallyport-light-'));
let upstream: EchoUpstream;
let idp: FakeIdentityProvider;
let harness: Harness;
let world: World;
let lights: readonly LightRuntime[];
let sites: readonly Site[];

beforeAll(async () => {
  upstream = await startEchoUpstream();
  idp = await startFakeIdentityProvider('http://127.0.0.1');
  harness = await startHarness({ upstreams: [upstream.url, idp.issuer], authorizationServer: true });
  const { administrator, nodes, controlPlane } = harness;
  const issuer = new URL(controlPlane.graphqlUrl ?? '').origin;
  world = {
    administrator,
    serverId: (await administrator.registerServer(slug, upstream.url)).id,
    slug,
    disposable: await administrator.registerServer('disposable', upstream.url),
    issuer,
    users: await connectUsers(administrator, idp, issuer),
    nodesUrl: harness.entryOrigin,
    openSession: (name, key) => openLegacySession(`${nodes[0]?.url ?? ''}/mcp/${name}`, key),
  };
  const joinToken = await administrator.createJoinToken(lightCount);
  const syncUrl = controlPlane.syncUrl ?? '';
  lights = Array.from({ length: lightCount }, (_, at) =>
    startLightRuntime({ syncUrl, joinToken, name: `light-${at}`, directory: join(directory, `${at}`) }),
  );
  sites = [...nodes.map(({ url }, at) => nodeSite(`node-${at}`, url, upstream.arrivals)), lightSite(lights)];
});
afterAll(async () => {
  await Promise.all(lights.map((light) => light.stop()));
  await harness.stop();
  await upstream.stop();
  await idp.stop();
  rmSync(directory, { recursive: true, force: true });
});

test.each(revocationKinds)(
  '%s: no runtime admits a call, and no stream stays open, for longer than the bound',
  async (kind) => {
    const victim = await createVictim(kind, world);
    const { admittedMs, streamMs } = await revokeOne(
      victim,
      sites,
      harness.nodes.map(({ url }) => url),
    );
    expect(admittedMs).toHaveLength(harness.nodes.length + lightCount);
    expect(Math.max(...admittedMs)).toBeLessThan(boundMs);
    expect(streamMs).toHaveLength(harness.nodes.length);
    expect(Math.max(...streamMs)).toBeLessThan(boundMs);
    expect(upstream.streamsOpen).toBe(0);
  },
);
