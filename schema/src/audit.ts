/**
 * The audit record as nodes write it and the control plane stores it.
 *
 * A record is one line of a spool: `{"sequence":n,"previous":"<hex>","record":{…}}`. Its identity is (node, epoch,
 * sequence); `previous` is the SHA-256 of the line before (of the epoch's id for the first), so that removal, change,
 * insertion or reordering of any line is found offline.
 *
 * One exchange is one event: either `refused` alone, or `opened` (written before the call is forwarded) and `closed`
 * (written when the last byte or the abort is known), which share `eventId` and are stored as one row. An event that
 * was opened and never closed when its epoch ended has the outcome `unknown`.
 */
import { z } from 'zod';
import { sha256 } from './canonical-json.ts';
import { credentialModes } from './credential.ts';
import { verdictSchema } from './inspection/judge-message.ts';

export const auditOutcomes = [
  'success',
  'error',
  'refused',
  'malformed',
  'upstreamFailure',
  'aborted',
  'unknown',
] as const;
export type AuditOutcome = (typeof auditOutcomes)[number];

/** Requests toward an upstream that the record of one exchange names. */
export const upstreamRequestsMax = 32;

const instantMs = z.number().int().nonnegative();

const request = {
  eventId: z.string(),
  /** When the request was received, in the control plane's estimated time. */
  time: instantMs,
  /** Null where authentication failed. */
  principal: z
    .strictObject({
      id: z.string(),
      kind: z.enum(['user', 'serviceAccount']),
      name: z.string(),
      /** Of the API key; null where an access token was used. */
      keyId: z.string().nullable(),
      /** The OAuth client that used the access token, and the token's `jti`. Spools of older nodes lack both. */
      clientId: z.string().nullable().default(null),
      tokenId: z.string().nullable().default(null),
    })
    .nullable(),
  client: z.strictObject({
    address: z.string().nullable(),
    userAgent: z.string().nullable(),
    /** As the client says of itself: "name/version". */
    info: z.string().nullable(),
  }),
  /** The slug asked for; id only where such a server exists. */
  server: z.strictObject({ id: z.string().nullable(), slug: z.string() }).nullable(),
  /** Empty where what came was no valid HTTP. */
  httpMethod: z.string(),
  /** JSON-RPC method, or null where the body was not understood. */
  method: z.string().nullable(),
  target: z.strictObject({ kind: z.enum(['tool', 'prompt', 'resource']), name: z.string() }).nullable(),
  protocolRevision: z.string().nullable(),
  decision: z.strictObject({
    effect: z.enum(['allow', 'deny', 'requireApproval', 'none']),
    /** A DecisionReason or an ErrorCode. */
    reason: z.string(),
    grantIds: z.array(z.string()),
    /** What the decision would have been with the matching shadow grants in force; null where none matched. */
    shadow: z
      .strictObject({ effect: z.enum(['allow', 'deny', 'requireApproval']), grantIds: z.array(z.string()) })
      .nullable(),
  }),
  config: z.strictObject({ historyId: z.string(), revision: z.number().int() }).nullable(),
  /** SHA-256 of the raw `params` bytes, hex; never the arguments themselves. */
  paramsDigest: z.string().nullable(),
  requestBytes: z.number().int().nonnegative(),
  traceId: z.string(),
  /** What the upstream was called with, never the secret; null where with nothing. Spools of older nodes lack it. */
  credential: z
    .strictObject({
      /** Of the stored secret or the connected account. */
      id: z.string().nullable(),
      mode: z.enum(credentialModes).exclude(['none']),
      /** The authorization server of a token. */
      issuer: z.string().nullable(),
    })
    .nullable()
    .default(null),
  /** Which policies keep its messages, in a store of their own; null where none does. Spools of older nodes lack it. */
  capture: z.strictObject({ request: z.string().nullable(), response: z.string().nullable() }).nullable().default(null),
};

const response = {
  outcome: z.enum(auditOutcomes),
  /** HTTP status sent to the client; null if it went away before. */
  status: z.number().int().nullable(),
  /** JSON-RPC error code of the answer, upstream's or ours. */
  rpcErrorCode: z.number().int().nullable(),
  /** Our catalogue code, where the failure is ours to name. */
  errorCode: z.string().nullable(),
  responseBytes: z.number().int().nonnegative(),
  /** Milliseconds from receipt to the last byte, to the first, and spent waiting for the upstream's first byte. */
  durationMs: z.number().nonnegative(),
  firstByteMs: z.number().nonnegative().nullable(),
  upstreamMs: z.number().nonnegative().nullable(),
  /**
   * Where the exchange was translated between protocol eras: what it caused upstream, by JSON-RPC method, in order, the
   * first `upstreamRequestsMax`. Null where it passed as it came. Spools of older nodes lack it.
   */
  upstreamRequests: z.array(z.string()).nullable().default(null),
  /** What policies and detectors said of its messages, the first `verdictsMax`; null where none said anything. */
  verdicts: z.array(verdictSchema).nullable().default(null),
};

