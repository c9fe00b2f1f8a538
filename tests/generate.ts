/** `pnpm generate`: writes every generated file anew. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { generatedFiles, repositoryRoot } from './contract/generated-files.ts';
import { hasBinary } from './kit/binaries.ts';
import { buildProvider, hasTerraform } from './kit/terraform.ts';
import { generateClient, generatedClientPath } from './terraform/generated-client.ts';
import { generatedPagesPath, writePages } from './terraform/generated-pages.ts';

for (const [path, text] of generatedFiles()) {
  const file = join(repositoryRoot(), path);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, text);
  process.stdout.write(`${path}\n`);
}

if (hasBinary('go', 'golang-go', generatedClientPath)) {
  await generateClient(repositoryRoot());
  process.stdout.write(`${generatedClientPath}\n`);
}

if (hasTerraform(generatedPagesPath)) {
  const provider = await buildProvider();
  await writePages(provider).finally(() => provider.remove());
  process.stdout.write(`${generatedPagesPath}\n`);
}
