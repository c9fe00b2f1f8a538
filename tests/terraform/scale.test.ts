import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Harness, startHarness } from '../kit/harness.ts';
import { type ReferenceServer, startReferenceServer } from '../kit/reference-server.ts';
import { buildProvider, hasTerraform, type Provider } from '../kit/terraform.ts';
import { measureGrants } from './scale.ts';

const timeoutMs = 600_000;
/** `pnpm bench terraform` measures 500. */
const grants = 60;

let harness: Harness;
let upstream: ReferenceServer;
let provider: Provider;

describe.skipIf(!hasTerraform('many grants by Terraform'))('many grants with for_each', () => {
  beforeAll(async () => {
    upstream = await startReferenceServer();
    harness = await startHarness({ upstreams: [upstream.url] });
    provider = await buildProvider();
  }, timeoutMs);
  afterAll(async () => {
    provider?.remove();
    await harness?.stop();
    await upstream?.stop();
  });

  test(
    'share requests in every step, and leave no difference',
    async () => {
      const { id: serverId } = await harness.administrator.registerServer('many', upstream.url);
      const endpoint = harness.controlPlane.graphqlUrl ?? '';
      const steps = await measureGrants({ provider, endpoint, apiKey: harness.ownerKey, serverId }, grants);
      const [plan, apply, again, destroy] = steps;
      expect(plan?.output).toContain(`Plan: ${grants} to add`);
      expect(apply?.output).toContain(`Resources: ${grants} added`);
      expect(again?.output).toContain('No changes.');
      expect(destroy?.output).toContain(`Destroy complete! Resources: ${grants + 4} destroyed.`);
      // Alone, each grant would be one request in the plan, three in the apply, one in the plan after it and three in the end.
      expect(plan?.requests).toBeLessThan(grants * 0.5);
      expect(apply?.requests).toBeLessThan(3 * grants * 0.5);
      expect(again?.requests).toBeLessThan(grants * 0.5);
      expect(destroy?.requests).toBeLessThan(3 * grants * 0.5);
    },
    timeoutMs,
  );
});
