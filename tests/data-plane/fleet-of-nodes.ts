import { createPeerIdentity, KnownPeers, PeerClient, PeerServer } from '@sallyport/data-plane';
import { createLog } from '@sallyport/schema/platform';
import type { HttpEngine } from '../kit/config.ts';
import { type PipelineNode, startPipelineNode, type TestConfiguration } from './pipeline-node.ts';

export interface FleetNode {
  readonly node: PipelineNode;
  readonly peerUrl: string;
  /** As a crash does: every socket of it is cut, nobody says goodbye. */
  kill(): void;
}

export interface FleetOfNodes {
  readonly nodes: readonly FleetNode[];
  /** The URL of a server at the next node, as a round-robin balancer chooses. */
  next(slug: string): string;
  configure(configuration: TestConfiguration): void;
  /** Tells each node which others there are, as the control plane does. */
  introduce(nodes: readonly FleetNode[]): void;
  stop(): Promise<void>;
}

/**
 * Data-plane nodes that know each other, without a control plane: it would do no more than name them.
 * @param httpEngines what they speak HTTP with, in turn; default what the configuration says
 */
export async function startFleetOfNodes(
  count: number,
  configuration: TestConfiguration,
  httpEngines: readonly HttpEngine[] = [],
): Promise<FleetOfNodes> {
  const log = createLog({ name: 'fleet', level: 'silent' });
  const members = await Promise.all(
    Array.from({ length: count }, async (_, index) => {
      const nodeId = `node-${index + 1}`;
      const identity = createPeerIdentity(nodeId);
      const known = new KnownPeers(log);
      const server = new PeerServer({ identity, peers: known, log });
      const peerUrl = `https://127.0.0.1:${await server.listen('127.0.0.1', 0)}`;
      const client = new PeerClient(nodeId, { identity, peers: known, log });
      const httpEngine = httpEngines[index % httpEngines.length];
      const own = httpEngine === undefined ? configuration : { ...configuration, httpEngine };
      const node = await startPipelineNode(own, client);
      server.serve(node.pipeline.peerHandlers);
      const kill = (): void => {
        node.listener.close();
        server.close();
      };
      return { nodeId, identity, known, server, client, node, peerUrl, kill };
    }),
  );
  const introduce = (nodes: readonly FleetNode[]): void => {
    const named = members
      .filter(({ node }) => nodes.some((one) => one.node === node))
      .map(({ nodeId, peerUrl, identity }) => ({ nodeId, url: peerUrl, certificate: identity.certificate }));
    for (const { nodeId, known } of members) known.replace(named.filter((peer) => peer.nodeId !== nodeId));
  };
  introduce(members);
  let turn = 0;
  return {
    nodes: members,
    next: (slug) => members[turn++ % members.length]?.node.url(slug) ?? '',
    configure: (next) => {
      for (const { node } of members) node.configure(next);
    },
    introduce,
    stop: async () => {
      for (const { node, client, server } of members) {
        await node.stop();
        client.close();
        server.close();
      }
    },
  };
}
