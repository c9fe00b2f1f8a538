import { type ControlRecord, sha256 } from '@sallyport/schema';
import { uuidv7 } from '@sallyport/schema/platform';
import type { Context } from '../context.ts';
import type { Transaction } from '../database/client.ts';
import { auditEvents, auditUnchained } from './audit.tables.ts';
import { storableText } from './storable-text.ts';

/** Of `before` and of `after`, as JSON text; a larger object is represented by its digest. */
const objectCharactersMax = 64 * 1024;
/** Never in the audit trail, whatever row a caller passes. */
const secretMembers = new Set(['hash', 'secret', 'token', 'password', 'privateKey']);

export interface Mutation {
  /** `noun.verb`, for example `grant.create`. */
  readonly action: string;
  readonly object: { readonly kind: string; readonly id: string };
  /** The object as it was and as it is, without secrets. */
  readonly before?: unknown;
  readonly after?: unknown;
}

/**
 * Writes the audit event of a change into the caller's transaction: no change without its event, no event without
 * its change. The event joins the control plane's chain within seconds, when the checkpoint job takes it.
 */
export function recordMutation(
  tx: Transaction,
  ctx: Pick<Context, 'actor' | 'clock'>,
  mutation: Mutation,
): Promise<void> {
  return recordControlEvent(tx, ctx, 'configuration', mutation);
}

/** The same for a read that must be known, such as an export of the audit trail. */
export function recordAccess(
  tx: Transaction,
  ctx: Pick<Context, 'actor' | 'clock'>,
  access: Omit<Mutation, 'before'>,
): Promise<void> {
  return recordControlEvent(tx, ctx, 'access', access);
}

async function recordControlEvent(
  tx: Transaction,
  ctx: Pick<Context, 'actor' | 'clock'>,
  kind: ControlRecord['kind'],
  mutation: Mutation,
): Promise<void> {
  const time = Math.floor(ctx.clock.now());
  const { actor } = ctx;
  const before = auditableJson(mutation.before);
  const after = auditableJson(mutation.after);
  const record: ControlRecord = {
    type: 'control',
    eventId: uuidv7(time),
    time,
    kind,
    actor: { id: actor.principalId, kind: actor.kind, name: actor.name, keyId: actor.keyId },
    action: mutation.action,
    object: { kind: mutation.object.kind, id: mutation.object.id },
    before: JSON.parse(before) as unknown,
    after: JSON.parse(after) as unknown,
  };
  await tx.insert(auditEvents).values({
    time: new Date(time),
    id: record.eventId,
    kind,
    principalId: actor.principalId,
    principalKind: actor.kind,
    principalName: storableText(actor.name),
    keyId: actor.keyId,
    outcome: 'success',
    action: mutation.action,
    objectKind: mutation.object.kind,
    objectId: storableText(mutation.object.id),
    beforeJson: mutation.before === undefined ? null : before,
    afterJson: mutation.after === undefined ? null : after,
  });
  await tx.insert(auditUnchained).values({ record: JSON.stringify(record) });
}

/** JSON text without secrets; escapes of JSON make any string storable. */
function auditableJson(value: unknown): string {
  const text = JSON.stringify(value, (key, member: unknown) => (secretMembers.has(key) ? undefined : member)) ?? 'null';
  if (text.length <= objectCharactersMax) return text;
  return JSON.stringify({
    omitted: 'larger than the audit trail keeps',
    characters: text.length,
    sha256: sha256(text),
  });
}
