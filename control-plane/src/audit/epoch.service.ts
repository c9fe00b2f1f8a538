import type { Log } from '@sallyport/schema/platform';
import type { Database, RawSql } from '../database/client.ts';
import { endEpoch, type RaiseAlarm } from './ingest.service.ts';

/** How far one spool epoch of a node is stored. */
export interface EpochWatermark {
  readonly epoch: string;
  readonly sequence: number;
  readonly ended: boolean;
}

/** Epochs told to one node; more are told when some of these are done. */
const epochsToldMax = 100;

/** What nodes and control plane tell each other about spools over the sync socket. */
export class EpochService {
  readonly #database: Database;
  readonly #log: Log;
  readonly #onAlarm: RaiseAlarm;

  constructor(options: {
    readonly database: Database;
    readonly log: Log;
    readonly onAlarm: RaiseAlarm;
  }) {
    this.#database = options.database;
    this.#log = options.log;
    this.#onAlarm = options.onAlarm;
  }

  /** The watermarks of the epochs a node ships: those that run, and those it may not have forgotten yet. */
  async watermarksOf(nodeId: string): Promise<EpochWatermark[]> {
    return readWatermarks(this.#database.raw, 'audit_epochs', nodeId);
  }

  /**
   * Takes note of which epochs a node still holds, as it says when it connects. One that runs here and is not among
   * them is lost: its spool was emptied, and what was not stored by then will never come.
   */
  async spoolEpochsReported(nodeId: string, held: readonly string[]): Promise<void> {
    const lost = await this.#database.raw.begin(async (sql) => {
      const rows = await sql<{ node_id: string; epoch: string }[]>`
        select node_id, epoch from audit_epochs
        where shipped_by = ${nodeId} and ended_at is null and not (epoch = any (${[...held]}::text[])) for update`;
      return Promise.all(
        rows.map(async (row) => ({ ...row, unknown: await endEpoch(sql, row.node_id, row.epoch, 'lost') })),
      );
    });
    for (const { node_id, epoch, unknown } of lost) {
      this.#log.error({ nodeId: node_id, epoch, unknown }, 'a spool epoch is gone from its node');
      this.#onAlarm(
        'AUDIT_EPOCH_LOST',
        node_id,
        `epoch ${epoch} is gone from the spool; ${unknown} calls stay unknown`,
      );
    }
  }
}

/** The watermarks of a kind of spool. */
export async function readWatermarks(
  sql: RawSql,
  table: 'audit_epochs' | 'payload_epochs',
  nodeId: string,
): Promise<EpochWatermark[]> {
  const rows = await sql<{ epoch: string; watermark: string; ended: boolean }[]>`
    select epoch, watermark, ended_at is not null as ended from ${sql(table)}
    where shipped_by = ${nodeId} and (ended_at is null or updated_at > now() - interval '1 day')
    order by opened_at desc limit ${epochsToldMax}`;
  return rows.map((row) => ({ epoch: row.epoch, sequence: Number(row.watermark), ended: row.ended }));
}
