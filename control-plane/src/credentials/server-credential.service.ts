import { AppError, canonicalJson, type CredentialMode } from '@sallyport/schema';
import { uuidv7 } from '@sallyport/schema/platform';
import { asc, eq, sql } from 'drizzle-orm';
import { recordMutation } from '../audit/audit.service.ts';
import { lockServerFor, type ServerRow, setCredentialMode } from '../catalog/server-row.service.ts';
import type { ServerService } from '../catalog/server.service.ts';
import type { Context } from '../context.ts';
import type { Database, Reader, Transaction } from '../database/client.ts';
import { claimIdempotencyKey, idempotencyKeyViolations, usedForAnother } from '../database/idempotency.ts';
import { assertRevision, mutate, type MutationOptions } from '../database/mutation.ts';
import { Violations } from '../database/violations.ts';
import { canonicalResource } from './authorization-servers.ts';
import { type CredentialInput, checkCredential, type CredentialSettings } from './credential-form.ts';
import type { ConnectionService } from './connection.service.ts';
import { retiredCredentials, type ServerCredentialRow, serverCredentials } from './credential.tables.ts';
import type { CredentialVault } from './credential-vault.ts';
import {
  type Identified,
  openServerCredential,
  sealedWithNow,
  sealServerCredential,
} from './server-credential-secret.ts';

/** What is told of a credential: everything but the secret. */
export interface ServerCredential {
  readonly serverId: string;
  readonly mode: CredentialMode;
  /** Null where the mode is set and nothing is stored for it: it was destroyed when the server moved. */
  readonly settings: CredentialSettings | null;
  readonly revision: number;
  readonly createdAt: Date | null;
  readonly rotatedAt: Date | null;
}

export interface PutCredential extends MutationOptions, CredentialInput {
  readonly serverId: string;
  /** Of the credential, not of the server. */
  readonly expectedRevision?: number | null | undefined;
  readonly idempotencyKey?: string | null | undefined;
}
export interface DeleteCredential extends MutationOptions {
  readonly serverId: string;
  readonly expectedRevision?: number | null | undefined;
}

export interface ServerCredentialDependencies {
  readonly database: Database;
  readonly vault: CredentialVault;
  readonly servers: Pick<ServerService, 'get'>;
  /** What users connected is for the mode, the client and the origin that were. */
  readonly connections: Pick<ConnectionService, 'endForServer'>;
  /** Whether others can reach what is published of the gateway's keys. */
  readonly isPublic: boolean;
}

/** Sets, replaces and destroys what servers are called with on behalf of everybody. Secrets go in and never come out. */
export class ServerCredentialService {
  private readonly deps: ServerCredentialDependencies;

  constructor(deps: ServerCredentialDependencies) {
    this.deps = deps;
  }

  async get(ctx: Context, serverId: string): Promise<ServerCredential> {
    ctx.serverScope('credential:read');
    const server = await this.deps.servers.get(ctx, serverId);
    ctx.authorize('credential:read', server);
    return shown(server, await findCredential(this.deps.database.db, server.id));
  }

  /** Sets what a server is called with, instead of whatever was set before. */
  set(ctx: Context, input: PutCredential): Promise<ServerCredential> {
    return this.put(ctx, input, 'set');
  }

  /** The same with a new secret for what is set already; refused where another mode is. */
  rotate(ctx: Context, input: PutCredential): Promise<ServerCredential> {
    return this.put(ctx, input, 'rotate');
  }

  /** Destroys what is stored; the server is called without any credential from then on. */
  async delete(ctx: Context, input: DeleteCredential): Promise<ServerCredential> {
    ctx.serverScope('credential:write');
    return mutate(this.deps.database, input, async (tx) => {
      const server = await this.lock(tx, ctx, input);
      if (server.credentialMode === 'none') throw new AppError('NOT_FOUND');
      const before = await this.takeAway(tx, ctx, server.id, undefined);
      return this.changed(tx, ctx, 'delete', { server, before, after: undefined, mode: 'none' });
    });
  }

