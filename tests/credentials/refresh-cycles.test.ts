import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import { createMigratedDatabase } from '../kit/postgres.ts';
import { callsPerNode, type CycleKind, RefreshCycles } from './refresh-cycles.ts';
import { type RefreshFleet, startRefreshFleet } from './refresh-fleet.ts';

const userCount = 25;
/** Each user has a cycle in each round. */
const rounds = { ended: 8, ending: 1, refused: 1 } as const satisfies Record<CycleKind, number>;

const directory = mkdtempSync(join(tmpdir(), 'sallyport-cycles-'));
const stops: (() => Promise<unknown>)[] = [async () => rmSync(directory, { recursive: true, force: true })];
let fleet: RefreshFleet;
let cycles: RefreshCycles;

beforeAll(async () => {
  const { url: databaseUrl } = await createMigratedDatabase();
  // Two control planes, so that the processes that refresh compete too.
  const place = { databaseUrl, directory, controlPlanes: 2 };
  fleet = await startRefreshFleet({ ...place, atEnd: (stop) => stops.push(stop) });
  cycles = await RefreshCycles.prepare(fleet, userCount);
}, 180_000);
afterAll(async () => {
  for (const stop of stops.toReversed()) await stop();
});

test.each<readonly [string, CycleKind]>([
  ['at the end of a token', 'ended'],
  ['ahead of it', 'ending'],
  ['when the upstream refuses a token before its end', 'refused'],
])(
  `3 nodes with ${callsPerNode} calls each refresh once %s: no error, no family revoked`,
  async (_, kind) => {
    for (let round = 0; round < rounds[kind]; round++) {
      expect(await cycles.round(kind)).toEqual({ cycles: userCount, failed: [], notOnce: 0, sentEnded: 0 });
    }
    expect(fleet.as.familiesRevoked).toBe(0);
  },
  300_000,
);

test('an upstream that refuses every token costs its authorization server a few requests, and serves again by itself', async () => {
  const user = await fleet.connected('Refused');
  await fleet.administrator.converged();
  expect(await fleet.call(user, 1)).toEqual(['answered', 'answered', 'answered']);
  fleet.upstream.isShut = true;
  for (let turn = 0; turn < 40; turn++) {
    for (const answer of await fleet.call(user, 1)) expect(answer).toMatch(/"code":1035/);
  }
  fleet.upstream.isShut = false;
  // Of 120 calls: three at once on each node, and what the time that passed allows.
  expect(user.family.refreshes).toBeGreaterThan(0);
  expect(user.family.refreshes).toBeLessThan(40);
  await waitFor('calls are answered again', async () => (await fleet.call(user, 1)).every((one) => one === 'answered'));
  expect(fleet.as.familiesRevoked).toBe(0);
}, 60_000);
