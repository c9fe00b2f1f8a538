/** Very many principals, each of whom calls what it was granted, and the thread that calls for them. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import type postgres from 'postgres';
import type { Latency } from './load.ts';
import { ask } from './thread.ts';

export interface CallerData {
  readonly nodeUrl: string;
  readonly upstreamUrl: string;
  /** Through the node, and to the upstream itself. */
  readonly requestsPerSecond: { readonly node: number; readonly direct: number };
  /** Slugs of the servers that each group was granted. */
  readonly slugsOfGroup: readonly (readonly string[])[];
  readonly callers: readonly { readonly key: string; readonly groups: readonly number[] }[];
}

export type ToCallers = { readonly type: 'everyone' } | { readonly type: 'measure' } | { readonly type: 'end' };

export interface EveryoneCalled {
  readonly calls: number;
  readonly failures: number;
}

/** Of calls through the node, and of fewer to the upstream itself at the same time: what the machine adds is in both. */
export interface CallLatency {
  readonly node: Latency;
  readonly direct: Latency;
}

export class Callers {
  readonly #worker: Worker;

  constructor(data: CallerData) {
    this.#worker = new Worker(new URL('./callers-thread.js', import.meta.url), { workerData: data });
  }

  /** Each principal once, in random order, as fast as they are answered. */
  everyone(): Promise<EveryoneCalled> {
    return ask<EveryoneCalled>(this.#worker, { type: 'everyone' } satisfies ToCallers);
  }

  /** Random ones at a steady rate, for as long as `work` lasts. */
  async during(work: () => Promise<unknown>): Promise<CallLatency> {
    this.#tell({ type: 'measure' });
    try {
      await work();
    } finally {
      this.#tell({ type: 'end' });
    }
    const [latency] = (await once(this.#worker, 'message')) as [CallLatency];
    return latency;
  }

  async stop(): Promise<void> {
    await this.#worker.terminate();
  }

  #tell(message: ToCallers): void {
    this.#worker.postMessage(message);
  }
}

/** Who of a seeded configuration may call what. */
export async function readCallers(sql: postgres.Sql): Promise<Pick<CallerData, 'slugsOfGroup' | 'callers'>> {
  const granted = await sql<{ id: string; slugs: string[] }[]>`
    select g.subject_group_id as id, array_agg(s.slug) as slugs
    from grants g join servers s on s.id = g.server_id
    where g.effect = 'allow' and g.subject_group_id is not null group by 1 order by 1`;
  const position = new Map(granted.map(({ id }, at) => [id, at]));
  const members = await sql<{ key: string; groups: string[] }[]>`
    select 'sp_' || m.principal_id as key, array_agg(m.group_id) as groups
    from group_members m join principals p on p.id = m.principal_id
    where p.issuer = 'seed' group by m.principal_id order by m.principal_id`;
  return {
    slugsOfGroup: granted.map(({ slugs }) => slugs),
    callers: members.flatMap(({ key, groups }) => {
      const opened = groups.flatMap((id) => position.get(id) ?? []);
      return opened.length === 0 ? [] : [{ key, groups: opened }];
    }),
  };
}
