/**
 * What a gateway is sent over a long day: calls of both eras to servers of both, streams, answers that nobody waits for,
 * and what is refused, malformed or goes to a server that is down. In a thread of its own.
 */
import { randomInt } from 'node:crypto';
import { parentPort, workerData } from 'node:worker_threads';
import { setTimeout as delay } from 'node:timers/promises';
import { Pool } from 'undici';
import { type LoadRequest, measureLatency, pick } from './load.ts';
import type { MixedData, MixedRun, ToMixed } from './mixed-load.ts';
import { toolCall } from './tool-call.ts';

const { nodeUrl, keys } = workerData as MixedData;
/** Another one for each run: between them the node has no client. */
let pool = new Pool(new URL(nodeUrl).origin, { connections: 256 });
const callsAtOnce = 32;
const sessionsMax = 64;

const at = (slug: string): URL => new URL(`/mcp/${slug}`, nodeUrl);

async function send({ url, headers, body }: LoadRequest, signal?: AbortSignal): Promise<[number, string, string]> {
  const response = await pool.request({ path: url.pathname, method: 'POST', headers, body, ...(signal && { signal }) });
  const text = await response.body.text();
  return [response.statusCode, text, String(response.headers['mcp-session-id'] ?? '')];
}

const succeeded = ([status, text]: readonly [number, string, string]): boolean =>
  status === 200 && text.includes('"result"');

const modern = (slug: string, args: Readonly<Record<string, unknown>> = {}, key = pick(keys), tool = 'echo') =>
  toolCall(at(slug), key, tool, args);

interface Session {
  readonly slug: string;
  readonly key: string;
  readonly id: string;
}
const sessions: Session[] = [];

function legacy(slug: string, key: string, session: string | null, message: object): LoadRequest {
  return {
    url: at(slug),
    headers: {
      authorization: `Bearer ${key}`,
      'content-type': 'application/json',
      accept: 'application/json, text/event-stream',
      ...(session === null ? {} : { 'mcp-session-id': session, 'mcp-protocol-version': '2025-11-25' }),
    },
    body: JSON.stringify({ jsonrpc: '2.0', ...message }),
  };
}

/** In a session that is there already, or one that is opened; now and then one is closed. */
async function legacyCall(slug: string): Promise<boolean> {
  let session = sessions.length < sessionsMax ? undefined : pick(sessions);
  if (session?.slug !== slug) {
    const key = pick(keys);
    const params = { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'mixed', version: '1' } };
    const [status, , id] = await send(legacy(slug, key, null, { id: 0, method: 'initialize', params }));
    if (status !== 200) return false;
    session = { slug, key, id };
    sessions.push(session);
    if (sessions.length > sessionsMax) sessions.splice(0, sessions.length - sessionsMax);
  }
  const params = { name: 'echo', arguments: { note: 'legacy' } };
  return succeeded(await send(legacy(slug, session.key, session.id, { id: 1, method: 'tools/call', params })));
}

/** Nobody waits for the answer. */
async function aborted(slug: string): Promise<boolean> {
  const abort = new AbortController();
  setTimeout(() => abort.abort(), randomInt(1, 60));
  await send(modern(slug, { delayMs: 50, progress: randomInt(4) }), abort.signal).catch(() => undefined);
  return true;
}

async function refused(request: LoadRequest): Promise<boolean> {
  return !succeeded(await send(request));
}

const malformed = (): LoadRequest => ({ ...modern('modern'), body: '{"jsonrpc":"2.0","id":1,"method":' });

/** Kinds of calls with how many of a hundred there are; each resolves with whether it came out as it should. */
const mix: readonly (readonly [number, () => Promise<boolean>])[] = [
  [40, async () => succeeded(await send(modern('modern', { note: 'x'.repeat(randomInt(2_000)) })))],
  [15, async () => succeeded(await send(modern('legacy', { note: 'bridged' })))],
  [10, () => legacyCall('legacy')],
  [10, () => legacyCall('modern')],
  [5, async () => succeeded(await send(modern('modern', { delayMs: 20 })))],
  [8, () => aborted(pick(['modern', 'legacy']))],
  [4, () => refused(modern('modern', {}, pick(keys), 'nothing'))],
  [3, () => refused(modern('modern', {}, `sp_${'0'.repeat(32)}`))],
  [2, () => refused(malformed())],
  [3, () => refused(modern('down'))],
];
const bag = mix.flatMap(([share, call]) => Array.from({ length: share }, () => call));

const wrong: string[] = [];
async function call(): Promise<boolean> {
  const chosen = pick(bag);
  try {
    if (await chosen()) return true;
    wrong.push(String(bag.indexOf(chosen)));
  } catch (error) {
    wrong.push(String(error));
  }
  return false;
}

/** As many as are answered, which is what a node can carry. */
async function capacity(seconds: number): Promise<number> {
  const end = performance.now() + seconds * 1000;
  let calls = 0;
  const loop = async (): Promise<void> => {
    while (performance.now() < end) {
      await call();
      calls++;
    }
  };
  await Promise.all(Array.from({ length: callsAtOnce }, loop));
  return calls / seconds;
}

parentPort?.on('message', (message: ToMixed) => {
  const work = async (): Promise<MixedRun | number> => {
    if (message.type === 'capacity') return capacity(message.seconds);
    await pool.close();
    pool = new Pool(new URL(nodeUrl).origin, { connections: 256 });
    const lastsMs = message.seconds * 1000;
    const latency = await measureLatency(call, {
      requestsPerSecond: message.requestsPerSecond,
      isOver: (elapsedMs) => elapsedMs >= lastsMs,
      turn: () => delay(1),
    });
    await pool.close();
    return { latency, wrong: wrong.splice(0).slice(0, 5) };
  };
  void work().then((found) => parentPort?.postMessage(found));
});
