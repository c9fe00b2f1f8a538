import {
  openDatabase,
  PartitionService,
  TrafficIngestService,
  TrafficQueryService,
} from '@sallyport/control-plane/audit';
import { type InspectionRow, type MetricsWindow, metricsSigningText, permissions, Sketch } from '@sallyport/schema';
import { systemClock } from '@sallyport/schema/platform';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Chain, log, nodeSigner, refusedRecord, startStore, type Store } from './audit-kit.ts';

let store: Store;
beforeAll(async () => {
  store = await startStore();
});
afterAll(() => store.stop());

const ctx = {
  actor: {
    principalId: 'p',
    name: 'p',
    kind: 'user' as const,
    keyId: null,
    permissions: new Set(permissions),
    limited: [],
    groupIds: new Set<string>(),
  },
  authorize: () => undefined,
  serverScope: () => 'all' as const,
  clock: systemClock,
  log,
};
const minute = Date.UTC(2026, 10, 22, 12, 0);
const dayMs = 86_400_000;

function window(
  signer: ReturnType<typeof nodeSigner>,
  windowStart: number,
  rows: readonly [string, string, number[]][],
  inspections: readonly InspectionRow[] = [],
): MetricsWindow {
  const unsigned = {
    nodeId: signer.nodeId,
    epoch: 'epoch',
    windowStart,
    rows: rows.map(([tool, outcome, durations]) => {
      const sketch = new Sketch();
      for (const duration of durations) sketch.add(duration);
      return {
        serverId: 'server',
        slug: 'counter',
        target: tool === '' ? null : ({ kind: 'tool', name: tool } as const),
        outcome: outcome as 'success' | 'error' | 'refused',
        durationMsSum: durations.reduce((sum, duration) => sum + duration, 0),
        sketch: sketch.serialize(),
      };
    }),
    inspections: [...inspections],
    publicKey: signer.publicKey,
  };
  return { ...unsigned, signature: signer.sign(metricsSigningText(unsigned)) };
}

test('traffic of two nodes adds up: calls, success rate, and quantiles over all of them', async () => {
  const ingest = new TrafficIngestService({
    database: store.database,
    keys: { accepts: () => Promise.resolve(true), maySucceed: () => Promise.resolve(false) },
    log,
  });
  const [one, other] = [nodeSigner(), nodeSigner()];
  const durations = Array.from({ length: 100 }, (_, n) => n + 1);
  const first = window(one, minute, [
    ['count', 'success', durations.slice(0, 50)],
    ['', 'refused', [1, 1]],
  ]);
  await ingest.ingest(first);
  await ingest.ingest(first);
  await ingest.ingest({ ...window(one, minute + 10_000, [['count', 'success', [1]]]), windowStart: minute + 20_000 });
  await Promise.all([
    ingest.ingest(window(other, minute, [['count', 'success', durations.slice(50)]])),
    ingest.ingest(
      window(other, minute + 30_000, [
        ['count', 'error', [100]],
        ['fail', 'error', [5]],
      ]),
    ),
  ]);
  const query = new TrafficQueryService(store.database);
  const range = { from: new Date(minute), to: new Date(minute + 60_000) };
  const byTarget = await query.traffic(ctx, range, 'target', {});
  expect(byTarget[0]).toMatchObject({ serverSlug: 'counter', targetName: 'count', calls: 101, refused: 0 });
  expect(byTarget[0]?.successRate).toBeCloseTo(100 / 101);
  expect(byTarget[0]?.durationMsP50).toBeGreaterThan(49);
  expect(byTarget[0]?.durationMsP50).toBeLessThan(52);
  expect(byTarget[0]?.durationMsP99).toBeGreaterThan(98);
  expect(byTarget.map(({ targetName, calls }) => [targetName, calls])).toEqual([
    ['count', 101],
    [null, 2],
    ['fail', 1],
  ]);
  const [server] = await query.traffic(ctx, range, 'server', {});
  expect(server).toMatchObject({ calls: 104, refused: 2, targetName: null });
  expect(await query.traffic(ctx, { from: range.to, to: new Date(minute + 120_000) }, 'server', {})).toEqual([]);
  expect(await query.traffic(ctx, range, 'target', { targetName: 'fail' })).toHaveLength(1);
});

