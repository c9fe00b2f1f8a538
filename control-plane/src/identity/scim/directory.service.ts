import { AppError } from '@sallyport/schema';
import { uuidv7 } from '@sallyport/schema/platform';
import { and, asc, eq, gt, isNull } from 'drizzle-orm';
import { recordMutation } from '../../audit/audit.service.ts';
import type { Context } from '../../context.ts';
import type { Database, Reader, Transaction } from '../../database/client.ts';
import { claimIdempotencyKey, idempotencyKeyViolations } from '../../database/idempotency.ts';
import { assertRevision, isUuid, mutate, type MutationOptions } from '../../database/mutation.ts';
import { nameLengthMax, Violations } from '../../database/violations.ts';
import { groups, principals } from '../identity.tables.ts';
import { type ScimDirectoryRow, scimDirectories, scimGroups, scimTokens, scimUsers } from './scim.tables.ts';

export const directoriesMax = 50;
const issuerLengthMax = 512;

interface ChangeOptions extends MutationOptions {
  readonly id: string;
  readonly expectedRevision?: number | null | undefined;
}
export interface CreateScimDirectory extends MutationOptions {
  readonly idempotencyKey?: string | null | undefined;
  readonly name: string;
  readonly issuer: string;
}
export interface UpdateScimDirectory extends ChangeOptions {
  readonly name?: string | null | undefined;
}

/** Keeps the directory from being deleted before the caller's transaction has referred to it. */
export async function findDirectory(reader: Reader, id: string, lock: 'share' | 'update'): Promise<ScimDirectoryRow> {
  if (!isUuid(id)) throw new AppError('NOT_FOUND');
  const [row] = await reader
    .select()
    .from(scimDirectories)
    .where(and(eq(scimDirectories.id, id), isNull(scimDirectories.deletedAt)))
    .for(lock);
  if (row === undefined) throw new AppError('NOT_FOUND');
  return row;
}

/** The directories that may push users and groups, each for one identity provider. */
export class ScimDirectoryService {
  private readonly database: Database;

  constructor(database: Database) {
    this.database = database;
  }

  async get(ctx: Context, id: string): Promise<ScimDirectoryRow> {
    ctx.authorize('settings:read');
    return findDirectory(this.database.db, id, 'share');
  }

  async list(
    ctx: Context,
    page: { readonly limit: number; readonly after: readonly string[] | undefined },
  ): Promise<ScimDirectoryRow[]> {
    ctx.authorize('settings:read');
    const [after] = page.after ?? [];
    return this.database.db
      .select()
      .from(scimDirectories)
      .where(and(isNull(scimDirectories.deletedAt), after === undefined ? undefined : gt(scimDirectories.id, after)))
      .orderBy(asc(scimDirectories.id))
      .limit(page.limit + 1);
  }

  async create(ctx: Context, input: CreateScimDirectory): Promise<ScimDirectoryRow> {
    ctx.authorize('settings:write');
    return mutate(this.database, input, async (tx) => {
      const now = ctx.clock.now();
      const id = uuidv7(now);
      const found = new Violations();
      found.addAll(idempotencyKeyViolations(input.idempotencyKey));
      found.text('input.name', input.name, 1, nameLengthMax);
      checkIssuer(found, input.issuer);
      found.assertNone();
      const create = {
        actorId: ctx.actor.principalId,
        operation: 'createScimDirectory',
        key: input.idempotencyKey,
        input,
      };
      const earlier = await claimIdempotencyKey(tx, create, id, now);
      if (earlier !== undefined) return findDirectory(tx, earlier, 'share');
      await this.checkUnused(tx, found, input, id);
      found.assertNone();
      const [row] = await tx
        .insert(scimDirectories)
        .values({ id, name: input.name, issuer: input.issuer, createdAt: new Date(now), updatedAt: new Date(now) })
        .returning();
      if (row === undefined) throw new AppError('INTERNAL', { internal: 'directory was not inserted' });
      await recordMutation(tx, ctx, { action: 'scimDirectory.create', object: objectOf(row), after: row });
      return row;
    });
  }

