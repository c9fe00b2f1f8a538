import { features, versionOf } from './clients.ts';
import { type InteropCell, knownBugs } from './matrix.ts';
import type { InteropServer } from './servers.ts';

function titleOf({ name, packageName }: InteropServer): string {
  return packageName === null ? name : `${name} (\`${packageName}\` ${versionOf(packageName)})`;
}

/** The table of one server, a line per client. */
export function tableOf(server: InteropServer, cells: readonly InteropCell[]): string {
  const rows = cells
    .filter((cell) => cell.server.slug === server.slug)
    .map(({ client, verdicts }) => {
      const version = versionOf(client.packageName);
      const marks = features.map((feature) => verdicts[feature].replace(/^fails:[^]*/, 'fails'));
      return `| ${client.name} ${version} | ${client.revision} | ${marks.join(' | ')} |`;
    });
  return `## ${titleOf(server)}
It speaks ${server.speaks}.

| client | revision | ${features.join(' | ')} |
|---|---|${features.map(() => '---|').join('')}
${rows.join('\n')}
`;
}

/** The table of one server as a page has it; empty where it has none. */
export function tableOfPage(page: string, server: InteropServer): string {
  const start = page.indexOf(`## ${titleOf(server)}\n`);
  return start < 0 ? '' : page.slice(start, page.indexOf('\n\n## ', start) + 1);
}

/** `docs/reference/interoperability.md`, with these tables. */
export function interoperabilityPage(tables: readonly string[]): string {
  const bugs = knownBugs.map(({ client, revision, feature, what }) => `- ${client}, ${revision}, ${feature}: ${what}`);
  return `<!-- Written by \`tests/interop/matrix.test.ts\` with UPDATE_GOLDEN=1; do not edit. -->

# Interoperability

Clients and servers that others made, through three nodes of which a round robin chooses one per request: each client on
each server in each revision it speaks. Where the server does not speak the client's revision, every message is translated
([era-bridges.md](era-bridges.md)). *Progress* means that the client heard of it; *cancel* that the client gave up a call and
the server was told, in the way of its own revision. Packages from npm are named with their versions; the last server is
ours, on the official SDK, because those of others speak no 2026-07-28 yet.

${tables.join('\n')}
## Bugs of clients
${bugs.join('\n')}
`;
}
