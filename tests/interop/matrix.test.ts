import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { hasBinary } from '../kit/binaries.ts';
import { httpEngines } from '../kit/config.ts';
import { type Harness, startHarness } from '../kit/harness.ts';
import { interopClients } from './clients.ts';
import { type InteropCell, runInteropCell } from './matrix.ts';
import { interoperabilityPage, tableOf, tableOfPage } from './page.ts';
import { interopServers, type RunningServer } from './servers.ts';

const file = join(import.meta.dirname, '../../docs/reference/interoperability.md');
const home = mkdtempSync(join(tmpdir(), 'sallyport-interop-'));
const clients = interopClients(home);
const servers = interopServers.filter(({ name, needs }) => needs === undefined || hasBinary(needs, needs, name));
const running = new Map<string, RunningServer>();
let harness: Harness;
let key: string;
const matrixDeadlineMs = 180_000;

beforeAll(async () => {
  await Promise.all(servers.map(async (server) => running.set(server.slug, await server.start(home))));
  const upstreams = [...running.values()].map(({ tap }) => tap.url);
  harness = await startHarness({ upstreams, nodes: 3, httpEngines });
  const { administrator } = harness;
  key = (await administrator.createClient('caller')).key;
  for (const [slug, { tap }] of running) {
    const { id } = await administrator.registerServer(slug, tap.url);
    await administrator.grant({ serverId: id, tools: ['*'], prompts: ['*'], resources: ['*'] });
  }
  await administrator.converged();
}, 120_000);
afterAll(async () => {
  await harness?.stop();
  for (const server of running.values()) await server.stop();
  rmSync(home, { recursive: true, force: true });
});

/** All clients, one after the other: a server's tap must not mistake one call for another. */
async function cellsOf(server: (typeof servers)[number]): Promise<InteropCell[]> {
  const tap = running.get(server.slug)?.tap;
  if (tap === undefined) throw new Error(`${server.name} is not running`);
  const cells: InteropCell[] = [];
  for (const client of clients) {
    cells.push(await runInteropCell(client, server, { endpoint: harness.endpoint(server.slug, key), tap }));
  }
  return cells;
}

test(
  'every client uses every server in every revision it speaks, as far as both have the feature, as the page says',
  async () => {
    const cells = (await Promise.all(servers.map(cellsOf))).flat();
    const tables = new Map(servers.map((server) => [server.slug, tableOf(server, cells)]));
    process.stdout.write(`\n${[...tables.values()].join('\n')}\n`);
    const failed = cells.flatMap(({ client, server, verdicts }) =>
      Object.entries(verdicts)
        .filter(([, verdict]) => verdict.startsWith('fails'))
        .map(([feature, verdict]) => `${client.name} ${client.revision} on ${server.name}: ${feature} ${verdict}`),
    );
    expect(failed).toEqual([]);
    expect(cells).toHaveLength(clients.length * servers.length);
    // Where a server cannot run, its table is taken as it is.
    if (process.env['UPDATE_GOLDEN'] === '1')
      writeFileSync(file, interoperabilityPage(interopServers.map(({ slug }) => tables.get(slug) ?? '')));
    const page = readFileSync(file, 'utf8');
    const expected = interopServers.map((server) => tables.get(server.slug) ?? tableOfPage(page, server));
    expect(page).toBe(interoperabilityPage(expected));
  },
  matrixDeadlineMs,
);
