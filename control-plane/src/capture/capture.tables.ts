import type { PayloadOmission, PolicyDirection } from '@sallyport/schema';
import { bigint, integer, pgTable, primaryKey, text, timestamp, uuid } from 'drizzle-orm/pg-core';

const instant = (name: string) => timestamp(name, { withTimezone: true });

export const payloadKeys = pgTable('payload_keys', {
  id: uuid().primaryKey(),
  publicKey: text('public_key').notNull(),
  sealed: text().notNull(),
  wrappedKey: text('wrapped_key').notNull(),
  keyId: text('key_id').notNull(),
  createdAt: instant('created_at').notNull(),
  retiredAt: instant('retired_at'),
});
export type PayloadKeyRow = typeof payloadKeys.$inferSelect;

export const payloads = pgTable(
  'payloads',
  {
    eventId: text('event_id').notNull(),
    direction: text().$type<PolicyDirection>().notNull(),
    nodeId: text('node_id').notNull(),
    time: instant('time').notNull(),
    policyId: text('policy_id').notNull(),
    serverId: text('server_id').notNull(),
    principalId: text('principal_id').notNull(),
    method: text(),
    targetKind: text('target_kind').$type<'tool' | 'prompt' | 'resource'>(),
    targetName: text('target_name'),
    state: text().$type<'stored' | 'omitted' | 'erased'>().notNull(),
    omission: text().$type<PayloadOmission>(),
    messages: integer().notNull(),
    messagesOmitted: integer('messages_omitted').notNull(),
    bytes: bigint({ mode: 'number' }).notNull(),
    redactions: integer().notNull(),
    payloadKeyId: text('payload_key_id'),
    wrappedKey: text('wrapped_key'),
    content: text(),
    storedAt: instant('stored_at').notNull().defaultNow(),
    expiresAt: instant('expires_at').notNull(),
  },
  (table) => [primaryKey({ columns: [table.eventId, table.direction, table.nodeId] })],
);
export type PayloadRow = typeof payloads.$inferSelect;

export const payloadErasures = pgTable('payload_erasures', {
  id: uuid().primaryKey(),
  eventIds: text('event_ids').array(),
  principalId: text('principal_id'),
  policyId: text('policy_id'),
  serverId: text('server_id'),
  timeFrom: instant('time_from'),
  timeTo: instant('time_to').notNull(),
  createdAt: instant('created_at').notNull(),
});