  async update(ctx: Context, input: UpdateScimDirectory): Promise<ScimDirectoryRow> {
    ctx.authorize('settings:write');
    return mutate(this.database, input, async (tx) => {
      const before = await findDirectory(tx, input.id, 'update');
      assertRevision(before, input.expectedRevision);
      const found = new Violations();
      found.text('input.name', input.name, 1, nameLengthMax);
      const name = input.name ?? before.name;
      await this.checkUnused(tx, found, { name, issuer: before.issuer }, before.id);
      found.assertNone();
      return this.change(tx, ctx, before, 'update', { name });
    });
  }

  /**
   * Nothing is pushed by it any more. Its users and groups stay as they are and are managed here from then on: to end
   * somebody's rights, deactivate users in the directory first.
   */
  async delete(ctx: Context, input: ChangeOptions): Promise<ScimDirectoryRow> {
    ctx.authorize('settings:write');
    return mutate(this.database, input, async (tx) => {
      const before = await findDirectory(tx, input.id, 'update');
      assertRevision(before, input.expectedRevision);
      const now = new Date(ctx.clock.now());
      await tx
        .update(scimTokens)
        .set({ revokedAt: now })
        .where(and(eq(scimTokens.directoryId, before.id), isNull(scimTokens.revokedAt)));
      await tx.update(principals).set({ directoryId: null }).where(eq(principals.directoryId, before.id));
      await tx.update(groups).set({ directoryId: null }).where(eq(groups.directoryId, before.id));
      await tx.delete(scimUsers).where(eq(scimUsers.directoryId, before.id));
      await tx.delete(scimGroups).where(eq(scimGroups.directoryId, before.id));
      return this.change(tx, ctx, before, 'delete', { deletedAt: now });
    });
  }

  private async change(
    tx: Transaction,
    ctx: Context,
    before: ScimDirectoryRow,
    verb: 'update' | 'delete',
    values: Partial<ScimDirectoryRow>,
  ): Promise<ScimDirectoryRow> {
    const [row] = await tx
      .update(scimDirectories)
      .set({ ...values, revision: before.revision + 1, updatedAt: new Date(ctx.clock.now()) })
      .where(eq(scimDirectories.id, before.id))
      .returning();
    if (row === undefined) throw new AppError('INTERNAL', { internal: 'directory vanished under its lock' });
    await recordMutation(tx, ctx, { action: `scimDirectory.${verb}`, object: objectOf(row), before, after: row });
    return row;
  }

  private async checkUnused(
    tx: Transaction,
    found: Violations,
    input: Pick<ScimDirectoryRow, 'name' | 'issuer'>,
    ownId: string,
  ): Promise<void> {
    const rows = await tx.select().from(scimDirectories).where(isNull(scimDirectories.deletedAt));
    const others = rows.filter(({ id }) => id !== ownId);
    if (others.length >= directoriesMax) found.add('input', `there are ${directoriesMax} directories already`);
    if (others.some(({ name }) => name === input.name)) found.add('input.name', 'is the name of another directory');
    if (others.some(({ issuer }) => issuer === input.issuer)) {
      found.add('input.issuer', 'is provisioned by another directory');
    }
  }
}

function objectOf(row: ScimDirectoryRow) {
  return { kind: 'scimDirectory', id: row.id };
}

/** As in `iss` of the provider's tokens, which is compared byte for byte (OpenID Connect Core §2). */
function checkIssuer(found: Violations, issuer: string): void {
  found.text('input.issuer', issuer, 1, issuerLengthMax);
  const url = URL.parse(issuer);
  if (url === null || url.protocol !== 'https:' || url.search !== '' || url.hash !== '' || url.username !== '') {
    found.add('input.issuer', 'must be the https URL that the identity provider writes into iss of its tokens');
  }
}
