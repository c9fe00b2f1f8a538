/** What each kind of call costs the node, against a plain one. */
import { testKey } from '../data-plane/pipeline-node.ts';
import { modern } from '../data-plane/requests.ts';
import { TokenIssuer } from '../kit/access-tokens.ts';
import { fakeTools, startFakeUpstream } from '../kit/fake-upstream.ts';
import { median } from './load.ts';
import { type Call, type Measured, NodeThread } from './node-thread.ts';

const connections = 16;
const listedTools = 200;
const kibibyte = 1024;

interface Kind {
  readonly name: string;
  readonly slug: string;
  readonly call: Call;
}

function kinds(issuer: TokenIssuer): Kind[] {
  const common = { accept: 'application/json, text/event-stream', 'content-type': 'application/json' };
  const calling = (method: string, params: Readonly<Record<string, unknown>>, credential = testKey): Call => {
    const { headers, body } = modern(method, params);
    return { body, headers: { ...common, ...headers, authorization: `Bearer ${credential}` } };
  };
  const plain = { name: 'count', arguments: { query: 'open issues assigned to me', limit: 20 } };
  const big = (size: number) => ({ name: 'big', arguments: { bytes: size * kibibyte } });
  const streamed = { name: 'stream', arguments: { events: 5, delayMs: 0 } };
  return [
    { name: 'tools/call, API key', slug: 'plain', call: calling('tools/call', plain) },
    { name: 'answer of 16 KiB', slug: 'plain', call: calling('tools/call', big(16)) },
    { name: 'answer of 256 KiB', slug: 'plain', call: calling('tools/call', big(256)) },
    { name: 'answer in 6 events', slug: 'plain', call: calling('tools/call', streamed) },
    { name: `tools/list, ${listedTools} tools`, slug: 'plain', call: calling('tools/list', {}) },
    { name: 'access token', slug: 'plain', call: calling('tools/call', plain, issuer.token('plain', 'first')) },
    { name: 'one condition', slug: 'conditional', call: calling('tools/call', plain) },
  ];
}

/**
 * Calls in turn, with the node in a thread of its own and clients and upstream in another. Without the audit spool, which
 * costs the same for all.
 */
export async function measureCalls(
  { seconds, rounds }: { readonly seconds: number; readonly rounds: number },
  print: (line: string) => void,
  atEnd: (stop: () => Promise<void>) => void,
): Promise<void> {
  const listed = Array.from({ length: listedTools - fakeTools.length }, (_, at) => `tool_${at}`);
  const upstream = await startFakeUpstream({ eras: 'modern', tools: listed });
  atEnd(() => upstream.stop());
  const issuer = new TokenIssuer();
  const tools = [...fakeTools, ...listed];
  const server = { url: upstream.url, protocolRevisions: ['2026-07-28'], tools };
  const node = new NodeThread({
    servers: [
      { slug: 'plain', ...server },
      { slug: 'conditional', ...server },
    ],
    grants: [
      { server: 'plain', tools: ['*'] },
      { server: 'conditional', tools: ['*'], whenArguments: 'arguments.limit <= 50' },
    ],
    oauth: issuer.document(),
    keepRecords: false,
  });
  atEnd(() => node.stop());
  await node.start();
  const chosen = kinds(issuer);
  const results = new Map<Kind, Measured[]>(chosen.map((kind) => [kind, []]));
  for (const { slug, call } of chosen) await node.measure(slug, call, connections, 1);
  for (let round = 0; round < rounds; round++) {
    for (const kind of chosen) {
      results.get(kind)?.push(await node.measure(kind.slug, kind.call, connections, seconds));
    }
  }
  print(`${connections} connections, closed loop, median of ${rounds} interleaved rounds of ${seconds} s`);
  print('call                      requests/s   p50 ms   CPU µs/request   of the plain one');
  const medianOf = (kind: Kind | undefined, figure: keyof Measured): number =>
    median((kind === undefined ? [] : (results.get(kind) ?? [])).map((measured) => measured[figure]));
  for (const kind of chosen) {
    const cpu = medianOf(kind, 'cpuMicroseconds');
    const row = [
      kind.name.padEnd(25),
      medianOf(kind, 'rate').toFixed(0).padStart(10),
      medianOf(kind, 'p50Ms').toFixed(2).padStart(8),
      cpu.toFixed(0).padStart(16),
      `${(cpu / medianOf(chosen[0], 'cpuMicroseconds')).toFixed(2)} x`.padStart(18),
    ];
    print(row.join(' '));
  }
}
