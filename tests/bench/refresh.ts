/** A token that is to be renewed, wanted by many calls on three nodes at once: how often, and whether any call hears of it. */
import { join } from 'node:path';
import { startEmbeddedPostgres } from '@sallyport/cli';
import { migrate } from '@sallyport/control-plane/migrate';
import postgres from 'postgres';
import { callsPerNode, type CycleKind, cycleKinds, RefreshCycles } from '../credentials/refresh-cycles.ts';
import { startRefreshFleet } from '../credentials/refresh-fleet.ts';
import { Figures } from './figures.ts';

const usersMax = 100;
/** After so many rounds at the end of a token there is one of each other kind. */
const roundsBetweenOthers = 10;
const progressMs = 30_000;
const examplesMax = 5;

/** Kinds of rounds in their order. */
function* kindsOf(roundsAtEnd: number): Generator<CycleKind> {
  for (let round = 0; round < roundsAtEnd; round++) {
    yield 'ended';
    if (round % roundsBetweenOthers === 0) yield* cycleKinds.filter((kind) => kind !== 'ended');
  }
}

export async function measureRefreshes(
  { cycles }: { readonly cycles: number },
  directory: string,
  print: (line: string) => void,
  atEnd: (stop: () => Promise<void>) => void,
): Promise<Figures> {
  const database = await startEmbeddedPostgres({ directory: join(directory, 'postgres') });
  atEnd(() => database.stop());
  const sql = postgres(database.url, { max: 1, onnotice: () => undefined });
  await migrate(sql);
  await sql.end();
  const fleet = await startRefreshFleet({
    databaseUrl: database.url,
    directory,
    controlPlanes: 2,
    atEnd: (stop) => atEnd(async () => void (await stop())),
  });
  const userCount = Math.min(usersMax, cycles);
  const prepared = await RefreshCycles.prepare(fleet, userCount);
  const done: Record<CycleKind, number> = { ended: 0, ending: 0, refused: 0 };
  const sum = { failed: 0, notOnce: 0, sentEnded: 0 };
  const examples: string[] = [];
  const startedAt = performance.now();
  let printedAt = startedAt;
  const seconds = (): number => (performance.now() - startedAt) / 1_000;
  const total = (): number => done.ended + done.ending + done.refused;
  for (const kind of kindsOf(Math.ceil(cycles / userCount))) {
    const found = await prepared.round(kind);
    done[kind] += found.cycles;
    sum.failed += found.failed.length;
    sum.notOnce += found.notOnce;
    sum.sentEnded += found.sentEnded;
    examples.push(...found.failed.slice(0, examplesMax - examples.length));
    if (performance.now() - printedAt < progressMs) continue;
    printedAt = performance.now();
    const bad = `${sum.failed} calls failed, ${fleet.as.familiesRevoked} families revoked`;
    print(`${total()} cycles after ${seconds().toFixed(0)} s: ${bad}`);
  }
  print(`each cycle: ${callsPerNode} calls at once on each of 3 nodes, two control planes, one of ${userCount} users`);
  for (const example of examples) print(example);
  const figures = new Figures(print);
  figures.add('cycles at the end of a token', done.ended, '');
  figures.add('cycles ahead of it, while calls go on', done.ending, '');
  figures.add('cycles upon a refusal by the upstream', done.refused, '');
  figures.add('calls that were not answered', sum.failed, '', { most: 0 });
  figures.add('families revoked', fleet.as.familiesRevoked, '', { most: 0 });
  figures.add('cycles with another number of refreshes than one', sum.notOnce, '', { most: 0 });
  figures.add('cycles in which a token was sent that had ended', sum.sentEnded, '', { most: 0 });
  figures.add('refreshes', total() / seconds(), '/s');
  figures.add('calls', (total() * 3 * callsPerNode) / seconds(), '/s');
  return figures;
}
