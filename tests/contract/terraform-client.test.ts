import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { hasBinary } from '../kit/binaries.ts';
import { expectedClient, generatedClientPath } from '../terraform/generated-client.ts';
import { repositoryRoot } from './generated-files.ts';

const hasGo = hasBinary('go', 'golang-go', "the drift of the Terraform provider's client");

test.skipIf(!hasGo)(
  `${generatedClientPath} equals its source (pnpm generate writes it)`,
  async () => {
    expect(await expectedClient()).toBe(readFileSync(join(repositoryRoot(), generatedClientPath), 'utf8'));
  },
  120_000,
);
