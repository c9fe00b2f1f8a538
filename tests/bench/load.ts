import { spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';

export interface Throughput {
  readonly requestsPerSecond: number;
  readonly latencyP50Ms: number;
  readonly latencyP99Ms: number;
  /** Answers other than 2xx, and socket errors: a run with any is not a measurement. */
  readonly failures: number;
}

export interface LoadRequest {
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

function lua(request: LoadRequest): string {
  const headers = Object.entries(request.headers)
    .map(([name, value]) => `wrk.headers[${JSON.stringify(name)}] = ${JSON.stringify(value)}`)
    .join('\n');
  return `wrk.method = "POST"
wrk.body = ${JSON.stringify(request.body)}
${headers}
done = function(summary, latency)
  io.write(string.format('RESULT {"requests":%d,"microseconds":%d,"p50":%d,"p99":%d,"failures":%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
`;
}

/** Closed-loop load with wrk: as many requests as the connections can carry. */
export async function measureThroughput(
  request: LoadRequest,
  options: {
    readonly directory: string;
    readonly seconds: number;
    readonly connections: number;
    readonly pin: readonly string[];
  },
): Promise<Throughput> {
  const script = join(options.directory, 'load.lua');
  await writeFile(script, lua(request));
  const [command, ...args] = [
    ...options.pin,
    'wrk',
    '-t1',
    `-c${options.connections}`,
    `-d${options.seconds}s`,
    '--timeout',
    '10s',
    '-s',
    script,
    request.url.href,
  ];
  const output = await new Promise<string>((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    let text = '';
    child.stdout.on('data', (chunk: Buffer) => {
      text += chunk.toString();
    });
    child.once('error', reject);
    child.once('close', (code) =>
      code === 0 ? resolve(text) : reject(new Error(`wrk exited with ${String(code)}: ${text}`)),
    );
  });
  const line = /^RESULT (.*)$/m.exec(output)?.[1];
  if (line === undefined) throw new Error(`wrk printed no result: ${output}`);
  const result = JSON.parse(line) as {
    requests: number;
    microseconds: number;
    p50: number;
    p99: number;
    failures: number;
  };
  return {
    requestsPerSecond: (result.requests / result.microseconds) * 1e6,
    latencyP50Ms: result.p50 / 1000,
    latencyP99Ms: result.p99 / 1000,
    failures: result.failures,
  };
}

export interface Latency {
  readonly sent: number;
  readonly failures: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

export interface OpenLoop {
  readonly requestsPerSecond: number;
  /** Asked at each request, with the milliseconds since the first. */
  readonly isOver: (elapsedMs: number) => boolean;
  /** What happens between requests; default a turn of the event loop, which keeps a core busy. */
  readonly turn?: () => Promise<unknown>;
}

/**
 * Open-loop load at a fixed rate: each request is sent when its time has come, whether or not earlier ones were
 * answered, and its latency counts from that time, so a stall shows in every request it delays.
 * @param send resolves with whether the answer was as it should be
 */
export async function measureLatency(send: () => Promise<boolean>, loop: OpenLoop): Promise<Latency> {
  const { requestsPerSecond, isOver, turn = () => new Promise((resolve) => setImmediate(resolve)) } = loop;
  const latencies: number[] = [];
  let failures = 0;
  let sent = 0;
  const began = performance.now();
  const underWay = new Set<Promise<void>>();
  for (let elapsedMs = 0; !isOver(elapsedMs); elapsedMs = performance.now() - began) {
    const due = Math.floor((elapsedMs * requestsPerSecond) / 1000) + 1;
    for (; sent < due; sent++) {
      const dueAt = began + (sent * 1000) / requestsPerSecond;
      const answered = send().then((ok) => {
        if (ok) latencies.push(performance.now() - dueAt);
        else failures++;
        underWay.delete(answered);
      });
      underWay.add(answered);
    }
    await turn();
  }
  await Promise.all(underWay);
  latencies.sort((a, b) => a - b);
  return { sent, failures, p50Ms: quantile(latencies, 0.5), p99Ms: quantile(latencies, 0.99) };
}

/** @param sorted ascending; NaN where it is empty */
export function quantile(sorted: readonly number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

export function median(values: readonly number[]): number {
  return quantile(
    values.toSorted((a, b) => a - b),
    0.5,
  );
}

/** One of them, at random. */
export function pick<Item>(items: readonly Item[]): Item {
  const item = items[randomInt(items.length)];
  if (item === undefined) throw new Error('nothing to choose from');
  return item;
}
