/**
 * Kills every part of the audit path at random times under load. What is promised, and asserted:
 * every request that was answered to its last byte has exactly one row; every call that the upstream executed has at
 * least one; no request has two. A spool that is emptied while its node is stopped loses what the control plane had not
 * confirmed, by definition: so it is emptied when everything in it is stored, and then nothing is missing either.
 */
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import { testConfig } from '../kit/config.ts';
import { hasRedis } from '../kit/redis.ts';
import { type KillTopology, startKillTopology } from './kill-topology.ts';

const backends = [
  { backend: 'Redis', redis: true, ...(testConfig.strict ? { kills: 20, calls: 5_000 } : { kills: 6, calls: 800 }) },
  {
    backend: 'PostgreSQL',
    redis: false,
    ...(testConfig.strict ? { kills: 20, calls: 5_000 } : { kills: 3, calls: 300 }),
  },
];
const seed = Number(testConfig.seed ?? randomBytes(4).readUInt32LE());
const clients = 12;
const aheadDelayMs = 100;
const requestTimeoutMs = 8_000;
const settleDeadlineMs = 60_000;

/** mulberry32: the same seed gives the same kills. */
function randomFrom(start: number): () => number {
  let state = start;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

function pick<T>(random: () => number, from: readonly [T, ...T[]]): T {
  return from[Math.floor(random() * from.length)] ?? from[0];
}

interface Sent {
  readonly traceId: string;
  readonly kind: string;
  answered: boolean;
}

const meta = {
  'io.modelcontextprotocol/protocolVersion': '2026-07-28',
  'io.modelcontextprotocol/clientInfo': { name: 'kills', version: '1' },
  'io.modelcontextprotocol/clientCapabilities': {},
};
const callOf = (name: string, traceId: string, more: object = {}): string =>
  JSON.stringify({
    jsonrpc: '2.0',
    id: 1,
    method: 'tools/call',
    params: { name, arguments: { id: traceId, ...more }, _meta: meta },
  });

/** What is asked, by its share; the trace id ties the request, its execution and its row together. */
const kinds: readonly {
  readonly kind: string;
  readonly share: number;
  readonly body: (id: string) => string;
  readonly tool: string;
}[] = [
  { kind: 'call', share: 0.55, body: (id) => callOf('count', id), tool: 'count' },
  { kind: 'stream', share: 0.25, body: (id) => callOf('stream', id, { events: 3, delayMs: 2 }), tool: 'stream' },
  { kind: 'refused', share: 0.08, body: (id) => callOf('hang', id), tool: 'hang' },
  { kind: 'NUL', share: 0.04, body: (id) => callOf('count\0', id), tool: 'count' },
  { kind: 'surrogate', share: 0.04, body: (id) => callOf('count\ud800', id), tool: 'count' },
  { kind: 'malformed', share: 0.04, body: (id) => `{"jsonrpc":"2.0","id":"\0\ud800${id}"`, tool: 'count' },
];

function kindFor(share: number) {
  let rest = share;
  return kinds.find((candidate) => (rest -= candidate.share) < 0) ?? kinds[0];
}

async function ask(url: string, key: string, sent: Sent, tool: string, body: string): Promise<void> {
  try {
    const response = await fetch(url, {
      method: 'POST',
      headers: {
        'content-type': 'application/json',
        accept: 'application/json, text/event-stream',
        authorization: `Bearer ${key}`,
        traceparent: `00-${sent.traceId}-00f067aa0ba902b7-01`,
        'mcp-protocol-version': '2026-07-28',
        'mcp-method': 'tools/call',
        'mcp-name': tool,
      },
      body,
      signal: AbortSignal.timeout(requestTimeoutMs),
    });
    await response.text();
    sent.answered = true;
  } catch {
    // Its node was killed, or the request never reached one.
  }
}

const redisThere = hasRedis('killing the parts of the audit path with Redis');

describe.each(backends)('with queues in $backend', (size) => {
  const skipped = size.redis && !redisThere;
  let topology: KillTopology;
  beforeAll(async () => {
    if (skipped) return;
    topology = await startKillTopology(size);
  }, 120_000);
  afterAll(() => topology?.stop());

  test.skipIf(skipped)(
    `the audit trail is complete after ${size.kills} kills over ${size.calls} calls (seed ${seed})`,
    {
      timeout: 240_000,
    },
    async () => {
      process.stdout.write(
        `audit-survives-kills on ${size.backend}: ${size.kills} kills, ${size.calls} calls, seed ${seed}\n`,
      );
      const startedAt = performance.now();
      const phases: string[] = [];
      const phase = (name: string): void =>
        void phases.push(`${name} after ${Math.round((performance.now() - startedAt) / 1000)} s`);
      const random = randomFrom(seed);
      const all: Sent[] = [];
      const load = { stop: false, skipNode: -1 };
      const killed: string[] = [];
      const answered = { count: 0 };
      // The kills lie evenly over the calls: a client that is ahead of them slows down, but never stops.
      const isAhead = (): boolean => answered.count > ((killed.length + 1) / size.kills) * size.calls;
      const running = Array.from({ length: clients }, async (_, client) => {
        for (let n = client; !load.stop; n++) {
          const node = n % topology.nodes.length;
          const kind = kindFor(Math.random());
          if (kind === undefined || node === load.skipNode) {
            await delay(5);
            continue;
          }
          const sent: Sent = { traceId: randomBytes(16).toString('hex'), kind: kind.kind, answered: false };
          all.push(sent);
          const url = `${topology.nodes[node]?.url ?? ''}/mcp/counter`;
          await ask(url, topology.key, sent, kind.tool, kind.body(sent.traceId));
          if (sent.answered) answered.count += 1;
          if (!sent.answered || isAhead()) await delay(sent.answered ? aheadDelayMs : 20);
        }
      });

      // Each part at least once, then by chance. A part that is down already is no kill: it is tried again a moment later.
      const { targets } = topology;
      const order = [...targets, ...Array.from({ length: size.kills }, () => pick(random, targets))];
      for (const target of order.slice(0, size.kills)) {
        await delay(100 + random() * 700);
        const name = await waitFor(`${target} is up to be killed`, () => topology.kill(target, random), {
          deadlineMs: settleDeadlineMs,
          intervalMs: 50,
        });
        killed.push(name);
      }
      phase('killed');
      await topology.allUp();
      await waitFor('enough calls were answered', () => answered.count >= size.calls, {
        deadlineMs: settleDeadlineMs,
        intervalMs: 100,
      });
      phase('called');
      await emptySpool(load);
      phase('spool emptied');
      await delay(300);
      load.stop = true;
      await Promise.all(running);
      await topology.drained(settleDeadlineMs);
      phase('drained');
      process.stdout.write(`audit-survives-kills: ${killed.join(' ')}; ${all.length} requests; ${phases.join(', ')}\n`);
      expect(killed).toHaveLength(size.kills);
      expect(topology.crashes()).toEqual([]);
      await expectComplete(all);
    },
  );

  /** Stops traffic to one node, waits until all it has written is stored, kills it, and removes its spool. */
  async function emptySpool(load: { skipNode: number }): Promise<void> {
    const index = 1;
    const node = topology.nodes[index];
    if (node === undefined) throw new Error('there is no second node');
    load.skipNode = index;
    const sql = postgres(topology.databaseUrl, { max: 1 });
    const spool = join(node.directory, 'spool');
    await waitFor(
      'all that stands in the spool is stored',
      async () => {
        const epochs = readdirSync(spool, { withFileTypes: true }).filter((entry) => entry.isDirectory());
        for (const { name } of epochs) {
          const [row] = await sql<{ watermark: string }[]>`select watermark from audit_epochs where epoch = ${name}`;
          if (Number(row?.watermark ?? 0) < lastSequence(join(spool, name))) return false;
        }
        return true;
      },
      { deadlineMs: settleDeadlineMs, intervalMs: 200 },
    );
    await node.kill();
    rmSync(spool, { recursive: true });
    await node.start();
    load.skipNode = -1;
    await waitFor(
      'the emptied epoch is known to be lost',
      async () => {
        const lost = await sql`select 1 from audit_epochs where ended_reason = 'lost'`;
        return lost.length > 0;
      },
      { deadlineMs: settleDeadlineMs },
    );
    await sql.end();
  }

  function lastSequence(directory: string): number {
    const segment = readdirSync(directory)
      .filter((name) => name.endsWith('.jsonl'))
      .sort()
      .at(-1);
    if (segment === undefined) return 0;
    const lines = readFileSync(join(directory, segment), 'utf8').split('\n').length - 1;
    return Number(segment.slice(0, 16)) + lines - 1;
  }

  async function expectComplete(all: readonly Sent[]): Promise<void> {
    const sql = postgres(topology.databaseUrl, { max: 1 });
    const rows = await sql<{ trace_id: string; n: number }[]>`
      select trace_id, count(*)::integer as n from audit_events where kind = 'exchange' group by trace_id`;
    const [open] = await sql<{ n: number }[]>`select count(*)::integer as n from audit_events where outcome is null`;
    const [quarantined] = await sql<{ n: number }[]>`select count(*)::integer as n from audit_quarantine`;
    await sql.end();
    const counts = new Map(rows.map(({ trace_id, n }) => [trace_id, n]));
    const missing = all.filter(({ answered, traceId }) => answered && !counts.has(traceId));
    expect(missing, 'answered requests without a row').toEqual([]);
    expect(
      rows.filter(({ n }) => n > 1),
      'requests with more than one row',
    ).toEqual([]);
    const executed = [...topology.upstream.executions.keys()];
    expect(
      executed.filter((traceId) => !counts.has(traceId)),
      'executed calls without a row',
    ).toEqual([]);
    expect(open?.n, 'rows that are still open').toBe(0);
    expect(quarantined?.n, 'quarantined lines').toBe(0);
    for (const { kind } of kinds) {
      expect(all.filter((sent) => sent.kind === kind && sent.answered).length, `answered: ${kind}`).toBeGreaterThan(0);
    }
  }
});
