import { boolean, char, integer, jsonb, pgTable, text, timestamp, uuid, type AnyPgColumn } from 'drizzle-orm/pg-core';
import type { UserAttributes } from './user-resource.ts';

const createdAt = timestamp('created_at', { withTimezone: true }).notNull().defaultNow();

export const scimDirectories = pgTable('scim_directories', {
  id: uuid().primaryKey(),
  name: text().notNull(),
  issuer: text().notNull(),
  revision: integer().notNull().default(1),
  createdAt,
  updatedAt: timestamp('updated_at', { withTimezone: true }).notNull().defaultNow(),
  deletedAt: timestamp('deleted_at', { withTimezone: true }),
});
export type ScimDirectoryRow = typeof scimDirectories.$inferSelect;

export const scimTokens = pgTable('scim_tokens', {
  id: uuid().primaryKey(),
  directoryId: uuid('directory_id')
    .notNull()
    .references(() => scimDirectories.id),
  name: text().notNull(),
  /** SHA-256 of the whole token, hex. */
  hash: char({ length: 64 }).notNull(),
  hint: text().notNull(),
  expiresAt: timestamp('expires_at', { withTimezone: true }).notNull(),
  revokedAt: timestamp('revoked_at', { withTimezone: true }),
  lastUsedAt: timestamp('last_used_at', { withTimezone: true }),
  /** Of whoever made it, at that moment. */
  permissions: text().array().notNull(),
  successorOf: uuid('successor_of').references((): AnyPgColumn => scimTokens.id),
  revision: integer().notNull().default(1),
  createdAt,
});
export type ScimTokenRow = typeof scimTokens.$inferSelect;

export const scimUsers = pgTable('scim_users', {
  principalId: uuid('principal_id').primaryKey(),
  directoryId: uuid('directory_id').notNull(),
  userName: text('user_name').notNull(),
  externalId: text('external_id'),
  active: boolean().notNull(),
  attributes: jsonb().$type<UserAttributes>().notNull(),
});
export type ScimUserRow = typeof scimUsers.$inferSelect;

export const scimGroups = pgTable('scim_groups', {
  groupId: uuid('group_id').primaryKey(),
  directoryId: uuid('directory_id').notNull(),
  externalId: text('external_id'),
});
export type ScimGroupRow = typeof scimGroups.$inferSelect;
