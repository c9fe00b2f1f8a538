/**
 * A data-plane runtime without its edges: it joins the fleet, applies what is pushed, and decides by the real pipeline.
 * Its upstream is a function, so that very many calls cost little.
 */
import {
  Connections,
  DecisionCache,
  decisionCacheBytesMax,
  ExchangeSlots,
  loneNode,
  ObservedHealth,
  Pipeline,
  RuntimeStore,
  UpstreamCredentials,
} from '@sallyport/data-plane';
import { SyncClient } from '@sallyport/data-plane/runtime';
import { AppError } from '@sallyport/schema';
import { createLog, randomSecret, systemClock, FailedAttempts } from '@sallyport/schema/platform';
import type { Dispatcher } from 'undici';
import { type Arrival, sharedNowMs } from '../kit/echo-upstream.ts';
import type { Call } from './victims.ts';

const log = createLog({ name: 'light', level: 'silent' });
const answer = Buffer.from('{"jsonrpc":"2.0","id":1,"result":{"content":[]}}');
/** Of what only a whole node has. */
const alone = {
  build: 'light',
  labels: {},
  peerUrl: null,
  peerCertificate: null,
  onPeers: () => undefined,
};
const idle = {
  exchangesOpen: 0,
  requestsPerSecond: 0,
  eventLoopDelayP99Ms: 0,
  residentBytes: 0,
  spoolBytes: 0,
  spoolRecordsUnconfirmed: 0,
};

export interface LightRuntime {
  /** @returns the instant at which the call was about to be written, or undefined where it was refused */
  call(call: Call): Promise<Arrival | undefined>;
  stop(): Promise<void>;
}

class InstantController implements Dispatcher.DispatchController {
  readonly paused = false;
  readonly aborted = false;
  readonly reason = null;
  readonly rawHeaders = null;
  readonly rawTrailers = null;
  abort(): void {}
  pause(): void {}
  resume(): void {}
}

/** Answers when the first byte would be written, and tells when that was. */
function instantPool(admitted: (arrival: Arrival) => void): Pick<Dispatcher, 'dispatch'> {
  return {
    dispatch: ({ headers }, handler) => {
      const controller = new InstantController();
      try {
        handler.onRequestStart?.(controller, undefined);
      } catch (error) {
        handler.onResponseError?.(controller, error instanceof Error ? error : new Error(String(error)));
        return true;
      }
      admitted({ at: sharedNowMs(), authorization: authorizationOf(headers) });
      handler.onResponseStart?.(controller, 200, { 'content-type': 'application/json' });
      handler.onResponseData?.(controller, answer);
      handler.onResponseEnd?.(controller, {});
      return true;
    },
  };
}

/** @param headers name, value, name, value, … */
function authorizationOf(headers: Dispatcher.DispatchOptions['headers']): string | null {
  const flat: readonly unknown[] = Array.isArray(headers) ? headers : [];
  const at = flat.findIndex((text, index) => index % 2 === 0 && text === 'authorization');
  return at < 0 ? null : String(flat[at + 1]);
}

/** Nothing is counted, and nothing long inspected. */
const uncounted = {
  captures: {
    begin: () => {
      throw new Error('nothing is captured here');
    },
  },
  detectorPool: { detect: () => Promise.reject(new Error('nothing is inspected here')) },
  webhookSender: { ask: () => Promise.reject(new Error('nobody is asked here')) },
  inputSchemas: { fits: () => false },
  metrics: {
    exchangeClosed: () => undefined,
    inspected: () => undefined,
    judged: () => undefined,
    asked: () => undefined,
  },
};

/** What is observed of upstreams, and told to nobody. */
function unheard(store: RuntimeStore) {
  const health = new ObservedHealth({ now: () => store.now(), report: () => undefined, doubt: () => undefined });
  return { health, sightings: { seen: () => undefined } };
}

export interface LightRuntimeOptions {
  readonly syncUrl: string;
  readonly joinToken: string;
  readonly name: string;
  /** Of its own; whoever gives it removes it. */
  readonly directory: string;
}

/** The end of the push, and what it lends, which it takes back too. */
function joined({ syncUrl, directory, ...who }: LightRuntimeOptions, store: RuntimeStore) {
  const credentials: UpstreamCredentials = new UpstreamCredentials({
    lend: (need) => sync.lend(need),
    now: () => store.now(),
    runtime: () => store.current,
  });
  const sync = new SyncClient({
    url: syncUrl,
    dataDirectory: directory,
    nodeSecret: randomSecret('node_'),
    ...who,
    ...alone,
    onReturned: () => credentials.forgetUsers(),
    onForget: (serverId, principalId) => credentials.forget(serverId, principalId),
    store,
    clock: systemClock,
    log,
    spoolEpochs: () => [],
    load: () => idle,
    discover: () => Promise.reject(new AppError('UPSTREAM_UNREACHABLE')),
  });
  return { sync, credentials };
}

export function startLightRuntime(options: LightRuntimeOptions): LightRuntime {
  const clock = systemClock;
  const store = new RuntimeStore({ clock });
  const { sync, credentials } = joined(options, store);
  let admitted: Arrival | undefined;
  const observed = unheard(store);
  const pipeline = new Pipeline({
    runtimes: store,
    audit: { append: () => Promise.resolve(), appendDurable: () => Promise.resolve() },
    ...uncounted,
    connections: new Connections({ pool: () => instantPool((arrival) => (admitted = arrival)) }),
    credentials,
    peers: loneNode('node-1'),
    ...observed,
    decisions: new DecisionCache({ bytesMax: decisionCacheBytesMax }),
    slots: new ExchangeSlots({ exchangesMax: 1000 }),
    receive: {
      access: { publicHosts: new Set(['127.0.0.1']), allowedOrigins: new Set() },
      requestBodyTimeoutMs: 5_000,
    },
    failedAttempts: new FailedAttempts({ clock }),
    clock,
    log,
  });
  sync.start();
  return {
    call: async ({ slug, headers, body }) => {
      admitted = undefined;
      const response = await pipeline.handle({
        method: 'POST',
        path: `/mcp/${slug}`,
        headers: new Map([['host', '127.0.0.1'], ...Object.entries(headers)]),
        repeatedHeaders: [],
        query: '',
        remoteAddress: '127.0.0.1',
        signal: new AbortController().signal,
        readBody: () => Promise.resolve(Buffer.from(body)),
      });
      response.follower?.ended(true, 0, null);
      return admitted;
    },
    stop: async () => {
      await sync.stop();
      pipeline.close();
      observed.health.close();
      credentials.close();
    },
  };
}
