export { type Database, openDatabase } from '../database/client.ts';
export { createKeyProvider } from './create-key-provider.ts';
export { CredentialVault, type SecretIdentity } from './credential-vault.ts';
export { RewrapService } from './rewrap.service.ts';
