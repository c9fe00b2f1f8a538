import { join } from 'node:path';
import { type Clock, prepareQueueDatabase } from '@sallyport/schema/platform';
import type { CliEnvironment } from '../config.ts';
import { choosePorts, type Ports } from './choose-ports.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from './embedded-postgres.ts';
import { createStep, type Step, type Terminal } from './progress.ts';
import { bootstrapTokenFor, type Memory } from './issue-keys.ts';
import { ensureJoinToken, knownJoinToken, prepareOwner, provision } from './provision.ts';
import { formatReport } from './report.ts';
import { type RoundRobinEntry, startRoundRobinEntry } from './round-robin-entry.ts';
import {
  claimDirectory,
  createStateDirectory,
  ensureCredentialKey,
  ensureSecrets,
  readState,
  recordChildren,
  releaseDirectory,
  type StateDirectory,
  stateDirectory,
  writeState,
} from './state-directory.ts';
import { endLeftovers, Supervisor } from './supervise.ts';
import {
  controlPlaneProgram,
  entryUrlOf,
  examplePrograms,
  graphqlUrlOf,
  loopback,
  nodeNames,
  nodeProgram,
  nodeUrls,
  type Topology,
} from './topology.ts';

export interface StartOptions {
  /** Holds `.sallyport`. */
  readonly directory: string;
  readonly port: number | undefined;
  readonly apiPort: number | undefined;
  readonly environment: CliEnvironment;
  readonly terminal: Terminal;
  readonly clock: Clock;
}

const queueRole = 'sallyport_queue';
const sameSignalMs = 500;
const entryDrainTimeoutMs = 3_000;

/**
 * Brings everything up, prints the report, and stays until a signal or until a part keeps failing.
 * @returns 0 after a signal, 1 after a failure that was printed.
 */
export async function start(options: StartOptions): Promise<number> {
  const directory = stateDirectory(options.directory);
  createStateDirectory(directory);
  const leftovers = claimDirectory(directory);
  try {
    if (leftovers.length > 0) {
      options.terminal.write('Stopping what a killed start left behind.\n');
      await endLeftovers(leftovers, options.clock);
    }
    return await new Start(directory, options).run();
  } finally {
    releaseDirectory(directory);
  }
}

/** One life of the whole, from the first program to the last one's end. */
class Start {
  readonly #directory: StateDirectory;
  readonly #options: StartOptions;
  readonly #supervisor: Supervisor;
  readonly #step: Step;
  readonly #ending = Promise.withResolvers<{ readonly failure: string | undefined }>();
  #postgres: Promise<EmbeddedPostgres> | undefined;
  #entry: RoundRobinEntry | undefined;
  #signalledAt: number | undefined;

