import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { repositoryRoot } from '../contract/generated-files.ts';
import { type AuthResult, expectedAuthFailures } from './auth-leg.ts';
import { type ClientCellResult, clientScenarios, expectedClientFailures, notInTheMidst } from './client-leg.ts';
import { type Cell, type CellResult, expectedFailures, isSameEra } from './matrix.ts';
import { scoredScenarios } from './run-suite.ts';

const pageFile = join(repositoryRoot(), 'docs/reference/conformance.md');

export function readPage(): string {
  return readFileSync(pageFile, 'utf8');
}

const erasText = { dual: 'both eras', legacy: 'legacy only', modern: 'modern only' } as const;

function scoreOf({ scenarios, failed }: CellResult | ClientCellResult | AuthResult): string {
  const exceptions = failed.size === 0 ? '–' : [...failed.keys()].map((scenario) => `\`${scenario}\``).join(', ');
  return `${scenarios - failed.size}/${scenarios} | ${exceptions}`;
}

const way = (isSame: boolean): string => (isSame ? 'as it is' : 'translated');

/** One line of the first table; what a cell must keep to. */
export function rowOfResult(result: CellResult): string {
  const { eras, revision, topology }: Cell = result;
  return `| ${erasText[eras]} | ${revision} | ${topology} | ${way(isSameEra(result))} | ${scoreOf(result)} |`;
}

/** One line of the second table. */
export function rowOfClientResult(result: ClientCellResult): string {
  const { server, client, topology } = result;
  return `| the suite's, ${server} | ${client} | ${topology} | ${way(server === client)} | ${scoreOf(result)} |`;
}

/** One line of the third table. */
export function rowOfAuthResult(result: AuthResult): string {
  return `| the gateway | the suite's, ${result.revision} | ${scoreOf(result)} |`;
}

/** The rows of all tables as a page has them. */
export function rowsOfPage(page: string): readonly string[] {
  return page.split('\n').filter((line) => /^\| (?:both|legacy|modern|the suite's, |the gateway )/.test(line));
}

/** A row up to its score: what it is about. */
export function subjectOf(row: string): string {
  return row.replace(/\| \d+\/\d+ \| [^|]* \|$/, '');
}

/** Writes the page with this row in place of the one about the same. */
export function writeRow(row: string): void {
  const rows = rowsOfPage(readPage());
  const at = rows.findIndex((one) => subjectOf(one) === subjectOf(row));
  writeFileSync(pageFile, conformancePage(at < 0 ? [...rows, row] : rows.with(at, row)));
}

function reasons(exceptions: Readonly<Record<string, string>>): string {
  return Object.entries(exceptions)
    .map(([scenario, reason]) => `- \`${scenario}\`: ${reason}`)
    .join('\n');
}

function loginScenarios(): string {
  const all = [...scoredScenarios('2025-11-25', 'client'), ...scoredScenarios('2026-07-28', 'client')];
  const left = [...new Set(all)].filter((scenario) => !scenario.startsWith('auth/'));
  const driven = new Set([...clientScenarios('2025-11-25'), ...clientScenarios('2026-07-28')]);
  const missing = left.filter((scenario) => !driven.has(scenario));
  if (missing.length > 0) throw new Error(`scenarios that are neither run nor excepted: ${missing.join(', ')}`);
  const names = [...new Set(all)].filter((scenario) => scenario.startsWith('auth/'));
  return names.map((name) => `\`${name}\``).join(', ');
}

/** `docs/reference/conformance.md`, with these rows in its tables. */
export function conformancePage(rows: readonly string[]): string {
  const isClientRow = (row: string): boolean => row.startsWith("| the suite's");
  const isAuthRow = (row: string): boolean => row.startsWith('| the gateway');
  return `<!-- Written by \`pnpm conformance\`; do not edit. -->

# Conformance

The official conformance suite (\`@modelcontextprotocol/conformance\`) through nodes of Sallyport, in both its legs. Where
client and server share no era, every message is translated ([era-bridges.md](era-bridges.md)). Over three nodes each
request goes to the next one, and the first node is cut off in the midst, at a moment in which nothing is under way.

## The suite as the client
Against one reference server, as a client of each revision. The server speaks both eras, or one alone.

| server | client | nodes | messages pass | scored scenarios | not passed |
|---|---|---|---|---|---|
${rows.filter((row) => !isClientRow(row) && !isAuthRow(row)).join('\n')}

What is not passed, and why the wire cannot carry it:

${reasons(expectedFailures)}

## The suite as the server
The suite starts a server for each scenario and judges what it is sent: by a client on the official SDK, v1 for 2025-11-25
and v2 for 2026-07-28, that a node stands before. The node is cut off once the client is connected. Beside the scored
scenarios \`json-schema-2020-12-preservation\` counts, which is younger than both revisions.

| server | client | nodes | messages pass | scenarios | not passed |
|---|---|---|---|---|---|
${rows.filter(isClientRow).join('\n')}
${Object.keys(expectedClientFailures).length === 0 ? '' : `\nWhat is not passed, and why:\n\n${reasons(expectedClientFailures)}\n`}
What nodes cannot stand in the midst of, and why:

- ${loginScenarios()}: ${notInTheMidst}

## The gateway as an OAuth client
Servers of the suite want a token, and its authorization servers judge whoever asks for one. The control plane finds out who
issues it and becomes a client there, a user connects his account on its page (a program does what his browser would), and a
node calls with it. A warning of the suite counts as a failure here.

| client | servers | scenarios | not passed |
|---|---|---|---|
${rows.filter(isAuthRow).join('\n')}
${Object.keys(expectedAuthFailures).length === 0 ? '' : `\nWhat is not passed, and why:\n\n${reasons(expectedAuthFailures)}\n`}
For \`auth/basic-cimd\` the gateway is told the id of the one document that the suite knows, as an administrator would register
it; that it names its own, where that is served over https, is tested apart (\`tests/credentials/client-registration.test.ts\`).
For \`auth/pre-registration\` it is told the client that the suite hands out. Not run are scenarios that count toward no
revision: \`auth/dpop\`, \`auth/dpop-nonce\` and \`auth/wif-jwt-bearer\`, which the gateway does not do, and
\`auth/client-credentials-jwt\`, \`auth/client-credentials-basic\` and \`auth/enterprise-managed-authorization\`, whose modes have
tests of their own (\`tests/credentials\`): the last hands out an ID token, and the gateway takes one from a login alone.

## How it is kept
\`pnpm conformance\` runs all of it, in some minutes, and writes this page; the tests run the translated half over three
nodes and hold it to the page. Of several nodes every other one speaks HTTP with the other pair of edges
([decision 0135](../decisions/0135-both-pairs-of-edges-are-held-to-one-list.md)); with
\`SALLYPORT_TESTS_HTTP_ENGINE=libraries\` one node does too, and the page is the same. That bytes which pass score the same as
directly, check by check, is tested as well (\`tests/conformance/suite.test.ts\`).
`;
}
