import { AppError, canonicalJson, sha256, type Violation } from '@sallyport/schema';
import { and, eq, lt } from 'drizzle-orm';
import type { Drizzle, Transaction } from './client.ts';
import { idempotencyKeys } from './settings.tables.ts';

export const idempotencyKeyLengthMax = 128;
/** How long a repeated create is answered with the object made the first time. */
export const idempotencyKeyTtlMs = 24 * 3_600_000;

export interface IdempotentCreate {
  readonly actorId: string;
  /** The name of the mutation, such as `createGrant`. */
  readonly operation: string;
  readonly key: string | null | undefined;
  /** The caller's input; `dryRun` and the key itself are not part of what must be equal. */
  readonly input: object;
}

function digestOf(input: object): string {
  const { dryRun: _dryRun, idempotencyKey: _key, ...rest } = input as Record<string, unknown>;
  // Through JSON, so that dates and class instances compare by what they say.
  return sha256(canonicalJson(JSON.parse(JSON.stringify(rest))));
}

export function idempotencyKeyViolations(key: string | null | undefined): Violation[] {
  if (key === undefined || key === null) return [];
  if (key.length > 0 && key.length <= idempotencyKeyLengthMax) return [];
  return [{ path: 'input.idempotencyKey', message: `must have 1 to ${idempotencyKeyLengthMax} characters` }];
}

/**
 * Claims the key for `objectId`, or returns the id of the object that an equal create made before. Two such creates
 * at the same time wait for each other at the primary key. The same key with another input is INVALID_INPUT.
 */
export async function claimIdempotencyKey(
  tx: Transaction,
  create: IdempotentCreate,
  objectId: string,
  nowMs: number,
): Promise<string | undefined> {
  if (create.key === undefined || create.key === null) return undefined;
  const { actorId, operation, key } = create;
  const inputDigest = digestOf(create.input);
  const same = and(
    eq(idempotencyKeys.actorId, actorId),
    eq(idempotencyKeys.operation, operation),
    eq(idempotencyKeys.key, key),
  );
  await tx
    .delete(idempotencyKeys)
    .where(and(same, lt(idempotencyKeys.createdAt, new Date(nowMs - idempotencyKeyTtlMs))));
  const claimed = await tx
    .insert(idempotencyKeys)
    .values({ actorId, operation, key, inputDigest, objectId, createdAt: new Date(nowMs) })
    .onConflictDoNothing()
    .returning({ objectId: idempotencyKeys.objectId });
  if (claimed.length > 0) return undefined;
  const [earlier] = await tx.select().from(idempotencyKeys).where(same);
  if (earlier === undefined) throw new AppError('CONFLICT', { internal: 'idempotency key vanished' });
  if (earlier.inputDigest !== inputDigest) {
    throw new AppError('INVALID_INPUT', {
      violations: [{ path: 'input.idempotencyKey', message: 'was used before with another input' }],
    });
  }
  return earlier.objectId;
}

/** Drops keys past their time; run by a timer. */
export async function forgetIdempotencyKeys(db: Drizzle, nowMs: number): Promise<void> {
  await db.delete(idempotencyKeys).where(lt(idempotencyKeys.createdAt, new Date(nowMs - idempotencyKeyTtlMs)));
}
