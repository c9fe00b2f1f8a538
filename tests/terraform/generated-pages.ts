/** The provider's pages, generated from its schema, the examples and the templates by the generator of `terraform/tools`. */
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { findBinary } from '../kit/binaries.ts';
import { type Provider, run, terraformFolder, Workspace } from '../kit/terraform.ts';

export const generatedPagesPath = 'terraform/docs';

/** @param folder of a provider, with `examples` and `templates`; its `docs` are written anew */
async function generatePages(provider: Provider, folder: string): Promise<void> {
  const workspace = new Workspace(provider, { endpoint: 'http://127.0.0.1:1', apiKey: 'none' });
  const schema = await workspace.succeed('providers', ['schema', '-json']);
  const file = join(workspace.folder, 'schema.json');
  // The generator looks for the provider's short name only in this namespace.
  writeFileSync(file, schema.replace('registry.terraform.io/sallyport/', 'registry.terraform.io/hashicorp/'));
  const names = ['--provider-name', 'sallyport', '--rendered-provider-name', 'Sallyport'];
  const { code, output } = await run(
    findBinary('go') ?? 'go',
    [
      'run',
      'github.com/hashicorp/terraform-plugin-docs/cmd/tfplugindocs',
      'generate',
      ...names,
      '--provider-dir',
      folder,
      '--providers-schema',
      file,
    ],
    { cwd: join(terraformFolder, 'tools') },
  );
  if (code !== 0) throw new Error(`the pages of the Terraform provider cannot be generated:\n${output}`);
}

/** Writes the pages of the repository. */
export function writePages(provider: Provider): Promise<void> {
  return generatePages(provider, terraformFolder);
}

/** Text of every page by its path. */
export function readPages(folder: string = terraformFolder): Readonly<Record<string, string>> {
  const docs = join(folder, 'docs');
  const files = readdirSync(docs, { recursive: true, encoding: 'utf8' })
    .map((path) => join(docs, path))
    .filter((path) => statSync(path).isFile());
  return Object.fromEntries(files.sort().map((path) => [relative(docs, path), readFileSync(path, 'utf8')]));
}

/** What the pages would be, generated apart. */
export async function expectedPages(provider: Provider): Promise<Readonly<Record<string, string>>> {
  const folder = mkdtempSync(join(tmpdir(), 'sallyport-pages-'));
  try {
    for (const part of ['examples', 'templates']) {
      cpSync(join(terraformFolder, part), join(folder, part), { recursive: true });
    }
    await generatePages(provider, folder);
    return readPages(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
