import type { RawSql, RawTransaction } from '../database/client.ts';

/** A stretch of one chain: the lines after a sequence, up to one. */
export interface ChainStretch {
  readonly nodeId: string;
  readonly epoch: string;
  readonly after: number;
  readonly upTo: number;
}

export interface StoredLine {
  readonly sequence: number;
  /** Null where it is no text that PostgreSQL can hold; then `bytes` has it, in base64. */
  readonly line: string | null;
  readonly bytes: string | null;
}

/** The lines of a stretch in their order; those that are no text come from quarantine. */
export function chainLines(
  sql: RawTransaction | RawSql,
  { nodeId, epoch, after, upTo }: ChainStretch,
  limit: number | null = null,
) {
  return sql<StoredLine[]>`
    select sequence::double precision as sequence, line, null as bytes from audit_lines
    where node_id = ${nodeId} and epoch = ${epoch} and sequence > ${after} and sequence <= ${upTo}
    union all
    select sequence::double precision, null, replace(encode(line, 'base64'), E'\n', '') from audit_quarantine
    where node_id = ${nodeId} and epoch = ${epoch} and reason = 'notStorable'
      and sequence > ${after} and sequence <= ${upTo}
      and not exists (
        select from audit_lines l
        where l.node_id = audit_quarantine.node_id and l.epoch = audit_quarantine.epoch
          and l.sequence = audit_quarantine.sequence
      )
    order by sequence limit ${limit}`;
}