test('a window by a key that is not registered counts nothing', async () => {
  const ingest = new TrafficIngestService({
    database: store.database,
    keys: { accepts: () => Promise.resolve(false), maySucceed: () => Promise.resolve(false) },
    log,
  });
  await ingest.ingest(window(nodeSigner(), minute + dayMs, [['count', 'success', [1]]]));
  expect(
    await store.database.raw`select 1 from traffic_minutes where minute >= ${new Date(minute + dayMs)}`,
  ).toHaveLength(0);
});

test('partitions are made ahead, take up what came before them, and are dropped past the retention', async () => {
  const { raw } = store.database;
  const names = async (): Promise<string[]> =>
    (await raw<{ name: string }[]>`select inhrelid::regclass::text as name from pg_inherits order by 1`).map(
      ({ name }) => name,
    );
  const day = (offset: number): Date => new Date(systemClock.now() + offset * dayMs);
  const partition = (offset: number): string =>
    `audit_events_${day(offset).toISOString().slice(0, 10).replaceAll('-', '')}`;
  const chain = new Chain().add(...[-900, -2, 0].map((offset) => refusedRecord({ time: day(offset).getTime() })));
  await store.ingest.ingest(chain.batch());
  const partitions = new PartitionService({ database: store.database, clock: systemClock, log });
  await partitions.maintain();
  await partitions.maintain();
  expect(await names()).toEqual(expect.arrayContaining([partition(-2), partition(0), partition(7)]));
  const rows = await raw<{ home: string }[]>`
    select tableoid::regclass::text as home from audit_events where node_id = ${chain.signer.nodeId} order by time`;
  expect(rows.map(({ home }) => home)).toEqual([partition(-2), partition(0)]);
  const later = { ...systemClock, now: () => systemClock.now() + 30 * dayMs };
  await raw`insert into settings (key, value) values ('audit', '{"retentionDays": 10}')`;
  await new PartitionService({ database: store.database, clock: later, log }).maintain();
  expect(await names()).not.toContain(partition(0));
});

test('looks and verdicts of nodes add up by server, detector and decision, once for each window', async () => {
  const keys = { accepts: () => Promise.resolve(true), maySucceed: () => Promise.resolve(false) };
  const ingest = new TrafficIngestService({ database: store.database, keys, log });
  const row = (count: number, verdict: InspectionRow['verdict']): InspectionRow => {
    return { serverId: 'inspected', slug: 'i', detector: 'secret', verdict, count, durationMsSum: count * 2 };
  };
  const at = minute + 3 * dayMs;
  const blocked = { decision: 'block', mode: 'enforce' } as const;
  const signer = nodeSigner();
  const first = window(signer, at, [], [row(10, null), row(1, blocked)]);
  for (const one of [first, first, window(nodeSigner(), at + 10_000, [], [row(30, null), row(2, blocked)])])
    await ingest.ingest(one);
  const forged = { ...first, windowStart: at + 20_000 };
  await ingest.ingest(forged);
  const range = { from: new Date(at), to: new Date(at + 60_000) };
  expect(await new TrafficQueryService(store.database).inspections(ctx, range, { serverId: 'inspected' })).toEqual([
    {
      serverId: 'inspected',
      serverSlug: 'i',
      detector: 'secret',
      decision: null,
      mode: null,
      count: 40,
      durationMsMean: 2,
    },
    { serverId: 'inspected', serverSlug: 'i', detector: 'secret', ...blocked, count: 3, durationMsMean: 2 },
  ]);
});

