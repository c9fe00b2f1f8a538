import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { waitFor } from '../kit/condition.ts';
import { createMigratedDatabase } from '../kit/postgres.ts';
import type { Somebody } from './connecting-kit.ts';
import { type RefreshFleet, startRefreshFleet } from './refresh-fleet.ts';

const directory = mkdtempSync(join(tmpdir(), 'sallyport-refresh-'));
const stops: (() => Promise<unknown>)[] = [async () => rmSync(directory, { recursive: true, force: true })];
let fleet: RefreshFleet;
/** Whose connection nothing of what happens to others concerns. */
let bystander: Somebody;

beforeAll(async () => {
  const { url: databaseUrl } = await createMigratedDatabase();
  fleet = await startRefreshFleet({ databaseUrl, directory, atEnd: (stop) => stops.push(stop) });
  bystander = await fleet.connected('Bystander');
  await prepareGates();
}, 120_000);
afterAll(async () => {
  for (const stop of stops.toReversed()) await stop();
});

interface Connection {
  readonly status: string;
  readonly reason: string | null;
  readonly revision: number;
}

async function connectionOf({ id }: Somebody): Promise<Connection> {
  const [row] = await fleet.sql<Connection[]>`
    select status, reason, token_revision as revision from connections where principal_id = ${id}`;
  if (row === undefined) throw new Error('there is no connection');
  return row;
}

const refreshes = (): number => fleet.as.asked('/token', 'refresh_token');
const all = <T>(value: T, each: number): T[] => Array.from({ length: 3 * each }, () => value);

async function events(action: string, { id }: Somebody): Promise<number> {
  const rows = await fleet.sql`
    select 1 from audit_events where action = ${action} and after_json::jsonb ->> 'principalId' = ${id}`;
  return rows.length;
}

/** Where a statement of the control plane can be held: transactions wait there for an advisory lock of this number. */
const gates = { lease: 1, mark: 2, store: 3, lend: 4 } as const;
type Gate = keyof typeof gates;

async function prepareGates(): Promise<void> {
  await fleet.sql.unsafe(`
    create function wait_at_gate() returns trigger language plpgsql as $$
      begin perform pg_advisory_xact_lock_shared(tg_argv[0]::bigint); return new; end $$;
    create trigger gate_lease before update on connections for each row
      when (old.refresh_id is null and new.refresh_id is not null) execute function wait_at_gate(${gates.lease});
    create trigger gate_mark before update on connections for each row
      when (old.refresh_sent_at is null and new.refresh_sent_at is not null) execute function wait_at_gate(${gates.mark});
    create trigger gate_store before update on connections for each row
      when (new.token_revision > old.token_revision) execute function wait_at_gate(${gates.store});
    create trigger gate_lend before insert on audit_events for each row
      when (new.action = 'credential.lend') execute function wait_at_gate(${gates.lend});`);
}

/** Something that holds the holder of the refresh, and lets go of it only after the holder's death. */
interface Hold {
  /** Resolves when the holder is held. */
  readonly reached: Promise<unknown>;
  release(): Promise<void>;
}

async function atGate(gate: Gate): Promise<Hold> {
  const key = gates[gate];
  const own = await fleet.sql.reserve();
  await own`select pg_advisory_lock(${key}::bigint)`;
  const waiting = () => fleet.sql<{ pid: number }[]>`
    select pid from pg_locks where locktype = 'advisory' and objid = ${key} and not granted
      and database = (select oid from pg_database where datname = current_database())`;
  return {
    reached: waitFor(`the gate ${gate}`, async () => (await waiting()).length > 0),
    release: async () => {
      // What it had sent to the database goes with the process, as where it had not come to it.
      for (const { pid } of await waiting()) await fleet.sql`select pg_terminate_backend(${pid}::integer)`;
      await waitFor('the end of its transactions', async () => (await waiting()).length === 0);
      await own`select pg_advisory_unlock(${key}::bigint)`;
      own.release();
    },
  };
}

function atAuthorizationServer(where: 'beforeWork' | 'beforeAnswer'): Hold {
  const { promise, resolve } = Promise.withResolvers<void>();
  const asked = refreshes();
  fleet.as[where] = promise;
  return {
    reached: waitFor('the request for tokens', () => refreshes() > asked),
    release: async () => {
      fleet.as[where] = undefined;
      resolve();
      await promise;
    },
  };
}

interface Kill {
  /** Of the calls that wait on three nodes. */
  readonly answers: 'answered' | 'toConnect';
  readonly status: Connection['status'];
  readonly reason: string | null;
  readonly refreshes: number;
}
const renewed: Kill = { answers: 'answered', status: 'active', reason: null, refreshes: 1 };
const unknown: Kill = {
  answers: 'toConnect',
  status: 'reauthRequired',
  reason: 'refreshOutcomeUnknown',
  refreshes: 1,
};

test.each<readonly [string, () => Hold | Promise<Hold>, Kill]>([
  ['before it takes the lease', () => atGate('lease'), renewed],
  ['with the lease, before it marks that it sends', () => atGate('mark'), renewed],
  ['while its request is under way', () => atAuthorizationServer('beforeWork'), unknown],
  ['after the request was worked off, without the answer', () => atAuthorizationServer('beforeAnswer'), unknown],
  ['with the answer, before it is stored', () => atGate('store'), unknown],
  ['after it is stored, before anybody was lent the token', () => atGate('lend'), renewed],
])(
  'the holder killed %s',
  async (name, hold, expected) => {
    const { as, sql, process, administrator } = fleet;
    const user = await fleet.connected(name);
    await administrator.converged();
    await sql`update connections set access_issued_at = now() - interval '1 hour', access_expires_at = now()
    where principal_id = ${user.id}`;
    const before = { refreshes: refreshes(), revoked: as.familiesRevoked, other: await connectionOf(bystander) };
    const held = await hold();
    const calling = fleet.call(user, 2);
    await held.reached;
    await process.end('SIGKILL');
    await held.release();
    // The rest of the lease passes.
    await sql`update connections set refresh_lease_until = now() where principal_id = ${user.id}
    and refresh_lease_until is not null`;
    await process.start();
    expect(await calling).toEqual(all(expected.answers, 2));
    await administrator.converged();
    expect(await fleet.call(user, 1)).toEqual(all(expected.answers, 1));
    const { status, reason } = await connectionOf(user);
    expect({ status, reason, refreshes: refreshes() - before.refreshes }).toEqual({
      status: expected.status,
      reason: expected.reason,
      refreshes: expected.refreshes,
    });
    expect(await events(status === 'active' ? 'connection.refresh' : 'connection.fail', user)).toBe(1);
    expect(as.familiesRevoked).toBe(before.revoked);
    expect(await connectionOf(bystander)).toEqual(before.other);
  },
  120_000,
);
