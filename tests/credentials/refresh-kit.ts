/** Refreshes as far as a control-plane process goes: the service over the real database, vault and authorization server. */
import {
  AuthorizationServers,
  type CredentialVault,
  type openDatabase,
  RefreshService,
  tokenSealer,
} from '@sallyport/control-plane/credentials';
import { type Clock, createLog, type Egress, uuidv7 } from '@sallyport/schema/platform';
import type { FakeAuthorizationServer } from './fake-authorization-server.ts';

export const resource = 'https://mcp.example/mcp';
export const log = createLog({ name: 'refresh', level: 'silent' });
type Database = ReturnType<typeof openDatabase>;

interface Parts {
  readonly vault: CredentialVault;
  readonly clock: Clock;
}

/** A control-plane process, as far as this goes. */
export function replica(database: Database, egress: Egress, { vault, clock }: Parts): RefreshService {
  const servers = new AuthorizationServers(egress, clock);
  const clientOf = () => Promise.resolve({ clientId: 'gateway', secret: null, authentication: 'none' as const });
  const forgetClient = () => Promise.resolve(false);
  return new RefreshService({ database, vault, servers, clientOf, forgetClient, clock, log });
}

/** @returns id of a connection whose access token is at its end */
export async function storeConnection(
  { raw: sql }: Pick<Database, 'raw'>,
  as: FakeAuthorizationServer,
  { vault, clock }: Parts,
): Promise<string> {
  const [id, principalId, serverId] = [uuidv7(clock.now()), uuidv7(clock.now()), uuidv7(clock.now())];
  await sql`insert into principals (id, kind, name, status, issuer, subject) values (${principalId}, 'user', 'u', 'active', 'i', ${principalId})`;
  await sql`insert into servers (id, slug, slug_key, title, url) values (${serverId}, ${serverId}, ${serverId}, 't', ${resource})`;
  const { accessToken, refreshToken } = as.issue();
  const row = {
    id,
    principalId,
    serverId,
    issuer: as.url,
    resource,
    clientId: 'gateway',
    origin: 'https://mcp.example',
  };
  const { sealed, wrappedKey, keyId } = (await tokenSealer(vault, row))({ accessToken, refreshToken });
  await sql`insert into connections (id, principal_id, server_id, issuer, resource, client_id, origin, scopes, status,
      access_expires_at, access_issued_at, can_refresh, sealed, wrapped_key, key_id, created_at, updated_at)
    values (${id}, ${principalId}, ${serverId}, ${as.url}, ${resource}, 'gateway', ${row.origin}, '{}', 'active',
      now(), now(), true, ${sealed}, ${wrappedKey}, ${keyId}, now(), now())`;
  return id;
}