  /**
   * For the catalog, when a server goes or moves to another origin: what was stored for the old one is destroyed. The mode
   * stays, so that nobody is called without the credential that an administrator wanted.
   */
  async destroyFor(tx: Transaction, ctx: Context, server: ServerRow): Promise<void> {
    const row = await this.takeAway(tx, ctx, server.id, undefined);
    if (row === undefined) return;
    const object = { kind: 'server', id: server.id };
    await recordMutation(tx, ctx, { action: 'credential.destroy', object, before: row.settings });
  }

  private async put(ctx: Context, input: PutCredential, verb: 'set' | 'rotate'): Promise<ServerCredential> {
    const scope = ctx.serverScope('credential:write');
    const looked = await this.deps.servers.get(ctx, input.serverId);
    ctx.authorize('credential:write', looked);
    const found = new Violations();
    found.addAll(idempotencyKeyViolations(input.idempotencyKey));
    const checked = checkCredential(found, input);
    if (verb === 'rotate' && checked !== undefined && looked.credentialMode !== checked.settings.mode) {
      found.add(
        'input',
        `has another mode than is set (${looked.credentialMode}); use setServerCredential to change it`,
      );
    }
    found.assertNone();
    if (checked === undefined) throw new AppError('INTERNAL', { internal: 'neither a credential nor a violation' });
    const now = new Date(ctx.clock.now());
    const { settings } = checked;
    this.assertPossible(settings, checked.secret);
    if (scope !== 'all' && speaksBeyond(settings, checked.secret, looked.url)) throw beyondServer();
    const row = { id: uuidv7(now.getTime()), serverId: looked.id, settings, origin: new URL(looked.url).origin };
    // Outside of the transaction: the key may be asked for over the network.
    const secret = await this.sealed(row, checked.secret);
    return mutate(this.deps.database, input, async (tx) => {
      const server = await this.lock(tx, ctx, input);
      const claim = { actorId: ctx.actor.principalId, operation: `${verb}ServerCredential`, key: input.idempotencyKey };
      const told = { serverId: server.id, settings };
      const earlier = await claimIdempotencyKey(tx, { ...claim, input: told }, row.id, now.getTime());
      const before = await findCredential(tx, server.id);
      if (earlier !== undefined) {
        await this.assertSameSecret(before, earlier, checked.secret);
        return shown(server, before);
      }
      if (new URL(server.url).origin !== row.origin || server.credentialMode !== looked.credentialMode) {
        throw new AppError('CONFLICT', { internal: 'the server changed while the secret was sealed' });
      }
      await this.takeAway(tx, ctx, server.id, settings);
      await assertRoomAtLogin(tx, settings);
      const times = { createdAt: before?.createdAt ?? now, rotatedAt: now };
      const values = { ...row, ...secret, ...times, mode: settings.mode };
      const [after] = await tx.insert(serverCredentials).values(values).returning();
      return this.changed(tx, ctx, verb, { server, before, after, mode: settings.mode });
    });
  }

  /** A repetition is one of the secret as well, which no digest is kept of. @param id of what was made the first time */
  private async assertSameSecret(
    row: ServerCredentialRow | undefined,
    id: string,
    secret: string | null,
  ): Promise<void> {
    if (row?.id !== id || row.sealed === null || secret === null) return;
    if ((await openServerCredential(this.deps.vault, row)) === secret) return;
    throw usedForAnother();
  }

  /**
   * What the gateway signs itself needs a key to seal its own with, and an address at which others verify it. What users connect
   * is sealed, too: without a key each of them would learn that only once he is back from the authorization server.
   */
  private assertPossible(settings: CredentialSettings, secret: string | null): void {
    const isSigned =
      settings.mode === 'identityToken' ||
      settings.mode === 'tokenExchange' ||
      (settings.mode === 'identityAssertion' && settings.clientId === null) ||
      signsByGateway(settings, secret);
    if (!isSigned && settings.mode !== 'userOAuth') return;
    if (this.deps.vault.keys === undefined) throw new AppError('CREDENTIAL_KEY_MISSING');
    if (!isSigned || this.deps.isPublic) return;
    const message = `needs SALLYPORT_PUBLIC_URL and SALLYPORT_NODES_URL: what the gateway signs is verified there`;
    throw new AppError('INVALID_INPUT', { violations: [{ path: `input.${settings.mode}`, message }] });
  }

