/** What the secrets of servers are bound to, and how they are sealed and opened. */
import type { CredentialSettings } from './credential-form.ts';
import type { CredentialVault, SealedSecret, SecretIdentity } from './credential-vault.ts';

/** What says whose a secret is, and whom it may be told. */
export interface Identified {
  readonly id: string;
  readonly serverId: string;
  readonly settings: CredentialSettings;
  readonly origin: string;
}

/** What is sealed now is bound to all that says whom it may be told; 1 left out the issuer and the client. */
export const sealedWithNow = 2;

/** @throws AppError CREDENTIAL_KEY_MISSING, CREDENTIAL_UNAVAILABLE */
export async function sealServerCredential(
  vault: CredentialVault,
  row: Identified,
  secret: string,
): Promise<SealedSecret & { readonly sealedWith: number }> {
  return { ...(await vault.seal(identityOf(row), secret)), sealedWith: sealedWithNow };
}

/**
 * A row that is said to be older than it is does not open: its text was sealed with another identity.
 * @throws AppError CREDENTIAL_UNAVAILABLE
 */
export function openServerCredential(
  vault: CredentialVault,
  row: Identified & Parameters<CredentialVault['open']>[1] & { readonly sealedWith: number },
): Promise<string> {
  return vault.open(row.sealedWith === sealedWithNow ? identityOf(row) : earlierIdentityOf(row), row);
}

function identityOf(row: Identified): SecretIdentity {
  const { settings } = row;
  // A client is known to one authorization server: its secret is told to no other, whatever the row says by then.
  const client = 'clientId' in settings ? [settings.issuer, settings.clientId] : [];
  return [...earlierIdentityOf(row), ...client];
}

function earlierIdentityOf({ id, serverId, settings, origin }: Identified): SecretIdentity {
  return ['server_credentials', id, serverId, settings.mode, origin];
}
