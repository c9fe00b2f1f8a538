/** The provider's client, generated from the published schema by the generator that `terraform/tools` pins. */
import { cpSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { repositoryRoot } from '../contract/generated-files.ts';
import { findBinary } from '../kit/binaries.ts';
import { run } from '../kit/terraform.ts';

export const generatedClientPath = 'terraform/internal/api/generated.go';

/**
 * @param root of a tree with `terraform/internal/api` and `schema/generated`; the client is written into it
 * @throws Error with what the generator says, such as that an operation does not fit the schema
 */
export async function generateClient(root: string): Promise<void> {
  const config = join(root, 'terraform/internal/api/genqlient.yaml');
  const tools = join(repositoryRoot(), 'terraform/tools');
  const { code, output } = await run(findBinary('go') ?? 'go', ['run', 'github.com/Khan/genqlient', config], {
    cwd: tools,
  });
  if (code !== 0) throw new Error(`the client of the Terraform provider cannot be generated:\n${output}`);
}

/** What the client would be, generated apart. */
export async function expectedClient(): Promise<string> {
  const root = mkdtempSync(join(tmpdir(), 'sallyport-client-'));
  try {
    for (const folder of ['terraform/internal/api', 'schema/generated']) {
      cpSync(join(repositoryRoot(), folder), join(root, folder), { recursive: true });
    }
    await generateClient(root);
    return readFileSync(join(root, generatedClientPath), 'utf8');
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
}
