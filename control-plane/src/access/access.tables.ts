import type { Role, SubjectKind } from '@sallyport/schema';
import { integer, pgTable, text, timestamp, uuid } from 'drizzle-orm/pg-core';

export const roleBindings = pgTable('role_bindings', {
  id: uuid().primaryKey(),
  principalId: uuid('principal_id').notNull(),
  role: text().$type<Role>().notNull(),
  createdAt: timestamp('created_at', { withTimezone: true }).notNull().defaultNow(),
});
export type RoleBindingRow = typeof roleBindings.$inferSelect;

export const grants = pgTable('grants', {
  id: uuid().primaryKey(),
  name: text().notNull(),
  subjectKind: text('subject_kind').$type<SubjectKind>().notNull(),
  subjectPrincipalId: uuid('subject_principal_id'),
  subjectGroupId: uuid('subject_group_id'),
  serverId: uuid('server_id').notNull(),
  effect: text({ enum: ['allow', 'deny'] }).notNull(),
  tools: text().array().notNull(),
  prompts: text().array().notNull(),
  resources: text().array().notNull(),
  notBefore: timestamp('not_before', { withTimezone: true }),
  notAfter: timestamp('not_after', { withTimezone: true }),
  source: text({ enum: ['static', 'request', 'terraform', 'breakGlass'] })
    .notNull()
    .default('static'),
  reason: text().notNull().default(''),
  revision: integer().notNull().default(1),
  createdAt: timestamp('created_at', { withTimezone: true }).notNull().defaultNow(),
  updatedAt: timestamp('updated_at', { withTimezone: true }).notNull().defaultNow(),
  deletedAt: timestamp('deleted_at', { withTimezone: true }),
});
export type GrantRow = typeof grants.$inferSelect;
