export { type Database, openDatabase } from '../database/client.ts';
export { AuthorizationServers } from './authorization-servers.ts';
export { createKeyProvider } from './create-key-provider.ts';
export type { ConnectionRow } from './connection.service.ts';
export { CredentialVault, type SecretIdentity } from './credential-vault.ts';
export { RefreshService, sealTokens } from './refresh.service.ts';
export { RewrapService } from './rewrap.service.ts';
export { UpstreamClients } from './upstream-client.service.ts';
export { UpstreamKeys } from './upstream-keys.service.ts';
