/** What nodes report of their traffic: one job per window of 10 s, or part of one, counted once by (node, epoch, start). */
import { z } from 'zod';
import { auditOutcomes } from './audit.ts';
import { canonicalJson, sha256 } from './canonical-json.ts';
import { verdictSchema } from './inspection/judge-message.ts';

export const metricsQueue = 'metrics';
/** A target that is longer than this is counted under its beginning. */
export const metricsTargetCharactersMax = 256;

const metricsRowSchema = z.strictObject({
  serverId: z.string(),
  slug: z.string(),
  target: z.strictObject({ kind: z.enum(['tool', 'prompt', 'resource']), name: z.string() }).nullable(),
  outcome: z.enum(auditOutcomes),
  durationMsSum: z.number().nonnegative(),
  /** A serialized `Sketch` of durations in milliseconds; its count is the number of calls. */
  sketch: z.string(),
});
export type MetricsRow = z.infer<typeof metricsRowSchema>;

const inspectionRowSchema = z.strictObject({
  serverId: z.string(),
  slug: z.string(),
  detector: verdictSchema.shape.detector,
  /** Of verdicts; null in a row that counts the looks of the detector. */
  verdict: z.strictObject({ decision: verdictSchema.shape.decision, mode: verdictSchema.shape.mode }).nullable(),
  count: z.number().int().positive(),
  durationMsSum: z.number().nonnegative(),
});
export type InspectionRow = z.infer<typeof inspectionRowSchema>;

export const metricsWindowSchema = z.strictObject({
  nodeId: z.string(),
  epoch: z.string(),
  /** Milliseconds since the epoch, in the control plane's estimated time; a later part of a window begins later. */
  windowStart: z.number().int().nonnegative(),
  rows: z.array(metricsRowSchema).max(20_000),
  /** What detectors and policies did. Windows of older nodes lack it. */
  inspections: z.array(inspectionRowSchema).max(20_000).default([]),
  /** Ed25519 by a key registered for the node, over `metricsSigningText`. */
  publicKey: z.base64(),
  signature: z.base64(),
});
export type MetricsWindow = z.infer<typeof metricsWindowSchema>;

export function metricsSigningText(window: Omit<MetricsWindow, 'signature'>): string {
  const { nodeId, epoch, windowStart, publicKey, rows, inspections } = window;
  const text = `sallyport.metrics.v1|${nodeId}|${epoch}|${windowStart}|${publicKey}|${sha256(canonicalJson(rows))}`;
  return inspections.length === 0 ? text : `${text}|${sha256(canonicalJson(inspections))}`;
}