test('a range of days comes to the same by sums of hours and days as by its minutes', async () => {
  const ingest = new TrafficIngestService({
    database: store.database,
    keys: { accepts: () => Promise.resolve(true), maySucceed: () => Promise.resolve(false) },
    log,
  });
  const signer = nodeSigner();
  const begin = Date.UTC(2026, 9, 1, 21, 40);
  const starts = Array.from({ length: 40 }, (_, n) => begin + n * 97 * 60_000);
  for (const [n, start] of starts.entries()) {
    const rows: [string, string, number[]][] = [
      [`tool_${n % 3}`, n % 5 === 0 ? 'error' : 'success', [n + 1, 2 * n + 1]],
      ['', 'refused', [1]],
    ];
    await ingest.ingest(window(signer, start, rows));
  }
  const query = new TrafficQueryService(store.database);
  const asked = async () => {
    const found = [];
    for (const [from, minutes] of [
      [begin - 60_000, 5 * 1440],
      [begin + 30 * 60_000, 2 * 1440 + 17],
      [begin, 61],
    ] as const) {
      const range = { from: new Date(from), to: new Date(from + minutes * 60_000) };
      found.push(await query.traffic(ctx, range, 'server', {}));
      found.push(await query.traffic(ctx, range, 'target', { serverId: 'server' }));
      found.push(await query.traffic(ctx, range, 'server', { targetName: 'tool_1' }));
    }
    return found;
  };
  const summed = await asked();
  await store.database.raw`update traffic_rollups_since set start = 'infinity'`;
  const byMinutes = await asked();
  await store.database.raw`update traffic_rollups_since set start = '-infinity'`;
  expect(summed[0]?.[0]?.calls).toBe(120);
  expect(summed).toEqual(byMinutes);
});

test('sums by outcome, as they were written before, count like those that are written now', async () => {
  const { raw } = store.database;
  const began = Date.UTC(2026, 8, 1);
  const range = { from: new Date(began), to: new Date(began + dayMs) };
  const sums = [
    ['success', 7, 70, '[0,80,7]'],
    ['error', 2, 20, '[0,80,2]'],
    ['refused', 1, 3, '[0,80,1]'],
  ] as const;
  const ingest = new TrafficIngestService({
    database: store.database,
    keys: { accepts: () => Promise.resolve(true), maySucceed: () => Promise.resolve(false) },
    log,
  });
  await ingest.ingest(window(nodeSigner(), began, [['late', 'success', [10, 10, 10]]]));
  for (const [outcome, calls, durationMsSum, sketch] of sums) {
    await raw`
      insert into traffic_rollups (unit, whole, start, server_id, server_slug, outcome, calls, duration_ms_sum, sketch)
      values ('day', true, ${range.from.toISOString()}, 'server', 'counter', ${outcome}, ${calls}, ${durationMsSum}, ${sketch})`;
  }
  const [traffic] = await new TrafficQueryService(store.database).traffic(ctx, range, 'server', {});
  expect(traffic).toMatchObject({ calls: 13, refused: 1, successRate: 10 / 12, durationMsMean: 10 });
  expect(traffic?.durationMsP50).toBeLessThan(6);
  expect(traffic?.durationMsP99).toBeGreaterThan(9);
});

