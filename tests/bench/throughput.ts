/**
 * Throughput and latency of a node against the upstream itself and against nginx as a proxy, in one run on
 * the same cores. Everything but the node is pinned to core 0, the node and the reference proxy, one at a time, to core 1.
 */
import { spawnSync } from 'node:child_process';
import { request as httpRequest } from 'node:http';
import { availableParallelism, cpus } from 'node:os';
import { freePort } from '@sallyport/cli';
import { Pool } from 'undici';
import { waitFor } from '../kit/condition.ts';
import { startReferenceServer } from '../kit/reference-server.ts';
import { Figures } from './figures.ts';
import { type LoadRequest, type Latency, measureLatency, measureThroughput, median, type Throughput } from './load.ts';
import { startNginx } from './nginx.ts';
import {
  keepToFirstCore,
  moveToFirstCore,
  processorSeconds,
  residentMebibytes,
  threadSeconds,
} from './process-figures.ts';
import { startUpstreamThread } from './thread.ts';
import { listenRequest, toolCall } from './tool-call.ts';
import { startTopology, type Topology } from './topology.ts';

const connections = 64;
const latencyRequestsPerSecond = 500;
const sizes = new Map([
  ['1-kib', 1024],
  ['16-kib', 16 * 1024],
  ['256-kib', 256 * 1024],
]);
/** Events of an answer that comes as a stream, the answer itself included. */
const streamedEvents = 6;
/** How long the upstream takes to answer where latency is measured, in milliseconds. */
const upstreamMs = 20;
const streamed = 'events';
/** The thread of a node that ships what it records; it needs no core of its own, and not that of the calls. */
const shippingThread = 'queue-worker';
const smallest = '1-kib';
/** Requests/s of a node with the smallest answer, as a share of nginx's. */
const shareOfNginxLeast = 0.45;
/** For each in turn, before rounds are measured. */
export const warmUpSeconds = 6;
const addedMsMost = { p50: 0.5, p99: 5 };
/** Three, and many clients, since streams take half of the room of a server and of a principal at most. */
const streamServers = ['reference-a', 'reference-b', 'reference-c'];
const streamsPerClient = 100;
const streamsOpenedAtOnce = 100;

export interface ThroughputOptions {
  /** Length of one measurement. */
  readonly seconds: number;
  /** Interleaved; medians are printed. */
  readonly rounds: number;
  /** Idle event streams to hold open; 0 leaves that out. */
  readonly streams: number;
  /** The smallest answer alone, without detectors. */
  readonly small: boolean;
}
type Print = (line: string) => void;

export function requireBinaries(): void {
  for (const name of ['nginx', 'wrk', 'taskset']) {
    const found = spawnSync(name, ['-v']);
    if (found.error !== undefined)
      throw new Error(`${name} is not installed (apt install ${name === 'taskset' ? 'util-linux' : name})`);
  }
  if (availableParallelism() < 2) throw new Error('two cores are needed: one for the node, one for everything else');
}

/** What answers say: words, since detectors look for them. */
const prose = 'The build of the main branch passed after two retries; see the log of the second step for details. ';

/** An answer to `tools/call` that has `bytes` bytes. */
export function answer(bytes: number): string {
  const around = (text: string): string =>
    JSON.stringify({ jsonrpc: '2.0', id: 1, result: { resultType: 'complete', content: [{ type: 'text', text }] } });
  const length = bytes - around('').length;
  return around(prose.repeat(Math.ceil(length / prose.length)).slice(0, length));
}

/** The same as an event stream, after progress notifications. */
function streamedAnswer(): string {
  const events = Array.from({ length: streamedEvents - 1 }, (_, at) =>
    JSON.stringify({
      jsonrpc: '2.0',
      method: 'notifications/progress',
      params: { progressToken: 1, progress: at + 1, total: streamedEvents },
    }),
  );
  return [...events, answer(1024)].map((data) => `event: message\ndata: ${data}\n\n`).join('');
}

/** Names of the answers that are measured. */
function answersOf(small: boolean): readonly string[] {
  return small ? [smallest] : [...sizes.keys(), streamed];
}

