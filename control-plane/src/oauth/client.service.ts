import { timingSafeEqual } from 'node:crypto';
import { AppError, sha256 } from '@sallyport/schema';
import { type Clock, randomSecret, uuidv7 } from '@sallyport/schema/platform';
import { and, asc, eq, gt, isNull, lt, or, sql } from 'drizzle-orm';
import { type AdapterPayload, errors } from 'oidc-provider';
import { recordMutation } from '../audit/audit.service.ts';
import { type Context, systemContext } from '../context.ts';
import type { Database, Drizzle, Reader, Transaction } from '../database/client.ts';
import { claimIdempotencyKey, idempotencyKeyViolations } from '../database/idempotency.ts';
import { assertRevision, isUuid, mutate, type MutationOptions } from '../database/mutation.ts';
import { nameLengthMax, Violations } from '../database/violations.ts';
import type { ApiKeyService } from '../identity/api-key.service.ts';
import { usablePrincipal } from '../identity/principal.service.ts';
import { oauthClients, type OAuthClientRow } from './oauth.tables.ts';
import { redirectUriProblem, redirectUrisMax } from './redirect-uri.ts';
import { revokeFamilies } from './token-family.service.ts';

export const jwtBearerGrant = 'urn:ietf:params:oauth:grant-type:jwt-bearer';
const secretPrefix = 'sps_';
/** Clients that registered themselves and are kept at once. */
const dynamicClientsMax = 10_000;
/** A client that registered itself goes when nobody logged in with it for a day, or for 90 days since. */
const dynamicNeverUsedMs = 24 * 3_600_000;
const dynamicUnusedMs = 90 * 24 * 3_600_000;
/** How exactly the last use is known, in milliseconds. */
const lastUsedEveryMs = 3_600_000;
const jwksKeysMax = 10;

export interface CreateClient extends MutationOptions {
  readonly idempotencyKey?: string | null | undefined;
  readonly name: string;
  readonly authentication: OAuthClientRow['authentication'];
  readonly serviceAccountId?: string | null | undefined;
  readonly redirectUris?: readonly string[] | null | undefined;
  /** JSON Web Key Set (RFC 7517) with public keys, as JSON text. */
  readonly jwks?: string | null | undefined;
  /** Brought along by the caller; one is made if absent, where the client has any. */
  readonly secret?: string | null | undefined;
}
interface ChangeClient extends MutationOptions {
  readonly id: string;
  readonly expectedRevision?: number | null | undefined;
}
/** The only moment at which a client's secret exists outside its holder. */
export interface IssuedClient {
  readonly client: OAuthClientRow;
  readonly secret: string | null;
}

interface Options {
  readonly database: Database;
  readonly apiKeys: Pick<ApiKeyService, 'assertMayIssue'>;
  readonly clock: Clock;
  readonly log: Context['log'];
}

/** A client that acts as an account is a key of it: for servers, and from everywhere. */
const actsForAccount = { scopes: ['mcp'], networks: null } as const;

/** Family of the tokens that a client gets by itself; `generation` ends them all at once. */
export function ownFamily(client: Pick<OAuthClientRow, 'id' | 'generation'>): string {
  return `client.${client.id}.${client.generation}`;
}

/** Clients of the authorization server that have a row: registered by an administrator, or by themselves (RFC 7591). */
export class ClientService {
  private readonly options: Options;

  constructor(options: Options) {
    this.options = options;
  }

  async get(ctx: Context, id: string): Promise<OAuthClientRow> {
    ctx.authorize('oauthClient:read');
    return this.find(this.options.database.db, id);
  }

  async list(
    ctx: Context,
    page: { readonly limit: number; readonly after: readonly string[] | undefined },
  ): Promise<OAuthClientRow[]> {
    ctx.authorize('oauthClient:read');
    const [after] = page.after ?? [];
    return this.options.database.db
      .select()
      .from(oauthClients)
      .where(and(isNull(oauthClients.deletedAt), after === undefined ? undefined : gt(oauthClients.id, after)))
      .orderBy(asc(oauthClients.id))
      .limit(page.limit + 1);
  }

