/** `pnpm generate`: writes every generated file anew. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { generatedFromContracts, repositoryRoot } from './contract/generated-files.ts';

for (const [path, text] of generatedFromContracts()) {
  const file = join(repositoryRoot(), path);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, text);
  process.stdout.write(`${path}\n`);
}
