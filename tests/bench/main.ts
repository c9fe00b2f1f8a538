/** `pnpm bench [throughput | calls | bridges | revocation | refresh | isolation | api | terraform | scale | workers | audit | propagation | endurance]`: measures, and prints what it found. */
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { measureIsolation } from '../isolation/run.ts';
import { measureApi } from './api.ts';
import { measureAudit } from './audit.ts';
import { measureBridges } from './bridges.ts';
import { measureCalls } from './calls.ts';
import { measureEndurance } from './endurance.ts';
import { type Figures, writeFigures } from './figures.ts';
import { measurePropagation } from './propagation.ts';
import { measureRefreshes } from './refresh.ts';
import { measureRevocations } from './revocation.ts';
import { measureScale } from './scale.ts';
import { measureTerraform } from './terraform.ts';
import { measureThroughputs } from './throughput.ts';
import { measureWorkers } from './workers.ts';

const usage = `pnpm bench [throughput] [--seconds N] [--rounds N] [--streams N] [--small]
  Measures a node between a load generator and nginx: requests per second and latency of
  direct, nginx proxy_pass and the node, with API-key authentication, grants and audit on;
  "inspect" is the node with a policy of all detectors on requests and answers.
  Needs nginx and wrk (apt install nginx wrk) and two cores.
  --seconds N     length of one measurement (default 5)
  --rounds N      interleaved rounds; medians are printed (default 3)
  --streams N     idle event streams to hold open (default 5000; 0 leaves that out)
  --small         the smallest answer alone, and no detectors

pnpm bench calls [--seconds N] [--rounds N]
  Measures what kinds of calls cost a node against a plain one: larger answers, answers in events,
  a list of 200 tools, an access token, a condition.

pnpm bench bridges [--seconds N] [--rounds N]
  Measures a call between protocol eras, both ways, against the same call passed through in the
  same run: processor time of the node for each request, and their ratio.

pnpm bench revocation [--trials N] [--load N] [--large]
  Measures, for each kind of revocation, how long after the mutation's answer a call is still
  admitted and a stream still open, and for each way in which what a server is called with ends,
  how long calls still carry it: 20 runtimes in 3 processes, 3 of them whole nodes.
  --trials N      revocations of each kind (default 20)
  --load N        calls of others on each node, per second (default 100)
  --large         among 2,000 servers, 100,000 tools, 10,000 grants and 20,000 principals

pnpm bench refresh [--cycles N]
  A user's token at its end, wanted by 50 calls on each of 3 nodes at once, of an authorization
  server that revokes all when a refresh token is used twice; two control planes, each a process
  with a clock that is moved. In between the same ahead of the end, and upon a 401: calls that
  were not answered, families revoked, refreshes beyond one in each cycle, refreshes per second.
  --cycles N      how often a token ends, in hundreds (default 10000)

pnpm bench isolation [--responses N]
  Sends calls of 200 principals with the same request ids through two nodes to one upstream,
  and checks that each answer and progress notification is that of its own request.
  --responses N   answers to check (default 1000000)

pnpm bench api [--rounds N] [--askers N]
  Lists, filters and searches the API among 2,000 servers, 100,000 tools, 10,000 grants, 20,000
  users and 200,000 audit events, and prints how long each takes.
  --askers N      requests at once (default 4)
  --rounds N      times that each is asked (default 50)

pnpm bench scale [--changes N] [--seconds N] [--small]
  A configuration of 2,000 servers, 100,000 tools, 10,000 grants and 20,000 principals in 500
  groups: compile of a change, a cold node, its memory, a decision, latency while it is applied.
  --changes N     changes of a grant to compile (default 50)
  --seconds N     length of one measurement of latency (default 5)
  --small         a tenth of the servers and principals

pnpm bench workers [--seconds N] [--rounds N]
  Measures the processor time of a call with one and with two workers on one core, and with six
  cores or more their throughput. Needs nginx and wrk.

pnpm bench audit [--shipped N] [--events N] [--rounds N]
  Measures how many audit events can be stored in a second, alone and all the way from the spools
  of nodes, with Redis and with PostgreSQL as the queue; and how long queries take among many.
  --shipped N     exchanges to send (default 60000; 0 leaves that out)
  --events N      events stored to look through (default 10000000; 0 leaves that out)
  --rounds N      times that each query is asked (default 20)

pnpm bench propagation [--changes N] [--small]
  50 nodes, 3 of them whole and called all the time: how long a change of a grant takes until the
  last one acknowledged it, its bytes, and how long all take to come back to a control plane that
  was killed and started again.
  --changes N     changes of a grant (default 50)
  --small         a tenth of the servers and principals

pnpm bench endurance [--minutes N]
  Calls of every kind, of both eras, aborted and refused ones too, at 60 % of what the node
  carries: whether memory, descriptors, sockets or timers grow from minute 5 to the end.
  --minutes N     how long (default 30)

pnpm bench terraform [--grants N]
  Plans, applies and destroys many grants with the real terraform. Needs Go and Terraform.
  --grants N      how many (default 500)

throughput, scale, propagation, audit, endurance, workers and refresh print the target beside each figure that
has one, and write all of them as JSON with --out FILE. Several names: one benchmark after the other, one file.
`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seconds: { type: 'string', default: '5' },
    rounds: { type: 'string' },
    askers: { type: 'string', default: '4' },
    streams: { type: 'string', default: '5000' },
    trials: { type: 'string', default: '20' },
    load: { type: 'string', default: '100' },
    large: { type: 'boolean', default: false },
    small: { type: 'boolean', default: false },
    changes: { type: 'string', default: '50' },
    cycles: { type: 'string', default: '10000' },
    minutes: { type: 'string', default: '30' },
    shipped: { type: 'string', default: '60000' },
    events: { type: 'string', default: '10000000' },
    responses: { type: 'string', default: '1000000' },
    grants: { type: 'string', default: '500' },
    out: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
});

