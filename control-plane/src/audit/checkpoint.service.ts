import {
  chainLine,
  type CheckpointBody,
  type CheckpointHead,
  checkpointSigningText,
  controlPlaneNodeId,
  type ControlRecord,
  epochSeed,
  sha256,
} from '@sallyport/schema';
import { type Clock, uuidv7 } from '@sallyport/schema/platform';
import type { Database, RawTransaction } from '../database/client.ts';

/** The fleet's key: what it signs says in its first word what it is. */
export interface AuditSigner {
  /** Ed25519, SPKI DER in base64. */
  readonly publicKey: string;
  /** In base64. */
  signAudit(text: string): string;
}

/** How the trail is, in numbers. */
export interface AuditState {
  /** Lines kept in quarantine. */
  readonly quarantined: number;
  /** Events of the control plane that wait for their place in the chain. */
  readonly unchained: number;
  /** Deliveries of events to webhooks by how they stand: `active`, `failing`, `stopped`. */
  readonly deliveries: Readonly<Record<string, number>>;
}

/** Events of the control plane that one pass chains. */
const chainedPerPassMax = 1_000;
/** Any constant shared by all control-plane processes: they take turns. */
const checkpointLock = 0x5350_0005;

/** Chains what the control plane did, and signs how far every chain has got. */
export class CheckpointService {
  readonly #database: Database;
  readonly #signer: AuditSigner;
  readonly #clock: Clock;

  constructor(database: Database, signer: AuditSigner, clock: Clock) {
    this.#database = database;
    this.#signer = signer;
    this.#clock = clock;
  }

  get publicKey(): string {
    return this.#signer.publicKey;
  }

  sign(text: string): string {
    return this.#signer.signAudit(text);
  }

