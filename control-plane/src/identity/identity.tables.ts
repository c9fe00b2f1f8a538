import type { ApiKeyScope, LabelSelector, Permission } from '@sallyport/schema';
import { sql } from 'drizzle-orm';
import {
  alias,
  char,
  integer,
  jsonb,
  pgTable,
  primaryKey,
  text,
  timestamp,
  uuid,
  type AnyPgColumn,
} from 'drizzle-orm/pg-core';

const createdAt = timestamp('created_at', { withTimezone: true }).notNull().defaultNow();
const updatedAt = timestamp('updated_at', { withTimezone: true }).notNull().defaultNow();
const deletedAt = timestamp('deleted_at', { withTimezone: true });

export const principals = pgTable('principals', {
  id: uuid().primaryKey(),
  kind: text({ enum: ['user', 'serviceAccount'] }).notNull(),
  name: text().notNull(),
  description: text().notNull().default(''),
  status: text({ enum: ['active', 'disabled'] })
    .notNull()
    .default('active'),
  epoch: integer().notNull().default(0),
  expiresAt: timestamp('expires_at', { withTimezone: true }),
  issuer: text(),
  subject: text(),
  email: text(),
  ownerId: uuid('owner_id').references((): AnyPgColumn => principals.id),
  /** The SCIM directory that provisions it; null where it is managed here. */
  directoryId: uuid('directory_id'),
  revision: integer().notNull().default(1),
  createdAt,
  updatedAt,
  deletedAt,
});
export type PrincipalRow = typeof principals.$inferSelect;
/** The user who answers for a service account, in queries over `principals`. */
export const accountOwners = alias(principals, 'account_owners');
/** What users and service accounts are searched by; the index principals_by_text. */
export const principalText = sql`lower(${principals.name} || ' ' || coalesce(${principals.email}, '') || ' ' || ${principals.description})`;

export const groups = pgTable('groups', {
  id: uuid().primaryKey(),
  name: text().notNull(),
  description: text().notNull().default(''),
  /** The SCIM directory that provisions it; null where it is managed here. */
  directoryId: uuid('directory_id'),
  /** The identity provider whose claims say who belongs to it; null where members are managed here. */
  identityProviderId: uuid('identity_provider_id'),
  revision: integer().notNull().default(1),
  createdAt,
  updatedAt,
  deletedAt,
});
export type GroupRow = typeof groups.$inferSelect;
/** What groups are searched by; the index groups_by_text. */
export const groupText = sql`lower(${groups.name} || ' ' || ${groups.description})`;

export const groupMembers = pgTable(
  'group_members',
  {
    groupId: uuid('group_id')
      .notNull()
      .references(() => groups.id),
    principalId: uuid('principal_id')
      .notNull()
      .references(() => principals.id),
    createdAt,
  },
  (table) => [primaryKey({ columns: [table.groupId, table.principalId] })],
);

export const apiKeys = pgTable('api_keys', {
  id: uuid().primaryKey(),
  principalId: uuid('principal_id')
    .notNull()
    .references(() => principals.id),
  name: text().notNull(),
  /** SHA-256 of the whole key, hex. */
  hash: char({ length: 64 }).notNull(),
  hint: text().notNull(),
  scopes: text().array().$type<ApiKeyScope[]>().notNull(),
  /** Null for no limit beside the scopes. */
  permissions: text().array().$type<Permission[]>(),
  /** Servers it opens; null where labels, or nothing, limit them. */
  serverIds: uuid('server_ids').array(),
  serverLabels: jsonb('server_labels').$type<LabelSelector>(),
  /** CIDRs it may be used from; null for anywhere. */
  networks: text().array(),
  /** Who made it, and so may know it. */
  issuedBy: uuid('issued_by').references(() => principals.id),
  /** Users who may know it beside its holder: whoever acted when it was made, and all who may know the key he used. */
  knownTo: uuid('known_to').array().notNull().default([]),
  expiresAt: timestamp('expires_at', { withTimezone: true }).notNull(),
  revokedAt: timestamp('revoked_at', { withTimezone: true }),
  lastUsedAt: timestamp('last_used_at', { withTimezone: true }),
  successorOf: uuid('successor_of').references((): AnyPgColumn => apiKeys.id),
  revision: integer().notNull().default(1),
  createdAt,
  updatedAt,
});
export type ApiKeyRow = typeof apiKeys.$inferSelect;
