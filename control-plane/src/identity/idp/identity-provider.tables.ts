import { bigint, boolean, char, integer, jsonb, pgTable, primaryKey, text, timestamp, uuid } from 'drizzle-orm/pg-core';

const instant = (name: string) => timestamp(name, { withTimezone: true });

/** A user whose token holds the value among its groups belongs to the group. */
export interface GroupRule {
  readonly value: string;
  readonly groupId: string;
}

export const identityProviders = pgTable('identity_providers', {
  id: uuid().primaryKey(),
  name: text().notNull(),
  issuer: text().notNull(),
  clientId: text('client_id').notNull(),
  sealedClientSecret: text('sealed_client_secret'),
  scopes: text().array().notNull(),
  subjectClaim: text('subject_claim').notNull(),
  groupsClaim: text('groups_claim'),
  groupsUrl: text('groups_url'),
  groupsUrlScope: text('groups_url_scope'),
  groupRules: jsonb('group_rules').$type<readonly GroupRule[]>().notNull(),
  requiredClaims: jsonb('required_claims').$type<Readonly<Record<string, string>>>().notNull(),
  acrValues: text('acr_values').array().notNull(),
  createsUsers: boolean('creates_users').notNull(),
  acceptsAssertions: boolean('accepts_assertions').notNull(),
  enabled: boolean().notNull(),
  revision: integer().notNull().default(1),
  createdAt: instant('created_at').notNull(),
  updatedAt: instant('updated_at').notNull(),
  deletedAt: instant('deleted_at'),
});
export type IdentityProviderRow = typeof identityProviders.$inferSelect;

export const identityProviderLogins = pgTable('identity_provider_logins', {
  id: uuid().primaryKey(),
  identityProviderId: uuid('identity_provider_id').notNull(),
  principalId: uuid('principal_id').notNull(),
  subject: text().notNull(),
  sessionId: text('session_id'),
  createdAt: instant('created_at').notNull(),
  endedAt: instant('ended_at'),
});

export const loginAttempts = pgTable('login_attempts', {
  stateHash: char('state_hash', { length: 64 }).primaryKey(),
  identityProviderId: uuid('identity_provider_id').notNull(),
  interaction: text().notNull(),
  browserHash: char('browser_hash', { length: 64 }).notNull(),
  sealed: text().notNull(),
  returnedAt: instant('returned_at'),
  ticketHash: char('ticket_hash', { length: 64 }),
  principalId: uuid('principal_id'),
  loginId: uuid('login_id'),
  acr: text(),
  /** Seconds since the epoch; null where the provider did not say. */
  authenticatedAt: bigint('authenticated_at', { mode: 'number' }),
  expiresAt: instant('expires_at').notNull(),
});

export const usedProviderTokens = pgTable(
  'used_provider_tokens',
  {
    identityProviderId: uuid('identity_provider_id').notNull(),
    tokenHash: char('token_hash', { length: 64 }).notNull(),
    expiresAt: instant('expires_at').notNull(),
  },
  (table) => [primaryKey({ columns: [table.identityProviderId, table.tokenHash] })],
);
