import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type CellResult, cells, runCell } from './matrix.ts';
import { conformancePage, rowOfResult } from './page.ts';

/** `pnpm conformance`: every cell, printed as it comes, and the page of them. */
const results: CellResult[] = [];
for (const cell of cells) {
  const result = await runCell(cell);
  results.push(result);
  console.log(rowOfResult(result));
  for (const [scenario, checks] of result.failed) console.log(`    ${scenario}: ${checks.join(', ')}`);
}
const page = join(import.meta.dirname, '../../../docs/reference/conformance.md');
writeFileSync(page, conformancePage(results));
process.exitCode = results.some(({ isKilled }) => isKilled === false) ? 1 : 0;
