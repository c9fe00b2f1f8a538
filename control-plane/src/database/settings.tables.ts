import { bigint, boolean, char, integer, jsonb, pgTable, primaryKey, text, timestamp, uuid } from 'drizzle-orm/pg-core';

export const configGeneration = pgTable('config_generation', {
  id: integer().primaryKey(),
  generation: bigint({ mode: 'number' }).notNull(),
});

/** What the generations changed; written by `bumpConfigGeneration` alone. */
export const configChanges = pgTable('config_changes', {
  generation: bigint({ mode: 'number' }).primaryKey(),
  everything: boolean().notNull(),
  serverIds: uuid('server_ids').array().notNull(),
  principalIds: uuid('principal_ids').array().notNull(),
});

export const settings = pgTable('settings', {
  key: text().primaryKey(),
  value: jsonb().$type<unknown>().notNull(),
  revision: integer().notNull().default(1),
  updatedAt: timestamp('updated_at', { withTimezone: true }).notNull(),
});

export const idempotencyKeys = pgTable(
  'idempotency_keys',
  {
    actorId: uuid('actor_id').notNull(),
    operation: text().notNull(),
    key: text().notNull(),
    inputDigest: char('input_digest', { length: 64 }).notNull(),
    objectId: uuid('object_id').notNull(),
    createdAt: timestamp('created_at', { withTimezone: true }).notNull().defaultNow(),
  },
  (table) => [primaryKey({ columns: [table.actorId, table.operation, table.key] })],
);
