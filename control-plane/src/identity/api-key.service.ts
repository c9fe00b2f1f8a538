import { AppError, networksCover, parseCidr, parseNetworks, sha256 } from '@sallyport/schema';
import { randomSecret, uuidv7 } from '@sallyport/schema/platform';
import { and, asc, eq, gt, isNull } from 'drizzle-orm';
import { isPermitted } from '../access/rights.ts';
import type { RoleService } from '../access/role.service.ts';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import type { Database, Reader, Transaction } from '../database/client.ts';
import { bumpConfigGeneration } from '../database/config-generation.ts';
import { claimIdempotencyKey, idempotencyKeyViolations } from '../database/idempotency.ts';
import { assertRevision, isUuid, mutate } from '../database/mutation.ts';
import { nameLengthMax, Violations } from '../database/violations.ts';
import { type KeyLimits, type KeyLimitsInput, keyLimitsOf, keyServersMax, publishedLimits } from './api-key-form.ts';
import { type ApiKeyRow, apiKeys, principals } from './identity.tables.ts';
import { isUsable } from './principal.service.ts';

export const apiKeyPrefix = 'sp_';
export const apiKeyLifetimeMsMax = 366 * 86_400_000;
/** Keys of one principal that are neither revoked nor expired. */
export const apiKeysPerPrincipalMax = 50;
export const rotationOverlapSecondsDefault = 24 * 3600;
export const rotationOverlapSecondsMax = 30 * 24 * 3600;
const hintLength = 9;

interface MutationOptions {
  readonly dryRun?: boolean | null | undefined;
}
interface ChangeOptions extends MutationOptions {
  readonly id: string;
  readonly expectedRevision?: number | null | undefined;
}
export interface CreateApiKey extends MutationOptions, KeyLimitsInput {
  readonly idempotencyKey?: string | null | undefined;
  readonly principalId: string;
  readonly name: string;
  readonly expiresAt: Date;
  /** Brought along by the caller; one is made if absent. */
  readonly secret?: string | null | undefined;
}
export interface RotateApiKey extends ChangeOptions {
  readonly expiresAt: Date;
  readonly overlapSeconds?: number | null | undefined;
}
/** The only moment at which a key's secret exists outside its holder. */
export interface IssuedApiKey {
  readonly apiKey: ApiKeyRow;
  /** Null on a dry run, when a repeated create found the key made before, and when the caller brought it along. */
  readonly secret: string | null;
}

/** What audit events and logs may hold of a key. */
function visible(row: ApiKeyRow): Omit<ApiKeyRow, 'hash'> {
  const { hash: _hash, ...rest } = row;
  return rest;
}

export class ApiKeyService {
  private readonly database: Database;
  private readonly roles: RoleService;
  private readonly serverExists: (reader: Reader, id: string) => Promise<boolean>;

  constructor(database: Database, roles: RoleService, serverExists: ApiKeyService['serverExists']) {
    this.database = database;
    this.roles = roles;
    this.serverExists = serverExists;
  }

  async get(ctx: Context, id: string): Promise<ApiKeyRow> {
    ctx.authorize('apiKey:read');
    return this.find(this.database.db, id);
  }

  async list(
    ctx: Context,
    filter: { readonly principalId?: string | null | undefined },
    page: { readonly limit: number; readonly after: readonly string[] | undefined },
  ): Promise<ApiKeyRow[]> {
    ctx.authorize('apiKey:read');
    const { principalId } = filter;
    if (typeof principalId === 'string' && !isUuid(principalId)) return [];
    const [after] = page.after ?? [];
    return this.database.db
      .select()
      .from(apiKeys)
      .where(
        and(
          typeof principalId === 'string' ? eq(apiKeys.principalId, principalId) : undefined,
          after === undefined ? undefined : gt(apiKeys.id, after),
        ),
      )
      .orderBy(asc(apiKeys.id))
      .limit(page.limit + 1);
  }

  async create(ctx: Context, input: CreateApiKey): Promise<IssuedApiKey> {
    ctx.authorize('apiKey:write');
    return mutate(this.database, input, async (tx) => {
      if (isUuid(input.principalId)) await this.assertMayIssue(tx, ctx, input.principalId, input);
      return this.insert(tx, ctx, input);
    });
  }

