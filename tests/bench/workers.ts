/**
 * What a second worker costs: processor time of a call with one and with two, in interleaved rounds on the same core.
 * What two cores carry can only be seen where there are cores left for them, the upstream and the load.
 */
import { mkdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { freePort } from '@sallyport/cli';
import { startReferenceServer } from '../kit/reference-server.ts';
import { Figures } from './figures.ts';
import { measureThroughput, median, type Throughput } from './load.ts';
import { startNginx } from './nginx.ts';
import { processorSeconds } from './process-figures.ts';
import { answer, requireBinaries, warmUpSeconds } from './throughput.ts';
import { toolCall } from './tool-call.ts';
import { startTopology } from './topology.ts';

const connections = 64;
const costRatioMax = 1.15;
const throughputRatioMin = 1.7;
/** One for each worker, and as many again for the upstream, the load and the control plane. */
const coresMin = 6;

interface Contender {
  readonly workers: number;
  readonly pid: number;
  readonly measure: (seconds: number) => Promise<Throughput>;
  readonly costs: number[];
  readonly rates: number[];
}

export async function measureWorkers(
  { seconds, rounds }: { readonly seconds: number; readonly rounds: number },
  directory: string,
  print: (line: string) => void,
  atEnd: (stop: () => Promise<void>) => void,
): Promise<Figures> {
  requireBinaries();
  const hasCores = availableParallelism() >= coresMin;
  const pin = (cores: string): string[] => ['taskset', '-c', cores];
  const restPin = pin(hasCores ? `2-${availableParallelism() - 1}` : '0');
  const reference = await startReferenceServer({ eras: 'modern' });
  atEnd(() => reference.stop());
  const nginx = await startNginx({
    directory,
    upstreamPort: await freePort(),
    proxyPort: await freePort(),
    discovery: new URL(reference.url),
    slow: new URL(reference.url),
    answers: new Map([['1-kib', answer(1024)]]),
    upstreamPin: restPin,
    proxyPin: restPin,
  });
  atEnd(() => nginx.stop());
  const contenders: Contender[] = [];
  for (const workers of [1, 2]) {
    const own = join(directory, `workers-${workers}`);
    mkdirSync(own);
    const topology = await startTopology({
      directory: own,
      nodePin: pin(hasCores ? '0,1' : '1'),
      upstreams: new Map([['small', new URL('/mcp/1-kib', nginx.upstream)]]),
      clients: 1,
      workers,
      atEnd,
    });
    const request = toolCall(new URL('/mcp/small', topology.nodeUrl), topology.clients[0]?.key ?? '');
    const measure = (lastsSeconds: number) =>
      measureThroughput(request, { directory, seconds: lastsSeconds, connections, pin: restPin });
    contenders.push({ workers, pid: topology.nodePid, measure, costs: [], rates: [] });
  }
  for (const { measure } of contenders) await measure(warmUpSeconds);
  for (let round = 0; round < rounds; round++) {
    for (const { workers, pid, measure, costs, rates } of contenders) {
      const before = processorSeconds(pid);
      const { requestsPerSecond, failures } = await measure(seconds);
      if (failures > 0) throw new Error(`${failures} requests failed with ${workers} workers`);
      costs.push(((processorSeconds(pid) - before) * 1e6) / (requestsPerSecond * seconds));
      rates.push(requestsPerSecond);
    }
  }
  return figuresOf(contenders, hasCores, print);
}

function figuresOf(contenders: readonly Contender[], hasCores: boolean, print: (line: string) => void): Figures {
  const figures = new Figures(print);
  const [one, two] = contenders;
  for (const { workers, costs, rates } of contenders) {
    figures.add(`processor time of a call, ${workers} worker(s)`, median(costs), 'µs');
    figures.add(`calls a second, ${workers} worker(s)`, median(rates), '/s');
  }
  const ratio = (of: (contender: Contender) => readonly number[]): number =>
    median(two === undefined ? [] : of(two)) / median(one === undefined ? [] : of(one));
  const cost = ratio(({ costs }) => costs);
  figures.add('processor time with two workers, of that with one', cost, '×', { most: costRatioMax });
  if (hasCores) {
    const throughput = ratio(({ rates }) => rates);
    figures.add('throughput with two workers, of that with one', throughput, '×', { least: throughputRatioMin });
  } else print(`throughput with two workers: not measured, that needs ${coresMin} cores`);
  return figures;
}
