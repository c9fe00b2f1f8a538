/** What translating between eras costs, against passing the same call through. */
import { Pool } from 'undici';
import { type PipelineNode, startPipelineNode, testKey } from '../data-plane/pipeline-node.ts';
import { legacy, modern, send } from '../data-plane/requests.ts';
import { startAskingUpstream } from '../kit/asking-upstream.ts';

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
async function callOf(
  node: PipelineNode,
  { client, server }: Way,
): Promise<{ headers: Record<string, string>; body: string }> {
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

async function measure(node: PipelineNode, way: Way, seconds: number): Promise<{ rate: number; p50Ms: number }> {
  const call = await callOf(node, way);
  const url = new URL(node.url(way.server));
  const pool = new Pool(url.origin, { connections });
  const latencies: number[] = [];
  const end = performance.now() + seconds * 1000;
  const caller = async (): Promise<void> => {
    while (performance.now() < end) {
      const before = performance.now();
      const response = await pool.request({ path: url.pathname, method: 'POST', ...call });
      await response.body.dump();
      if (response.statusCode !== 200) throw new Error(`answered ${response.statusCode}`);
      latencies.push(performance.now() - before);
    }
  };
  await Promise.all(Array.from({ length: connections }, caller));
  await pool.close();
  latencies.sort((a, b) => a - b);
  return { rate: latencies.length / seconds, p50Ms: latencies[Math.floor(latencies.length / 2)] ?? Number.NaN };
}

/**
 * Calls one tool over each way, with clients, node and upstream in one process: the figures are of use against each
 * other only.
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
  const node = await startPipelineNode({ servers, grants, keepRecords: false });
  atEnd(() => node.stop());
  const results = new Map<Way, { rate: number; p50Ms: number }[]>(ways.map((way) => [way, []]));
  for (const way of ways) await measure(node, way, 1);
  for (let round = 0; round < rounds; round++) {
    for (const way of ways) results.get(way)?.push(await measure(node, way, seconds));
  }
  print(`${connections} connections, closed loop, median of ${rounds} interleaved rounds of ${seconds} s`);
  print('client   server    requests/s   p50 ms   of passing through');
  const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1] ?? 0;
  const rateOf = (way: Way | undefined): number =>
    way === undefined ? 0 : median(results.get(way)?.map(({ rate }) => rate) ?? []);
  for (const way of ways) {
    const passing = ways.find(({ client, server }) => client === way.client && server === way.client);
    const p50Ms = median(results.get(way)?.map((result) => result.p50Ms) ?? []);
    const row = [
      way.client.padEnd(8),
      way.server.padEnd(8),
      rateOf(way).toFixed(0).padStart(11),
      p50Ms.toFixed(2).padStart(8),
      (rateOf(way) / rateOf(passing)).toFixed(2).padStart(20),
    ];
    print(row.join(' '));
  }
}
