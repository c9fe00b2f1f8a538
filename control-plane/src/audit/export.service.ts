import { createHash } from 'node:crypto';
import { AppError, type AuditExportEntry, auditExportFormat, exportEndSigningText } from '@sallyport/schema';
import type { Context } from '../context.ts';
import type { Database, RawSql, RawTransaction } from '../database/client.ts';
import { Violations } from '../database/violations.ts';
import { recordAccess } from './audit.service.ts';
import { chainLines } from './chain-lines.ts';
import type { CheckpointService } from './checkpoint.service.ts';

export const exportRangeDaysMax = 366;
const fetchLines = 1_000;

export interface ExportRange {
  readonly from: Date;
  readonly to: Date;
}

/** A stretch of one chain. */
interface Stretch {
  readonly node_id: string;
  readonly epoch: string;
  /** Sequence of the head before it, and the checkpoint that signed it; 0 at the beginning of the chain. */
  readonly after: number;
  readonly after_checkpoint: number;
  readonly up_to: number;
}

/** Gives out the audit trail as it was written, with what proves that nothing is missing or changed. */
export class ExportService {
  readonly #database: Database;
  readonly #checkpoints: CheckpointService;

  constructor(database: Database, checkpoints: CheckpointService) {
    this.#database = database;
    this.#checkpoints = checkpoints;
  }

