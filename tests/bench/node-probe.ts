/** Loaded into a node before its program (`--import`), with `--expose-gc`: tells what the node holds when it is asked. */
import { readdirSync } from 'node:fs';
import { Socket } from 'node:net';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { queryObjects } from 'node:v8';

export interface Probed {
  /** In use after two forced collections, in bytes. */
  readonly heapBytes: number;
  readonly residentBytes: number;
  readonly descriptors: number;
  /** Reachable, whether or not they keep the event loop alive. */
  readonly sockets: number;
  readonly timers: number;
  /** What keeps the event loop alive, by its kind. */
  readonly resources: Readonly<Record<string, number>>;
  /** Since the last time it was asked, in milliseconds. */
  readonly eventLoopDelayP99Ms: number;
}

/** What asks. */
export const probeMessage = 'probe';

const never = setTimeout(() => undefined);
clearTimeout(never);
const Timer = never.constructor as typeof Object;

const delays = monitorEventLoopDelay({ resolution: 10 });
delays.enable();

process.on('message', (message: unknown) => {
  if (message !== probeMessage) return;
  // Before the collection, which stops the event loop itself.
  const eventLoopDelayP99Ms = delays.percentile(99) / 1e6;
  globalThis.gc?.();
  globalThis.gc?.();
  const resources: Record<string, number> = {};
  for (const kind of process.getActiveResourcesInfo()) resources[kind] = (resources[kind] ?? 0) + 1;
  const { heapUsed: heapBytes, rss: residentBytes } = process.memoryUsage();
  const descriptors = readdirSync('/proc/self/fd').length;
  const sockets = queryObjects(Socket, { format: 'count' });
  const timers = queryObjects(Timer, { format: 'count' });
  const probed: Probed = { heapBytes, residentBytes, descriptors, sockets, timers, resources, eventLoopDelayP99Ms };
  process.send?.(probed);
  delays.reset();
});
