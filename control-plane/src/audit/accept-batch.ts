import { type AuditBatch, auditBatchSchema, type BatchContent, batchSigningText } from '@sallyport/schema';
import { isSignedBy } from './signature.ts';
import { isStorable } from './storable-text.ts';

export interface NodeKeys {
  /** Whether the key is or was registered for the node: what it signed before stays verifiable. */
  accepts(nodeId: string, publicKey: string): Promise<boolean>;
  /** Whether a node may be what another became when it joined anew, and so may ship the spool of the other. */
  maySucceed(nodeId: string, formerNodeId: string): Promise<boolean>;
}

const identifierLengthMax = 128;

/** Told of a batch that is refused, with the node it says it is from. */
type Refuse = (nodeId: string, problem: string) => void;

/** A batch of a spool, if its form and signature are right. Nothing of another one is kept: it proves nothing. */
export function wellFormedBatch(data: unknown, content: BatchContent, refuse: Refuse): AuditBatch | undefined {
  const parsed = auditBatchSchema.safeParse(data);
  const problem = parsed.success ? problemOf(parsed.data, content) : ['unknown', 'it is not of the form of a batch'];
  if (problem !== undefined) refuse(problem[0] ?? '', problem[1] ?? '');
  return problem === undefined ? parsed.data : undefined;
}

function problemOf(batch: AuditBatch, content: BatchContent): readonly [string, string] | undefined {
  const identifiers = [batch.nodeId, batch.epoch, batch.signedBy];
  if (!identifiers.every((text) => text.length <= identifierLengthMax && isStorable(text))) {
    return ['unknown', 'its identifiers cannot be stored'];
  }
  if (batch.lines.length !== batch.last - batch.first + 1 || batch.undeliverableFrom > batch.first) {
    return [batch.signedBy, 'its lines do not fit its range'];
  }
  if (!isSignedBy(batch.publicKey, batchSigningText(batch, content), batch.signature)) {
    return [batch.signedBy, 'its signature does not fit'];
  }
  return undefined;
}

/** Whether the shipper's key is known, and the spool its own. */
export async function isShippersOwn(batch: AuditBatch, keys: NodeKeys, refuse: Refuse): Promise<boolean> {
  if (!(await keys.accepts(batch.signedBy, batch.publicKey))) {
    refuse(batch.signedBy, 'its key is not registered for the node');
    return false;
  }
  // Else any node could write the trail of any other, the control plane's own included.
  if (batch.nodeId !== batch.signedBy && !(await keys.maySucceed(batch.signedBy, batch.nodeId))) {
    refuse(batch.signedBy, 'it is of another node that was there at the same time');
    return false;
  }
  return true;
}
