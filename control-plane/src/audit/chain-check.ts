import { type AuditRecord, auditRecordSchema, sha256 } from '@sallyport/schema';
import { z } from 'zod';
import { isStorable } from './storable-text.ts';

/** Why a line is in quarantine. */
export type LineProblem = 'chainBroken' | 'notARecord' | 'notStorable' | 'forked' | 'idTaken';

export interface CheckedLine {
  readonly sequence: number;
  readonly line: string;
  readonly hash: string;
  /** Undefined where there is nothing to make an event of. */
  readonly record: AuditRecord | undefined;
  readonly problem: LineProblem | undefined;
}

const lineSchema = z.strictObject({
  sequence: z.number().int(),
  previous: z.string(),
  record: z.unknown(),
});
/** End of the year 9999: PostgreSQL goes further, ISO 8601 with four digits does not. */
export const timeMsMax = 253_402_300_799_999;

/**
 * Checks lines against the chain they continue. A line that breaks it is told so and the chain goes on from it: one
 * changed line is one finding, not thousands.
 * @param head hash of the line before; undefined where that line is not known here
 */
export function checkLines(
  lines: readonly string[],
  firstSequence: number,
  head: string | undefined,
  nodeId: string,
): readonly CheckedLine[] {
  let previous = head;
  return lines.map((line, index) => {
    const sequence = firstSequence + index;
    const checked = checkLine(line, sequence, previous, nodeId);
    previous = checked.hash;
    return checked;
  });
}

function checkLine(line: string, sequence: number, previous: string | undefined, nodeId: string): CheckedLine {
  const hash = sha256(line);
  if (!isStorable(line)) return { sequence, line, hash, record: undefined, problem: 'notStorable' };
  const parsed = lineSchema.safeParse(parseJson(line));
  if (!parsed.success) return { sequence, line, hash, record: undefined, problem: 'notARecord' };
  const record = auditRecordSchema.safeParse(parsed.data.record);
  if (!record.success || !mayComeFromNode(record.data, nodeId)) {
    return { sequence, line, hash, record: undefined, problem: 'notARecord' };
  }
  const holds = parsed.data.sequence === sequence && (previous === undefined || parsed.data.previous === previous);
  return { sequence, line, hash, record: record.data, problem: holds ? undefined : 'chainBroken' };
}

function mayComeFromNode(record: AuditRecord, nodeId: string): boolean {
  if (record.type === 'control' || record.time > timeMsMax) return false;
  return record.type !== 'epochOpened' || record.nodeId === nodeId;
}

/** Undefined for what is no JSON. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
