import {
  grantEffects,
  type GrantLimits,
  grantModes,
  type LabelSelector,
  type Permission,
  type Role,
  type SubjectKind,
} from '@sallyport/schema';
import { sql } from 'drizzle-orm';
import { bigint, integer, jsonb, pgTable, text, timestamp, uuid } from 'drizzle-orm/pg-core';

/** Custom roles; the built-in ones stand in `rolePermissions`. */
export const customRoles = pgTable('roles', {
  id: uuid().primaryKey(),
  name: text().notNull(),
  description: text().notNull().default(''),
  permissions: text().array().$type<Permission[]>().notNull(),
  revision: integer().notNull().default(1),
  createdAt: timestamp('created_at', { withTimezone: true }).notNull().defaultNow(),
  updatedAt: timestamp('updated_at', { withTimezone: true }).notNull().defaultNow(),
  deletedAt: timestamp('deleted_at', { withTimezone: true }),
});
export type CustomRoleRow = typeof customRoles.$inferSelect;

/** Binds one role, built-in or custom, to one principal or group. */
export const roleBindings = pgTable('role_bindings', {
  id: uuid().primaryKey(),
  principalId: uuid('principal_id'),
  groupId: uuid('group_id'),
  role: text().$type<Role>(),
  roleId: uuid('role_id'),
  /** Null where it holds everywhere. */
  serverLabels: jsonb('server_labels').$type<LabelSelector>(),
  createdAt: timestamp('created_at', { withTimezone: true }).notNull().defaultNow(),
});
export type RoleBindingRow = typeof roleBindings.$inferSelect;

/** People who were behind an owner until the role, or the account, was taken from them; the last time counts. */
export const formerOwners = pgTable('former_owners', {
  personId: uuid('person_id').primaryKey(),
  endedAt: timestamp('ended_at', { withTimezone: true }).notNull(),
});

/** A guarded role that one person proposed to give to a principal, or to take from it, and another confirms. */
export const roleProposals = pgTable('role_proposals', {
  id: uuid().primaryKey(),
  principalId: uuid('principal_id').notNull(),
  change: text({ enum: ['give', 'take'] })
    .notNull()
    .default('give'),
  role: text().$type<Role>(),
  roleId: uuid('role_id'),
  reason: text().notNull().default(''),
  state: text({ enum: ['open', 'confirmed', 'cancelled'] })
    .notNull()
    .default('open'),
  proposedBy: uuid('proposed_by').notNull(),
  /** The users who may have proposed it: the one who acted, and all who may know the key that was used. */
  proposingPeople: uuid('proposing_people').array().notNull().default([]),
  decidedBy: uuid('decided_by'),
  expiresAt: timestamp('expires_at', { withTimezone: true }).notNull(),
  decidedAt: timestamp('decided_at', { withTimezone: true }),
  revision: integer().notNull().default(1),
  createdAt: timestamp('created_at', { withTimezone: true }).notNull().defaultNow(),
});
export type RoleProposalRow = typeof roleProposals.$inferSelect;

export const grants = pgTable('grants', {
  id: uuid().primaryKey(),
  name: text().notNull(),
  subjectKind: text('subject_kind').$type<SubjectKind>().notNull(),
  subjectPrincipalId: uuid('subject_principal_id'),
  subjectGroupId: uuid('subject_group_id'),
  /** Null where it is about all servers that carry some labels. */
  serverId: uuid('server_id'),
  serverLabels: jsonb('server_labels').$type<LabelSelector>(),
  effect: text({ enum: grantEffects }).notNull(),
  mode: text({ enum: grantModes }).notNull(),
  tools: text().array().notNull(),
  prompts: text().array().notNull(),
  resources: text().array().notNull(),
  limits: jsonb().$type<GrantLimits>(),
  /** CEL; `when` alone is a word of SQL. */
  when: text('when_condition'),
  whenArguments: text('when_arguments'),
  configStalenessMaxMs: bigint('config_staleness_max_ms', { mode: 'number' }),
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
/** What grants are searched by; the index grants_by_text. */
export const grantText = sql`lower(${grants.name} || ' ' || ${grants.reason})`;
