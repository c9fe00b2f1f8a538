import { AppError } from '@sallyport/schema';
import { type Clock, uuidv7 } from '@sallyport/schema/platform';
import { and, asc, desc, eq, isNull, or, type SQL } from 'drizzle-orm';
import type { ServerRow } from '../catalog/server-row.service.ts';
import type { Database, Reader } from '../database/client.ts';
import type { AuthorizationServers } from './authorization-servers.ts';
import type { UpstreamClient } from './client-authentication.ts';
import type { ClientSettings, UserOAuthSettings } from './credential-form.ts';
import {
  type ConnectionRow,
  retiredCredentials,
  type ServerCredentialRow,
  upstreamClients,
} from './credential.tables.ts';
import type { CredentialVault, SecretIdentity } from './credential-vault.ts';
import { upstreamKeysPath } from './identity-token.service.ts';
import { openServerCredential } from './server-credential-secret.ts';
import { jwtBearerGrant } from './token-outcome.ts';
import {
  findCredential,
  type StoredCredential,
  storedCredential,
  storedCredentialOf,
} from './server-credential.service.ts';
import type { UpstreamKeys } from './upstream-keys.service.ts';

export interface UpstreamClientsDependencies {
  readonly database: Database;
  readonly vault: CredentialVault;
  readonly servers: AuthorizationServers;
  /** Sign for clients that were given no key of their own. */
  readonly keys: Pick<UpstreamKeys, 'isPossible' | 'privateJwk'>;
  /** Public URL of the control plane. */
  readonly issuer: string | undefined;
  readonly clock: Clock;
}

/** Which client something was asked for with, and for what. */
type ClientUse = Pick<ConnectionRow, 'serverId' | 'issuer' | 'clientId'>;

/** Where the document lies that describes the gateway as a client (Client ID Metadata Documents). */
export const clientDocumentPath = '/oauth/upstream-client';

/** Where the one lies that proves itself by a signature, for authorization servers that take one. */
export const signedClientDocumentPath = `${clientDocumentPath}/signed`;

/**
 * What the document at an address says, of which the address is the client's id. There are two: a document tells of one way
 * to prove itself, and an authorization server that knows no signatures would refuse the whole of it.
 */
export function clientDocument(
  issuer: string,
  path: typeof clientDocumentPath | typeof signedClientDocumentPath,
): object {
  const isSigned = path === signedClientDocumentPath;
  return {
    client_id: `${issuer}${path}`,
    client_name: 'Sallyport',
    client_uri: issuer,
    redirect_uris: [`${issuer}/oauth/connect/callback`],
    grant_types: ['authorization_code', 'refresh_token', ...(isSigned ? [jwtBearerGrant] : [])],
    response_types: ['code'],
    application_type: 'web',
    ...(isSigned
      ? {
          token_endpoint_auth_method: 'private_key_jwt',
          token_endpoint_auth_signing_alg: 'ES256',
          jwks_uri: `${issuer}${upstreamKeysPath}`,
        }
      : { token_endpoint_auth_method: 'none' }),
  };
}

/**
 * How the gateway is known to the authorization servers of upstreams, in the order of the specification: as an
 * administrator registered it, by the document it serves, or as it registers itself, once for each issuer.
 */
export class UpstreamClients {
  private readonly deps: UpstreamClientsDependencies;

  constructor(deps: UpstreamClientsDependencies) {
    this.deps = deps;
  }

  /** @throws AppError CREDENTIAL_MISSING */
  async settingsOf(server: Pick<ServerRow, 'id' | 'url'>): Promise<UserOAuthSettings> {
    return (await storedCredentialOf(this.deps.database.db, server, 'userOAuth')).settings;
  }

