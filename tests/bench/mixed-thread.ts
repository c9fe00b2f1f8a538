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
import { listenRequest, toolCall } from './tool-call.ts';

const { nodeUrl, keys } = workerData as MixedData;
/** One for each run: between them the node has no client. */
let pool: Pool;
const callsAtOnce = 32;
/** Of one server. */
const sessionsMax = 32;
/** Calls of a session, about, before its client ends it. */
const callsPerSession = 200;

const at = (slug: string): URL => new URL(`/mcp/${slug}`, nodeUrl);

async function send(
  { url, headers, body }: LoadRequest,
  { method = 'POST', signal }: { method?: 'POST' | 'DELETE'; signal?: AbortSignal } = {},
): Promise<[number, string, string]> {
  const sent = method === 'POST' ? { body } : {};
  const response = await pool.request({ path: url.pathname, method, headers, ...sent, ...(signal && { signal }) });
  const text = await response.body.text();
  return [response.statusCode, text, String(response.headers['mcp-session-id'] ?? '')];
}

const succeeded = ([status, text]: readonly [number, string, string]): boolean =>
  status === 200 && text.includes('"result"');

const modern = (slug: string, args: Readonly<Record<string, unknown>> = {}, key = pick(keys), tool = 'echo') =>
  toolCall(at(slug), key, tool, args);

interface Session {
  readonly key: string;
  readonly id: string;
  callsUnderWay: number;
}
const sessions = new Map<string, Session[]>();

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

async function openSession(slug: string): Promise<Session | undefined> {
  const key = pick(keys);
  const params = { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'mixed', version: '1' } };
  const [status, , id] = await send(legacy(slug, key, null, { id: 0, method: 'initialize', params }));
  return status === 200 ? { key, id, callsUnderWay: 0 } : undefined;
}

/** In a session that is there already, or one that is opened for one that is ended. */
async function legacyCall(slug: string): Promise<boolean> {
  const open = sessions.get(slug) ?? [];
  sessions.set(slug, open);
  const opens = open.length < sessionsMax || randomInt(callsPerSession) === 0;
  const session = opens ? await openSession(slug) : pick(open);
  if (session === undefined) return false;
  session.callsUnderWay++;
  if (opens) open.push(session);
  const params = { name: 'echo', arguments: { note: 'legacy' } };
  const answer = await send(legacy(slug, session.key, session.id, { id: 1, method: 'tools/call', params }));
  session.callsUnderWay--;
  return succeeded(answer) && (open.length <= sessionsMax || (await endOldest(slug, open)));
}

/** One that no call is under way in. */
async function endOldest(slug: string, open: Session[]): Promise<boolean> {
  const at = open.findIndex(({ callsUnderWay }) => callsUnderWay === 0);
  const [ended] = at < 0 ? [] : open.splice(at, 1);
  if (ended === undefined) return true;
  const [status] = await send(legacy(slug, ended.key, ended.id, {}), { method: 'DELETE' });
  return status < 300;
}

/** Nobody waits for the answer. */
async function aborted(request: LoadRequest): Promise<boolean> {
  const abort = new AbortController();
  setTimeout(() => abort.abort(), randomInt(1, 60));
  await send(request, abort).catch(() => undefined);
  return true;
}

async function refused(request: LoadRequest): Promise<boolean> {
  return !succeeded(await send(request));
}

const malformed = (): LoadRequest => ({ ...modern('modern'), body: '{"jsonrpc":"2.0","id":1,"method":' });

/** Kinds of calls with how many of a hundred there are; each resolves with whether it came out as it should. */
const mix: readonly (readonly [number, () => Promise<boolean>])[] = [
  [38, async () => succeeded(await send(modern('modern', { note: 'x'.repeat(randomInt(2_000)) })))],
  [15, async () => succeeded(await send(modern('legacy', { note: 'bridged' })))],
  [10, () => legacyCall('legacy')],
  [10, () => legacyCall('modern')],
  [5, async () => succeeded(await send(modern('modern', { delayMs: 20 })))],
  [8, () => aborted(modern(pick(['modern', 'legacy']), { delayMs: 50, progress: randomInt(4) }))],
  [2, () => aborted(listenRequest(at(pick(['modern', 'legacy'])), pick(keys)))],
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

async function run({ seconds, requestsPerSecond }: Extract<ToMixed, { type: 'run' }>): Promise<MixedRun> {
  const lastsMs = seconds * 1000;
  const latency = await measureLatency(call, {
    requestsPerSecond,
    isOver: (elapsedMs) => elapsedMs >= lastsMs,
    turn: () => delay(1),
  });
  return { latency, wrong: wrong.splice(0).slice(0, 5) };
}

async function work(message: ToMixed): Promise<MixedRun | number> {
  pool = new Pool(new URL(nodeUrl).origin, { connections: 256 });
  const found = await (message.type === 'capacity' ? capacity(message.seconds) : run(message));
  await pool.close();
  return found;
}

parentPort?.on('message', (message: ToMixed) => {
  void work(message).then((found) => parentPort?.postMessage(found));
});
