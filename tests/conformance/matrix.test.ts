import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { type Cell, cells, expectedFailures, isSameEra, runCell } from './matrix.ts';
import { rowOfResult } from './page.ts';

const page = readFileSync(join(import.meta.dirname, '../../docs/reference/conformance.md'), 'utf8');
const suiteDeadlineMs = 150_000;

function nameOf({ eras, revision, topology }: Cell): string {
  return `${revision} client, ${eras} server, ${topology}`;
}

/** The short form; `pnpm conformance` runs every cell. */
const translated = cells.filter((cell) => !isSameEra(cell) && cell.topology !== 'one node');

describe('where client and server share no era, over nodes of which one dies', () => {
  test.each(translated.map((cell) => [nameOf(cell), cell] as const))(
    'the suite scores as the page says: %s',
    async (_name, cell) => {
      const result = await runCell(cell);
      expect(result.isKilled).toBe(true);
      const unexpected = [...result.failed].filter(
        ([scenario]) => cell.revision === '2025-11-25' || !Object.hasOwn(expectedFailures, scenario),
      );
      expect(unexpected).toEqual([]);
      expect(page).toContain(rowOfResult(result));
    },
    suiteDeadlineMs,
  );
});

test('the page has a row for every combination, and a reason for every exception', () => {
  expect(page.split('\n').filter((line) => /^\| (both|legacy|modern)/.test(line))).toHaveLength(cells.length);
  const named = [...page.matchAll(/`(?:server|input|tools|caching)[\w-]*`/g)].map(([text]) => text.slice(1, -1));
  for (const scenario of new Set(named)) expect(Object.keys(expectedFailures)).toContain(scenario);
});
