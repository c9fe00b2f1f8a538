import { type Cell, type CellResult, expectedFailures, isSameEra } from './matrix.ts';

const erasText = { dual: 'both eras', legacy: 'legacy only', modern: 'modern only' } as const;

/** One line of the page's table; what a cell must keep to. */
export function rowOf(cell: Cell, passed: number, scenarios: number, failed: readonly string[]): string {
  const way = isSameEra(cell) ? 'as it is' : 'translated';
  const exceptions = failed.length === 0 ? '–' : failed.map((scenario) => `\`${scenario}\``).join(', ');
  return `| ${erasText[cell.eras]} | ${cell.revision} | ${cell.topology} | ${way} | ${passed}/${scenarios} | ${exceptions} |`;
}

export function rowOfResult(result: CellResult): string {
  return rowOf(result, result.scenarios - result.failed.size, result.scenarios, [...result.failed.keys()]);
}

/** `docs/reference/conformance.md`. */
export function conformancePage(results: readonly CellResult[]): string {
  const reasons = Object.entries(expectedFailures).map(([scenario, reason]) => `- \`${scenario}\`: ${reason}`);
  return `<!-- Written by \`pnpm conformance\`; do not edit. -->

# Conformance

The official conformance suite (\`@modelcontextprotocol/conformance\`) against one reference server, as a client of each
revision, through nodes of Sallyport. The server speaks both eras, or one alone; where it does not speak the client's, every
message is translated ([era-bridges.md](era-bridges.md)). Over three nodes each request goes to the next one, and the first
node is cut off in the midst of the run, at a moment in which nothing is under way.

| server | client | nodes | messages pass | scored scenarios | not passed |
|---|---|---|---|---|---|
${results.map(rowOfResult).join('\n')}

What is not passed, and why the wire cannot carry it:

${reasons.join('\n')}

\`pnpm conformance\` runs all of it, in some minutes, and writes this page; the tests run the translated half over three
nodes and hold it to the page. That bytes which pass score the same as directly, check by check, is tested as well
(\`tests/conformance/suite.test.ts\`).
`;
}