  constructor(directory: StateDirectory, options: StartOptions) {
    this.#directory = directory;
    this.#options = options;
    this.#step = createStep(options.terminal, options.clock);
    this.#supervisor = new Supervisor({
      logDirectory: directory.logs,
      clock: options.clock,
      record: (children) => recordChildren(directory, children),
      notify: (line) => options.terminal.write(`${line}\n`),
      giveUp: (reason) => this.#ending.resolve({ failure: reason }),
    });
  }

  async run(): Promise<number> {
    const { write } = this.#options.terminal;
    const onSignal = () => this.#onSignal();
    const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
    for (const signal of signals) process.on(signal, onSignal);
    try {
      const up = this.#bringUp().then(
        () => this.#ending.promise,
        (error: unknown) => ({ failure: error instanceof Error ? error.message : String(error) }),
      );
      const { failure } = await Promise.race([this.#ending.promise, up]);
      if (failure !== undefined) write(`\n${failure}\n`);
      await this.#step(failure === undefined ? 'Stopped' : 'Stopped everything else', () => this.#takeDown());
      return failure === undefined ? 0 : 1;
    } finally {
      for (const signal of signals) process.off(signal, onSignal);
    }
  }

  async #bringUp(): Promise<{ readonly failure: string | undefined }> {
    const { environment, terminal, clock } = this.#options;
    const directory = this.#directory;
    terminal.write(`Sallyport starts. Its data lies in ${directory.root}\n`);
    const secrets = ensureSecrets(directory, nodeNames.length);
    ensureCredentialKey(directory);
    const memory = remember(directory);
    const { ports, notices } = await choosePorts(
      { entry: this.#options.port, api: this.#options.apiPort },
      memory.state().ports,
    );
    for (const notice of notices) terminal.write(`  ${notice}\n`);
    memory.save({ ports });
    // First, so that nobody else takes the port; it answers 503 until a node listens.
    this.#entry = await startRoundRobinEntry({ host: loopback, port: ports.entry, nodes: nodeUrls(ports), clock });
    const examples = this.#supervisor.start(examplePrograms(ports));
    // Looked at below; until then its failure must not count as unhandled.
    examples.catch(() => undefined);
    const databaseUrl = environment.databaseUrl ?? (await this.#startPostgres(ports));
    const { redisUrl } = environment;
    const role = { role: queueRole, password: secrets.queuePassword };
    const queueUrl = redisUrl === undefined ? await prepareQueueDatabase(databaseUrl, role) : undefined;
    memory.save({ databaseUrl });
    const topology: Topology = { directory, ports, secrets, databaseUrl, queueUrl, environment };
    const graphqlUrl = graphqlUrlOf(ports);
    const bootstrapToken = bootstrapTokenFor(memory, clock);
    const controlPlane = this.#supervisor.start([controlPlaneProgram(topology, bootstrapToken)]);
    // Nodes that joined before come up beside the control plane, from the configuration they hold.
    const joinToken = bootstrapToken === undefined ? knownJoinToken(memory, clock) : undefined;
    const nodes = joinToken === undefined ? undefined : this.#startNodes(topology, joinToken);
    nodes?.catch(() => undefined);
    await this.#step('Control plane', () => controlPlane);
    await this.#step('Two example MCP servers', () => examples);
    const owner = await prepareOwner(graphqlUrl, bootstrapToken, memory, clock);
    await this.#step(
      'Two data-plane nodes',
      async () => nodes ?? this.#startNodes(topology, await ensureJoinToken(owner, memory, clock)),
    );
    const provisioned = await this.#step('Servers, group, service account, grants, key', () =>
      provision(owner, ports, memory, clock),
    );
    terminal.write(
      formatReport({ directory: directory.root, entryUrl: entryUrlOf(ports), graphqlUrl, ...provisioned }),
    );
    return this.#ending.promise;
  }

  #startNodes(topology: Topology, joinToken: string): Promise<void> {
    return this.#supervisor.start([nodeProgram(topology, 0, joinToken), nodeProgram(topology, 1, joinToken)]);
  }

  async #startPostgres(ports: Ports): Promise<string> {
    const logFile = join(this.#directory.logs, 'postgres.log');
    this.#postgres = startEmbeddedPostgres({ directory: this.#directory.postgres, port: ports.postgres, logFile });
    const postgres = await this.#step('PostgreSQL', () => this.#postgres ?? Promise.reject(new Error('not started')));
    void postgres.ended.then((reason) => this.#ending.resolve({ failure: reason }));
    return postgres.url;
  }

  /** Clients first, then those who write, the database last. */
  async #takeDown(): Promise<void> {
    await this.#entry?.stop(entryDrainTimeoutMs);
    await this.#supervisor.stop();
    const postgres = await this.#postgres?.catch(() => undefined);
    await postgres?.stop();
  }

  #onSignal(): void {
    const now = this.#options.clock.monotonic();
    // A terminal and the package manager may both send the one Ctrl-C on.
    if (this.#signalledAt !== undefined && now - this.#signalledAt < sameSignalMs) return;
    const isFirst = this.#signalledAt === undefined;
    this.#signalledAt = now;
    if (isFirst) {
      this.#options.terminal.write('\nStopping. Once more to kill.\n');
      this.#ending.resolve({ failure: undefined });
    } else {
      this.#supervisor.killAll();
    }
  }
}

function remember(directory: StateDirectory): Memory {
  let state = readState(directory);
  return {
    state: () => state,
    save: (changed) => {
      state = { ...state, ...changed };
      writeState(directory, state);
    },
  };
}
