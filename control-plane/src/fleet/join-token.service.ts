import { AppError, sha256 } from '@sallyport/schema';
import { randomSecret, uuidv7 } from '@sallyport/schema/platform';
import { asc, eq, gt } from 'drizzle-orm';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import type { Database, Reader } from '../database/client.ts';
import { claimIdempotencyKey, idempotencyKeyViolations } from '../database/idempotency.ts';
import { assertRevision, isUuid, mutate } from '../database/mutation.ts';
import { nameLengthMax, Violations } from '../database/violations.ts';
import { type JoinTokenRow, joinTokens } from './fleet.tables.ts';

export const joinTokenPrefix = 'spjoin_';
export const joinTokenLifetimeMsMax = 366 * 86_400_000;
export const joinTokenUsesMax = 10_000;
const hintLength = joinTokenPrefix.length + 6;
const labelsMax = 32;

export interface CreateJoinToken {
  readonly dryRun?: boolean | null | undefined;
  readonly idempotencyKey?: string | null | undefined;
  readonly name: string;
  /** A node that joins must carry all of these. */
  readonly labels?: Readonly<Record<string, unknown>> | null | undefined;
  /** Null: as often as wanted until it expires. */
  readonly usesMax?: number | null | undefined;
  readonly expiresAt: Date;
  /** Brought along by the caller; one is made if absent. */
  readonly secret?: string | null | undefined;
}
export interface RevokeJoinToken {
  readonly dryRun?: boolean | null | undefined;
  readonly id: string;
  readonly expectedRevision?: number | null | undefined;
}
/** The only moment at which a token's secret exists outside its holder. */
export interface IssuedJoinToken {
  readonly joinToken: JoinTokenRow;
  /** Null on a dry run, when a repeated create found the token made before, and when the caller brought it along. */
  readonly secret: string | null;
}

/** What audit events may hold of a token. */
function visible(row: JoinTokenRow): Omit<JoinTokenRow, 'hash'> {
  const { hash: _hash, ...rest } = row;
  return rest;
}

export class JoinTokenService {
  private readonly database: Database;

  constructor(database: Database) {
    this.database = database;
  }

  async list(
    ctx: Context,
    page: { readonly limit: number; readonly after: readonly string[] | undefined },
  ): Promise<JoinTokenRow[]> {
    ctx.authorize('node:read');
    const [after] = page.after ?? [];
    return this.database.db
      .select()
      .from(joinTokens)
      .where(after === undefined ? undefined : gt(joinTokens.id, after))
      .orderBy(asc(joinTokens.id))
      .limit(page.limit + 1);
  }

  async create(ctx: Context, input: CreateJoinToken): Promise<IssuedJoinToken> {
    ctx.authorize('node:write');
    const now = ctx.clock.now();
    const found = new Violations();
    found.addAll(idempotencyKeyViolations(input.idempotencyKey));
    found.text('input.name', input.name, 1, nameLengthMax);
    found.expiry('input.expiresAt', input.expiresAt, now, joinTokenLifetimeMsMax);
    found.secret('input.secret', input.secret, joinTokenPrefix);
    const usesMax = input.usesMax ?? null;
    if (usesMax !== null && (usesMax < 1 || usesMax > joinTokenUsesMax)) {
      found.add('input.usesMax', `must be between 1 and ${joinTokenUsesMax}, or null for no limit`);
    }
    const labels = checkLabels(found, input.labels ?? {});
    found.assertNone();
    return mutate(this.database, input, async (tx) => {
      const id = uuidv7(now);
      const create = { actorId: ctx.actor.principalId, operation: 'createJoinToken', key: input.idempotencyKey, input };
      const earlier = await claimIdempotencyKey(tx, create, id, now);
      if (earlier !== undefined) return { joinToken: await find(tx, earlier), secret: null };
      const secret = input.secret ?? randomSecret(joinTokenPrefix);
      const [joinToken] = await tx
        .insert(joinTokens)
        .values({
          id,
          name: input.name,
          hash: sha256(secret),
          hint: secret.slice(0, hintLength),
          labels,
          usesMax,
          expiresAt: input.expiresAt,
          createdAt: new Date(now),
        })
        .returning();
      if (joinToken === undefined) throw new AppError('INTERNAL', { internal: 'join token was not inserted' });
      const object = { kind: 'joinToken', id };
      await recordMutation(tx, ctx, { action: 'joinToken.create', object, after: visible(joinToken) });
      return { joinToken, secret: input.dryRun === true || secret === input.secret ? null : secret };
    });
  }

  /** No node joins by it any more; nodes that did stay. Revoking a revoked token changes nothing. */
  async revoke(ctx: Context, input: RevokeJoinToken): Promise<JoinTokenRow> {
    ctx.authorize('node:write');
    return mutate(this.database, input, async (tx) => {
      const before = await find(tx, input.id);
      assertRevision(before, input.expectedRevision);
      if (before.revokedAt !== null) return before;
      const [row] = await tx
        .update(joinTokens)
        .set({ revokedAt: new Date(ctx.clock.now()), revision: before.revision + 1 })
        .where(eq(joinTokens.id, before.id))
        .returning();
      if (row === undefined) throw new AppError('INTERNAL', { internal: 'join token vanished' });
      const object = { kind: 'joinToken', id: row.id };
      const change = { before: visible(before), after: visible(row) };
      await recordMutation(tx, ctx, { action: 'joinToken.revoke', object, ...change });
      return row;
    });
  }
}

function checkLabels(found: Violations, labels: Readonly<Record<string, unknown>>): Record<string, string> {
  const result: Record<string, string> = {};
  for (const [key, value] of Object.entries(labels)) {
    found.text(`input.labels.${key}`, key, 1, nameLengthMax);
    if (typeof value !== 'string') {
      found.add(`input.labels.${key}`, 'must be a text');
      continue;
    }
    found.text(`input.labels.${key}`, value, 0, nameLengthMax);
    result[key] = value;
  }
  if (Object.keys(labels).length > labelsMax) found.add('input.labels', `must have at most ${labelsMax} entries`);
  return result;
}

async function find(reader: Reader, id: string): Promise<JoinTokenRow> {
  if (!isUuid(id)) throw new AppError('NOT_FOUND');
  const [row] = await reader.select().from(joinTokens).where(eq(joinTokens.id, id)).for('update');
  if (row === undefined) throw new AppError('NOT_FOUND');
  return row;
}
