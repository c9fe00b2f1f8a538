/**
 * What is kept of the messages of exchanges where a policy captures them: one payload for each direction of an exchange,
 * apart from its audit event, sealed by the node to a key of the control plane that no node can open with.
 */
import { z } from 'zod';
import { policyDirections } from './inspection/policy.ts';

export const payloadQueue = 'payloads';

/** Why nothing of a direction is kept but its size. */
export const payloadOmissions = [
  'tooLarge',
  'notInspectable',
  'notInspected',
  'overloaded',
  'noKey',
  'spoolFull',
] as const;
export type PayloadOmission = (typeof payloadOmissions)[number];

const count = z.number().int().nonnegative();

/** A line of the payload spool. */
export const payloadRecordSchema = z.strictObject({
  type: z.literal('payload'),
  /** Of the audit event, and its time: when the request was received. */
  eventId: z.string().min(1).max(128),
  time: count,
  direction: z.enum(policyDirections),
  policyId: z.string().min(1).max(128),
  serverId: z.string().min(1).max(128),
  principalId: z.string().min(1).max(128),
  /** JSON-RPC method; null for a listening stream. */
  method: z.string().max(256).nullable(),
  target: z.strictObject({ kind: z.enum(['tool', 'prompt', 'resource']), name: z.string() }).nullable(),
  /** Messages kept, and those left out since there was no room for them. */
  messages: count,
  messagesOmitted: count,
  /** Of all messages of the direction, before anything was taken out. */
  bytes: count,
  redactions: count,
  /** Null where something is kept. */
  omission: z.enum(payloadOmissions).nullable(),
  sealed: z
    .strictObject({
      /** The `payloadKey` that it was sealed to. */
      keyId: z.string().min(1).max(128),
      wrappedKey: z.string().min(1),
      /** Opens to `payloadContentSchema` as JSON. */
      content: z.string().min(1),
    })
    .nullable(),
});
export type PayloadRecord = z.infer<typeof payloadRecordSchema>;

/** The messages of one direction, in order, each as its JSON text. */
export const payloadContentSchema = z.strictObject({ messages: z.array(z.string()) });

/**
 * What says whose payload it is: sealed together with it, so that one that is moved to another row, or whose row says
 * something else, does not open.
 */
export function payloadIdentity(
  nodeId: string,
  {
    eventId,
    time,
    direction,
    policyId,
    serverId,
    principalId,
  }: Pick<PayloadRecord, 'eventId' | 'time' | 'direction' | 'policyId' | 'serverId' | 'principalId'>,
  keyId: string,
): string {
  return JSON.stringify([
    'sallyport.payload.v1',
    keyId,
    nodeId,
    eventId,
    time,
    direction,
    policyId,
    serverId,
    principalId,
  ]);
}

/** What payloads are sealed to: a document of its own, there while some policy captures. */
export const payloadKeyDocumentSchema = z.strictObject({
  kind: z.literal('payloadKey'),
  id: z.string().min(1).max(128),
  /** X25519, SPKI DER in base64. */
  publicKey: z.base64(),
});
export type PayloadKeyDocument = z.infer<typeof payloadKeyDocumentSchema>;

/** The epoch of a node's payload spool, by that of its audit spool. */
export function payloadEpoch(auditEpoch: string): string {
  return `payloads-${auditEpoch}`;
}
