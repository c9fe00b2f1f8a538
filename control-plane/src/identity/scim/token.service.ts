import { timingSafeEqual } from 'node:crypto';
import { AppError, isPermission, sha256 } from '@sallyport/schema';
import { type Clock, type Log, randomSecret, uuidv7 } from '@sallyport/schema/platform';
import { and, asc, eq, gt, inArray, isNull, lt, or, sql } from 'drizzle-orm';
import { noRights } from '../../access/rights.ts';
import { recordMutation } from '../../audit/audit.service.ts';
import { type Actor, type Context, systemActorId } from '../../context.ts';
import { batched } from '../../database/batched.ts';
import type { Database, Transaction } from '../../database/client.ts';
import { claimIdempotencyKey, idempotencyKeyViolations } from '../../database/idempotency.ts';
import { assertRevision, isUuid, mutate, type MutationOptions } from '../../database/mutation.ts';
import { nameLengthMax, Violations } from '../../database/violations.ts';
import type { GroupService } from '../group.service.ts';
import { findDirectory } from './directory.service.ts';
import { type ScimTokenRow, scimDirectories, scimTokens } from './scim.tables.ts';
import type { Directory } from './scim-user.service.ts';

export const scimTokenPrefix = 'spscim_';
export const scimTokenLifetimeMsMax = 366 * 86_400_000;
/** Tokens of one directory that are neither revoked nor expired: one in use, one that succeeds it, and some to spare. */
export const scimTokensPerDirectoryMax = 10;
export const scimTokenOverlapSecondsMax = 30 * 24 * 3600;
const overlapSecondsDefault = 24 * 3600;
const hintLength = scimTokenPrefix.length + 6;
const tokenLengthMax = 128;
/** A token's last use is written at most this often. */
const lastUsedIntervalMs = 60_000;

interface ChangeOptions extends MutationOptions {
  readonly id: string;
  readonly expectedRevision?: number | null | undefined;
}
export interface CreateScimToken extends MutationOptions {
  readonly idempotencyKey?: string | null | undefined;
  readonly directoryId: string;
  readonly name: string;
  readonly expiresAt: Date;
  /** Brought along by the caller; one is made if absent. */
  readonly secret?: string | null | undefined;
}
export interface RotateScimToken extends ChangeOptions {
  readonly expiresAt: Date;
  readonly overlapSeconds?: number | null | undefined;
}
/** The only moment at which a token's secret exists outside its holder. */
export interface IssuedScimToken {
  readonly scimToken: ScimTokenRow;
  /** Null on a dry run, when a repeated create found the token made before, and when the caller brought it along. */
  readonly secret: string | null;
}

/** What a token opens, and under whose name changes are recorded. */
export interface OpenedDirectory {
  readonly directory: Directory;
  readonly actor: Actor;
}

/** What audit events may hold of a token. */
function visible(row: ScimTokenRow): Omit<ScimTokenRow, 'hash'> {
  const { hash: _hash, ...rest } = row;
  return rest;
}

/** Bearer tokens of directories. They open SCIM and nothing else: no key opens SCIM, and no such token GraphQL or a node. */
export class ScimTokenService {
  private readonly database: Database;
  private readonly clock: Clock;
  private readonly log: Log;
  private readonly groups: Pick<GroupService, 'assertMayManage'>;
  private readonly loadOf: (directoryId: string) => Promise<readonly ScimTokenRow[] | undefined>;

  constructor(options: {
    readonly database: Database;
    readonly groups: Pick<GroupService, 'assertMayManage'>;
    readonly clock: Clock;
    readonly log: Log;
  }) {
    const { database } = options;
    this.database = database;
    this.clock = options.clock;
    this.log = options.log;
    this.groups = options.groups;
    this.loadOf = batched(async (ids) => {
      const rows = await database.db
        .select()
        .from(scimTokens)
        .where(inArray(scimTokens.directoryId, [...ids]))
        .orderBy(asc(scimTokens.id));
      return Map.groupBy(rows, ({ directoryId }) => directoryId);
    });
  }

  /** The tokens of a directory at hand that may still be used; the caller has authorized. */
  async liveOf(directoryId: string): Promise<readonly ScimTokenRow[]> {
    const rows = (await this.loadOf(directoryId)) ?? [];
    return rows.filter((row) => row.revokedAt === null && row.expiresAt.getTime() > this.clock.now());
  }