  async create(ctx: Context, input: CreateClient): Promise<IssuedClient> {
    ctx.authorize('oauthClient:write');
    const now = ctx.clock.now();
    return mutate(this.options.database, input, async (tx) => {
      const id = uuidv7(now);
      const found = new Violations();
      found.addAll(idempotencyKeyViolations(input.idempotencyKey));
      const jwks = await this.check(tx, found, input, now);
      found.secret('input.secret', input.secret, secretPrefix);
      if (typeof input.secret === 'string' && !usesSecret(input.authentication)) {
        found.add('input.secret', 'must be absent where the client does not authenticate with one');
      }
      found.assertNone();
      if (typeof input.serviceAccountId === 'string') {
        await this.options.apiKeys.assertMayIssue(tx, ctx, input.serviceAccountId, actsForAccount);
      }
      const create = {
        actorId: ctx.actor.principalId,
        operation: 'createOAuthClient',
        key: input.idempotencyKey,
        input,
      };
      const earlier = await claimIdempotencyKey(tx, create, id, now);
      if (earlier !== undefined) return { client: await this.find(tx, earlier), secret: null };
      const secret = usesSecret(input.authentication) ? (input.secret ?? randomSecret(secretPrefix)) : null;
      const [client] = await tx
        .insert(oauthClients)
        .values({
          id,
          source: 'administrator',
          name: input.name,
          serviceAccountId: input.serviceAccountId ?? null,
          redirectUris: [...(input.redirectUris ?? [])],
          authentication: input.authentication,
          secretHash: secret === null ? null : sha256(secret),
          jwks,
          createdAt: new Date(now),
          updatedAt: new Date(now),
        })
        .returning();
      if (client === undefined) throw new AppError('INTERNAL', { internal: 'client was not inserted' });
      const object = { kind: 'oauthClient', id };
      await recordMutation(tx, ctx, { action: 'oauthClient.create', object, after: visible(client) });
      return { client, secret: input.dryRun === true || secret === input.secret ? null : secret };
    });
  }

  /** Gives the client a new secret; the one before and the tokens it got are void at once. */
  async rotateSecret(ctx: Context, input: ChangeClient): Promise<IssuedClient> {
    ctx.authorize('oauthClient:write');
    const secret = randomSecret(secretPrefix);
    const client = await this.change(ctx, input, 'rotateSecret', (before) => {
      if (!usesSecret(before.authentication)) {
        const message = 'does not authenticate with a secret';
        throw new AppError('INVALID_INPUT', { violations: [{ path: 'input.id', message }] });
      }
      return { secretHash: sha256(secret), generation: before.generation + 1 };
    });
    return { client, secret: input.dryRun === true ? null : secret };
  }

  /** The tokens it got by itself are void at once; those of users are the caller's to end in the same transaction. */
  async delete(ctx: Context, input: ChangeClient, endUsers: (tx: Transaction) => Promise<unknown>) {
    ctx.authorize('oauthClient:write');
    const ended = { deletedAt: new Date(ctx.clock.now()) };
    return this.change(ctx, input, 'delete', ({ generation }) => ({ ...ended, generation: generation + 1 }), endUsers);
  }

  /**
   * Voids what clients got by themselves as a service account, on nodes too; they can get anew.
   * @param which of one client and family alone, which must be the present one
   * @returns how many clients
   */
  async endOwnTokens(
    tx: Transaction,
    ctx: Context,
    serviceAccountId: string,
    which?: { readonly clientId: string; readonly family: string },
  ): Promise<number> {
    const { id, serviceAccountId: account, deletedAt } = oauthClients;
    const clients = await tx
      .select()
      .from(oauthClients)
      .where(and(eq(account, serviceAccountId), isNull(deletedAt), which && eq(id, which.clientId)))
      .for('update');
    const ended = clients.filter((client) => which === undefined || ownFamily(client) === which.family);
    for (const client of ended) {
      const generation = client.generation + 1;
      await tx.update(oauthClients).set({ generation }).where(eq(id, client.id));
      const object = { kind: 'oauthClient', id: client.id };
      await recordMutation(tx, ctx, { action: 'oauthClient.endTokens', object, after: { generation } });
    }
    const families = ended.map((client) => ({ family: ownFamily(client), principalId: serviceAccountId }));
    await revokeFamilies(tx, families, ctx.clock.now());
    return ended.length;
  }

  /** What the OAuth library needs to know; undefined where there is no such client. */
  async metadataOf(id: string): Promise<AdapterPayload | undefined> {
    // The database knows no such text, and would fail for whoever sends it.
    if (id.includes('\u0000')) return undefined;
    const { db } = this.options.database;
    const [row] = await db
      .select()
      .from(oauthClients)
      .where(and(eq(oauthClients.id, id), isNull(oauthClients.deletedAt)));
    if (row === undefined) return undefined;
    // Anybody can name a client that registered itself: it was used when somebody allowed it something.
    if (row.source === 'administrator') await this.noteUse(row);
    const logsIn = row.redirectUris.length > 0;
    const isConfidential = row.authentication !== 'none';
    return {
      client_id: row.id,
      client_name: row.name,
      redirect_uris: row.redirectUris,
      response_types: logsIn ? ['code'] : [],
      grant_types: [
        ...(logsIn ? ['authorization_code', 'refresh_token'] : []),
        ...(row.serviceAccountId === null ? [] : ['client_credentials']),
        ...(isConfidential && row.source === 'administrator' ? [jwtBearerGrant] : []),
      ],
      application_type: row.redirectUris.every((uri) => uri.startsWith('https:')) ? 'web' : 'native',
      token_endpoint_auth_method: authenticationMethods[row.authentication],
      // In place of the secret: `compareClientSecret` of the provider compares hashes.
      ...(row.secretHash === null ? {} : { client_secret: row.secretHash }),
      ...(row.jwks === null ? {} : { jwks: row.jwks as AdapterPayload['jwks'] }),
    };
  }

