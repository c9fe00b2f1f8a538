import { credentialModes } from '@sallyport/schema';
import { boolean, char, integer, jsonb, pgTable, smallint, text, timestamp, uuid } from 'drizzle-orm/pg-core';
import { clientAuthentications } from './client-authentication.ts';
import type { CredentialSettings } from './credential-form.ts';

const instant = (name: string) => timestamp(name, { withTimezone: true });

/** What every table with sealed secrets has: the secret, and its data key as the key-encryption key wrapped it. */
export const sealedColumns = {
  sealed: text(),
  wrappedKey: text('wrapped_key'),
  keyId: text('key_id'),
};

/** The same of rows that are nothing without a secret. */
const sealedAlways = {
  sealed: text().notNull(),
  wrappedKey: text('wrapped_key').notNull(),
  keyId: text('key_id').notNull(),
};

const credentialColumns = {
  id: uuid().primaryKey(),
  serverId: uuid('server_id').notNull(),
  mode: text({ enum: credentialModes }).notNull(),
  settings: jsonb().$type<CredentialSettings>().notNull(),
  /** Where it may be sent: of the server's URL when it was set. */
  origin: text().notNull(),
  ...sealedColumns,
  /** What the secret is bound to: 1 knew neither issuer nor client. */
  sealedWith: smallint('sealed_with').notNull().default(1),
  createdAt: instant('created_at').notNull(),
  rotatedAt: instant('rotated_at').notNull(),
};

/** What a server is called with on behalf of everybody. */
export const serverCredentials = pgTable('server_credentials', credentialColumns);
/** What servers were called with, while tokens are to be revoked with it. */
export const retiredCredentials = pgTable('retired_credentials', credentialColumns);
export type ServerCredentialRow = typeof serverCredentials.$inferSelect;

/** How the gateway is known to an authorization server that it registered itself at. */
export const upstreamClients = pgTable('upstream_clients', {
  id: uuid().primaryKey(),
  issuer: text().notNull(),
  clientId: text('client_id').notNull(),
  authentication: text({ enum: clientAuthentications }).notNull(),
  /** Where users come back to; null where that was not kept. */
  redirectUri: text('redirect_uri'),
  ...sealedColumns,
  createdAt: instant('created_at').notNull(),
});

/** What signs what the gateway says toward upstreams. */
export const upstreamSigningKeys = pgTable('upstream_signing_keys', {
  /** The `kid`. */
  id: uuid().primaryKey(),
  /** The public part, P-256. */
  x: text().notNull(),
  y: text().notNull(),
  use: text({ enum: ['publish', 'sign'] }).notNull(),
  ...sealedAlways,
  createdAt: instant('created_at').notNull(),
  signingSince: instant('signing_since'),
  retiresAt: instant('retires_at'),
});
export type UpstreamSigningKeyRow = typeof upstreamSigningKeys.$inferSelect;

/** What identity providers gave at logins. */
export const loginTokens = pgTable('login_tokens', {
  id: uuid().primaryKey(),
  loginId: uuid('login_id').notNull(),
  principalId: uuid('principal_id').notNull(),
  identityProviderId: uuid('identity_provider_id').notNull(),
  epoch: integer().notNull(),
  clientId: text('client_id').notNull(),
  subject: text().notNull(),
  idTokenExpiresAt: instant('id_token_expires_at').notNull(),
  canRefresh: boolean('can_refresh').notNull(),
  ...sealedAlways,
  revision: integer().notNull().default(1),
  refreshSentAt: instant('refresh_sent_at'),
  createdAt: instant('created_at').notNull(),
  endsAt: instant('ends_at').notNull(),
});
export type LoginTokensRow = typeof loginTokens.$inferSelect;

export const connectionStatuses = ['active', 'reauthRequired', 'ended'] as const;
export type ConnectionStatus = (typeof connectionStatuses)[number];

/** A user's account at an upstream: what the gateway may do there in his name. */
export const connections = pgTable('connections', {
  id: uuid().primaryKey(),
  principalId: uuid('principal_id').notNull(),
  serverId: uuid('server_id').notNull(),
  issuer: text().notNull(),
  resource: text().notNull(),
  clientId: text('client_id').notNull(),
  origin: text().notNull(),
  scopes: text().array().notNull(),
  wantedScopes: text('wanted_scopes').array().notNull().default([]),
  status: text({ enum: connectionStatuses }).notNull(),
  reason: text(),
  tokenRevision: integer('token_revision').notNull().default(1),
  accessExpiresAt: instant('access_expires_at'),
  accessIssuedAt: instant('access_issued_at').notNull(),
  canRefresh: boolean('can_refresh').notNull(),
  ...sealedColumns,
  refreshId: uuid('refresh_id'),
  refreshLeaseUntil: instant('refresh_lease_until'),
  refreshSentAt: instant('refresh_sent_at'),
  refreshNotBefore: instant('refresh_not_before'),
  revokeAttempts: integer('revoke_attempts').notNull().default(0),
  revokeNotBefore: instant('revoke_not_before'),
  createdAt: instant('created_at').notNull(),
  updatedAt: instant('updated_at').notNull(),
});
export type ConnectionRow = typeof connections.$inferSelect;

export const connectAttempts = pgTable('connect_attempts', {
  stateHash: char('state_hash', { length: 64 }).primaryKey(),
  principalId: uuid('principal_id').notNull(),
  serverId: uuid('server_id').notNull(),
  browserHash: char('browser_hash', { length: 64 }).notNull(),
  issuer: text().notNull(),
  resource: text().notNull(),
  clientId: text('client_id').notNull(),
  scopes: text().array().notNull(),
  sealed: text().notNull(),
  /** Of the login that it is part of. */
  interactionId: text('interaction_id'),
  expiresAt: instant('expires_at').notNull(),
});