  async create(ctx: Context, input: CreateScimToken): Promise<IssuedScimToken> {
    ctx.authorize('settings:write');
    return mutate(this.database, input, async (tx) => {
      const now = ctx.clock.now();
      const found = new Violations();
      found.addAll(idempotencyKeyViolations(input.idempotencyKey));
      found.text('input.name', input.name, 1, nameLengthMax);
      found.expiry('input.expiresAt', input.expiresAt, now, scimTokenLifetimeMsMax);
      found.secret('input.secret', input.secret, scimTokenPrefix);
      found.assertNone();
      const directory = await findDirectory(tx, input.directoryId, 'update');
      await this.assertMayIssue(tx, ctx, directory.id);
      const id = uuidv7(now);
      const create = { actorId: ctx.actor.principalId, operation: 'createScimToken', key: input.idempotencyKey, input };
      const earlier = await claimIdempotencyKey(tx, create, id, now);
      if (earlier !== undefined) return { scimToken: await find(tx, earlier), secret: null };
      await this.assertRoom(tx, directory.id, now);
      const { name, expiresAt } = input;
      const values = { id, directoryId: directory.id, name, expiresAt, successorOf: null };
      const issued = await this.issue(tx, ctx, values, input.secret);
      const after = visible(issued.scimToken);
      await recordMutation(tx, ctx, { action: 'scimToken.create', object: { kind: 'scimToken', id }, after });
      return input.dryRun === true || issued.secret === input.secret ? { ...issued, secret: null } : issued;
    });
  }

  /** Issues a successor; the old token ends after the overlap, or earlier if it would. */
  async rotate(ctx: Context, input: RotateScimToken): Promise<IssuedScimToken> {
    ctx.authorize('settings:write');
    const overlapSeconds = input.overlapSeconds ?? overlapSecondsDefault;
    return mutate(this.database, input, async (tx) => {
      const now = ctx.clock.now();
      const before = await find(tx, input.id);
      assertRevision(before, input.expectedRevision);
      const found = new Violations();
      found.expiry('input.expiresAt', input.expiresAt, now, scimTokenLifetimeMsMax);
      if (overlapSeconds < 0 || overlapSeconds > scimTokenOverlapSecondsMax) {
        found.add('input.overlapSeconds', `must be between 0 and ${scimTokenOverlapSecondsMax}`);
      }
      if (before.revokedAt !== null) found.add('input.id', 'the token was revoked; create a new one');
      found.assertNone();
      await findDirectory(tx, before.directoryId, 'update');
      await this.assertMayIssue(tx, ctx, before.directoryId);
      await this.assertRoom(tx, before.directoryId, now);
      const expiresAt = new Date(Math.min(before.expiresAt.getTime(), now + overlapSeconds * 1000));
      const ending = await this.change(tx, before, { expiresAt });
      const { directoryId, name } = before;
      const successor = { id: uuidv7(now), directoryId, name, expiresAt: input.expiresAt, successorOf: before.id };
      const issued = await this.issue(tx, ctx, successor);
      await recordMutation(tx, ctx, {
        action: 'scimToken.rotate',
        object: { kind: 'scimToken', id: before.id },
        before: visible(before),
        after: { ending: visible(ending), successor: visible(issued.scimToken) },
      });
      return input.dryRun === true ? { ...issued, secret: null } : issued;
    });
  }

  /** Ends the token now. Revoking a revoked token changes nothing. */
  async revoke(ctx: Context, input: ChangeOptions): Promise<ScimTokenRow> {
    ctx.authorize('settings:write');
    return mutate(this.database, input, async (tx) => {
      const before = await find(tx, input.id);
      assertRevision(before, input.expectedRevision);
      if (before.revokedAt !== null) return before;
      const row = await this.change(tx, before, { revokedAt: new Date(ctx.clock.now()) });
      const change = { before: visible(before), after: visible(row) };
      await recordMutation(tx, ctx, {
        action: 'scimToken.revoke',
        object: { kind: 'scimToken', id: row.id },
        ...change,
      });
      return row;
    });
  }

  /**
   * The directory for a presented token, and the actor under whose name its changes are recorded. Unknown, revoked,
   * expired, of a directory that was deleted: all are UNAUTHENTICATED alike. Reads the database every time.
   */
  async directoryFor(presented: string): Promise<OpenedDirectory> {
    const nowMs = this.clock.now();
    if (!presented.startsWith(scimTokenPrefix) || presented.length > tokenLengthMax) throw refused('not a SCIM token');
    const hash = sha256(presented);
    const [row] = await this.database.db
      .select({ token: scimTokens, directory: scimDirectories })
      .from(scimTokens)
      .innerJoin(scimDirectories, eq(scimDirectories.id, scimTokens.directoryId))
      .where(eq(scimTokens.hash, hash));
    if (row === undefined || !timingSafeEqual(Buffer.from(row.token.hash), Buffer.from(hash))) throw refused('unknown');
    const { token, directory } = row;
    if (token.revokedAt !== null) throw refused(`SCIM token ${token.id} is revoked`);
    if (token.expiresAt.getTime() <= nowMs) throw refused(`SCIM token ${token.id} has expired`);
    if (directory.deletedAt !== null) throw refused(`directory ${directory.id} is deleted`);
    this.noteUse(token, nowMs);
    const actor: Actor = {
      principalId: systemActorId,
      name: `SCIM directory ${directory.name}`,
      kind: 'system',
      keyId: token.id,
      // It changes nobody, and fills no group, with more than whoever made the token might do (decision 0053).
      ...noRights,
      permissions: new Set(token.permissions.filter(isPermission)),
    };
    return { directory, actor };
  }

