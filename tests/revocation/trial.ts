import { request } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { type Arrival, sharedNowMs } from '../kit/echo-upstream.ts';
import { waitFor } from '../kit/condition.ts';
import { RawConnection } from '../isolation/raw-connection.ts';
import type { LightRuntime } from './light-runtime.ts';
import type { Call, Victim } from './victims.ts';
import { Watch, type Watched } from './watch.ts';

/** Where calls of a victim are made: one real node, or a process with light runtimes. */
export interface Site {
  /** Resolves when every runtime of the site admits the victim. */
  watch(victim: Victim): Promise<SiteWatch>;
}

export interface SiteWatch {
  /** Resolves when no runtime of the site admits any more. */
  settle(): Promise<readonly Watched[]>;
}

export interface TrialResult {
  /**
   * By runtime: from the mutation's answer to the last call that was admitted, with the credential that it ended where it
   * ended one, in milliseconds; 0 where none was.
   */
  readonly admittedMs: readonly number[];
  /** By open stream: from the mutation's answer to its end. */
  readonly streamMs: readonly number[];
}

/** So long the victim is left alone before it is revoked, at random, so that no timer is always met at the same point. */
const calmMsMax = 120;
const streamDeadlineMs = 10_000;

export function head({ slug, headers }: Pick<Call, 'slug' | 'headers'>): string {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}`);
  return [`POST /mcp/${slug} HTTP/1.1`, 'host: 127.0.0.1', ...lines, ''].join('\r\n');
}

/** Opens a legacy session with a key; any node serves it. */
export async function openLegacySession(url: string, key: string): Promise<string> {
  const response = await fetch(url, {
    method: 'POST',
    headers: {
      authorization: `Bearer ${key}`,
      'content-type': 'application/json',
      accept: 'application/json, text/event-stream',
    },
    body: JSON.stringify({
      jsonrpc: '2.0',
      id: 0,
      method: 'initialize',
      params: { protocolVersion: '2025-11-25', capabilities: {}, clientInfo: { name: 'revocation', version: '1' } },
    }),
  });
  await response.text();
  const session = response.headers.get('mcp-session-id');
  if (session === null) throw new Error(`no session was opened: ${response.status}`);
  return session;
}

/** A real node, called over HTTP; a call was admitted when it arrived at the upstream. */
export function nodeSite(name: string, url: string, arrivals: ReadonlyMap<string, Arrival>): Site {
  return {
    watch: async (victim) => {
      const connection = new RawConnection(new URL(url));
      const nonce = `${name}/${Math.random()}`;
      const call = victim.call(nonce);
      const text = head(call);
      let seen: Arrival | undefined;
      const watch = new Watch(name, async () => {
        await connection.send(text, call.body);
        const arrival = arrivals.get(nonce);
        if (arrival === seen) return undefined;
        seen = arrival;
        return arrival;
      });
      await watch.admitted;
      return {
        settle: async () => {
          watch.settle();
          const result = await watch.refused;
          connection.close();
          return [result];
        },
      };
    },
  };
}

/** Light runtimes of this process. */
export function lightSite(runtimes: readonly LightRuntime[]): Site {
  return {
    watch: async (victim) => {
      const call = victim.call('light');
      const watches = runtimes.map((runtime, at) => new Watch(`light-${at}`, () => runtime.call(call)));
      await Promise.all(watches.map((watch) => watch.admitted));
      return {
        settle: () => {
          for (const watch of watches) watch.settle();
          return Promise.all(watches.map((watch) => watch.refused));
        },
      };
    },
  };
}

export interface OpenStream {
  /** Shared instant of its end. */
  readonly ended: Promise<number>;
}

/** Opens a stream and resolves when it is open. */
export function openStream(url: string, { method, slug, headers, body }: Victim['stream']): Promise<OpenStream> {
  return new Promise((resolve, reject) => {
    const outgoing = request(`${url}/mcp/${slug}`, { method, agent: false, headers }, (response) => {
      if (response.statusCode !== 200) {
        reject(new Error(`a stream was answered ${String(response.statusCode)}`));
        return;
      }
      const ended = new Promise<number>((end) => {
        const done = (): void => end(sharedNowMs());
        response.once('end', done).once('close', done).on('error', done).resume();
      });
      resolve({ ended });
    });
    outgoing.on('error', reject);
    if (body === null) outgoing.end();
    else outgoing.end(body);
  });
}

/** Revokes one victim that is calling every runtime and has a stream open on each node. */
export async function revokeOne(
  victim: Victim,
  sites: readonly Site[],
  nodeUrls: readonly string[],
): Promise<TrialResult> {
  const watches = await Promise.all(sites.map((site) => site.watch(victim)));
  const streams = await Promise.all(nodeUrls.map((url) => openStream(url, victim.stream)));
  await delay(Math.random() * calmMsMax);
  await victim.revoke();
  const answeredAt = sharedNowMs();
  const since = (at: number): number => Math.max(0, at - answeredAt);
  let open = streams.length;
  const ends = Promise.all(
    streams.map(async ({ ended }) => {
      const at = await ended;
      open--;
      return since(at);
    }),
  );
  const watched = (await Promise.all(watches.map((watch) => watch.settle()))).flat();
  await waitFor('every stream has ended', () => open === 0, { deadlineMs: streamDeadlineMs });
  await victim.restore();
  return { admittedMs: watched.map(({ lastAdmittedAt }) => since(lastAdmittedAt ?? answeredAt)), streamMs: await ends };
}