  /** Also used by the bootstrap, whose actor manages nobody. */
  async insert(tx: Transaction, ctx: Context, input: CreateApiKey): Promise<IssuedApiKey> {
    const now = ctx.clock.now();
    const found = new Violations();
    found.addAll(idempotencyKeyViolations(input.idempotencyKey));
    found.text('input.name', input.name, 1, nameLengthMax);
    found.expiry('input.expiresAt', input.expiresAt, now, apiKeyLifetimeMsMax);
    found.secret('input.secret', input.secret, apiKeyPrefix);
    const limits = keyLimitsOf(found, input);
    const named = limits.serverIds === null ? [] : (input.serverIds ?? []);
    for (const [index, id] of named.slice(0, keyServersMax).entries()) {
      if (isUuid(id) && !(await this.serverExists(tx, id)))
        found.add(`input.serverIds[${index}]`, 'there is no such server');
    }
    await this.checkHolder(tx, found, input.principalId, now);
    found.assertNone();
    const id = uuidv7(now);
    const create = { actorId: ctx.actor.principalId, operation: 'createApiKey', key: input.idempotencyKey, input };
    const earlier = await claimIdempotencyKey(tx, create, id, now);
    if (earlier !== undefined) return { apiKey: await this.find(tx, earlier), secret: null };
    const { principalId, name, expiresAt } = input;
    const issued = await this.issue(tx, ctx, { id, principalId, name, ...limits, expiresAt }, input.secret);
    await recordMutation(tx, ctx, {
      action: 'apiKey.create',
      object: { kind: 'apiKey', id },
      after: visible(issued.apiKey),
    });
    await bumpConfigGeneration(tx, { principalIds: [input.principalId] });
    return input.dryRun === true || typeof input.secret === 'string' ? { ...issued, secret: null } : issued;
  }

  /** Issues a successor with the same holder, scopes and limits; the old key ends after the overlap, or earlier if it would. */
  async rotate(ctx: Context, input: RotateApiKey): Promise<IssuedApiKey> {
    ctx.authorize('apiKey:write');
    const now = ctx.clock.now();
    const overlapSeconds = input.overlapSeconds ?? rotationOverlapSecondsDefault;
    return mutate(this.database, input, async (tx) => {
      const before = await this.find(tx, input.id, true);
      await this.assertMayIssue(tx, ctx, before.principalId, before);
      assertRevision(before, input.expectedRevision);
      const found = new Violations();
      found.expiry('input.expiresAt', input.expiresAt, now, apiKeyLifetimeMsMax);
      if (overlapSeconds < 0 || overlapSeconds > rotationOverlapSecondsMax) {
        found.add('input.overlapSeconds', `must be between 0 and ${rotationOverlapSecondsMax}`);
      }
      if (before.revokedAt !== null) found.add('input.id', 'the key was revoked; create a new one');
      await this.checkHolder(tx, found, before.principalId, now);
      found.assertNone();
      const overlapEnd = Math.min(before.expiresAt.getTime(), now + overlapSeconds * 1000);
      const [ending] = await tx
        .update(apiKeys)
        .set({ expiresAt: new Date(overlapEnd), revision: before.revision + 1, updatedAt: new Date(now) })
        .where(eq(apiKeys.id, before.id))
        .returning();
      if (ending === undefined) throw new AppError('INTERNAL', { internal: 'key vanished under its lock' });
      const { principalId, name, scopes, permissions, serverIds, serverLabels, networks } = before;
      const id = uuidv7(now);
      const issued = await this.issue(tx, ctx, {
        id,
        principalId,
        name,
        ...{ scopes, permissions, serverIds, serverLabels, networks },
        expiresAt: input.expiresAt,
        successorOf: before.id,
      });
      await recordMutation(tx, ctx, {
        action: 'apiKey.rotate',
        object: { kind: 'apiKey', id: before.id },
        before: visible(before),
        after: { ending: visible(ending), successor: visible(issued.apiKey) },
      });
      await bumpConfigGeneration(tx, { principalIds: [principalId] });
      return input.dryRun === true ? { ...issued, secret: null } : issued;
    });
  }

  /** Ends the key now. Revoking a revoked key changes nothing. */
  async revoke(ctx: Context, input: ChangeOptions): Promise<ApiKeyRow> {
    ctx.authorize('apiKey:write');
    const now = new Date(ctx.clock.now());
    return mutate(this.database, input, async (tx) => {
      const before = await this.find(tx, input.id, true);
      await this.roles.assertMayManage(ctx, tx, before.principalId);
      assertRevision(before, input.expectedRevision);
      if (before.revokedAt !== null) return before;
      const [row] = await tx
        .update(apiKeys)
        .set({ revokedAt: now, revision: before.revision + 1, updatedAt: now })
        .where(eq(apiKeys.id, before.id))
        .returning();
      if (row === undefined) throw new AppError('INTERNAL', { internal: 'key vanished under its lock' });
      await recordMutation(tx, ctx, {
        action: 'apiKey.revoke',
        object: { kind: 'apiKey', id: row.id },
        before: visible(before),
        after: visible(row),
      });
      await bumpConfigGeneration(tx, { principalIds: [row.principalId] });
      return row;
    });
  }

