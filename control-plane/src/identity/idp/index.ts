export type { IdentityProviderRow } from './identity-provider.tables.ts';
export { OidcConnections } from './oidc-connection.ts';