interface Contender {
  readonly name: string;
  /** The process in the middle; null: there is none. */
  readonly pid: number | null;
  readonly request: (size: string) => LoadRequest;
  /** A call of the upstream that takes its time. */
  readonly slow: LoadRequest;
}

interface Measured extends Throughput {
  /** Processor time of a request on the core of the process in the middle. */
  readonly cpuMicroseconds: number;
  /** The same elsewhere, of the thread that ships what a node records. */
  readonly shippingMicroseconds: number;
}

interface Spent {
  readonly onCore: number;
  readonly shipping: number;
  readonly threads: string;
}

/** Processor time of the process in the middle, in seconds; NaN where there is none. */
function spentBy(pid: number | null): Spent {
  if (pid === null) return { onCore: Number.NaN, shipping: Number.NaN, threads: '' };
  const { seconds, threads } = threadSeconds(pid, shippingThread);
  return { onCore: processorSeconds(pid) - seconds, shipping: seconds, threads };
}

/** @param rate requests/s of a contender */
function rowOf(size: string, name: string, measured: readonly Measured[], rate: (name: string) => number): string {
  const column = (width: number, digits: number, of: (result: Measured) => number, unit = ''): string => {
    const value = median(measured.map(of));
    return (Number.isNaN(value) ? '–' : `${value.toFixed(digits)}${unit}`).padStart(width);
  };
  return [
    size.padEnd(10),
    name.padEnd(8),
    rate(name).toFixed(0).padStart(11),
    column(8, 2, (result) => result.latencyP50Ms),
    column(8, 2, (result) => result.latencyP99Ms),
    (rate(name) / rate('direct')).toFixed(2).padStart(11),
    (rate(name) / rate('nginx')).toFixed(2).padStart(10),
    column(16, 0, (result) => result.cpuMicroseconds),
    // Less than all of it: the load or the upstream were slower.
    column(13, 0, (result) => (result.cpuMicroseconds * result.requestsPerSecond) / 1e4, ' %'),
    column(13, 0, (result) => result.shippingMicroseconds),
  ].join(' ');
}

async function throughputTable(
  contenders: readonly Contender[],
  directory: string,
  { seconds, rounds, small }: ThroughputOptions,
  figures: Figures,
  print: Print,
): Promise<void> {
  print(
    `\nThroughput, ${connections} connections, closed loop, median of ${rounds} interleaved rounds of ${seconds} s`,
  );
  const shares = 'of direct   of nginx   CPU µs/request   of its core   shipping µs';
  print(`answer      proxy     requests/s   p50 ms   p99 ms   ${shares}`);
  for (const size of answersOf(small)) {
    const results = new Map<string, Measured[]>(contenders.map(({ name }) => [name, []]));
    const pinned = { directory, connections, pin: ['taskset', '-c', '0'] };
    // Code that was not compiled yet would be measured with the first round, and on one core that takes seconds of load.
    for (const { request } of contenders) await measureThroughput(request(size), { ...pinned, seconds: warmUpSeconds });
    for (let round = 0; round < rounds; round++) {
      for (const { name, pid, request } of contenders) {
        const before = spentBy(pid);
        const measured = await measureThroughput(request(size), { ...pinned, seconds });
        if (measured.failures > 0) throw new Error(`${name}, ${size}: ${measured.failures} requests failed`);
        const after = spentBy(pid);
        if (after.threads !== before.threads) throw new Error(`${name}: the thread that ships was replaced meanwhile`);
        const perRequest = (spent: number): number => (spent * 1e6) / (measured.requestsPerSecond * seconds);
        results.get(name)?.push({
          ...measured,
          cpuMicroseconds: perRequest(after.onCore - before.onCore),
          shippingMicroseconds: perRequest(after.shipping - before.shipping),
        });
      }
    }
    const rate = (name: string): number => median(results.get(name)?.map((result) => result.requestsPerSecond) ?? []);
    for (const [name, measured] of results) {
      print(rowOf(size, name, measured, rate));
      if (name === 'direct' || name === 'nginx') continue;
      const target = name === 'node' && size === smallest ? { least: shareOfNginxLeast } : {};
      figures.add(`${size}, ${name}: requests/s, of nginx`, rate(name) / rate('nginx'), '', target);
      figures.add(`${size}, ${name}: CPU`, median(measured.map((result) => result.cpuMicroseconds)), 'µs/request');
      const shipping = median(measured.map((result) => result.shippingMicroseconds));
      figures.add(`${size}, ${name}: CPU of the thread that ships`, shipping, 'µs/request');
    }
  }
}