  /** For the operator's metrics. */
  async state(): Promise<AuditState> {
    const [row] = await this.#database.raw<{ quarantined: string; unchained: string }[]>`
      select (select count(*) from audit_quarantine) as quarantined, (select count(*) from audit_unchained) as unchained`;
    const rows = await this.#database.raw<{ standing: string; count: number }[]>`
      select case when state = 'active' and failing_since is not null then 'failing' else state end as standing,
        count(*)::int as count from audit_deliveries group by 1`;
    const deliveries = {
      ...{ active: 0, failing: 0, stopped: 0 },
      ...Object.fromEntries(rows.map(({ standing, count }) => [standing, count])),
    };
    return { quarantined: Number(row?.quarantined), unchained: Number(row?.unchained), deliveries };
  }

  /**
   * Gives the events that were committed since the last pass their place in the control plane's own chain. They wait
   * for this rather than being chained in their transaction, which would make all changes queue behind each other.
   */
  async chainControlEvents(): Promise<number> {
    return this.#database.raw.begin(async (sql) => {
      await sql`select pg_advisory_xact_lock(${checkpointLock})`;
      const taken = await sql<{ id: string; record: string }[]>`
        delete from audit_unchained where id in (select id from audit_unchained order by id limit ${chainedPerPassMax})
        returning id, record`;
      if (taken.length === 0) return 0;
      const records = taken
        .sort((a, b) => Number(a.id) - Number(b.id))
        .map(({ record }) => JSON.parse(record) as ControlRecord);
      await this.#appendToOwnChain(sql, records);
      return records.length;
    });
  }

  /** Signs the heads of the chains that have grown; undefined when none has. */
  async checkpoint(): Promise<number | undefined> {
    return this.#database.raw.begin(async (sql) => {
      await sql`select pg_advisory_xact_lock(${checkpointLock})`;
      const heads = await grownHeads(sql);
      if (heads.length === 0) return undefined;
      const before = await sql<{ number: string; hash: string }[]>`
        select number, hash from audit_checkpoints order by number desc limit 1`;
      const number = Number(before[0]?.number ?? 0) + 1;
      const body = JSON.stringify({
        format: 'sallyport.auditCheckpoint.v1',
        number,
        time: Math.floor(this.#clock.now()),
        previous: before[0]?.hash ?? null,
        heads,
      } satisfies CheckpointBody);
      return this.#insertCheckpoint(sql, number, body, heads);
    });
  }

  async #insertCheckpoint(
    sql: RawTransaction,
    number: number,
    body: string,
    heads: readonly CheckpointHead[],
  ): Promise<number> {
    const signature = this.sign(checkpointSigningText(body));
    await sql`
      insert into audit_checkpoints (number, time, body, hash, public_key, signature)
      values (${number}, now(), ${body}, ${sha256(body)}, ${this.publicKey}, ${signature})`;
    const rows = heads.map((head) => ({ node_id: head.nodeId, epoch: head.epoch, sequence: head.sequence }));
    await sql`
      insert into audit_checkpoint_heads (checkpoint, node_id, epoch, sequence)
      select ${number}, node_id, epoch, sequence
      from jsonb_to_recordset(${JSON.stringify(rows)}::text::jsonb) as x(node_id text, epoch text, sequence bigint)`;
    return number;
  }

  async #appendToOwnChain(sql: RawTransaction, records: readonly ControlRecord[]): Promise<void> {
    const epoch = await this.#ownEpoch(sql);
    let { sequence, head } = epoch;
    const rows = records.map((record) => {
      sequence += 1;
      const { line, hash } = chainLine(sequence, head, record);
      head = hash;
      return { sequence, line, hash, time: new Date(record.time).toISOString() };
    });
    await sql`
      insert into audit_lines (node_id, epoch, sequence, time, hash, line)
      select ${controlPlaneNodeId}, ${epoch.epoch}, sequence, time, hash, line
      from jsonb_to_recordset(${JSON.stringify(rows)}::text::jsonb)
        as x(sequence bigint, time timestamptz, hash text, line text)`;
    await sql`
      update audit_epochs set watermark = ${sequence}, head = ${head}, updated_at = now()
      where node_id = ${controlPlaneNodeId} and epoch = ${epoch.epoch}`;
  }

  /** The control plane's chain: one for the life of the database, however many processes write to it. */
  async #ownEpoch(sql: RawTransaction): Promise<{ epoch: string; sequence: number; head: string }> {
    const rows = await sql<{ epoch: string; watermark: string; head: string }[]>`
      select epoch, watermark, head from audit_epochs
      where node_id = ${controlPlaneNodeId} and ended_at is null order by opened_at desc limit 1 for update`;
    const row = rows[0];
    if (row !== undefined) return { epoch: row.epoch, sequence: Number(row.watermark), head: row.head };
    const epoch = uuidv7(Math.floor(this.#clock.now()));
    const head = epochSeed(controlPlaneNodeId, epoch);
    await sql`
      insert into audit_epochs (node_id, epoch, shipped_by, head)
      values (${controlPlaneNodeId}, ${epoch}, ${controlPlaneNodeId}, ${head})`;
    return { epoch, sequence: 0, head };
  }
}

async function grownHeads(sql: RawTransaction): Promise<CheckpointHead[]> {
  const rows = await sql<{ node_id: string; epoch: string; watermark: string; head: string; gaps: string }[]>`
    select e.node_id, e.epoch, e.watermark, e.head, e.gaps::text as gaps
    from audit_epochs e
    where e.watermark > coalesce((
      select h.sequence from audit_checkpoint_heads h
      where h.node_id = e.node_id and h.epoch = e.epoch order by h.checkpoint desc limit 1
    ), 0)
    order by e.node_id, e.epoch`;
  return rows.map((row) => ({
    nodeId: row.node_id,
    epoch: row.epoch,
    sequence: Number(row.watermark),
    hash: row.head,
    gaps: JSON.parse(row.gaps) as CheckpointHead['gaps'],
  }));
}
