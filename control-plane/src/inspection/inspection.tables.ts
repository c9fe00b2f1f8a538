import {
  definitionKinds,
  type PolicyMatch,
  type PolicyRule,
  policyModes,
  tooLargeOutcomes,
  webhookAlgorithms,
  webhookContents,
  webhookEvents,
  webhookFailModes,
  webhookModes,
} from '@sallyport/schema';
import { sql } from 'drizzle-orm';
import { doublePrecision, integer, jsonb, pgTable, primaryKey, text, timestamp, uuid } from 'drizzle-orm/pg-core';
import type { StoredCapture } from './capture-form.ts';

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
  /** Asked about what the rules let through, in order. */
  webhookIds: uuid('webhook_ids').array().notNull().default([]),
  /** For all of them together; null for the default. */
  webhookBudgetMs: integer('webhook_budget_ms'),
  /** Null for nothing. */
  capture: jsonb().$type<StoredCapture>(),
  revision: integer().notNull().default(1),
  createdAt: timestamp('created_at', { withTimezone: true }).notNull().defaultNow(),
  updatedAt: timestamp('updated_at', { withTimezone: true }).notNull().defaultNow(),
  deletedAt: timestamp('deleted_at', { withTimezone: true }),
});
export type PolicyRow = typeof policies.$inferSelect;
/** What policies are searched by; the index policies_by_text. */
export const policyText = sql`lower(${policies.name} || ' ' || ${policies.description})`;

/** A key that signs what goes to a webhook. */
export interface StoredSigningKey {
  readonly id: string;
  /** Sealed for this webhook and id. */
  readonly sealed: string;
  /** `whpk_…` of an Ed25519 key. */
  readonly publicKey: string | null;
  readonly createdAt: string;
  /** It signs nothing from then on; null where no end is set. */
  readonly notAfter: string | null;
}

export const webhooks = pgTable('webhooks', {
  id: uuid().primaryKey(),
  name: text().notNull(),
  description: text().notNull(),
  url: text().notNull(),
  mode: text({ enum: webhookModes }).notNull(),
  events: text({ enum: webhookEvents }).array().notNull(),
  failMode: text('fail_mode', { enum: webhookFailModes }).notNull(),
  content: text({ enum: webhookContents }).notNull(),
  deadlineMs: integer('deadline_ms').notNull(),
  payloadBytesMax: integer('payload_bytes_max').notNull(),
  mutablePaths: text('mutable_paths').array().notNull(),
  algorithm: text({ enum: webhookAlgorithms }).notNull(),
  /** Null where the URL takes our own events. */
  interceptor: text(),
  signingKeys: jsonb('signing_keys').$type<StoredSigningKey[]>().notNull(),
  revision: integer().notNull().default(1),
  createdAt: timestamp('created_at', { withTimezone: true }).notNull().defaultNow(),
  updatedAt: timestamp('updated_at', { withTimezone: true }).notNull().defaultNow(),
  deletedAt: timestamp('deleted_at', { withTimezone: true }),
});
export type WebhookRow = typeof webhooks.$inferSelect;
/** What webhooks said of wordings of definitions, of each the latest. */
export const definitionVerdicts = pgTable(
  'definition_verdicts',
  {
    serverId: uuid('server_id').notNull(),
    digest: text().notNull(),
    kind: text({ enum: definitionKinds }).notNull(),
    webhookId: uuid('webhook_id').notNull(),
    /** Of the webhook when it was asked. */
    webhookRevision: integer('webhook_revision').notNull(),
    decision: text({ enum: ['allow', 'deny', 'failure'] }).notNull(),
    /** What the webhook gave, or why there is no verdict. */
    reason: text().notNull(),
    durationMs: doublePrecision('duration_ms').notNull(),
    askedAt: timestamp('asked_at', { withTimezone: true }).notNull(),
  },
  (table) => [primaryKey({ columns: [table.serverId, table.digest, table.kind, table.webhookId] })],
);
export type DefinitionVerdictRow = typeof definitionVerdicts.$inferSelect;

/** What webhooks are searched by; the index webhooks_by_text. */
export const webhookText = sql`lower(${webhooks.name} || ' ' || ${webhooks.description})`;
