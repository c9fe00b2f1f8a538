import { expect, test } from 'vitest';
import { testConfig } from '../kit/config.ts';
import { authRevisions, expectedAuthFailures } from './auth-leg.ts';
import { type ClientCell, clientCells, expectedClientFailures, runClientCell } from './client-leg.ts';
import { type Cell, cells, expectedFailures, isSameEra, runCell } from './matrix.ts';
import {
  conformancePage,
  readPage,
  rowOfAuthResult,
  rowOfClientResult,
  rowOfResult,
  rowsOfPage,
  subjectOf,
  writeRow,
} from './page.ts';

const suiteDeadlineMs = 150_000;

function nameOf({ eras, revision, topology }: Cell): string {
  return `${revision} client, ${eras} server, ${topology}`;
}

function nameOfClient({ client, server, topology }: ClientCell): string {
  return `${client} client, server of ${server}, ${topology}`;
}

/** The short form: translated, and over nodes of which one dies. `pnpm conformance` runs every cell. */
const chosen = cells.filter(
  (cell) => testConfig.isConformanceWhole || (!isSameEra(cell) && cell.topology !== 'one node'),
);
const chosenOfClients = clientCells.filter(
  ({ server, client, topology }) => testConfig.isConformanceWhole || (server !== client && topology !== 'one node'),
);

function holdToPage(row: string): void {
  if (process.env['UPDATE_GOLDEN'] === '1') writeRow(row);
  expect(readPage()).toContain(row);
}

test.each(chosen.map((cell) => [nameOf(cell), cell] as const))(
  'the suite scores as the page says: %s',
  async (_name, cell) => {
    const result = await runCell(cell);
    expect(result.isKilled).toBe(cell.topology === 'one node' ? null : true);
    const isExpected = (scenario: string): boolean =>
      cell.revision !== '2025-11-25' && Object.hasOwn(expectedFailures, scenario);
    expect([...result.failed].filter(([scenario]) => !isExpected(scenario))).toEqual([]);
    holdToPage(rowOfResult(result));
  },
  suiteDeadlineMs,
);

test.each(chosenOfClients.map((cell) => [nameOfClient(cell), cell] as const))(
  'servers of the suite see what the page says: %s [P05] [P08] [P52]',
  async (_name, cell) => {
    const result = await runClientCell(cell);
    expect(result.kills).toBeGreaterThanOrEqual(cell.topology === 'one node' ? 0 : result.scenarios - 1);
    const unexpected = [...result.failed].filter(([scenario]) => !Object.hasOwn(expectedClientFailures, scenario));
    expect(unexpected).toEqual([]);
    holdToPage(rowOfClientResult(result));
  },
  suiteDeadlineMs,
);

test('the page has a row for every combination, and a reason for every exception', () => {
  const rows = rowsOfPage(readPage());
  const isAbout = (row: string) => (one: string) => subjectOf(one) === subjectOf(row);
  expect(rows).toHaveLength(cells.length + clientCells.length + authRevisions.length);
  for (const cell of cells) expect(rows.filter(isAbout(rowOfResult(empty(cell))))).toHaveLength(1);
  for (const cell of clientCells) {
    expect(rows.filter(isAbout(rowOfClientResult(empty(cell))))).toHaveLength(1);
  }
  for (const revision of authRevisions) {
    expect(rows.filter(isAbout(rowOfAuthResult({ ...empty({}), revision })))).toHaveLength(1);
  }
  const excepted = new Set(rows.flatMap((row) => [...row.matchAll(/`([\w/-]+)`/g)].map(([, scenario]) => scenario)));
  expect(excepted).toEqual(
    new Set(Object.keys({ ...expectedFailures, ...expectedClientFailures, ...expectedAuthFailures })),
  );
});

test('the page is what `pnpm conformance` writes', () => {
  const page = readPage();
  expect(page).toBe(conformancePage(rowsOfPage(page)));
});

function empty<T>(
  cell: T,
): T & { scenarios: number; failed: Map<string, string[]>; kills: number; isKilled: null; result: Map<string, []> } {
  return { ...cell, scenarios: 0, failed: new Map(), kills: 0, isKilled: null, result: new Map() };
}
