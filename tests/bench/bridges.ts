/** What translating between eras costs, against passing the same call through. */
import { testKey } from '../data-plane/pipeline-node.ts';
import { legacy, modern, send } from '../data-plane/requests.ts';
import { startAskingUpstream } from '../kit/asking-upstream.ts';
import { median } from './load.ts';
import { type Call, type Measured, NodeThread } from './node-thread.ts';

const connections = 16;
const tool = 'count';

type Era = 'legacy' | 'modern';
interface Way {
  readonly client: Era;
  readonly server: Era;
}

const ways: readonly Way[] = [
  { client: 'legacy', server: 'legacy' },
  { client: 'legacy', server: 'modern' },
  { client: 'modern', server: 'modern' },
  { client: 'modern', server: 'legacy' },
];

/** A call of the client's era, with a session where it needs one. */
async function callOf(node: NodeThread, { client, server }: Way): Promise<Call> {
  const params = { name: tool, arguments: { query: 'open issues assigned to me', limit: 20 } };
  const common = {
    authorization: `Bearer ${testKey}`,
    accept: 'application/json, text/event-stream',
    'content-type': 'application/json',
  };
  if (client === 'modern') {
    const { headers, body } = modern('tools/call', params);
    return { body, headers: { ...common, ...headers } };
  }
  const handshake = { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'bench', version: '1' } };
  const opened = await send(node.url(server), legacy('initialize', handshake));
  const { headers, body } = legacy('tools/call', params);
  return { body, headers: { ...common, ...headers, 'mcp-session-id': String(opened.headers['mcp-session-id']) } };
}

async function measure(node: NodeThread, way: Way, seconds: number): Promise<Measured> {
  return await node.measure(way.server, await callOf(node, way), connections, seconds);
}

/**
 * Calls one tool over each way, in turn, with the node in a thread of its own and clients and servers in another. What a
 * bridge costs is the node's processor time for a call against that for the same call passed through.
 */
export async function measureBridges(
  { seconds, rounds }: { readonly seconds: number; readonly rounds: number },
  print: (line: string) => void,
  atEnd: (stop: () => Promise<void>) => void,
): Promise<void> {
  const servers = [];
  for (const era of ['legacy', 'modern'] as const) {
    const upstream = await startAskingUpstream({ era });
    atEnd(() => upstream.stop());
    const revisions = [era === 'legacy' ? '2025-11-25' : '2026-07-28'];
    servers.push({ slug: era, url: upstream.url, protocolRevisions: revisions, tools: [tool] });
  }
  const grants = servers.map(({ slug }) => ({ server: slug, tools: ['*'] }));
  const node = new NodeThread({ servers, grants, keepRecords: false });
  atEnd(() => node.stop());
  await node.start();
  const results = new Map<Way, Measured[]>(ways.map((way) => [way, []]));
  for (const way of ways) await measure(node, way, 1);
  for (let round = 0; round < rounds; round++) {
    for (const way of ways) results.get(way)?.push(await measure(node, way, seconds));
  }
  print(`${connections} connections, closed loop, median of ${rounds} interleaved rounds of ${seconds} s`);
  print('client   server    requests/s   p50 ms   CPU µs/request   of passing through');
  const medianOf = (way: Way, figure: keyof Measured): number =>
    median(results.get(way)?.map((measured) => measured[figure]) ?? []);
  for (const way of ways) {
    const passing = ways.find(({ client, server }) => client === way.client && server === way.client) ?? way;
    const cpu = medianOf(way, 'cpuMicroseconds');
    const row = [
      way.client.padEnd(8),
      way.server.padEnd(8),
      medianOf(way, 'rate').toFixed(0).padStart(11),
      medianOf(way, 'p50Ms').toFixed(2).padStart(8),
      cpu.toFixed(0).padStart(16),
      `${(cpu / medianOf(passing, 'cpuMicroseconds')).toFixed(2)} x`.padStart(20),
    ];
    print(row.join(' '));
  }
}