  /**
   * A key is its holder's right in somebody's hand, so whoever makes one must have as much: the rights of the holder at
   * the API, to read payloads only where the key opens that; and for what it opens through nodes, a key of his own that opens it for himself or his account, or the
   * permission to grant it. Nor does a key that is bound to networks make one that is not. A login code and a client
   * that acts as an account are such keys too, for servers and from everywhere.
   */
  async assertMayIssue(
    tx: Transaction,
    ctx: Context,
    principalId: string,
    wanted: Pick<KeyLimitsInput, 'scopes' | 'networks' | 'permissions'>,
  ): Promise<void> {
    const reads = wanted.permissions?.includes('payload:read') ?? true;
    const isOfApi = wanted.scopes.some((scope) => scope !== 'mcp');
    if (reads && isOfApi) await this.roles.assertMayActAs(ctx, tx, principalId);
    else await this.roles.assertMayManage(ctx, tx, principalId);
    const { actor } = ctx;
    const [acting] =
      actor.keyId === null || !isUuid(actor.keyId)
        ? []
        : await tx.select().from(apiKeys).where(eq(apiKeys.id, actor.keyId));
    if (wanted.scopes.includes('mcp') && !isPermitted(actor, 'grant:write')) {
      const [holder] = await tx.select().from(principals).where(eq(principals.id, principalId));
      const isOwn = holder?.id === actor.principalId || holder?.ownerId === actor.principalId;
      const opensServers = acting === undefined || acting.scopes.includes('mcp');
      if (!isOwn || !opensServers) throw notYours(ctx, 'a key for tools of another needs grant:write');
    }
    const bound = acting?.networks ?? null;
    if (bound === null) return;
    const outer = parseNetworks(bound);
    const inner = (wanted.networks ?? ['0.0.0.0/0', '::/0']).filter((text) => parseCidr(text) !== undefined);
    if (!networksCover(outer, parseNetworks(inner))) throw notYours(ctx, 'the acting key is bound to networks');
  }

  /** For other slices: a key of a principal, as nodes would hold it; the caller has authorized. */
  async keyOf(principalId: string, id: string) {
    const row = await this.find(this.database.db, id);
    if (row.principalId !== principalId) throw new AppError('NOT_FOUND', { internal: 'the key is of another' });
    const { hash, scopes, expiresAt, revokedAt } = row;
    return {
      id: row.id,
      hash,
      scopes,
      expiresAt: expiresAt.getTime(),
      isRevoked: revokedAt !== null,
      ...publishedLimits(row),
    };
  }

  /** The users who may know a key beside its holder. */
  async knownTo(reader: Reader, id: string): Promise<readonly string[]> {
    const [row] = await reader.select({ knownTo: apiKeys.knownTo }).from(apiKeys).where(eq(apiKeys.id, id));
    return row?.knownTo ?? [];
  }

  private async issue(
    tx: Transaction,
    ctx: Context,
    values: Pick<ApiKeyRow, 'id' | 'principalId' | 'name' | 'expiresAt'> & KeyLimits & { successorOf?: string },
    brought?: string | null,
  ): Promise<{ apiKey: ApiKeyRow; secret: string }> {
    const secret = brought ?? randomSecret(apiKeyPrefix);
    const nowMs = ctx.clock.now();
    const isOfSystem = ctx.actor.kind === 'system';
    const [apiKey] = await tx
      .insert(apiKeys)
      .values({
        ...values,
        issuedBy: isOfSystem ? null : ctx.actor.principalId,
        // Whoever may know the key in use may be the one who gets to see this one.
        knownTo: isOfSystem ? [] : [...(await this.roles.owners.actingPeople(tx, ctx))],
        hash: sha256(secret),
        hint: secret.slice(0, hintLength),
        createdAt: new Date(nowMs),
        updatedAt: new Date(nowMs),
      })
      .returning();
    if (apiKey === undefined) throw new AppError('INTERNAL', { internal: 'key was not inserted' });
    return { apiKey, secret };
  }

  /** The holder must exist, be able to act, and have room for one more key. Locks it against deletion. */
  private async checkHolder(tx: Transaction, found: Violations, principalId: string, nowMs: number): Promise<void> {
    const [holder] = isUuid(principalId)
      ? await tx.select().from(principals).where(eq(principals.id, principalId)).for('share')
      : [];
    if (holder === undefined || holder.deletedAt !== null) {
      found.add('input.principalId', 'there is no such principal');
      return;
    }
    if (!isUsable(holder, nowMs)) found.add('input.principalId', 'the principal is disabled or has expired');
    const live = await tx
      .select({ id: apiKeys.id })
      .from(apiKeys)
      .where(
        and(eq(apiKeys.principalId, principalId), isNull(apiKeys.revokedAt), gt(apiKeys.expiresAt, new Date(nowMs))),
      )
      .limit(apiKeysPerPrincipalMax);
    if (live.length >= apiKeysPerPrincipalMax) {
      found.add('input.principalId', `has ${apiKeysPerPrincipalMax} keys already: revoke some first`);
    }
  }

  private async find(reader: Reader, id: string, lock = false): Promise<ApiKeyRow> {
    if (!isUuid(id)) throw new AppError('NOT_FOUND');
    const query = reader.select().from(apiKeys).where(eq(apiKeys.id, id));
    const [row] = lock ? await query.for('update') : await query;
    if (row === undefined) throw new AppError('NOT_FOUND');
    return row;
  }
}

function notYours(ctx: Context, why: string): AppError {
  return new AppError('FORBIDDEN', { internal: `${ctx.actor.principalId} may not issue this key: ${why}` });
}