async function latencyTable(
  contenders: readonly Contender[],
  { seconds }: ThroughputOptions,
  figures: Figures,
  print: Print,
): Promise<void> {
  print(`\nLatency at ${latencyRequestsPerSecond} requests/s, open loop, upstream that takes ${upstreamMs} ms`);
  print('proxy      p50 ms   p99 ms   added p50   added p99');
  let direct: Latency | undefined;
  for (const { name, slow: load } of contenders) {
    const pool = new Pool(load.url.origin, { connections: 64 });
    const send = async (): Promise<boolean> => {
      const response = await pool.request({
        path: load.url.pathname,
        method: 'POST',
        headers: load.headers,
        body: load.body,
      });
      await response.body.dump();
      return response.statusCode === 200;
    };
    const during = (lastsMs: number) => ({
      requestsPerSecond: latencyRequestsPerSecond,
      isOver: (elapsedMs: number) => elapsedMs >= lastsMs,
    });
    await measureLatency(send, during(1000));
    const measured = await measureLatency(send, during(seconds * 1000));
    await pool.close();
    if (measured.failures > 0) throw new Error(`${name}: ${measured.failures} requests failed`);
    direct ??= measured;
    const [p50Ms, p99Ms] = [measured.p50Ms - direct.p50Ms, measured.p99Ms - direct.p99Ms];
    const row = [measured.p50Ms, measured.p99Ms, p50Ms, p99Ms].map((ms) => ms.toFixed(2).padStart(8));
    print(`${name.padEnd(8)} ${row.join('   ')}`);
    if (name !== 'node') continue;
    figures.add('latency added, p50', p50Ms, 'ms', { most: addedMsMost.p50 });
    figures.add('latency added, p99', p99Ms, 'ms', { most: addedMsMost.p99 });
  }
}

/** @returns a function that ends the stream; resolves with the stream's first event */
function openStream({ url, headers, body }: LoadRequest): Promise<() => void> {
  const { promise, resolve, reject } = Promise.withResolvers<() => void>();
  const request = httpRequest(url, { method: 'POST', agent: false, headers }, (response) => {
    if (response.statusCode !== 200) reject(new Error(`a stream was answered ${String(response.statusCode)}`));
    response.once('data', () => resolve(() => request.destroy()));
    response.on('error', () => undefined);
  });
  request.on('error', reject);
  request.end(body);
  return promise;
}

/** Opens streams that stay quiet, and reads the node's memory before and with them. */
async function idleStreams({ nodeUrl, nodePid, clients }: Topology, count: number, print: Print): Promise<void> {
  const before = residentMebibytes(nodePid);
  const open: (() => void)[] = [];
  while (open.length < count) {
    const batch = Array.from({ length: Math.min(streamsOpenedAtOnce, count - open.length) }, (_, at) => {
      const n = open.length + at;
      const url = new URL(`/mcp/${streamServers[n % streamServers.length] ?? ''}`, nodeUrl);
      return openStream(listenRequest(url, clients[n % clients.length]?.key ?? ''));
    });
    open.push(...(await Promise.all(batch)));
  }
  const resident = residentMebibytes(nodePid);
  for (const close of open) close();
  const perStream = ((resident - before) * 1024) / count;
  print(`\n${count} idle streams: ${resident.toFixed(0)} MiB resident in the node`);
  print(`(${before.toFixed(0)} MiB before them, so ${perStream.toFixed(1)} KiB a stream)`);
}