  /** The client's own service account and the family of its tokens; undefined where it may act for nobody. */
  async actsAs(id: string): Promise<{ principalId: string; epoch: number; family: string } | undefined> {
    const { database, clock } = this.options;
    const [row] = await database.db
      .select()
      .from(oauthClients)
      .where(and(eq(oauthClients.id, id), isNull(oauthClients.deletedAt)));
    if (row === undefined || row.serviceAccountId === null) return undefined;
    const principal = await usablePrincipal(database.db, row.serviceAccountId, clock.now());
    if (principal === undefined) return undefined;
    return { principalId: principal.id, epoch: principal.epoch, family: ownFamily(row) };
  }

  /** Stores a client that registered itself (RFC 7591); the library has validated its metadata in form. */
  async register(id: string, metadata: AdapterPayload): Promise<void> {
    const { database, clock, log } = this.options;
    const redirectUris = [...(metadata.redirect_uris ?? [])];
    const problem = redirectUris.map(redirectUriProblem).find((one) => one !== undefined);
    if (redirectUris.length === 0 || redirectUris.length > redirectUrisMax) {
      throw new errors.InvalidRedirectUri(`there must be 1 to ${redirectUrisMax} redirect URIs`);
    }
    if (problem !== undefined) throw new errors.InvalidRedirectUri(`a redirect URI ${problem}`);
    if (metadata.token_endpoint_auth_method === 'private_key_jwt') {
      // Its keys are not kept: it would be a public client that believes to be none.
      throw new errors.InvalidClientMetadata(
        'a client with keys is registered by an administrator, or names its metadata document',
      );
    }
    const isPost = metadata.token_endpoint_auth_method === 'client_secret_post';
    const authentication = metadata.client_secret === undefined ? 'none' : isPost ? 'secretPost' : 'secret';
    const name = (metadata.client_name ?? '').slice(0, nameLengthMax).replaceAll('\u0000', '') || 'Unnamed client';
    const now = new Date(clock.now());
    await database.db.transaction(async (tx) => {
      const [count] = await tx
        .select({ count: sql<number>`count(*)::int` })
        .from(oauthClients)
        .where(and(eq(oauthClients.source, 'dynamic'), isNull(oauthClients.deletedAt)));
      if ((count?.count ?? 0) >= dynamicClientsMax) throw new errors.TemporarilyUnavailable('too many clients');
      const values = { name: name.toWellFormed(), redirectUris, authentication } as const;
      const secretHash = metadata.client_secret === undefined ? null : sha256(metadata.client_secret);
      await tx
        .insert(oauthClients)
        .values({ ...values, id, source: 'dynamic', secretHash, createdAt: now, updatedAt: now });
      const ctx = systemContext('dynamic registration', [], { clock, log });
      const object = { kind: 'oauthClient', id };
      await recordMutation(tx, ctx, { action: 'oauthClient.register', object, after: { ...values, id } });
    });
  }

  /** Somebody allowed the client something. */
  async noteLogin(id: string): Promise<void> {
    const [row] = await this.options.database.db.select().from(oauthClients).where(eq(oauthClients.id, id));
    if (row !== undefined) await this.noteUse(row);
  }

  private async noteUse({ id, lastUsedAt }: OAuthClientRow): Promise<void> {
    const now = this.options.clock.now();
    if (lastUsedAt !== null && lastUsedAt.getTime() > now - lastUsedEveryMs) return;
    await this.options.database.db
      .update(oauthClients)
      .set({ lastUsedAt: new Date(now) })
      .where(eq(oauthClients.id, id));
  }

  private async check(tx: Transaction, found: Violations, input: CreateClient, nowMs: number) {
    found.text('input.name', input.name, 1, nameLengthMax);
    const uris = input.redirectUris ?? [];
    if (uris.length > redirectUrisMax) found.add('input.redirectUris', `must have at most ${redirectUrisMax}`);
    for (const [index, uri] of uris.entries()) {
      const problem = redirectUriProblem(uri);
      if (problem !== undefined) found.add(`input.redirectUris[${index}]`, problem);
    }
    const { serviceAccountId, authentication } = input;
    if (typeof serviceAccountId === 'string') {
      const account = isUuid(serviceAccountId) ? await usablePrincipal(tx, serviceAccountId, nowMs) : undefined;
      if (account?.kind !== 'serviceAccount') {
        found.add('input.serviceAccountId', 'must be the id of an active service account');
      }
      if (authentication === 'none')
        found.add('input.authentication', 'a client that acts by itself must authenticate');
    } else if (uris.length === 0) {
      found.add('input.redirectUris', 'must not be empty unless the client acts as a service account');
    }
    if ((authentication === 'privateKeyJwt') !== (typeof input.jwks === 'string')) {
      found.add('input.jwks', 'belongs to the authentication PRIVATE_KEY_JWT, and to no other');
    }
    return typeof input.jwks === 'string' ? publicKeys(found, input.jwks) : null;
  }

