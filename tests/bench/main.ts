/** `pnpm bench [throughput | calls | bridges | revocation | isolation | api | terraform | scale | workers | audit | propagation | endurance]`: measures, and prints what it found. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { measureIsolation } from '../isolation/run.ts';
import { measureApi } from './api.ts';
import { measureAudit } from './audit.ts';
import { measureBridges } from './bridges.ts';
import { measureCalls } from './calls.ts';
import { measureEndurance } from './endurance.ts';
import { measurePropagation } from './propagation.ts';
import { measureRevocations } from './revocation.ts';
import { measureScale } from './scale.ts';
import { measureTerraform } from './terraform.ts';
import { measureThroughputs } from './throughput.ts';
import { measureWorkers } from './workers.ts';

const usage = `pnpm bench [throughput] [--seconds N] [--rounds N] [--streams N]
  Measures a node between a load generator and nginx: requests per second and latency of
  direct, nginx proxy_pass and the node, with API-key authentication, grants and audit on;
  "inspect" is the node with a policy of all detectors on requests and answers.
  Needs nginx and wrk (apt install nginx wrk) and two cores.
  --seconds N     length of one measurement (default 5)
  --rounds N      interleaved rounds; medians are printed (default 3)
  --streams N     idle event streams to hold open (default 5000; 0 leaves that out)

pnpm bench calls [--seconds N] [--rounds N]
  Measures what kinds of calls cost a node against a plain one: larger answers, answers in events,
  a list of 200 tools, an access token, a condition.

pnpm bench bridges [--seconds N] [--rounds N]
  Measures a call between protocol eras, both ways, against the same call passed through in the
  same run: processor time of the node for each request, and their ratio.

pnpm bench revocation [--trials N] [--load N] [--large]
  Measures, for each kind of revocation, how long after the mutation's answer a call is still
  admitted and a stream still open: 20 runtimes in 3 processes, 3 of them whole nodes.
  --trials N      revocations of each kind (default 20)
  --load N        calls of others on each node, per second (default 100)
  --large         among 2,000 servers, 100,000 tools, 10,000 grants and 20,000 principals

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
    minutes: { type: 'string', default: '30' },
    shipped: { type: 'string', default: '60000' },
    events: { type: 'string', default: '10000000' },
    responses: { type: 'string', default: '1000000' },
    grants: { type: 'string', default: '500' },
    help: { type: 'boolean', default: false },
  },
});

type NumberOption = Exclude<keyof typeof values, 'large' | 'small' | 'help'>;

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

async function main(): Promise<void> {
  const [name = 'throughput'] = positionals;
  if (values.help) return print(usage);
  const directory = mkdtempSync(join(tmpdir(), 'sallyport-bench-'));
  const stops: (() => Promise<void>)[] = [async () => rmSync(directory, { recursive: true, force: true })];
  const atEnd = (stop: () => Promise<void>): void => void stops.push(stop);
  try {
    if (name === 'throughput') {
      const options = {
        seconds: wholeNumber('seconds', 1),
        rounds: wholeNumber('rounds', 1, 3),
        streams: wholeNumber('streams', 0),
      };
      await measureThroughputs(options, directory, print, atEnd);
    } else if (name === 'calls') {
      const options = { seconds: wholeNumber('seconds', 1), rounds: wholeNumber('rounds', 1, 3) };
      await measureCalls(options, print, atEnd);
    } else if (name === 'bridges') {
      const options = { seconds: wholeNumber('seconds', 1), rounds: wholeNumber('rounds', 1, 3) };
      await measureBridges(options, print, atEnd);
    } else if (name === 'revocation') {
      const options = { trials: wholeNumber('trials', 1), load: wholeNumber('load', 0), large: values.large };
      await measureRevocations(options, directory, print, atEnd);
    } else if (name === 'api') {
      const options = { rounds: wholeNumber('rounds', 1, 50), askers: wholeNumber('askers', 1) };
      await measureApi(options, directory, print, atEnd);
    } else if (name === 'scale') {
      const options = { changes: wholeNumber('changes', 1), seconds: wholeNumber('seconds', 1), small: values.small };
      await measureScale(options, directory, print, atEnd);
    } else if (name === 'audit') {
      const options = {
        shipped: wholeNumber('shipped', 0),
        events: wholeNumber('events', 0),
        rounds: wholeNumber('rounds', 1, 20),
      };
      await measureAudit(options, directory, print, atEnd);
    } else if (name === 'propagation') {
      const options = { changes: wholeNumber('changes', 1), small: values.small };
      await measurePropagation(options, directory, print, atEnd);
    } else if (name === 'endurance') {
      await measureEndurance({ minutes: wholeNumber('minutes', 1) }, directory, print, atEnd);
    } else if (name === 'workers') {
      const options = { seconds: wholeNumber('seconds', 1), rounds: wholeNumber('rounds', 1, 3) };
      await measureWorkers(options, directory, print, atEnd);
    } else if (name === 'terraform') await measureTerraform(wholeNumber('grants', 1), directory, print, atEnd);
    else if (name === 'isolation') await isolation();
    else throw new Error(`there is no benchmark ${name}\n\n${usage}`);
  } finally {
    for (const stop of stops.toReversed()) await stop();
  }
}

main().then(
  () => process.exit(0),
  (error: unknown) => {
    console.error(error instanceof Error ? error.message : error);
    process.exit(1);
  },
);