/** What is measured side by side. */
function contendersOf(
  nginx: Awaited<ReturnType<typeof startNginx>>,
  topology: Topology,
  slowUrl: string,
): readonly Contender[] {
  const key = topology.clients[0]?.key ?? '';
  const slowCall = (url: URL, credential: string | null): LoadRequest =>
    toolCall(url, credential, 'slow', { delayMs: upstreamMs });
  return [
    {
      name: 'direct',
      pid: null,
      request: (size) => toolCall(new URL(`/mcp/${size}`, nginx.upstream), null),
      slow: slowCall(new URL(slowUrl), null),
    },
    {
      name: 'nginx',
      pid: nginx.proxyPid,
      request: (size) => toolCall(new URL(`/mcp/${size}`, nginx.proxy), null),
      slow: slowCall(new URL('/slow', nginx.proxy), null),
    },
    {
      name: 'node',
      pid: topology.nodePid,
      request: (size) => toolCall(new URL(`/mcp/s-${size}`, topology.nodeUrl), key),
      slow: slowCall(new URL('/mcp/s-slow', topology.nodeUrl), key),
    },
    // The same with a policy of all detectors, both ways; the one above has none that is about it.
    {
      name: 'inspect',
      pid: topology.nodePid,
      request: (size) => toolCall(new URL(`/mcp/i-${size}`, topology.nodeUrl), key),
      slow: slowCall(new URL('/mcp/i-slow', topology.nodeUrl), key),
    },
  ];
}

/** Starts everything, measures, prints. What was started is handed to `atEnd`, to be stopped last first. */
export async function measureThroughputs(
  chosen: ThroughputOptions,
  directory: string,
  print: Print,
  atEnd: (stop: () => Promise<void>) => void,
): Promise<Figures> {
  requireBinaries();
  print(`${cpus()[0]?.model ?? 'unknown processor'}, ${availableParallelism()} cores, Node.js ${process.version}`);
  // The control plane and PostgreSQL run with the load generator, away from the node's core.
  keepToFirstCore(atEnd);
  const reference = await startReferenceServer({ eras: 'modern' });
  atEnd(() => reference.stop());
  const slowUrl = await startUpstreamThread(new URL('./slow-upstream.js', import.meta.url), atEnd);
  const nginx = await startNginx({
    directory,
    upstreamPort: await freePort(),
    proxyPort: await freePort(),
    discovery: new URL(reference.url),
    answers: new Map([
      ...[...sizes].map(([name, bytes]) => [name, answer(bytes)] as const),
      [streamed, streamedAnswer()],
    ]),
    slow: new URL(slowUrl),
    upstreamPin: ['taskset', '-c', '0'],
    proxyPin: ['taskset', '-c', '1'],
  });
  atEnd(() => nginx.stop());
  const answers = answersOf(chosen.small);
  // With the second prefix every detector looks on.
  const prefixes = chosen.small ? ['s'] : ['s', 'i'];
  const topology = await startTopology({
    directory,
    nodePin: ['taskset', '-c', '1'],
    upstreams: new Map([
      ...answers.flatMap((size): [string, URL][] =>
        prefixes.map((prefix) => [`${prefix}-${size}`, new URL(`/mcp/${size}`, nginx.upstream)]),
      ),
      ...prefixes.map((prefix): [string, URL] => [`${prefix}-slow`, new URL(slowUrl)]),
      ...(chosen.streams > 0 ? streamServers : []).map((slug): [string, URL] => [slug, new URL(reference.url)]),
    ]),
    clients: Math.max(1, Math.ceil(chosen.streams / streamsPerClient)),
    inspected: chosen.small ? [] : [...answers, 'slow'].map((size) => `i-${size}`),
    atEnd,
  });
  await waitFor('the node ships', () => moveToFirstCore(topology.nodePid, shippingThread));
  const contenders = contendersOf(nginx, topology, slowUrl).filter(({ name }) => !chosen.small || name !== 'inspect');
  const lines: string[] = [];
  const figures = new Figures((line) => void lines.push(line));
  await throughputTable(contenders, directory, chosen, figures, print);
  await latencyTable(contenders, chosen, figures, print);
  if (chosen.streams > 0) await idleStreams(topology, chosen.streams, print);
  for (const line of ['', ...lines]) print(line);
  return figures;
}
