import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { type Harness, startHarness } from '../kit/harness.ts';
import { connectSdkV2 } from '../kit/mcp-clients.ts';
import { type ReferenceServer, startReferenceServer } from '../kit/reference-server.ts';
import { buildProvider, hasTerraform, type Provider, type Workspace, workspaceFor } from '../kit/terraform.ts';

let harness: Harness;
let upstream: ReferenceServer;
let provider: Provider;

const newWorkspace = (files: Readonly<Record<string, string>>): Workspace => workspaceFor(harness, provider, files);

/** A server, a group with one member, and what the group may use. */
function teamOf(tools: readonly string[]): Readonly<Record<string, string>> {
  const text = `
    resource "sallyport_server" "reference" {
      slug            = "reference"
      url             = ${JSON.stringify(upstream.url)}
      labels          = { team = "analysis", tier = "1" }
      lifecycle_state = "approved"
    }

    resource "sallyport_group" "analysts" {
      name        = "analysts"
      description = "Who looks into things"
    }

    resource "sallyport_user" "ada" {
      name  = "Ada"
      email = "ada@example.com"
    }

    resource "sallyport_service_account" "agent" {
      name       = "agent"
      owner_id   = sallyport_user.ada.id
      expires_at = "2027-11-01T00:00:00Z"
    }

    resource "sallyport_group_membership" "agent" {
      group_id     = sallyport_group.analysts.id
      principal_id = sallyport_service_account.agent.id
    }

    resource "sallyport_grant" "analysts" {
      name       = "analysts read"
      subject    = { kind = "group", id = sallyport_group.analysts.id }
      server_id  = sallyport_server.reference.id
      effect     = "allow"
      tools      = ${JSON.stringify(tools)}
      not_before = "2026-01-01T00:00:00+00:00"
      reason     = "They asked for it"
    }

    output "agent_id" {
      value = sallyport_service_account.agent.id
    }
  `;
  return { 'main.tf': text };
}

const issuedKey = z.object({ secret: z.string() });

async function keyOf(principalId: string): Promise<string> {
  const input = { principalId, name: 'agent', scopes: ['MCP'], expiresAt: '2027-06-01T00:00:00Z' };
  return (await harness.administrator.mutate('createApiKey', input, 'secret', issuedKey)).secret;
}

async function toolsOf(key: string): Promise<readonly string[]> {
  await harness.administrator.converged();
  const client = await connectSdkV2(harness.endpoint('reference', key));
  try {
    return [...(await client.toolNames())].sort();
  } finally {
    await client.close();
  }
}

describe.skipIf(!hasTerraform('what Terraform applies'))('what Terraform applies', () => {
  beforeAll(async () => {
    upstream = await startReferenceServer();
    harness = await startHarness({ upstreams: [upstream.url] });
    provider = await buildProvider();
  }, 300_000);
  afterAll(async () => {
    provider?.remove();
    await harness?.stop();
    await upstream?.stop();
  });

  test('is what the fleet enforces, from the first apply through a change and an import to the end', async () => {
    const first = newWorkspace(teamOf(['test_simple_text', 'test_error_handling']));
    const planned = await first.plan();
    expect(planned).toMatchObject({ code: 2 });
    await first.apply();
    expect(await first.plan()).toMatchObject({ code: 0 });

    const key = await keyOf(JSON.parse(await first.succeed('output', ['-json', 'agent_id'])) as string);
    expect(await toolsOf(key)).toEqual(['test_error_handling', 'test_simple_text']);
    const client = await connectSdkV2(harness.endpoint('reference', key));
    expect(JSON.stringify(await client.callTool('test_simple_text'))).toContain('simple text response');
    await expect(client.callTool('test_image_content')).rejects.toThrow(/Unknown tool/);

    first.write(teamOf(['test_simple_text', 'test_image_content', 'test_audio_content']));
    const change = await first.plan();
    expect(change.output).toContain('group analysts gains 2 tools on reference, loses 1 tool');
    expect(change.output).toContain('Gains on reference: test_audio_content, test_image_content.');
    expect(change.output).toContain('Loses on reference: test_error_handling.');
    await first.apply();
    expect(await first.plan()).toMatchObject({ code: 0 });
    expect(await toolsOf(key)).toEqual(['test_audio_content', 'test_image_content', 'test_simple_text']);
    await client.callTool('test_image_content');

    const second = newWorkspace(teamOf(['test_simple_text', 'test_image_content', 'test_audio_content']));
    for (const [address, naturalKey] of [
      ['sallyport_server.reference', 'reference'],
      ['sallyport_group.analysts', 'analysts'],
      ['sallyport_user.ada', 'ada@example.com'],
      ['sallyport_service_account.agent', 'agent'],
      ['sallyport_group_membership.agent', 'analysts/agent'],
      ['sallyport_grant.analysts', 'analysts read'],
    ] as const) {
      await second.succeed('import', [address, naturalKey]);
    }
    const imported = await second.plan();
    expect(imported.output).toContain('No changes.');

    const text = teamOf(['test_simple_text', 'test_image_content', 'test_audio_content'])['main.tf'] ?? '';
    second.write({ 'main.tf': text.replace('"approved"', '"disabled"') });
    expect((await second.plan()).output).toContain('group analysts loses 3 tools on reference');
    second.write({ 'main.tf': text });

    const destroyed = await second.destroy();
    expect(destroyed).toContain('group analysts loses 3 tools on reference');
    await harness.administrator.converged();
    await expect(client.callTool('test_simple_text')).rejects.toThrow(/authenticat|unauthorized|401/i);
    await expect(connectSdkV2(harness.endpoint('reference', key))).rejects.toThrow(/authenticat|unauthorized|401/i);
  }, 300_000);
});