  /** Not awaited: a request does not wait for it, nor fail by it. */
  private noteUse(token: ScimTokenRow, nowMs: number): void {
    const before = new Date(nowMs - lastUsedIntervalMs);
    if (token.lastUsedAt !== null && token.lastUsedAt > before) return;
    this.database.db
      .update(scimTokens)
      .set({ lastUsedAt: new Date(nowMs) })
      .where(and(eq(scimTokens.id, token.id), or(isNull(scimTokens.lastUsedAt), lt(scimTokens.lastUsedAt, before))))
      .catch((error: unknown) => this.log.warn({ err: error, tokenId: token.id }, 'last use was not recorded'));
  }

  /**
   * Whoever holds a token says who belongs to the directory's groups, himself too: to make one takes what they have now.
   * What they are given later is the choice of whoever gives it.
   */
  private async assertMayIssue(tx: Transaction, ctx: Context, directoryId: string): Promise<void> {
    const rows = await tx.execute<{ id: string }>(sql`select id from groups g
      where directory_id = ${directoryId} and deleted_at is null and (
        exists (select 1 from role_bindings b where b.group_id = g.id)
        or exists (select 1 from servers s where s.owner_group_id = g.id and s.deleted_at is null))`);
    for (const { id } of rows) await this.groups.assertMayManage(tx, ctx, id);
    const granted = await tx.execute(sql`select 1 from grants a join groups g on g.id = a.subject_group_id
      where g.directory_id = ${directoryId} and a.deleted_at is null limit 1`);
    if (granted.length > 0) ctx.authorize('grant:write');
  }

  private async assertRoom(tx: Transaction, directoryId: string, nowMs: number): Promise<void> {
    const live = await tx
      .select({ id: scimTokens.id })
      .from(scimTokens)
      .where(
        and(
          eq(scimTokens.directoryId, directoryId),
          isNull(scimTokens.revokedAt),
          gt(scimTokens.expiresAt, new Date(nowMs)),
        ),
      );
    if (live.length < scimTokensPerDirectoryMax) return;
    const message = `has ${scimTokensPerDirectoryMax} tokens already: revoke some first`;
    throw new AppError('INVALID_INPUT', { violations: [{ path: 'input.directoryId', message }] });
  }

  private async issue(
    tx: Transaction,
    { actor, clock }: Context,
    values: Pick<ScimTokenRow, 'id' | 'directoryId' | 'name' | 'expiresAt' | 'successorOf'>,
    brought?: string | null,
  ): Promise<{ scimToken: ScimTokenRow; secret: string }> {
    const secret = brought ?? randomSecret(scimTokenPrefix);
    const [scimToken] = await tx
      .insert(scimTokens)
      .values({
        ...values,
        hash: sha256(secret),
        hint: secret.slice(0, hintLength),
        permissions: [...actor.permissions].sort(),
        createdAt: new Date(clock.now()),
      })
      .returning();
    if (scimToken === undefined) throw new AppError('INTERNAL', { internal: 'SCIM token was not inserted' });
    return { scimToken, secret };
  }

  private async change(tx: Transaction, before: ScimTokenRow, values: Partial<ScimTokenRow>): Promise<ScimTokenRow> {
    const [row] = await tx
      .update(scimTokens)
      .set({ ...values, revision: before.revision + 1 })
      .where(eq(scimTokens.id, before.id))
      .returning();
    if (row === undefined) throw new AppError('INTERNAL', { internal: 'SCIM token vanished under its lock' });
    return row;
  }
}

function refused(why: string): AppError {
  return new AppError('UNAUTHENTICATED', { internal: why });
}

async function find(tx: Transaction, id: string): Promise<ScimTokenRow> {
  if (!isUuid(id)) throw new AppError('NOT_FOUND');
  const [row] = await tx.select().from(scimTokens).where(eq(scimTokens.id, id)).for('update');
  if (row === undefined) throw new AppError('NOT_FOUND');
  return row;
}
