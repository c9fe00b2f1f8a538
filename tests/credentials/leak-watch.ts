import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import type { IncomingMessage } from 'node:http';
import { foundIn, type Readings, readingsOf, type Sought } from '../kit/canaries.ts';

/**
 * Where a secret could come to light, and what stands there once it was looked at: a watch that sees nothing of a channel
 * says so.
 */
const marks = {
  'requests to upstreams': '"tools/call"',
  'requests to upstreams of HTTP+SSE': '"tools/call"',
  'requests to authorization servers': 'grant_type=',
  'requests to the identity provider': '/token',
  'webhooks about messages': '"boundary":"upstream_to_client"',
  'webhooks about audit events': '"decision"',
  'log of control-plane': '"level":"debug"',
  'log of node-1': '"level":"debug"',
  'log of node-2': '"level":"debug"',
  'context of traces': 'traceparent',
  'answers of nodes': '"error"',
  'answers of the control plane': '<html',
  'redirect targets': 'response_type=code',
  'audit events of the API': '"REFUSED"',
  'audit export': '"type":"end"',
  'captured messages': '"tools/call"',
  'between nodes': '/peer/v1/exchange',
  'between nodes and the control plane': '"manifest"',
  'metrics of control-plane': '# TYPE sallyport_',
  'metrics of node-1': '# TYPE sallyport_',
  'metrics of node-2': '# TYPE sallyport_',
  'files of nodes': '"record"',
  database: String.raw`\"opened\"`,
} as const;
export type Channel = keyof typeof marks;
const channels = Object.keys(marks) as Channel[];

/** Gathers what is to be seen on each channel. */
export class LeakWatch {
  readonly #texts = new Map<Channel, string[]>(channels.map((channel) => [channel, []]));
  readonly #readings = new Map<Channel, Readings>();

  add(channel: Channel, ...texts: readonly string[]): void {
    this.#texts.get(channel)?.push(...texts);
    this.#readings.delete(channel);
  }

  /** What nodes ask each other, as it comes out of TLS. Ends with the returned function. */
  watchPeers(): () => void {
    const onRequest = (message: unknown): void => {
      const { request } = message as { readonly request: IncomingMessage };
      const { url = '', rawHeaders } = request;
      if (!url.startsWith('/peer/')) return;
      this.add('between nodes', url, ...rawHeaders);
      request.on('data', (chunk: Buffer) => this.add('between nodes', chunk.toString('latin1')));
    };
    subscribe('http.server.request.start', onRequest);
    return () => unsubscribe('http.server.request.start', onRequest);
  }

  #textOf(channel: Channel): string {
    return this.#texts.get(channel)?.join('\n') ?? '';
  }

  #readingsOf(channel: Channel): Readings {
    const known = this.#readings.get(channel) ?? readingsOf(this.#textOf(channel));
    this.#readings.set(channel, known);
    return known;
  }

  /** Channels on which nothing was seen that is there by all means. */
  blind(): readonly Channel[] {
    return channels.filter((channel) => !this.#textOf(channel).includes(marks[channel]));
  }

  /** The secrets that were seen, by the channel. */
  seen(sought: Sought): Readonly<Partial<Record<Channel, readonly string[]>>> {
    const seen = channels.map((channel) => [channel, foundIn(this.#readingsOf(channel), sought).sort()] as const);
    return Object.fromEntries(seen.filter(([, names]) => names.length > 0));
  }
}
