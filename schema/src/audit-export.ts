/**
 * An export of the audit trail: JSON Lines that anyone can check offline with nothing but the fleet's public key.
 *
 * Order: one `header`; `checkpoint`s by number; `line`s by (node, epoch) and sequence; one `end`. A line is as the node
 * wrote it, with its chain. A checkpoint is the control plane's signed statement of how far each chain had got, and
 * names the checkpoint before it. The export reaches from one checkpoint to another, so that each chain in it begins
 * and ends at a signed hash. See docs/reference/audit-export.md.
 */
import { z } from 'zod';

export const auditExportFormat = 'sallyport.auditExport.v1';

const hash = z.string().regex(/^[0-9a-f]{64}$/);
const sequence = z.number().int().nonnegative();
const gap = z.strictObject({ first: sequence, last: sequence });

/** How far a chain has got. */
const headSchema = z.strictObject({
  nodeId: z.string(),
  epoch: z.string(),
  sequence,
  hash,
  /** Lines known to be lost, and when: those confirmed by a database that was replaced by an older backup. */
  gaps: z.array(gap),
});
export type CheckpointHead = z.infer<typeof headSchema>;

/** The text that is signed, as JSON. */
export const checkpointBodySchema = z.strictObject({
  format: z.literal('sallyport.auditCheckpoint.v1'),
  number: z.number().int().positive(),
  time: z.number().int(),
  /** SHA-256 of the body before; null for the first. */
  previous: hash.nullable(),
  /** Of the chains that have grown since the checkpoint before. */
  heads: z.array(headSchema),
});
export type CheckpointBody = z.infer<typeof checkpointBodySchema>;

export const auditExportEntrySchema = z.discriminatedUnion('type', [
  z.strictObject({
    type: z.literal('header'),
    format: z.literal(auditExportFormat),
    exportedAt: z.string(),
    /** What was asked for; the export holds more, up to the nearest checkpoints. */
    from: z.string(),
    to: z.string(),
    /** Numbers of the checkpoints between which the export is complete; 0 is the beginning of all chains. */
    afterCheckpoint: sequence,
    upToCheckpoint: sequence,
    fleetPublicKey: z.string(),
  }),
  z.strictObject({ type: z.literal('checkpoint'), body: z.string(), publicKey: z.string(), signature: z.string() }),
  z.strictObject({
    type: z.literal('line'),
    nodeId: z.string(),
    epoch: z.string(),
    sequence,
    line: z.string(),
    /** The line's bytes in base64, where they are no text; `line` is empty then. */
    bytes: z.base64().optional(),
  }),
  z.strictObject({
    type: z.literal('end'),
    lines: z.number().int().nonnegative(),
    checkpoints: z.number().int().nonnegative(),
    /** SHA-256 of all bytes before this entry. */
    sha256: hash,
    publicKey: z.string(),
    signature: z.string(),
  }),
]);
export type AuditExportEntry = z.infer<typeof auditExportEntrySchema>;

export function checkpointSigningText(body: string): string {
  return `sallyport.auditCheckpoint.v1|${body}`;
}

export function exportEndSigningText(end: {
  readonly lines: number;
  readonly checkpoints: number;
  readonly sha256: string;
}): string {
  return `${auditExportFormat}|${end.lines}|${end.checkpoints}|${end.sha256}`;
}
