import type { Runtime } from '../runtime/runtime.ts';
import { ChannelPool } from '../upstream/channel-pool.ts';
import type { Connections } from '../upstream/connections.ts';
import { StreamableTransport } from '../upstream/streamable-channel.ts';
import type { Bridges } from './bridge.ts';
import type { Authorized, RuntimeSource } from './exchange.ts';
import { LegacyClients } from './legacy-clients.ts';
import { ListPolls } from './list-polls.ts';
import { ModernClients } from './modern-clients.ts';
import { ParkedCalls } from './parked-calls.ts';
import type { PeerHandlers, PeerLink } from './peer-link.ts';
import type { Sighted } from './pinned-definitions.ts';

export interface CreateBridgesOptions {
  readonly connections: Pick<Connections, 'send'>;
  readonly peers: PeerLink;
  readonly runtimes: Pick<RuntimeSource, 'current' | 'onSwap'>;
  readonly reauthorize: (authorized: Authorized, runtime: Runtime) => Authorized;
  readonly now: () => number;
  /** Between two readings of lists whose server tells of no changes; for tests. */
  readonly listPollMs?: number | undefined;
  /** Is told of definitions that nobody approved. */
  readonly sighted: Sighted;
}

/** Both bridges of a node, and what they do for other nodes. */
export function createBridges(options: CreateBridgesOptions): {
  readonly bridges: Bridges;
  readonly peerHandlers: Omit<PeerHandlers, 'exchange'>;
} {
  const { connections, peers, now, sighted } = options;
  const parked = new ParkedCalls(options);
  const polls = new ListPolls(options.listPollMs);
  const legacy = new LegacyClients({ connections, peers, polls, now, sighted });
  const modern = new ModernClients({
    transportOf: ({ server, runtime }) =>
      new StreamableTransport({
        connections,
        url: server.upstream,
        transport: server.document.transport,
        limits: runtime.limits,
      }),
    pool: new ChannelPool(),
    parked,
    peers,
    polls,
    now,
    sighted,
  });
  return {
    bridges: { forLegacyClients: legacy, forModernClients: modern },
    peerHandlers: {
      notice: (notice) => legacy.notice(notice),
      session: (name) => legacy.whole(name),
      response: (relayed) => legacy.respond(relayed),
      resume: (returned, signal) => parked.resume(returned, signal),
    },
  };
}