test('a sketch with room between its numbers counts like any other, and what cannot be added up keeps nothing else out', async () => {
  const ingest = new TrafficIngestService({
    database: store.database,
    keys: { accepts: () => Promise.resolve(true), maySucceed: () => Promise.resolve(false) },
    log,
  });
  const began = Date.UTC(2026, 7, 1);
  const signed = (
    signer: ReturnType<typeof nodeSigner>,
    at: number,
    row: { sketch: string; durationMsSum: number },
  ) => {
    const { signature: _, ...unsigned } = window(signer, at, [['odd', 'refused', [1]]]);
    const [only] = unsigned.rows;
    const odd = { ...unsigned, rows: only === undefined ? [] : [{ ...only, outcome: 'success' as const, ...row }] };
    return { ...odd, signature: signer.sign(metricsSigningText(odd)) };
  };
  await ingest.ingest(signed(nodeSigner(), began, { sketch: '[0,\n80,\n5]', durationMsSum: 25 }));
  const query = new TrafficQueryService(store.database);
  const range = { from: new Date(began), to: new Date(began + dayMs) };
  const [spaced] = await query.traffic(ctx, range, 'target', { serverId: 'server' });
  expect(spaced).toMatchObject({ calls: 5, successRate: 1 });
  expect(spaced?.durationMsP50).toBeCloseTo(4.9, 0);

  const most = { sketch: `[0,80,${Number.MAX_SAFE_INTEGER}]`, durationMsSum: Number.MAX_VALUE };
  for (let at = 1; at <= 3; at++) await ingest.ingest(signed(nodeSigner(), began + at * 60_000, most));
  await ingest.ingest(signed(nodeSigner(), began + 4 * 60_000, { sketch: '[0,80,5]', durationMsSum: 25 }));
  const [after] = await query.traffic(ctx, range, 'target', { serverId: 'server' });
  expect(after?.successRate).toBe(1);
});

test('how often traffic was asked for has no say in how it is read: each range has a plan of its own', async () => {
  const database = openDatabase({ url: store.url, connectionsMax: 1 });
  try {
    const query = new TrafficQueryService(database);
    for (let asked = 0; asked < 8; asked++) {
      await query.traffic(ctx, { from: new Date(minute - asked * dayMs), to: new Date(minute + dayMs) }, 'server', {});
    }
    const [plans] = await database.raw<{ kept: number; own: number }[]>`
      select sum(generic_plans)::int as kept, sum(custom_plans)::int as own from pg_prepared_statements
      where statement like '%string_agg(sketch%' and statement not like '%generic_plans%'`;
    expect(plans).toEqual({ kept: 0, own: 8 });
  } finally {
    await database.close();
  }
});

test('all targets of all servers are told of a day, and of more only for a server or a target', async () => {
  const query = new TrafficQueryService(store.database);
  const range = { from: new Date(minute), to: new Date(minute + dayMs + 1) };
  const asked = query.traffic(ctx, range, 'target', {});
  await expect(asked).rejects.toMatchObject({
    code: 'INVALID_INPUT',
    violations: [{ path: 'to', message: expect.stringContaining('give a serverId or a targetName') }],
  });
  await query.traffic(ctx, { ...range, to: new Date(minute + dayMs) }, 'target', {});
  await query.traffic(ctx, range, 'target', { serverId: 'server' });
  await query.traffic(ctx, range, 'target', { targetName: 'count' });
});

test('of the day in which the retention begins all is told that is still there', async () => {
  const days = 10;
  await store.database.raw`
    insert into settings (key, value) values ('audit', ${JSON.stringify({ retentionDays: days })}::text::jsonb)
    on conflict (key) do update set value = excluded.value`;
  const ingest = new TrafficIngestService({
    database: store.database,
    keys: { accepts: () => Promise.resolve(true), maySucceed: () => Promise.resolve(false) },
    log,
  });
  const kept = Math.floor((systemClock.now() - days * dayMs) / 60_000 + 2) * 60_000;
  const gone = kept - 2 * dayMs;
  for (const start of [kept, gone]) await ingest.ingest(window(nodeSigner(), start, [['kept', 'success', [1]]]));
  await new PartitionService({ database: store.database, clock: systemClock, log }).maintain();
  const callsOfDay = async (at: number): Promise<number[]> => {
    const from = Math.floor(at / dayMs) * dayMs;
    const range = { from: new Date(from), to: new Date(from + dayMs) };
    const found = await new TrafficQueryService(store.database).traffic(ctx, range, 'server', { targetName: 'kept' });
    return found.map(({ calls }) => calls);
  };
  expect(await callsOfDay(kept)).toEqual([1]);
  expect(await callsOfDay(gone)).toEqual([]);
});
