import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { createLog, type Log, loggedError, systemClock } from '@sallyport/schema/platform';
import { type RunningNode, startNode } from './app.ts';
import { configHelp, type NodeConfig, readConfig, redactedConfig } from './config.ts';
import { Supervisor } from './workers/supervisor.ts';
import { retiredWorkers, retiringConfig, workerConfig } from './workers/worker-config.ts';
import type { Answer, Question } from './workers/worker-process.ts';

const signals = ['SIGTERM', 'SIGINT'] as const;

const { values: flags } = parseArgs({
  options: {
    help: { type: 'boolean', default: false },
    workers: { type: 'string' },
    // Given by the supervisor to the workers it starts.
    worker: { type: 'string' },
    port: { type: 'string' },
    retire: { type: 'boolean', default: false },
  },
});

/** What runs until it is asked to stop. */
interface Running {
  /** @returns whether nothing was left behind */
  stop(): Promise<boolean>;
}

/** For who started the program. */
interface Printer {
  out(line: string): void;
  error(what: unknown): void;
}

/** Runs a node, or the workers that are wanted, until it is asked to stop. */
export async function runProgram(print: Printer): Promise<void> {
  try {
    await run(print);
  } catch (error) {
    print.error(loggedError(error));
    process.exit(1);
  }
}

async function run(print: Printer): Promise<void> {
  if (flags.help) return print.out(configHelp());
  const parsed = readConfig(flags.workers === undefined ? {} : { SALLYPORT_WORKERS: flags.workers });
  if (!parsed.ok) {
    print.error(`The node cannot start:\n${parsed.problems.map((problem) => `  ${problem}`).join('\n')}`);
    print.error('Run with --help for every variable.');
    process.exitCode = 1;
    return;
  }
  const { config } = parsed;
  const log = createLog({ name: 'sallyport-node', level: config.logLevel });
  if (flags.worker === undefined) log.info({ config: redactedConfig(config) }, 'starting');
  // Asked to stop before it had joined: there is nothing to drain.
  // Of a worker that retires, 0 says that all of its spool is stored.
  const leave = (): void => process.exit(flags.retire ? 1 : 0);
  for (const signal of signals) process.once(signal, leave);
  // Started as a child: without its parent it must not live on.
  const isChild = process.connected;
  if (isChild) process.once('disconnect', leave);
  const running = await start(config, log);
  const stop = (): void => {
    running.stop().then(
      (clean) => process.exit(clean ? 0 : 1),
      (error: unknown) => {
        log.error({ err: error }, 'the node did not stop cleanly');
        process.exit(1);
      },
    );
  };
  for (const signal of signals) {
    process.off(signal, leave);
    // Whoever ends all processes of a service, and then the supervisor, ask a worker twice: that is no haste.
    if (isChild) process.on(signal, stop);
    else process.once(signal, stop);
  }
  if (flags.retire) return stop();
  if (!isChild) return;
  process.off('disconnect', leave);
  if (process.connected) process.once('disconnect', stop);
  else stop();
}

async function start(config: NodeConfig, log: Log): Promise<Running> {
  if (flags.worker !== undefined) return startWorker(config, Number(flags.worker), log);
  if (config.workers > 1 || retiredWorkers(config).length > 0) return startWorkers(config, log);
  const node = await startNode(config, { log });
  log.info({ url: node.url, operationsUrl: node.operationsUrl, nodeId: node.nodeId }, 'the node listens');
  return stopping(node, () => true);
}

/** What is left in the spool is sent after the next start, so that it is no failure where there will be one. */
function stopping(node: RunningNode, isClean: (recordsUnconfirmed: number) => boolean): Running {
  return { stop: async () => isClean((await node.stop()).recordsUnconfirmed) };
}

async function startWorkers(config: NodeConfig, log: Log): Promise<Running> {
  const supervisor = new Supervisor(config, {
    program: fileURLToPath(new URL('./main.js', import.meta.url)),
    clock: systemClock,
    log,
  });
  const port = await supervisor.start();
  log.info({ port, operationsUrl: supervisor.operationsUrl, workers: config.workers }, 'the workers are started');
  return supervisor;
}

async function startWorker(config: NodeConfig, worker: number, log: Log): Promise<Running> {
  const own = flags.retire ? retiringConfig(config, worker) : workerConfig(config, worker, Number(flags.port));
  let node: RunningNode | undefined;
  const tell = (answer: Answer): void => void process.send?.(answer);
  process.on('message', ({ id, about }: Question) => {
    if (about === 'readiness') {
      tell({ id, about, readiness: node?.readiness() ?? { ready: false, reasons: ['starting'] } });
    } else void (node?.metrics() ?? Promise.resolve('')).then((text) => tell({ id, about, text }));
  });
  node = await startNode(own, { log });
  const { url, operationsUrl, nodeId } = node;
  log.info({ worker, url, operationsUrl, nodeId }, 'a worker listens');
  return stopping(node, (recordsUnconfirmed) => !flags.retire || recordsUnconfirmed === 0);
}