  /**
   * Ends what users connected by it, unless what follows is the same client, and destroys it; where their tokens are still to
   * be revoked with it, once that is done.
   */
  private async takeAway(
    tx: Transaction,
    ctx: Context,
    serverId: string,
    next: CredentialSettings | undefined,
  ): Promise<ServerCredentialRow | undefined> {
    const row = await findCredential(tx, serverId);
    const isKept = isSameClient(row?.settings, next);
    if (!isKept) await this.deps.connections.endForServer(tx, ctx, serverId);
    if (row === undefined) return undefined;
    await tx.delete(serverCredentials).where(eq(serverCredentials.id, row.id));
    const { settings } = row;
    if (!isKept && settings.mode === 'userOAuth' && settings.authentication !== 'none')
      await tx.insert(retiredCredentials).values(row);
    return row;
  }

  private async sealed(row: Identified, secret: string | null) {
    if (secret === null) return { sealed: null, wrappedKey: null, keyId: null, sealedWith: sealedWithNow };
    return sealServerCredential(this.deps.vault, row, secret);
  }

  private async lock(tx: Transaction, ctx: Context, input: DeleteCredential): Promise<ServerRow> {
    const server = await lockServerFor(tx, ctx, input.serverId, 'credential:write');
    assertRevision({ revision: server.credentialRevision }, input.expectedRevision);
    return server;
  }

  private async changed(
    tx: Transaction,
    ctx: Context,
    verb: string,
    change: {
      readonly server: ServerRow;
      readonly before: ServerCredentialRow | undefined;
      readonly after: ServerCredentialRow | undefined;
      readonly mode: CredentialMode;
    },
  ): Promise<ServerCredential> {
    const { before, after, mode } = change;
    const server = await setCredentialMode(tx, change.server, {
      mode,
      setBy: ctx.actor.principalId,
      isReplacement: isSame(before, after),
    });
    const object = { kind: 'server', id: server.id };
    await recordMutation(tx, ctx, {
      action: `credential.${verb}`,
      object,
      before: { mode: change.server.credentialMode, ...before?.settings },
      after: { mode, ...after?.settings, revision: server.credentialRevision },
    });
    return shown(server, after);
  }
}

/** Users are not led through more than this many pages when they log in. */
export const requiredAtLoginMax = 10;
const isRequiredAtLogin = sql`${serverCredentials.settings} @> '{"mode":"userOAuth","requiredAtLogin":true}'`;

/** Servers whose users are asked to connect when they log in, in the order in which that was set. */
export async function requiredAtLogin(reader: Reader): Promise<readonly string[]> {
  const rows = await reader
    .select({ serverId: serverCredentials.serverId })
    .from(serverCredentials)
    .where(isRequiredAtLogin)
    .orderBy(asc(serverCredentials.id))
    .limit(requiredAtLoginMax);
  return rows.map(({ serverId }) => serverId);
}

/** @throws AppError VALIDATION */
async function assertRoomAtLogin(tx: Transaction, settings: CredentialSettings): Promise<void> {
  if (settings.mode !== 'userOAuth' || settings.requiredAtLogin !== true) return;
  // One at a time, or two at once would both find room.
  await tx.execute(sql`select pg_advisory_xact_lock(hashtext('sallyport.requiredAtLogin'))`);
  if ((await requiredAtLogin(tx)).length < requiredAtLoginMax) return;
  const found = new Violations();
  found.add(
    'input.userOAuth.requiredAtLogin',
    `is set for ${requiredAtLoginMax} servers already; users see a page for each`,
  );
  found.assertNone();
}

/** By the id of a server, wherever that is by now. */
export async function findCredential(reader: Reader, serverId: string): Promise<ServerCredentialRow | undefined> {
  const [row] = await reader.select().from(serverCredentials).where(eq(serverCredentials.serverId, serverId));
  return row;
}

