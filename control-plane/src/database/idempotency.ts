import { AppError, canonicalJson, sha256, type Violation } from '@sallyport/schema';
import { and, eq, lt } from 'drizzle-orm';
import type { Batch } from './batch.ts';
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
  if (earlier.inputDigest !== inputDigest) throw usedForAnother();
  return earlier.objectId;
}

/** Also for who finds that a secret is another one, of which no digest is kept. */
export function usedForAnother(): AppError {
  const message = 'was used before with another input';
  return new AppError('INVALID_INPUT', { violations: [{ path: 'input.idempotencyKey', message }] });
}

/**
 * The same for the items of a mutation that makes one object of each: the ids of what an equal mutation made before, or
 * undefined where all are claimed now. An item of a list has a key of its own, derived from the list's.
 * @param objectIds of the items, in their order
 */
export async function claimIdempotencyKeys(
  tx: Transaction,
  create: Omit<IdempotentCreate, 'input'>,
  { items, isList }: Batch<object>,
  objectIds: readonly string[],
  nowMs: number,
): Promise<readonly string[] | undefined> {
  if (create.key === undefined || create.key === null) return undefined;
  const earlier: string[] = [];
  for (const [index, item] of items.entries()) {
    const one = isList
      ? { ...create, key: `${create.key}#${index}`, input: { item, count: items.length } }
      : { ...create, input: item };
    const made = await claimIdempotencyKey(tx, one, objectIds[index] ?? '', nowMs);
    if (made !== undefined) earlier.push(made);
  }
  return earlier.length === items.length ? earlier : undefined;
}

/** Drops keys past their time; run by a timer. */
export async function forgetIdempotencyKeys(db: Drizzle, nowMs: number): Promise<void> {
  await db.delete(idempotencyKeys).where(lt(idempotencyKeys.createdAt, new Date(nowMs - idempotencyKeyTtlMs)));
}