export const auditRecordSchema = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('opened'), ...request }),
  /** `time` is that of the `opened` record, when the request was received: (time, eventId) is the key of the row. */
  z.strictObject({ type: z.literal('closed'), eventId: z.string(), time: instantMs, ...response }),
  z.strictObject({ type: z.literal('refused'), ...request, ...response }),
  /** First line of each epoch: what process wrote it. */
  z.strictObject({ type: z.literal('epochOpened'), time: instantMs, nodeId: z.string(), build: z.string() }),
  /** Records that were shed because the disk was full; the only way a buffered node may lose any. */
  z.strictObject({ type: z.literal('shed'), time: instantMs, count: z.number().int().positive() }),
  /** Something done in the control plane: a change (`grant.create`) or a read that must be known (`audit.export`). */
  z.strictObject({
    type: z.literal('control'),
    eventId: z.string(),
    time: instantMs,
    kind: z.enum(['configuration', 'access']),
    actor: z.strictObject({
      id: z.string(),
      kind: z.enum(['user', 'serviceAccount', 'system']),
      name: z.string(),
      keyId: z.string().nullable(),
    }),
    action: z.string(),
    object: z.strictObject({ kind: z.string(), id: z.string() }),
    before: z.unknown(),
    after: z.unknown(),
  }),
]);
export type AuditRecord = z.infer<typeof auditRecordSchema>;
export type OpenedRecord = Extract<AuditRecord, { type: 'opened' }>;
export type ClosedRecord = Extract<AuditRecord, { type: 'closed' }>;
export type RefusedRecord = Extract<AuditRecord, { type: 'refused' }>;
export type ControlRecord = Extract<AuditRecord, { type: 'control' }>;

/** Stands for the control plane where the chains of nodes have the node's id. */
export const controlPlaneNodeId = 'control-plane';

/** What the first record of an epoch has as `previous`. */
export function epochSeed(nodeId: string, epoch: string): string {
  return sha256(`sallyport.audit.v1|${nodeId}|${epoch}`);
}

export interface ChainedLine {
  readonly line: string;
  readonly hash: string;
}

/** The spool line of a record and its hash. */
export function chainLine(sequence: number, previous: string, record: AuditRecord): ChainedLine {
  return chainText(sequence, previous, JSON.stringify(record));
}

/** The same, of a record that is JSON already. */
export function chainText(sequence: number, previous: string, record: string): ChainedLine {
  const line = `{"sequence":${sequence},"previous":"${previous}","record":${record}}`;
  return { line, hash: sha256(line) };
}

export const auditQueue = 'audit';

/** Records in one job: enough to be cheap per record, few enough to be one insert. */
export const auditBatchLinesMax = 500;

/** A job of the audit queue: lines `first`…`last` of one epoch, as they stand in the spool. */
export const auditBatchSchema = z.strictObject({
  /** Whose records they are: part of the chain's seed. */
  nodeId: z.string(),
  epoch: z.string(),
  first: z.number().int().positive(),
  last: z.number().int().positive(),
  /**
   * Lines from here to `first` - 1 are not in the spool any more: confirmed and trimmed, or destroyed. A control plane
   * that lacks them (restored from a backup) records a gap instead of waiting for ever. Equal to `first` otherwise.
   */
  undeliverableFrom: z.number().int().positive(),
  lines: z.array(z.string()).min(1).max(auditBatchLinesMax),
  /** The process ended (SIGTERM, or found ended at the next start): `last` is its last line, what is open never closes. */
  epochEnded: z.boolean(),
  /** The node that ships; another than `nodeId` where a node lost its identity and joined anew over its old spool. */
  signedBy: z.string(),
  /** Ed25519 by a key registered for `signedBy`, over `batchSigningText`. */
  publicKey: z.base64(),
  signature: z.base64(),
});
export type AuditBatch = z.infer<typeof auditBatchSchema>;

/** What a batch holds; it is in the signature, so that one is never taken for the other. */
export type BatchContent = 'auditBatch' | 'payloadBatch';

/** The lines are in it by their digest, and the key by its text: a batch cannot be signed again by another. */
export function batchSigningText(batch: Omit<AuditBatch, 'signature'>, content?: BatchContent): string {
  return batchSigningTextOf(batch, sha256(batch.lines.join('\n')), content);
}

/** The same, for whoever has the lines as one text. @param linesDigest its SHA-256, line feeds between the lines */
export function batchSigningTextOf(
  batch: Omit<AuditBatch, 'signature' | 'lines'>,
  linesDigest: string,
  content: BatchContent = 'auditBatch',
): string {
  const { nodeId, epoch, first, last, undeliverableFrom, epochEnded, signedBy, publicKey } = batch;
  const parts = [nodeId, epoch, first, last, undeliverableFrom, epochEnded, signedBy, publicKey];
  return `sallyport.${content}.v1|${parts.join('|')}|${linesDigest}`;
}
