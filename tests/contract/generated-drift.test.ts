import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { generatedFiles, repositoryRoot } from './generated-files.ts';

test.each([...generatedFiles()])('%s equals its source (pnpm generate writes it)', (path, text) => {
  expect(readFileSync(join(repositoryRoot(), path), 'utf8')).toBe(text);
});