  private async change(
    ctx: Context,
    input: ChangeClient,
    verb: string,
    values: (before: OAuthClientRow) => Partial<typeof oauthClients.$inferInsert>,
    also?: (tx: Transaction) => Promise<unknown>,
  ): Promise<OAuthClientRow> {
    const now = ctx.clock.now();
    return mutate(this.options.database, input, async (tx) => {
      const before = await this.find(tx, input.id, true);
      if (before.serviceAccountId !== null) {
        await this.options.apiKeys.assertMayIssue(tx, ctx, before.serviceAccountId, actsForAccount);
      }
      assertRevision(before, input.expectedRevision);
      const [row] = await tx
        .update(oauthClients)
        .set({ ...values(before), revision: before.revision + 1, updatedAt: new Date(now) })
        .where(eq(oauthClients.id, before.id))
        .returning();
      if (row === undefined) throw new AppError('INTERNAL', { internal: 'client vanished under its lock' });
      if (before.serviceAccountId !== null) {
        await revokeFamilies(tx, [{ family: ownFamily(before), principalId: before.serviceAccountId }], now);
      }
      await also?.(tx);
      const object = { kind: 'oauthClient', id: row.id };
      const sides = { before: visible(before), after: visible(row) };
      await recordMutation(tx, ctx, { action: `oauthClient.${verb}`, object, ...sides });
      return row;
    });
  }

  private async find(reader: Reader, id: string, lock = false): Promise<OAuthClientRow> {
    const query = reader
      .select()
      .from(oauthClients)
      .where(and(eq(oauthClients.id, id), isNull(oauthClients.deletedAt)));
    const [row] = lock ? await query.for('update') : await query;
    if (row === undefined) throw new AppError('NOT_FOUND');
    return row;
  }
}

const authenticationMethods = {
  none: 'none',
  secret: 'client_secret_basic',
  secretPost: 'client_secret_post',
  privateKeyJwt: 'private_key_jwt',
} as const satisfies Record<OAuthClientRow['authentication'], string>;

function usesSecret(authentication: OAuthClientRow['authentication']): boolean {
  return authentication === 'secret' || authentication === 'secretPost';
}

/** Whether the presented secret is the one whose SHA-256 is stored. */
export function isSecretOf(storedHash: string, presented: string): boolean {
  return timingSafeEqual(Buffer.from(storedHash, 'hex'), Buffer.from(sha256(presented), 'hex'));
}

/** What audit events hold of a client. */
function visible({ secretHash: _hash, ...rest }: OAuthClientRow): Omit<OAuthClientRow, 'secretHash'> {
  return rest;
}

/** A key set with public keys for signatures alone; a private one is refused, since it is no longer private. */
function publicKeys(found: Violations, text: string): OAuthClientRow['jwks'] {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    parsed = undefined;
  }
  const keys = typeof parsed === 'object' && parsed !== null && 'keys' in parsed ? parsed.keys : undefined;
  if (!Array.isArray(keys) || keys.length === 0 || keys.length > jwksKeysMax) {
    found.add('input.jwks', `must be a JSON Web Key Set with 1 to ${jwksKeysMax} keys: {"keys": […]}`);
    return null;
  }
  const set = keys as Record<string, unknown>[];
  if (set.some((key) => key['d'] !== undefined || key['k'] !== undefined)) {
    found.add('input.jwks', 'holds a private key: give the public part alone, and replace the key, which is known now');
  } else if (set.some((key) => typeof key !== 'object' || !['EC', 'RSA', 'OKP'].includes(String(key['kty'])))) {
    found.add('input.jwks', 'must hold keys of kty EC, RSA or OKP');
  }
  return { keys: set };
}

/** Drops clients that registered themselves and are not used; run by a timer. */
export async function forgetUnusedClients(db: Drizzle, nowMs: number): Promise<void> {
  const { lastUsedAt, createdAt, source } = oauthClients;
  await db
    .delete(oauthClients)
    .where(
      and(
        eq(source, 'dynamic'),
        or(
          lt(lastUsedAt, new Date(nowMs - dynamicUnusedMs)),
          and(isNull(lastUsedAt), lt(createdAt, new Date(nowMs - dynamicNeverUsedMs))),
        ),
      ),
    );
}
