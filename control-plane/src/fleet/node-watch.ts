import type { Clock, Log } from '@sallyport/schema/platform';
import type { Database } from '../database/client.ts';
import { sendSignal } from '../signals.ts';
import type { NodeService } from './node.service.ts';

const watchIntervalMs = 1_000;

/**
 * Notices what no message tells: a node that fell silent or is gone, a revision that was published. One query a
 * second; subscriptions are told only when a state is another than before.
 */
export class NodeWatch {
  readonly #database: Database;
  readonly #nodes: NodeService;
  readonly #clock: Clock;
  readonly #log: Log;
  #timer: NodeJS.Timeout | undefined;
  #seen: string | undefined;
  #looking: Promise<void> | undefined;

  constructor(options: {
    readonly database: Database;
    readonly nodes: NodeService;
    readonly clock: Clock;
    readonly log: Log;
  }) {
    this.#database = options.database;
    this.#nodes = options.nodes;
    this.#clock = options.clock;
    this.#log = options.log;
  }

  start(): void {
    this.#timer = setInterval(() => {
      this.#looking ??= this.#look().finally(() => {
        this.#looking = undefined;
      });
    }, watchIntervalMs);
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await this.#looking;
  }

  async #look(): Promise<void> {
    try {
      const states = JSON.stringify(await this.#nodes.states(this.#clock.now()));
      const changed = this.#seen !== undefined && this.#seen !== states;
      this.#seen = states;
      if (changed) await sendSignal(this.#database.db, 'nodes');
    } catch (error) {
      this.#log.warn({ err: error }, 'reading the state of nodes failed');
    }
  }
}
