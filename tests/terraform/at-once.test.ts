import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { type Harness, startHarness } from '../kit/harness.ts';
import { type ReferenceServer, startReferenceServer } from '../kit/reference-server.ts';
import { buildProvider, hasTerraform, type Provider, type Workspace, workspaceFor } from '../kit/terraform.ts';

const identified = z.object({ id: z.string() });
const timeoutMs = 300_000;

let harness: Harness;
let reference: ReferenceServer;
let provider: Provider;
let serverId: string;

const newWorkspace = (text: string): Workspace => workspaceFor(harness, provider, { 'main.tf': text });

describe.skipIf(!hasTerraform('Terraform run twice at once'))('Terraform run twice at once', () => {
  beforeAll(async () => {
    reference = await startReferenceServer();
    harness = await startHarness({ upstreams: [reference.url], nodes: 1 });
    serverId = (await harness.administrator.registerServer('shared', reference.url)).id;
    provider = await buildProvider();
  }, timeoutMs);
  afterAll(async () => {
    provider?.remove();
    await harness?.stop();
    await reference?.stop();
  });

  test(
    'applies two configurations at once, each whole',
    async () => {
      const { administrator } = harness;
      const shared = await administrator.mutate('createGroup', { name: 'shared by two' }, 'id', identified);
      const team = (name: string) => `
        resource "sallyport_service_account" "agent" {
          for_each   = toset([for number in range(5) : "${name} \${number}"])
          name       = each.key
          expires_at = "2027-11-01T00:00:00Z"
        }
        resource "sallyport_group_membership" "agent" {
          for_each     = sallyport_service_account.agent
          group_id     = "${shared.id}"
          principal_id = each.value.id
        }
        resource "sallyport_grant" "agent" {
          for_each  = sallyport_service_account.agent
          name      = each.key
          subject   = { kind = "service_account", id = each.value.id }
          server_id = "${serverId}"
          effect    = "allow"
          tools     = ["test_*"]
        }
      `;
      const both = [newWorkspace(team('red')), newWorkspace(team('blue'))];
      await Promise.all(both.map((one) => one.apply()));
      for (const one of both) expect(await one.plan()).toMatchObject({ code: 0 });
      const members = z.object({ group: z.object({ members: z.object({ edges: z.array(z.unknown()) }) }) });
      const document = `{ group(id: "${shared.id}") { members { edges { node { id } } } } }`;
      const { group } = await administrator.api.ask(document, {}, members);
      expect(group.members.edges).toHaveLength(10);
      await Promise.all(both.map((one) => one.destroy()));
    },
    timeoutMs,
  );

  test(
    'makes one object of a name that two configurations make at once, and says so to the other',
    async () => {
      const both = [1, 2].map(() => newWorkspace('resource "sallyport_group" "same" { name = "raced for" }'));
      for (const one of both) await one.succeed('plan', ['-out=saved']);
      const ran = await Promise.all(both.map((one) => one.terraform('apply', ['-input=false', 'saved'])));
      expect(ran.map(({ code }) => code).sort((a, b) => a - b)).toEqual([0, 1]);
      const { output } = ran.find(({ code }) => code === 1) ?? { output: '' };
      expect(output).toMatch(/Conflict: someone else|name is the name of another group/);
      // The other has nothing to destroy, and would be refused as long as the name is taken.
      await both[ran.findIndex(({ code }) => code === 0)]?.destroy();
    },
    timeoutMs,
  );
});