  /**
   * The export as text, in chunks of whole lines. The event of the export itself is written before its first byte.
   * @throws AppError FORBIDDEN, or INVALID_INPUT for a range that is none, before the first chunk
   */
  async export(ctx: Context, range: ExportRange): Promise<AsyncGenerator<string, void>> {
    ctx.authorize('audit:read');
    const violations = new Violations();
    const days = (range.to.getTime() - range.from.getTime()) / 86_400_000;
    if (!(days > 0)) violations.add('to', 'must be after from');
    if (days > exportRangeDaysMax) violations.add('to', `must be at most ${exportRangeDaysMax} days after from`);
    violations.assertNone();
    const between = { from: range.from.toISOString(), to: range.to.toISOString() };
    await this.#database.db.transaction((tx) =>
      recordAccess(tx, ctx, { action: 'audit.export', object: { kind: 'audit', id: 'export' }, after: between }),
    );
    // So that the export ends at a signed head and holds everything committed by now.
    while ((await this.#checkpoints.chainControlEvents()) > 0);
    await this.#checkpoints.checkpoint();
    return this.#stream(between, ctx.clock.now());
  }

  async *#stream(between: { readonly from: string; readonly to: string }, now: number): AsyncGenerator<string, void> {
    const connection = await this.#database.raw.reserve();
    const hash = createHash('sha256');
    const text = (entries: readonly AuditExportEntry[]): string => {
      const lines = entries.map((entry) => `${JSON.stringify(entry)}\n`).join('');
      hash.update(lines);
      return lines;
    };
    try {
      await connection`begin isolation level repeatable read read only`;
      const bounds = await boundsOf(connection, between);
      yield text([
        {
          type: 'header',
          format: auditExportFormat,
          exportedAt: new Date(now).toISOString(),
          ...between,
          ...bounds,
          fleetPublicKey: this.#checkpoints.publicKey,
        },
      ]);
      const stretches = await stretchesOf(connection, bounds);
      const checkpoints = await checkpointsOf(connection, bounds, stretches);
      yield text(checkpoints);
      let lines = 0;
      for (const stretch of stretches) {
        for await (const entries of linesOf(connection, stretch)) {
          lines += entries.length;
          yield text(entries);
        }
      }
      const end = { lines, checkpoints: checkpoints.length, sha256: hash.digest('hex') };
      const signature = this.#checkpoints.sign(exportEndSigningText(end));
      const last: AuditExportEntry = { type: 'end', ...end, publicKey: this.#checkpoints.publicKey, signature };
      yield `${JSON.stringify(last)}\n`;
    } finally {
      await connection`rollback`;
      connection.release();
    }
  }
}

/** The checkpoints around everything that happened in the range: the last before, and the first that covers it. */
async function boundsOf(
  sql: RawTransaction | RawSql,
  between: { readonly from: string; readonly to: string },
): Promise<{ readonly afterCheckpoint: number; readonly upToCheckpoint: number }> {
  const rows = await sql<{ first: string | null; last: string | null; newest: string }[]>`
    with touched as (
      select node_id, epoch, min(sequence) as first, max(sequence) as last
      from audit_lines where time >= ${between.from}::timestamptz and time < ${between.to}::timestamptz
      group by node_id, epoch
    )
    select
      min((select min(h.checkpoint) from audit_checkpoint_heads h
        where h.node_id = t.node_id and h.epoch = t.epoch and h.sequence >= t.first)) as first,
      max((select min(h.checkpoint) from audit_checkpoint_heads h
        where h.node_id = t.node_id and h.epoch = t.epoch and h.sequence >= t.last)) as last,
      (select coalesce(max(number), 0) from audit_checkpoints) as newest
    from touched t`;
  const row = rows[0];
  if (row === undefined) throw new AppError('INTERNAL', { internal: 'an aggregate gave no row' });
  const upTo = Number(row.last ?? row.newest);
  return { afterCheckpoint: Math.max(0, Number(row.first ?? upTo + 1) - 1), upToCheckpoint: upTo };
}

async function stretchesOf(
  sql: RawTransaction | RawSql,
  bounds: { readonly afterCheckpoint: number; readonly upToCheckpoint: number },
): Promise<readonly Stretch[]> {
  return sql<Stretch[]>`
    select u.node_id, u.epoch, coalesce(b.sequence, 0)::double precision as after,
      coalesce(b.checkpoint, 0)::double precision as after_checkpoint, u.sequence::double precision as up_to
    from (
      select distinct on (node_id, epoch) node_id, epoch, sequence from audit_checkpoint_heads
      where checkpoint > ${bounds.afterCheckpoint} and checkpoint <= ${bounds.upToCheckpoint}
      order by node_id, epoch, checkpoint desc
    ) u
    left join lateral (
      select sequence, checkpoint from audit_checkpoint_heads h
      where h.node_id = u.node_id and h.epoch = u.epoch and h.checkpoint <= ${bounds.afterCheckpoint}
      order by checkpoint desc limit 1
    ) b on true
    order by u.node_id, u.epoch`;
}

/** Those of the range without a hole, and before them the ones that signed where a stretch begins. */
async function checkpointsOf(
  sql: RawTransaction | RawSql,
  bounds: { readonly afterCheckpoint: number; readonly upToCheckpoint: number },
  stretches: readonly Stretch[],
): Promise<AuditExportEntry[]> {
  const anchors = [bounds.afterCheckpoint, ...stretches.map((stretch) => stretch.after_checkpoint)];
  const rows = await sql<{ body: string; public_key: string; signature: string }[]>`
    select body, public_key, signature from audit_checkpoints
    where number > ${bounds.afterCheckpoint} and number <= ${bounds.upToCheckpoint} or number = any (${anchors}::bigint[])
    order by number`;
  return rows.map((row) => ({
    type: 'checkpoint',
    body: row.body,
    publicKey: row.public_key,
    signature: row.signature,
  }));
}

async function* linesOf(sql: RawTransaction | RawSql, stretch: Stretch): AsyncGenerator<AuditExportEntry[], void> {
  const { node_id: nodeId, epoch, after, up_to: upTo } = stretch;
  for await (const chunk of chainLines(sql, { nodeId, epoch, after, upTo }).cursor(fetchLines)) {
    yield chunk.map(({ sequence, line, bytes }) => ({
      type: 'line',
      nodeId,
      epoch,
      sequence,
      line: line ?? '',
      ...(bytes === null ? {} : { bytes }),
    }));
  }
}
