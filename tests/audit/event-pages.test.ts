import { type AuditEventFilter, EventQueryService, PartitionService } from '@sallyport/control-plane/audit';
import type { Clock } from '@sallyport/schema/platform';
import { systemClock } from '@sallyport/schema/platform';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { administrator } from '../kit/fleet.ts';
import { Chain, log, refusedRecord, startStore, type Store } from './audit-kit.ts';

const dayMs = 86_400_000;
const noonMs = Math.floor(systemClock.now() / dayMs) * dayMs + dayMs / 2;
/** When the events of the trail were, newest first; two of them at the same time. */
const times = [0.5, 26, 27, 27, 51, 120].map((hours) => noonMs - hours * 3_600_000);

let store: Store;
let queries: EventQueryService;
beforeAll(async () => {
  store = await startStore();
  queries = new EventQueryService(store.database);
  const atNoon = { ...systemClock, now: () => noonMs };
  await new PartitionService({ database: store.database, clock: atNoon, log }).maintain();
  await store.ingest.ingest(new Chain().add(...times.map((time) => refusedRecord({ time }))).batch());
});
afterAll(() => store.stop());

/** Asks for page after page, as the API does. */
async function readAll(clock: Clock, filter: AuditEventFilter, limit: number) {
  const found: number[] = [];
  let pages = 0;
  for (let after: readonly string[] | undefined; ; pages++) {
    const { rows, stoppedAt } = await queries.list({ ...administrator, clock }, filter, { limit, after });
    found.push(...rows.slice(0, limit).map((row) => row.time.getTime()));
    const last = rows.slice(0, limit).at(-1);
    if (stoppedAt === undefined && rows.length <= limit) return { found, pages: pages + 1 };
    after = stoppedAt ?? [String(last?.time.getTime()), last?.id ?? ''];
  }
}

const atNoon: Clock = { now: () => noonMs, monotonic: () => 0 };
/** For whom time is up after each stretch. */
function hurried(): Clock {
  let readings = 0;
  return { now: () => noonMs, monotonic: () => (readings += 1_000) };
}

describe('the events of a trail', () => {
  test.each([1, 2, 100])('are each in one of the pages, newest first, with %i on a page', async (limit) => {
    expect((await readAll(atNoon, {}, limit)).found).toEqual(times);
  });

  test('are found on pages that are not full, where time was up before enough was found', async () => {
    const { found, pages } = await readAll(hurried(), { outcomes: ['refused'] }, 100);
    expect(found).toEqual(times);
    expect(pages).toBeGreaterThan(times.length);
  });

  test('are those of the range that is asked for', async () => {
    const range = { from: new Date(times[4] ?? 0), to: new Date(times[1] ?? 0) };
    expect((await readAll(hurried(), range, 2)).found).toEqual(times.slice(2, 5));
  });

  test.each([
    ['x', ''],
    ['8e15', ''],
    ['-1', ''],
    ['0', '\0'],
    ['0', '\ud800'],
  ])('are not looked for after what is no cursor of theirs: %j', async (...after) => {
    const asked = queries.list({ ...administrator, clock: atNoon }, {}, { limit: 1, after });
    await expect(asked).rejects.toMatchObject({ code: 'INVALID_INPUT', violations: [{ path: 'after' }] });
  });

  test('are told up to where a part of the trail takes too long to read', async () => {
    const yesterday = new Date(noonMs - dayMs).toISOString().slice(0, 10).replaceAll('-', '');
    await store.database.raw.begin(async (sql) => {
      await sql`lock table ${sql(`audit_events_${yesterday}`)} in access exclusive mode`;
      const clock = { now: () => noonMs, monotonic: () => systemClock.monotonic() };
      const page = await queries.list({ ...administrator, clock }, {}, { limit: 100, after: undefined });
      expect(page.rows.map((row) => row.time.getTime())).toEqual(times.slice(0, 1));
      expect(Number(page.stoppedAt?.[0])).toBeGreaterThan(times[1] ?? 0);
    });
    expect((await readAll(atNoon, {}, 100)).found).toEqual(times);
  });
});
