import { pgTable, text, timestamp, uuid } from 'drizzle-orm/pg-core';
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