  /** @throws AppError CREDENTIAL_MISSING, CREDENTIAL_UNAVAILABLE, UPSTREAM_PROTOCOL */
  async clientFor(server: Pick<ServerRow, 'id' | 'url'>, issuer: string, redirectUri: string): Promise<UpstreamClient> {
    const row = await storedCredential(this.deps.database.db, server);
    const { settings } = row;
    if (settings.mode === 'userOAuth' && settings.clientId !== null) {
      return this.registeredAt(row, settings, settings.clientId, issuer);
    }
    const document = await this.documentFor(issuer);
    return document ?? (await this.knownAt(issuer, redirectUri)) ?? (await this.register(issuer, redirectUri));
  }

  /** The client by document, where the authorization server says that it takes one, and can read ours. */
  private async documentFor(issuer: string): Promise<UpstreamClient | undefined> {
    const { keys, servers, issuer: publicUrl } = this.deps;
    const metadata = await servers.metadata(issuer);
    const isTaken = metadata.client_id_metadata_document_supported === true;
    if (!isTaken || publicUrl?.startsWith('https:') !== true) return undefined;
    const methods = metadata.token_endpoint_auth_methods_supported ?? [];
    const isSigned = keys.isPossible && methods.includes('private_key_jwt');
    return this.byDocument(publicUrl, isSigned ? signedClientDocumentPath : clientDocumentPath);
  }

  /** The client of a document that we serve. */
  private async byDocument(publicUrl: string, path: string): Promise<UpstreamClient> {
    const clientId = `${publicUrl}${path}`;
    if (path !== signedClientDocumentPath) return { clientId, secret: null, authentication: 'none' };
    return { clientId, secret: await this.deps.keys.privateJwk(), authentication: 'privateKeyJwt' };
  }

  /**
   * The client that the tokens of a connection were given to, be it the server's still or not. What an administrator
   * registered is told to its own issuer alone; where that is gone, only what a public client may do is left.
   */
  async clientOf({ serverId, issuer, clientId }: ClientUse): Promise<UpstreamClient> {
    const byHand = await this.registeredByHand({ serverId, issuer, clientId });
    if (byHand !== undefined) return this.registered(byHand.row, byHand.settings, clientId);
    const { issuer: publicUrl } = this.deps;
    if (publicUrl !== undefined && clientId === `${publicUrl}${signedClientDocumentPath}`) {
      return this.byDocument(publicUrl, signedClientDocumentPath);
    }
    const isIt = eq(upstreamClients.clientId, clientId);
    return (await this.known(issuer, isIt)) ?? { clientId, secret: null, authentication: 'none' };
  }

  /**
   * The authorization server says that it does not know the client (any more): the gateway registers itself anew when it is
   * needed next, and what the old client was given is of no use.
   * @returns false where the gateway did not register it, and nothing is forgotten
   */
  async forget(use: ClientUse): Promise<boolean> {
    const { database, issuer: publicUrl } = this.deps;
    const isDocument = publicUrl !== undefined && use.clientId.startsWith(`${publicUrl}${clientDocumentPath}`);
    if (isDocument || (await this.registeredByHand(use)) !== undefined) return false;
    await database.db
      .delete(upstreamClients)
      .where(and(eq(upstreamClients.issuer, use.issuer), eq(upstreamClients.clientId, use.clientId)));
    return true;
  }

  /** As an administrator registered it for the server, now or before. */
  private async registeredByHand({ serverId, issuer, clientId }: ClientUse) {
    const { db } = this.deps.database;
    const rows = [await findCredential(db, serverId), ...(await retiredOf(db, serverId))];
    for (const row of rows) {
      const settings = row?.settings;
      if (row === undefined || settings?.mode !== 'userOAuth') continue;
      if (settings.clientId === clientId && settings.issuer === issuer) return { row, settings };
    }
    return undefined;
  }

  /** The client of a mode in which an administrator always registers one. @throws AppError CREDENTIAL_UNAVAILABLE */
  confidentialClient(row: StoredCredential<'clientCredentials' | 'tokenExchange'>): Promise<UpstreamClient> {
    return this.registered(row, row.settings, row.settings.clientId);
  }

