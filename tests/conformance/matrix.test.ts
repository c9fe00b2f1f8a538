import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { authRevisions, expectedAuthFailures } from './auth-leg.ts';
import { type ClientCell, clientCells, expectedClientFailures, runClientCell } from './client-leg.ts';
import { type Cell, cells, expectedFailures, isSameEra, runCell } from './matrix.ts';
import { conformancePage, rowOfAuthResult, rowOfClientResult, rowOfResult, rowsOfPage } from './page.ts';

const page = readFileSync(join(import.meta.dirname, '../../docs/reference/conformance.md'), 'utf8');
const suiteDeadlineMs = 150_000;

function nameOf({ eras, revision, topology }: Cell): string {
  return `${revision} client, ${eras} server, ${topology}`;
}

function nameOfClient({ client, server, topology }: ClientCell): string {
  return `${client} client, server of ${server}, ${topology}`;
}

/** The short form; `pnpm conformance` runs every cell. */
const translated = cells.filter((cell) => !isSameEra(cell) && cell.topology !== 'one node');
const translatedClients = clientCells.filter(({ server, client, topology }) => {
  return server !== client && topology !== 'one node';
});

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

  test.each(translatedClients.map((cell) => [nameOfClient(cell), cell] as const))(
    'servers of the suite see what the page says: %s [P05] [P08] [P52]',
    async (_name, cell) => {
      const result = await runClientCell(cell);
      expect(result.kills).toBeGreaterThanOrEqual(result.scenarios - 1);
      const unexpected = [...result.failed].filter(([scenario]) => !Object.hasOwn(expectedClientFailures, scenario));
      expect(unexpected).toEqual([]);
      expect(page).toContain(rowOfClientResult(result));
    },
    suiteDeadlineMs,
  );
});

test('the page has a row for every combination, and a reason for every exception', () => {
  const rows = rowsOfPage(page);
  expect(rows).toHaveLength(cells.length + clientCells.length + authRevisions.length);
  for (const cell of cells)
    expect(rows.filter((row) => row.startsWith(startOf(rowOfResult(empty(cell)))))).toHaveLength(1);
  for (const cell of clientCells) {
    expect(rows.filter((row) => row.startsWith(startOf(rowOfClientResult(empty(cell)))))).toHaveLength(1);
  }
  for (const revision of authRevisions) {
    expect(rows.filter((row) => row.startsWith(startOf(rowOfAuthResult({ ...empty({}), revision }))))).toHaveLength(1);
  }
  const excepted = new Set(rows.flatMap((row) => [...row.matchAll(/`([\w/-]+)`/g)].map(([, scenario]) => scenario)));
  expect(excepted).toEqual(
    new Set(Object.keys({ ...expectedFailures, ...expectedClientFailures, ...expectedAuthFailures })),
  );
});

test('the page is what `pnpm conformance` writes', () => {
  expect(page).toBe(conformancePage(rowsOfPage(page)));
});

function empty<T>(
  cell: T,
): T & { scenarios: number; failed: Map<string, string[]>; kills: number; isKilled: null; result: Map<string, []> } {
  return { ...cell, scenarios: 0, failed: new Map(), kills: 0, isKilled: null, result: new Map() };
}

/** A row up to its score. */
function startOf(row: string): string {
  return row.slice(0, row.lastIndexOf('| 0/0'));
}
