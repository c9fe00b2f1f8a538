/** Hours in little: whether a node that is used for long holds more and more. */
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { startEchoUpstream } from '../kit/echo-upstream.ts';
import { Figures } from './figures.ts';
import { MixedLoad } from './mixed-load.ts';
import { probeMessage, type Probed } from './node-probe.ts';
import { startTopology, type Topology } from './topology.ts';

/** Share of what the node can carry. */
const loadShare = 0.6;
const capacitySeconds = 10;
const clients = 16;
/**
 * Before the node is looked at: sessions at legacy upstreams are ended when nobody used them for a minute, and the
 * connections on which that is said close a minute later.
 */
const restMs = 130_000;
const firstLookMinutes = 5;
const heapGrowthPercentMax = 2;
const residentGrowthPercentMax = 5;
/** A segment of the spool, a connection of a pool: what comes and goes by itself. */
const comesAndGoes = 5;
const eventLoopDelayMsMax = 50;

async function probe({ nodeChild }: Topology): Promise<Probed> {
  await delay(restMs);
  const answered = once(nodeChild, 'message') as Promise<[Probed]>;
  nodeChild.send(probeMessage);
  return (await answered)[0];
}

export async function measureEndurance(
  { minutes }: { readonly minutes: number },
  directory: string,
  print: (line: string) => void,
  atEnd: (stop: () => Promise<void>) => void,
): Promise<Figures> {
  const figures = new Figures(print);
  const modern = await startEchoUpstream('modern');
  atEnd(() => modern.stop());
  const legacy = await startEchoUpstream('legacy');
  atEnd(() => legacy.stop());
  // At an address of its own: another program may be given its port before the end.
  const down = await startEchoUpstream('modern', undefined, '127.0.0.2');
  const topology = await startTopology({
    directory,
    nodePin: ['taskset', '-c', '1'],
    // With SIGUSR2 a heap snapshot is written, to see what grows.
    nodeArguments: [
      '--expose-gc',
      '--heapsnapshot-signal=SIGUSR2',
      '--import',
      new URL('./node-probe.js', import.meta.url).href,
    ],
    upstreams: new Map([
      ['modern', new URL(modern.url)],
      ['legacy', new URL(legacy.url)],
      ['down', new URL(down.url)],
    ]),
    clients,
    atEnd,
  });
  await down.stop();
  const load = new MixedLoad({ nodeUrl: topology.nodeUrl.href, keys: topology.clients.map(({ key }) => key) });
  atEnd(() => load.stop());
  await load.capacity(capacitySeconds);
  const capacity = await load.capacity(capacitySeconds);
  figures.add('calls of the mixture that the node carries', capacity, '/s');
  const rate = Math.max(1, Math.floor(capacity * loadShare));
  const firstMinutes = Math.min(firstLookMinutes, minutes / 3);
  let sent = 0;
  const run = async (lastMinutes: number): Promise<void> => {
    const { latency, wrong } = await load.run(lastMinutes * 60, rate);
    sent += latency.sent;
    if (latency.failures > 0) throw new Error(`${latency.failures} calls came out wrong: ${wrong.join('; ')}`);
  };
  await run(firstMinutes);
  const first = await probe(topology);
  print(`after ${firstMinutes.toFixed(1)} minutes: ${JSON.stringify(first)}`);
  await run(minutes - firstMinutes);
  const last = await probe(topology);
  print(`after ${minutes} minutes: ${JSON.stringify(last)}`);
  print(`${sent} calls at ${rate}/s; from minute ${firstMinutes.toFixed(1)} to ${minutes}:`);
  addGrowth(first, last, figures);
  return figures;
}

function addGrowth(first: Probed, last: Probed, figures: Figures): void {
  const mebibytes = (bytes: number): number => bytes / 1024 / 1024;
  const percent = (of: (probed: Probed) => number): number => (of(last) / of(first) - 1) * 100;
  figures.add('heap after a forced collection', mebibytes(last.heapBytes), 'MiB');
  figures.add(
    '  its growth',
    percent(({ heapBytes }) => heapBytes),
    '%',
    { most: heapGrowthPercentMax },
  );
  figures.add('resident memory', mebibytes(last.residentBytes), 'MiB');
  figures.add(
    '  its growth',
    percent(({ residentBytes }) => residentBytes),
    '%',
    { most: residentGrowthPercentMax },
  );
  figures.add('more descriptors', last.descriptors - first.descriptors, '', { most: comesAndGoes });
  figures.add('more sockets', last.sockets - first.sockets, '', { most: comesAndGoes });
  figures.add('more timers', last.timers - first.timers, '', { most: comesAndGoes });
  figures.add('event-loop delay, p99', last.eventLoopDelayP99Ms, 'ms', { most: eventLoopDelayMsMax });
}