type NumberOption = Exclude<keyof typeof values, 'large' | 'small' | 'out' | 'help'>;

function wholeNumber(name: NumberOption, smallest: number, otherwise?: number): number {
  const value = Number(values[name] ?? otherwise);
  if (!Number.isInteger(value) || value < smallest)
    throw new Error(`--${name} must be a whole number from ${smallest}`);
  return value;
}

const print = (line: string): void => console.log(line);

async function isolation(): Promise<void> {
  const found = await measureIsolation({ principals: 200, responses: wholeNumber('responses', 200) });
  print(`${found.responses} responses and ${found.progress} progress notifications in ${found.seconds.toFixed(0)} s`);
  print(`${found.mixed} of another request or principal, ${found.failures} failed`);
  for (const example of found.examples) print(example);
  if (found.mixed + found.failures > 0) throw new Error('not isolated');
}

interface Place {
  /** For whatever is written. */
  readonly directory: string;
  /** Takes what stops a part, as soon as the part runs. */
  readonly atEnd: (stop: () => Promise<void>) => void;
}

const rounds = (otherwise: number): number => wholeNumber('rounds', 1, otherwise);
const seconds = (): number => wholeNumber('seconds', 1);
const { small } = values;

/** By name; those that hold figures against targets give them back. */
const benchmarks: Readonly<Record<string, (place: Place) => Promise<Figures | void>>> = {
  throughput: ({ directory, atEnd }) => {
    const options = { seconds: seconds(), rounds: rounds(3), streams: wholeNumber('streams', 0), small };
    return measureThroughputs(options, directory, print, atEnd);
  },
  calls: ({ atEnd }) => measureCalls({ seconds: seconds(), rounds: rounds(3) }, print, atEnd),
  bridges: ({ atEnd }) => measureBridges({ seconds: seconds(), rounds: rounds(3) }, print, atEnd),
  workers: ({ directory, atEnd }) => measureWorkers({ seconds: seconds(), rounds: rounds(3) }, directory, print, atEnd),
  revocation: ({ directory, atEnd }) => {
    const options = { trials: wholeNumber('trials', 1), load: wholeNumber('load', 0), large: values.large };
    return measureRevocations(options, directory, print, atEnd);
  },
  refresh: ({ directory, atEnd }) => measureRefreshes({ cycles: wholeNumber('cycles', 1) }, directory, print, atEnd),
  isolation,
  api: ({ directory, atEnd }) =>
    measureApi({ rounds: rounds(50), askers: wholeNumber('askers', 1) }, directory, print, atEnd),
  scale: ({ directory, atEnd }) =>
    measureScale({ changes: wholeNumber('changes', 1), seconds: seconds(), small }, directory, print, atEnd),
  propagation: ({ directory, atEnd }) =>
    measurePropagation({ changes: wholeNumber('changes', 1), small }, directory, print, atEnd),
  audit: ({ directory, atEnd }) => {
    const options = { shipped: wholeNumber('shipped', 0), events: wholeNumber('events', 0), rounds: rounds(20) };
    return measureAudit(options, directory, print, atEnd);
  },
  endurance: ({ directory, atEnd }) =>
    measureEndurance({ minutes: wholeNumber('minutes', 1) }, directory, print, atEnd),
  terraform: ({ directory, atEnd }) => measureTerraform(wholeNumber('grants', 1), directory, print, atEnd),
};

type Measure = (typeof benchmarks)[string];

function benchmarkOf(name: string): Measure {
  const measure = Object.hasOwn(benchmarks, name) ? benchmarks[name] : undefined;
  if (measure === undefined) throw new Error(`there is no benchmark ${name}\n\n${usage}`);
  return measure;
}

async function run(measure: Measure): Promise<Figures | void> {
  const directory = mkdtempSync(join(tmpdir(), 'sallyport-bench-'));
  // Of root, PostgreSQL runs under another account, which must pass: its data would else lie elsewhere, and stay there.
  chmodSync(directory, 0o711);
  const stops: (() => Promise<void>)[] = [async () => rmSync(directory, { recursive: true, force: true })];
  try {
    return await measure({ directory, atEnd: (stop) => void stops.push(stop) });
  } finally {
    for (const stop of stops.toReversed()) await stop();
  }
}

async function main(): Promise<void> {
  if (values.help) return print(usage);
  const names = positionals.length === 0 ? ['throughput'] : positionals;
  const chosen = names.map((name) => [name, benchmarkOf(name)] as const);
  const found = new Map<string, Figures>();
  for (const [name, measure] of chosen) {
    const figures = await run(measure);
    if (figures !== undefined) found.set(name, figures);
    // After each, so that none is lost with one that fails.
    if (values.out !== undefined) writeFigures(values.out, found);
  }
}

main().then(
  () => process.exit(0),
  (error: unknown) => {
    console.error(error instanceof Error ? error.message : error);
    process.exit(1);
  },
);
