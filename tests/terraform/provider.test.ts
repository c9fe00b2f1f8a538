import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { findBinary, hasBinary } from '../kit/binaries.ts';
import { buildProvider, hasTerraform, run, terraformFolder, Workspace } from '../kit/terraform.ts';

const timeoutMs = 300_000;

describe.skipIf(!hasBinary('go', 'golang-go', "the Terraform provider's own tests"))('the provider in Go', () => {
  /** What it says, but for the modules that it fetches where they are not on the machine yet. */
  const go = async (...parameters: readonly string[]) => {
    const { code, output } = await run(findBinary('go') ?? 'go', parameters, { cwd: terraformFolder });
    return { code, output: output.replaceAll(/^go: downloading .*\n/gm, '') };
  };

  test('is formatted as gofmt does', async () => {
    expect(await run(findBinary('gofmt') ?? 'gofmt', ['-l', '.'], { cwd: terraformFolder })).toEqual({
      code: 0,
      output: '',
    });
  });

  test(
    'passes go vet',
    async () => {
      expect(await go('vet', './...')).toEqual({ code: 0, output: '' });
    },
    timeoutMs,
  );

  test(
    'has the modules that it needs and no others',
    async () => {
      expect(await go('mod', 'tidy', '-diff')).toEqual({ code: 0, output: '' });
    },
    timeoutMs,
  );

  test(
    'passes its unit tests',
    async () => {
      const { code, output } = await go('test', './...');
      expect(output).not.toContain('FAIL');
      expect(code).toBe(0);
    },
    timeoutMs,
  );
});

describe.skipIf(!hasTerraform('the timeouts of the Terraform provider'))('an operation', () => {
  test(
    'ends when its timeout says, and tells that the change may have been made',
    async () => {
      const silent = createServer(() => undefined);
      await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
      const provider = await buildProvider();
      try {
        const endpoint = `http://127.0.0.1:${(silent.address() as AddressInfo).port}/graphql`;
        const workspace = new Workspace(provider, { endpoint, apiKey: 'sp_nobody' });
        workspace.write({
          'main.tf': `
            provider "sallyport" { plan_dry_run = false }
            resource "sallyport_group" "late" {
              name     = "late"
              timeouts = { create = "2s" }
            }
          `,
        });
        const { code, output } = await workspace.terraform('apply', ['-auto-approve', '-input=false']);
        expect(code).toBe(1);
        expect(output).toContain('Cannot create the group in time');
        expect(output.replaceAll(/[\s│]+/g, ' ')).toContain(
          'Whether the change was made is not known: plan again to see.',
        );
      } finally {
        provider.remove();
        silent.closeAllConnections();
        silent.close();
      }
    },
    timeoutMs,
  );
});

describe('a release of the provider', () => {
  const read = (name: string): string => readFileSync(join(terraformFolder, name), 'utf8');

  // https://developer.hashicorp.com/terraform/registry/providers/publishing
  test('is named, packed and signed as the registry wants it', () => {
    const config = read('.goreleaser.yml');
    for (const line of [
      "binary: '{{ .ProjectName }}_v{{ .Version }}'",
      "name_template: '{{ .ProjectName }}_{{ .Version }}_{{ .Os }}_{{ .Arch }}'",
      "name_template: '{{ .ProjectName }}_{{ .Version }}_SHA256SUMS'",
      "name_template: '{{ .ProjectName }}_{{ .Version }}_manifest.json'",
      'project_name: terraform-provider-sallyport',
      'formats: [zip]',
      'algorithm: sha256',
      'artifacts: checksum',
      'CGO_ENABLED=0',
    ]) {
      expect(config).toContain(line);
    }
    const packages = /^goos: \[(.*)\]$/m.exec(config.replace(/^ +/gm, ''))?.[1];
    expect(packages?.split(', ').toSorted((a, b) => a.localeCompare(b))).toEqual([
      'darwin',
      'freebsd',
      'linux',
      'windows',
    ]);
  });

  test('says which protocol it speaks, and is told its version', () => {
    const manifest = JSON.parse(read('terraform-registry-manifest.json')) as unknown;
    expect(manifest).toEqual({ version: 1, metadata: { protocol_versions: ['6.0'] } });
    expect(read('main.go')).toMatch(/providerserver\.Serve/);
    expect(read('main.go')).toMatch(/\bversion\b/);
    expect(read('.goreleaser.yml')).toContain('-X main.version={{ .Version }}');
  });
});
