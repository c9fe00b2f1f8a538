import { AppError } from '@sallyport/schema';
import { and, eq, gt, inArray, sql } from 'drizzle-orm';
import type { Context } from '../context.ts';
import type { Reader, Transaction } from '../database/client.ts';
import { formerOwners, roleBindings } from './access.tables.ts';

/**
 * How long somebody who was owner counts after he ceased to be, however that came: whoever is left does not act alone
 * before others had time to notice. Longer than a weekend.
 */
export const formerOwnerMs = 72 * 3_600_000;

export interface Person {
  readonly principalId: string;
  /** The user himself, or the one who answers for the service account. */
  readonly personId: string;
}

/** What owners need to know of principals and keys; `identity` answers, so that `access` imports no slice. */
export interface OwnerLookup {
  /** Those of the ids whose principal can act, or could at some time after `sinceMs`; each with the user behind it. */
  readonly usablePrincipals: (reader: Reader, ids: readonly string[], sinceMs: number) => Promise<readonly Person[]>;
  /** The users who may know an API key beside its holder. */
  readonly keyKnownTo: (reader: Reader, keyId: string) => Promise<readonly string[]>;
}

/** Serializes all that may take away an owner: two owners must not remove each other at once. Taken before row locks. */
const ownersLock = sql`select pg_advisory_xact_lock(hashtext('sallyport.owners'))`;

/**
 * Who is owner, and when that takes two people. People are users: one and the accounts he answers for are one person, and
 * so is whoever may know the key that is used, since it may be him who uses it.
 */
export class OwnerService {
  private readonly lookup: OwnerLookup;

  constructor(lookup: OwnerLookup) {
    this.lookup = lookup;
  }

  async lock(tx: Transaction): Promise<void> {
    await tx.execute(ownersLock);
  }

  /** Whether somebody who is owner can act. */
  async exists(reader: Reader, nowMs: number): Promise<boolean> {
    const ids = await boundOwners(reader);
    return ids.length > 0 && (await this.lookup.usablePrincipals(reader, ids, nowMs)).length > 0;
  }

  /** Call after what may have taken an owner away, under the lock: an organization must keep one that can act. */
  async assertRemains(tx: Transaction, ctx: Context): Promise<void> {
    if (await this.exists(tx, ctx.clock.now())) return;
    const violations = [{ path: 'input', message: 'would leave the organization without an owner' }];
    throw new AppError('INVALID_INPUT', { violations });
  }

  /**
   * Whether guarded roles take two people: where more than one is owner, or was within `formerOwnerMs`. It does not matter
   * what ended the other: a mutation, a directory, an expiry.
   */
  async needTwoPeople(reader: Reader, nowMs: number): Promise<boolean> {
    const sinceMs = nowMs - formerOwnerMs;
    const bound = await this.lookup.usablePrincipals(reader, await boundOwners(reader), sinceMs);
    const former = await reader
      .select({ personId: formerOwners.personId })
      .from(formerOwners)
      .where(gt(formerOwners.endedAt, new Date(sinceMs)));
    return new Set([...bound, ...former].map(({ personId }) => personId)).size > 1;
  }

  /** The people who may be acting: the one behind the actor, and all who may know the key in use. */
  async actingPeople(reader: Reader, ctx: Context): Promise<ReadonlySet<string>> {
    const { principalId, keyId } = ctx.actor;
    const [own] = await this.lookup.usablePrincipals(reader, [principalId], ctx.clock.now());
    const knowing = keyId === null ? [] : await this.lookup.keyKnownTo(reader, keyId);
    return new Set([own?.personId ?? principalId, ...knowing]);
  }

  /** Those of the principals that are owner and can act, or could lately. */
  async among(reader: Reader, nowMs: number, principalIds: readonly string[]): Promise<readonly Person[]> {
    const bound = await reader
      .selectDistinct({ principalId: roleBindings.principalId })
      .from(roleBindings)
      .where(and(eq(roleBindings.role, 'owner'), inArray(roleBindings.principalId, [...principalIds])));
    const ids = bound.flatMap(({ principalId }) => principalId ?? []);
    return ids.length === 0 ? [] : this.lookup.usablePrincipals(reader, ids, nowMs - formerOwnerMs);
  }

  /**
   * Call before an owner is taken away, under the lock. One person alone may step down himself, but not take the role, or
   * the principal that holds it, from another while two people are needed. The program itself may: a directory deactivates
   * whom it provisions at once.
   */
  async assertMayEnd(tx: Transaction, ctx: Context, ended: readonly Person[]): Promise<void> {
    const nowMs = ctx.clock.now();
    if (ended.length === 0 || ctx.actor.kind === 'system' || !(await this.needTwoPeople(tx, nowMs))) return;
    const acting = await this.actingPeople(tx, ctx);
    const [own] = acting;
    if (acting.size === 1 && ended.every(({ personId }) => personId === own)) return;
    throw new AppError('FORBIDDEN', {
      internal: `${ctx.actor.principalId} tried to take away an owner alone`,
      publicMessage:
        'There is more than one owner, so an owner is taken away by two people: one calls proposeRole with change TAKE, ' +
        'another confirmRole. To stop somebody at once, revoke his keys and end his sessions.',
    });
  }

  /** Lets those who cease to be owner count for some time more. */
  async noteFormer(tx: Transaction, nowMs: number, ended: readonly Person[]): Promise<void> {
    const endedAt = new Date(nowMs);
    for (const personId of new Set(ended.map((person) => person.personId))) {
      await tx
        .insert(formerOwners)
        .values({ personId, endedAt })
        .onConflictDoUpdate({ target: formerOwners.personId, set: { endedAt } });
    }
  }
}

async function boundOwners(reader: Reader): Promise<readonly string[]> {
  const rows = await reader
    .select({ principalId: roleBindings.principalId })
    .from(roleBindings)
    .where(eq(roleBindings.role, 'owner'));
  return rows.flatMap(({ principalId }) => principalId ?? []);
}
