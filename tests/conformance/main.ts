import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { repositoryRoot } from '../contract/generated-files.ts';
import { AuthLeg, authRevisions } from './auth-leg.ts';
import { clientCells, runClientCell } from './client-leg.ts';
import { cells, runCell } from './matrix.ts';
import { conformancePage, rowOfAuthResult, rowOfClientResult, rowOfResult } from './page.ts';

const rows: string[] = [];

function print(row: string, failed: ReadonlyMap<string, readonly string[]>): void {
  rows.push(row);
  console.log(row);
  for (const [scenario, checks] of failed) console.log(`    ${scenario}: ${checks.join(', ')}`);
}

/** `pnpm conformance`: every cell of both legs, printed as it comes, and the page of them. */
for (const cell of cells) {
  const result = await runCell(cell);
  print(rowOfResult(result), result.failed);
  if (result.isKilled === false) process.exitCode = 1;
}
for (const cell of clientCells) {
  const result = await runClientCell(cell);
  print(rowOfClientResult(result), result.failed);
  if (cell.topology !== 'one node' && result.kills === 0) process.exitCode = 1;
}
const leg = await AuthLeg.start();
for (const revision of authRevisions) {
  const result = await leg.run(revision);
  print(rowOfAuthResult(result), result.failed);
}
await leg.stop();
writeFileSync(join(repositoryRoot(), 'docs/reference/conformance.md'), conformancePage(rows));
