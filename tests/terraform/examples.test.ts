import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { type Harness, startHarness } from '../kit/harness.ts';
import { connectSdkV2 } from '../kit/mcp-clients.ts';
import { type ReferenceServer, startReferenceServer } from '../kit/reference-server.ts';
import { buildProvider, hasTerraform, type Provider, terraformFolder, workspaceFor } from '../kit/terraform.ts';
import { expectedPages, readPages } from './generated-pages.ts';

const timeoutMs = 300_000;

let harness: Harness;
let upstreams: ReferenceServer[];
let provider: Provider;

describe.skipIf(!hasTerraform("the Terraform provider's examples"))('the examples and pages of the provider', () => {
  beforeAll(async () => {
    upstreams = await Promise.all([startReferenceServer(), startReferenceServer(), startReferenceServer()]);
    harness = await startHarness({ upstreams: upstreams.map(({ url }) => url) });
    provider = await buildProvider();
  }, timeoutMs);
  afterAll(async () => {
    provider?.remove();
    await harness?.stop();
    for (const upstream of upstreams ?? []) await upstream.stop();
  });

  test(
    'the organization of three servers, four groups and thirty grants is applied as it stands',
    async () => {
      const workspace = workspaceFor(harness, provider);
      const folder = join(terraformFolder, 'examples/organization');
      const files = readdirSync(folder).map((name) => [name, readFileSync(join(folder, name), 'utf8')] as const);
      // It says itself which providers it requires.
      workspace.write({ 'requirement.tf': '', ...Object.fromEntries(files) });
      const [tickets, wiki, bank] = upstreams.map(({ url }) => url);
      workspace.write({ 'urls.auto.tfvars.json': JSON.stringify({ server_urls: { tickets, wiki, bank } }) });
      await workspace.apply();
      expect(await workspace.plan()).toMatchObject({ code: 0 });
      const resources = (await workspace.succeed('state', ['list'])).split('\n');
      const counted = (type: string) => resources.filter((name) => name.startsWith(`${type}.`)).length;
      expect([counted('sallyport_server'), counted('sallyport_group'), counted('sallyport_grant')]).toEqual([3, 4, 30]);

      const principalId = JSON.parse(await workspace.succeed('output', ['-json', 'triage_id'])) as string;
      const input = { principalId, name: 'triage', scopes: ['MCP'], expiresAt: '2027-06-01T00:00:00Z' };
      const issued = z.object({ secret: z.string() });
      const { secret } = await harness.administrator.mutate('createApiKey', input, 'secret', issued);
      await harness.administrator.converged();
      const client = await connectSdkV2(harness.endpoint('tickets', secret));
      expect(await client.toolNames()).toEqual(['test_simple_text']);
      await client.close();
      await workspace.destroy();
    },
    timeoutMs,
  );

  test(
    'the pages equal their source (pnpm generate writes them)',
    async () => {
      expect(await expectedPages(provider)).toEqual(readPages());
    },
    timeoutMs,
  );

  test('every resource and data source has a page with an example', () => {
    const pages = readPages();
    const kinds = ['resources', 'data-sources', 'ephemeral-resources'];
    const named = Object.entries(pages).filter(([path]) => kinds.some((kind) => path.startsWith(`${kind}/`)));
    expect(named.length).toBeGreaterThan(20);
    expect(named.filter(([, text]) => !text.includes('## Example Usage')).map(([path]) => path)).toEqual([]);
    const managed = named.filter(([path]) => path.startsWith('resources/'));
    expect(managed.filter(([, text]) => !text.includes('## Import')).map(([path]) => path)).toEqual([]);
  });

  test('the examples are formatted as terraform fmt does', async () => {
    const folder = join(terraformFolder, 'examples');
    expect(await workspaceFor(harness, provider).succeed('fmt', ['-check', '-recursive', '-diff', folder])).toBe('');
  });

  test(
    'the examples of each page are valid together',
    async () => {
      const workspace = workspaceFor(harness, provider);
      const kinds = ['resources', 'data-sources', 'ephemeral-resources'];
      const texts = kinds.flatMap((kind) => {
        const folder = join(terraformFolder, 'examples', kind);
        return readdirSync(folder, { recursive: true, encoding: 'utf8' })
          .filter((name) => name.endsWith('.tf'))
          .map((name) => [`${kind}-${name.replaceAll('/', '-')}`, readFileSync(join(folder, name), 'utf8')] as const);
      });
      // What belongs to other providers, which are not here.
      const ours = texts
        .filter(([, text]) => !text.includes('random_password'))
        .map(([name, text]) => [name, dropRepeated(name, text)] as const);
      workspace.write(Object.fromEntries(ours));
      expect(await workspace.succeed('validate', [])).toContain('The configuration is valid');
    },
    timeoutMs,
  );
});

const seen = new Map<string, string>();

/** Pages stand alone, so several have the same data source; together, one is enough. */
function dropRepeated(name: string, text: string): string {
  return text.replace(/^data "(\w+)" "(\w+)" \{\n[^}]*\}\n/gm, (block: string, type: string, label: string) => {
    const key = `${type}.${label}`;
    const first = seen.get(key) ?? name;
    seen.set(key, first);
    return first === name ? block : '';
  });
}