/** Whether there is a server with a credential of the mode. */
export async function anyServerIsCalledBy(reader: Reader, mode: CredentialMode): Promise<boolean> {
  const rows = await reader
    .select({ id: serverCredentials.id })
    .from(serverCredentials)
    .where(eq(serverCredentials.mode, mode))
    .limit(1);
  return rows.length > 0;
}

/**
 * What is stored for a server, as long as it is where it was when that was stored.
 * @throws AppError CREDENTIAL_MISSING
 */
export async function storedCredential(
  reader: Reader,
  server: Pick<ServerRow, 'id' | 'url'>,
): Promise<ServerCredentialRow> {
  const row = await findCredential(reader, server.id);
  if (row?.origin === new URL(server.url).origin) return row;
  throw new AppError('CREDENTIAL_MISSING', { internal: `nothing is stored for ${server.id}` });
}

/** The same of one mode, which its settings are then of. @throws AppError CREDENTIAL_MISSING */
export async function storedCredentialOf<Mode extends CredentialSettings['mode']>(
  reader: Reader,
  server: Pick<ServerRow, 'id' | 'url'>,
  mode: Mode,
): Promise<StoredCredential<Mode>> {
  const row = await storedCredential(reader, server);
  const { settings } = row;
  if (isOfMode(settings, mode)) return { ...row, settings };
  throw new AppError('CREDENTIAL_MISSING', { internal: `the server ${server.id} has another mode` });
}

type SettingsOf<Mode> = Extract<CredentialSettings, { readonly mode: Mode }>;
export type StoredCredential<Mode> = Omit<ServerCredentialRow, 'settings'> & { readonly settings: SettingsOf<Mode> };

function isOfMode<Mode extends CredentialSettings['mode']>(
  settings: CredentialSettings,
  mode: Mode,
): settings is SettingsOf<Mode> {
  return settings.mode === mode;
}

function shown(server: ServerRow, row: ServerCredentialRow | undefined): ServerCredential {
  return {
    serverId: server.id,
    mode: server.credentialMode,
    settings: row?.settings ?? null,
    revision: server.credentialRevision,
    createdAt: row?.createdAt ?? null,
    rotatedAt: row?.rotatedAt ?? null,
  };
}

/**
 * Whether what comes of a credential may be good for more than its server: a token that the gateway signed for somebody
 * else, or one that was had in the name by which the gateway is known to an authorization server for all of them. Whoever
 * administers that one server could send it on.
 */
function speaksBeyond(settings: CredentialSettings, secret: string | null, url: string): boolean {
  if (settings.mode === 'identityToken') {
    return settings.audience !== null && settings.audience !== url && settings.audience !== canonicalResource(url);
  }
  return 'clientId' in settings && settings.clientId !== null && signsByGateway(settings, secret);
}

function signsByGateway(settings: CredentialSettings, secret: string | null): boolean {
  return 'authentication' in settings && settings.authentication === 'privateKeyJwt' && secret === null;
}

function beyondServer(): AppError {
  return new AppError('FORBIDDEN', {
    publicMessage:
      'An audience other than the server’s URL, and a client that signs with the gateway’s own key, take credential:write ' +
      'on all servers: what is had by them may be good elsewhere too. Leave the audience out, or give the client a secret.',
  });
}

/** Whether one is for all that the other is for, and said in the same way. */
function isSame(before: ServerCredentialRow | undefined, after: ServerCredentialRow | undefined): boolean {
  if (before === undefined || after === undefined || before.origin !== after.origin) return false;
  return canonicalJson(before.settings) === canonicalJson(after.settings);
}

/** Whether what users connected stays of use: their tokens belong to one client at one authorization server. */
function isSameClient(before: CredentialSettings | undefined, after: CredentialSettings | undefined): boolean {
  if (before?.mode !== 'userOAuth' || after?.mode !== 'userOAuth') return false;
  return before.clientId === after.clientId && before.issuer === after.issuer;
}
