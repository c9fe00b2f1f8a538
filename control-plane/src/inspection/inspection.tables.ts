import { type PolicyMatch, policyModes, type PolicyRule, tooLargeOutcomes } from '@sallyport/schema';
import { sql } from 'drizzle-orm';
import { integer, jsonb, pgTable, text, timestamp, uuid } from 'drizzle-orm/pg-core';

export const policies = pgTable('policies', {
  id: uuid().primaryKey(),
  name: text().notNull(),
  description: text().notNull(),
  /** Lower decides first; of equal ones the older. */
  position: integer().notNull(),
  mode: text({ enum: policyModes }).notNull(),
  match: jsonb().$type<PolicyMatch>().notNull(),
  rules: jsonb().$type<PolicyRule[]>().notNull(),
  inspectedLengthMax: integer('inspected_length_max').notNull(),
  onTooLarge: text('on_too_large', { enum: tooLargeOutcomes }).notNull(),
  revision: integer().notNull().default(1),
  createdAt: timestamp('created_at', { withTimezone: true }).notNull().defaultNow(),
  updatedAt: timestamp('updated_at', { withTimezone: true }).notNull().defaultNow(),
  deletedAt: timestamp('deleted_at', { withTimezone: true }),
});
export type PolicyRow = typeof policies.$inferSelect;
/** What policies are searched by; the index policies_by_text. */
export const policyText = sql`lower(${policies.name} || ' ' || ${policies.description})`;