  /**
   * The client of the mode identityAssertion, which has to prove itself: as an administrator registered it, else by the
   * document that signs. @throws AppError CREDENTIAL_MISSING, CREDENTIAL_UNAVAILABLE, UPSTREAM_PROTOCOL
   */
  async assertionClient(row: StoredCredential<'identityAssertion'>, issuer: string): Promise<UpstreamClient> {
    const { settings } = row;
    if (settings.clientId !== null) return this.registeredAt(row, settings, settings.clientId, issuer);
    const document = await this.documentFor(issuer);
    if (document?.authentication === 'privateKeyJwt') return document;
    throw new AppError('CREDENTIAL_MISSING', { internal: `${issuer} takes no client by document that signs` });
  }

  /** A client is known to one issuer: its id and secret are told to no other. */
  private async registeredAt(
    row: ServerCredentialRow,
    settings: Pick<ClientSettings, 'authentication' | 'issuer'>,
    clientId: string,
    issuer: string,
  ): Promise<UpstreamClient> {
    if (settings.issuer === issuer) return this.registered(row, settings, clientId);
    throw new AppError('CREDENTIAL_MISSING', { internal: 'the client is of another issuer' });
  }

  /** As an administrator registered it; one that signs and was given no key signs with the gateway's own. */
  private async registered(
    row: ServerCredentialRow,
    { authentication }: Pick<ClientSettings, 'authentication'>,
    clientId: string,
  ): Promise<UpstreamClient> {
    if (row.sealed !== null) {
      return { clientId, secret: await openServerCredential(this.deps.vault, row), authentication };
    }
    return {
      clientId,
      secret: authentication === 'privateKeyJwt' ? await this.deps.keys.privateJwk() : null,
      authentication,
    };
  }

  /** Under another public URL users do not come back to where the client is known to be: that takes another one. */
  private knownAt(issuer: string, redirectUri: string): Promise<UpstreamClient | undefined> {
    const isHere = or(eq(upstreamClients.redirectUri, redirectUri), isNull(upstreamClients.redirectUri));
    return this.known(issuer, isHere);
  }

  private async known(issuer: string, which: SQL | undefined): Promise<UpstreamClient | undefined> {
    const [row] = await this.deps.database.db
      .select()
      .from(upstreamClients)
      .where(and(eq(upstreamClients.issuer, issuer), which))
      .orderBy(asc(upstreamClients.redirectUri));
    if (row === undefined) return undefined;
    const secret = row.sealed === null ? null : await this.deps.vault.open(clientIdentity(row), row);
    return { clientId: row.clientId, secret, authentication: row.authentication };
  }

  /** Two at once both register; the row of the first is used by both. */
  private async register(issuer: string, redirectUri: string): Promise<UpstreamClient> {
    const { servers, vault, clock, database } = this.deps;
    const client = await servers.register(issuer, redirectUri);
    const now = clock.now();
    const row = { id: uuidv7(now), issuer, clientId: client.clientId };
    const secret = client.secret === null ? {} : await vault.seal(clientIdentity(row), client.secret);
    await database.db
      .insert(upstreamClients)
      .values({ ...row, ...secret, redirectUri, authentication: client.authentication, createdAt: new Date(now) })
      .onConflictDoNothing();
    return (await this.knownAt(issuer, redirectUri)) ?? client;
  }
}

/** The newest first. */
function retiredOf(reader: Reader, serverId: string): Promise<ServerCredentialRow[]> {
  return reader
    .select()
    .from(retiredCredentials)
    .where(eq(retiredCredentials.serverId, serverId))
    .orderBy(desc(retiredCredentials.rotatedAt));
}

function clientIdentity(row: {
  readonly id: string;
  readonly issuer: string;
  readonly clientId: string;
}): SecretIdentity {
  return ['upstream_clients', row.id, row.issuer, row.clientId];
}
