/** Calls as very many principals. A thread of its own: what the control plane does must not delay what it sends. */
import { randomInt } from 'node:crypto';
import { parentPort, workerData } from 'node:worker_threads';
import { setTimeout as delay } from 'node:timers/promises';
import { Pool } from 'undici';
import type { CallerData, CallLatency, EveryoneCalled, ToCallers } from './callers.ts';
import { type LoadRequest, measureLatency, pick } from './load.ts';
import { toolCall } from './tool-call.ts';

const { nodeUrl, upstreamUrl, requestsPerSecond, slugsOfGroup, callers } = workerData as CallerData;
const upstreamMs = 20;
const callsAtOnce = 32;

const pools = new Map([nodeUrl, upstreamUrl].map((url) => [url, new Pool(new URL(url).origin, { connections: 64 })]));

async function send(origin: string, { url, headers, body }: LoadRequest): Promise<boolean> {
  const pool = pools.get(origin);
  const response = await pool?.request({ path: url.pathname, method: 'POST', headers, body });
  const text = (await response?.body.text()) ?? '';
  return response?.statusCode === 200 && text.includes('"resultType"');
}

const slowly = { delayMs: upstreamMs };

function callAs({ key, groups }: CallerData['callers'][number], args: Readonly<Record<string, unknown>>) {
  const slug = pick(slugsOfGroup[pick(groups)] ?? []);
  return send(nodeUrl, toolCall(new URL(`/mcp/${slug}`, nodeUrl), key, `tool_${randomInt(1, 50)}`, args));
}

async function everyone(): Promise<EveryoneCalled> {
  const waiting = [...callers].sort(() => randomInt(3) - 1);
  let failures = 0;
  const call = async (): Promise<void> => {
    for (let caller = waiting.pop(); caller !== undefined; caller = waiting.pop()) {
      if (!(await callAs(caller, {}).catch(() => false))) failures++;
    }
  };
  await Promise.all(Array.from({ length: callsAtOnce }, call));
  return { calls: callers.length, failures };
}

let isOver = false;

async function measure(): Promise<CallLatency> {
  isOver = false;
  const turn = () => delay(1);
  const directly = toolCall(new URL(upstreamUrl), null, 'tool_1', slowly);
  const [node, direct] = await Promise.all([
    measureLatency(() => callAs(pick(callers), slowly).catch(() => false), {
      requestsPerSecond: requestsPerSecond.node,
      isOver: () => isOver,
      turn,
    }),
    measureLatency(() => send(upstreamUrl, directly), {
      requestsPerSecond: requestsPerSecond.direct,
      isOver: () => isOver,
      turn,
    }),
  ]);
  return { node, direct };
}

parentPort?.on('message', ({ type }: ToCallers) => {
  if (type === 'end') isOver = true;
  else void (type === 'everyone' ? everyone() : measure()).then((found) => parentPort?.postMessage(found));
});
