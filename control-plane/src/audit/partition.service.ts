import type { Clock, Log } from '@sallyport/schema/platform';
import type { Database, RawTransaction } from '../database/client.ts';

const dayMs = 86_400_000;
const daysAhead = 7;
/** Late events of these days get a partition too; older ones stay in the default partition. */
const daysBack = 2;
export const retentionDaysDefault = 400;
/** Any constant shared by all control-plane processes: one of them maintains. */
const maintenanceLock = 0x5350_0006;
/** Partitioned tables and the column they go by, in the order in which `IngestService` writes to them. */
const partitioned = [
  ['audit_lines', 'stored_at'],
  ['audit_events', 'time'],
] as const;

/** Keeps a partition for each day ahead, and drops those past the retention of the setting `audit`. */
export class PartitionService {
  readonly #database: Database;
  readonly #clock: Clock;
  readonly #log: Log;

  constructor(options: { readonly database: Database; readonly clock: Clock; readonly log: Log }) {
    this.#database = options.database;
    this.#clock = options.clock;
    this.#log = options.log;
  }

  /** Idempotent; what another process is at is left to it. */
  async maintain(): Promise<void> {
    const today = Math.floor(this.#clock.now() / dayMs);
    await this.#alone((sql, retentionDays) => this.#partition(sql, today, retentionDays));
    // By itself, since it may take long and nobody has to wait for it.
    await this.#alone((sql, retentionDays) => forgetOld(sql, today, retentionDays));
  }

  async #alone(work: (sql: RawTransaction, retentionDays: number) => Promise<void>): Promise<void> {
    await this.#database.raw.begin(async (sql) => {
      const [lock] = await sql<{ held: boolean }[]>`select pg_try_advisory_xact_lock(${maintenanceLock}) as held`;
      if (lock?.held === true) await work(sql, await readRetentionDays(sql));
    });
  }

  async #partition(sql: RawTransaction, today: number, retentionDays: number): Promise<void> {
    const wanted = Array.from({ length: daysBack + daysAhead + 1 }, (_, index) => today - daysBack + index);
    const changes: { table: string; column: string; missing: number[]; past: number[] }[] = [];
    for (const [table, column] of partitioned) {
      const existing = await partitionsOf(sql, table);
      const missing = wanted.filter((day) => !existing.has(day));
      changes.push({ table, column, missing, past: [...existing].filter((day) => day < today - retentionDays) });
    }
    if (changes.every(({ missing, past }) => missing.length + past.length === 0)) return;
    // An insert that was bound for the default partition before one is attached fails afterwards, and a query planned
    // before would not find what is moved: let them end first, and keep new ones out. In the order of who writes, so
    // that neither waits for the other.
    for (const { table } of changes) await sql.unsafe(`lock table ${table} in access exclusive mode`);
    for (const { table, column, missing, past } of changes) {
      for (const day of missing) await createPartition(sql, table, column, day);
      for (const day of past) {
        await sql.unsafe(`drop table ${partitionName(table, day)}`);
        this.#log.info({ table, day: isoDay(day) }, 'dropped a partition past its retention');
      }
    }
  }
}

function isoDay(day: number): string {
  return new Date(day * dayMs).toISOString().slice(0, 10);
}

function partitionName(table: string, day: number): string {
  return `${table}_${isoDay(day).replaceAll('-', '')}`;
}

async function readRetentionDays(sql: RawTransaction): Promise<number> {
  const [row] = await sql<{ days: number | null }[]>`
    select (value ->> 'retentionDays')::integer as days from settings where key = 'audit'`;
  return Math.max(1, row?.days ?? retentionDaysDefault);
}

/** The days that have a partition. */
async function partitionsOf(sql: RawTransaction, table: string): Promise<ReadonlySet<number>> {
  const rows = await sql<{ name: string }[]>`
    select c.relname as name from pg_inherits i
    join pg_class c on c.oid = i.inhrelid join pg_class p on p.oid = i.inhparent
    where p.relname = ${table} and p.relnamespace = 'public'::regnamespace`;
  const days = rows.flatMap(({ name }) => {
    const match = /_(\d{4})(\d{2})(\d{2})$/.exec(name);
    return match === null ? [] : [Date.UTC(Number(match[1]), Number(match[2]) - 1, Number(match[3])) / dayMs];
  });
  return new Set(days);
}

/** Rows that came before their partition are moved out of the default one, which must not hold any when it is attached. */
async function createPartition(sql: RawTransaction, table: string, column: string, day: number): Promise<void> {
  const name = partitionName(table, day);
  const from = isoDay(day);
  const to = isoDay(day + 1);
  await sql.unsafe(`create table ${name} (like ${table} including defaults including constraints)`);
  await sql.unsafe(
    `with moved as (
       delete from ${table}_default where ${column} >= '${from}T00:00:00Z' and ${column} < '${to}T00:00:00Z' returning *
     ) insert into ${name} select * from moved`,
  );
  await sql.unsafe(
    `alter table ${table} attach partition ${name} for values from ('${from}T00:00:00Z') to ('${to}T00:00:00Z')`,
  );
}

async function forgetOld(sql: RawTransaction, today: number, retentionDays: number): Promise<void> {
  for (const [table, column] of partitioned)
    await sql.unsafe(`delete from ${table}_default where ${column} < $1::date`, [isoDay(today - retentionDays)]);
  await sql`delete from traffic_windows where window_start < now() - interval '2 days'`;
  await sql`delete from inspection_minutes where minute < now() - make_interval(days => ${retentionDays})`;
  // As a whole, or the day in which the retention begins would count for nothing.
  await sql`
    delete from traffic_rollups where unit = 'hour' and start < now() - make_interval(days => ${retentionDays}, hours => 1)
      or unit = 'day' and start < now() - make_interval(days => ${retentionDays + 1})`;
  await sql`delete from traffic_minutes where minute < now() - make_interval(days => ${retentionDays})`;
  await sql`delete from audit_quarantine where stored_at < now() - make_interval(days => ${retentionDays})`;
  // A node that never came back: its open calls are shown as what they are. A close that comes later still wins.
  await sql`
    update audit_events e set outcome = 'unknown'
    from audit_epochs p
    where e.node_id = p.node_id and e.epoch = p.epoch and e.outcome is null
      and p.updated_at < now() - interval '1 day' and e.time < now() - interval '1 day'`;
}
