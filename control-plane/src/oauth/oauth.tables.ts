import { char, integer, jsonb, pgTable, primaryKey, text, timestamp, uuid } from 'drizzle-orm/pg-core';
import { principals } from '../identity/identity.tables.ts';

const instant = (name: string) => timestamp(name, { withTimezone: true });

export const oauthRevokedFamilies = pgTable('oauth_revoked_families', {
  family: text().primaryKey(),
  principalId: uuid('principal_id')
    .notNull()
    .references(() => principals.id),
  revokedAt: instant('revoked_at').notNull(),
  expiresAt: instant('expires_at').notNull(),
});
export type RevokedFamilyRow = typeof oauthRevokedFamilies.$inferSelect;

export const oauthObjects = pgTable(
  'oauth_objects',
  {
    model: text().notNull(),
    hash: char({ length: 64 }).notNull(),
    sealed: text().notNull(),
    uid: text(),
    family: text(),
    principalId: uuid('principal_id'),
    epoch: integer(),
    clientId: text('client_id'),
    loginId: uuid('login_id'),
    /** What a grant is for, and the server that had the endpoint then; null where none had, and where it is no grant. */
    resource: text(),
    serverId: uuid('server_id'),
    consumedAt: instant('consumed_at'),
    expiresAt: instant('expires_at').notNull(),
    createdAt: instant('created_at').notNull(),
  },
  (table) => [primaryKey({ columns: [table.model, table.hash] })],
);
export type OAuthObjectRow = typeof oauthObjects.$inferSelect;

export const oauthClients = pgTable('oauth_clients', {
  id: text().primaryKey(),
  source: text({ enum: ['administrator', 'dynamic'] }).notNull(),
  name: text().notNull(),
  serviceAccountId: uuid('service_account_id'),
  redirectUris: text('redirect_uris').array().notNull().default([]),
  authentication: text({ enum: ['none', 'secret', 'secretPost', 'privateKeyJwt'] }).notNull(),
  /** SHA-256 of the secret, hex. */
  secretHash: char('secret_hash', { length: 64 }),
  jwks: jsonb().$type<{ readonly keys: readonly Record<string, unknown>[] }>(),
  generation: integer().notNull().default(0),
  revision: integer().notNull().default(1),
  createdAt: instant('created_at').notNull(),
  updatedAt: instant('updated_at').notNull(),
  lastUsedAt: instant('last_used_at'),
  deletedAt: instant('deleted_at'),
});
export type OAuthClientRow = typeof oauthClients.$inferSelect;

export const oauthConsents = pgTable('oauth_consents', {
  id: uuid().primaryKey(),
  principalId: uuid('principal_id').notNull(),
  clientId: text('client_id').notNull(),
  clientName: text('client_name').notNull(),
  redirectUri: text('redirect_uri').notNull(),
  resource: text().notNull(),
  /** The server that had the endpoint when it was allowed; null where none had. */
  serverId: uuid('server_id'),
  scopes: text().array().notNull(),
  createdAt: instant('created_at').notNull(),
  updatedAt: instant('updated_at').notNull(),
});
export type OAuthConsentRow = typeof oauthConsents.$inferSelect;

export const loginCodes = pgTable('login_codes', {
  id: uuid().primaryKey(),
  principalId: uuid('principal_id').notNull(),
  hash: char({ length: 64 }).notNull(),
  expiresAt: instant('expires_at').notNull(),
  usedAt: instant('used_at'),
  createdAt: instant('created_at').notNull(),
});
