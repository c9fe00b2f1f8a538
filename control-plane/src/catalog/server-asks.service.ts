import {
  AppError,
  askBytesMax,
  asksPerExchangeMax,
  elicitationHostsMax,
  noAsks,
  samplingTokensMax,
  type UpstreamAsks,
} from '@sallyport/schema';
import { eq } from 'drizzle-orm';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import type { Database } from '../database/client.ts';
import { bumpConfigGeneration } from '../database/config-generation.ts';
import { assertRevision, mutate, type MutationOptions } from '../database/mutation.ts';
import { Violations } from '../database/violations.ts';
import { type ServerRow, servers } from './catalog.tables.ts';
import { isServed } from './lifecycle.ts';
import { auditable, lockServerFor } from './server-row.service.ts';

/** What a server may ask of clients, as said; absent members keep their value. */
export type UpdateServerAsks = MutationOptions & {
  readonly id: string;
  readonly expectedRevision?: number | null | undefined;
} & { readonly [Member in keyof UpstreamAsks]?: UpstreamAsks[Member] | null | undefined };

/** A name as browsers write it: lower case, no port. */
const hostPattern = /^(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

/** Whether a server may use what its clients offer: their model, their folders, their users. */
export class ServerAsksService {
  private readonly database: Database;

  constructor(database: Database) {
    this.database = database;
  }

  /** Needs `server:approve`: whoever may decide what a server serves decides what it may ask. */
  async update(ctx: Context, input: UpdateServerAsks): Promise<ServerRow> {
    ctx.serverScope('server:approve');
    return mutate(this.database, input, async (tx) => {
      const before = await lockServerFor(tx, ctx, input.id, 'server:approve');
      assertRevision(before, input.expectedRevision);
      const asks = asksOf(input, before.asks ?? noAsks);
      checkAsks(asks);
      const [row] = await tx
        .update(servers)
        .set({ asks, revision: before.revision + 1, updatedAt: new Date(ctx.clock.now()) })
        .where(eq(servers.id, before.id))
        .returning();
      if (row === undefined) throw new AppError('INTERNAL', { internal: 'server vanished under its lock' });
      const object = { kind: 'server', id: row.id } as const;
      const action = 'server.updateAsks';
      await recordMutation(tx, ctx, { action, object, before: auditable(before), after: auditable(row) });
      if (isServed(row.lifecycle)) await bumpConfigGeneration(tx, { serverIds: [row.id] });
      return row;
    });
  }
}

function asksOf(input: UpdateServerAsks, before: UpstreamAsks): UpstreamAsks {
  const hosts = input.elicitationHosts ?? before.elicitationHosts;
  return {
    sampling: input.sampling ?? before.sampling,
    roots: input.roots ?? before.roots,
    elicitation: input.elicitation ?? before.elicitation,
    perExchangeMax: input.perExchangeMax ?? before.perExchangeMax,
    samplingTokensMax: input.samplingTokensMax ?? before.samplingTokensMax,
    bytesMax: input.bytesMax ?? before.bytesMax,
    elicitationHosts: [...new Set(hosts.map((host) => host.toLowerCase()))].sort(),
  };
}

function checkAsks(asks: UpstreamAsks): void {
  const found = new Violations();
  found.between('input.perExchangeMax', asks.perExchangeMax, 1, asksPerExchangeMax);
  found.between('input.samplingTokensMax', asks.samplingTokensMax, 1, samplingTokensMax);
  found.between('input.bytesMax', asks.bytesMax, 1, askBytesMax);
  if (asks.elicitationHosts.length > elicitationHostsMax) {
    found.add('input.elicitationHosts', `must have at most ${elicitationHostsMax} hosts`);
  }
  for (const [index, host] of asks.elicitationHosts.slice(0, elicitationHostsMax).entries()) {
    if (!hostPattern.test(host))
      found.add(`input.elicitationHosts[${index}]`, 'must be a host name, such as login.example.com');
  }
  found.assertNone();
}
