import { sql } from 'drizzle-orm';
import type { AuditOutcome, CredentialMode, OpenedRecord, ShadowDecision, Verdict } from '@sallyport/schema';
import {
  bigint,
  doublePrecision,
  integer,
  jsonb,
  pgTable,
  primaryKey,
  text,
  timestamp,
  uuid,
} from 'drizzle-orm/pg-core';
import type { ChainStretch } from './chain-lines.ts';

export const auditEvents = pgTable(
  'audit_events',
  {
    time: timestamp({ withTimezone: true }).notNull(),
    id: text().notNull(),
    kind: text({ enum: ['exchange', 'configuration', 'access'] }).notNull(),
    nodeId: text('node_id'),
    epoch: text(),
    principalId: text('principal_id'),
    principalKind: text('principal_kind'),
    principalName: text('principal_name'),
    keyId: text('key_id'),
    clientId: text('client_id'),
    tokenId: text('token_id'),
    clientAddress: text('client_address'),
    clientUserAgent: text('client_user_agent'),
    clientInfo: text('client_info'),
    serverId: text('server_id'),
    serverSlug: text('server_slug'),
    httpMethod: text('http_method'),
    method: text(),
    targetKind: text('target_kind'),
    targetName: text('target_name'),
    protocolRevision: text('protocol_revision'),
    decisionEffect: text('decision_effect'),
    decisionReason: text('decision_reason'),
    grantIds: text('grant_ids').array().notNull().default([]),
    shadow: jsonb().$type<ShadowDecision>(),
    historyId: text('history_id'),
    configRevision: bigint('config_revision', { mode: 'number' }),
    paramsDigest: text('params_digest'),
    requestBytes: bigint('request_bytes', { mode: 'number' }),
    traceId: text('trace_id'),
    credentialId: text('credential_id'),
    credentialMode: text('credential_mode').$type<CredentialMode>(),
    credentialIssuer: text('credential_issuer'),
    capture: jsonb().$type<OpenedRecord['capture']>(),
    outcome: text().$type<AuditOutcome>(),
    status: integer(),
    rpcErrorCode: bigint('rpc_error_code', { mode: 'number' }),
    errorCode: text('error_code'),
    responseBytes: bigint('response_bytes', { mode: 'number' }),
    durationMs: doublePrecision('duration_ms'),
    firstByteMs: doublePrecision('first_byte_ms'),
    upstreamMs: doublePrecision('upstream_ms'),
    upstreamRequests: text('upstream_requests').array(),
    verdicts: jsonb().$type<Verdict[]>(),
    action: text(),
    objectKind: text('object_kind'),
    objectId: text('object_id'),
    beforeJson: text('before_json'),
    afterJson: text('after_json'),
    storedAt: timestamp('stored_at', { withTimezone: true }).notNull().default(sql`clock_timestamp()`),
  },
  (table) => [primaryKey({ columns: [table.time, table.id] })],
);
export type AuditEventRow = typeof auditEvents.$inferSelect;

export const auditUnchained = pgTable('audit_unchained', {
  id: bigint({ mode: 'number' }).primaryKey().generatedAlwaysAsIdentity(),
  record: text().notNull(),
});

/** What is sent to a webhook until it is taken: stretches of chains, under one id. */
export interface DeliveryBatch {
  readonly id: string;
  /** Milliseconds since the epoch. */
  readonly at: number;
  readonly parts: readonly ChainStretch[];
}

export const auditDeliveries = pgTable('audit_deliveries', {
  webhookId: uuid('webhook_id').primaryKey(),
  /** Whose right to read the audit trail counts. */
  readerId: uuid('reader_id').notNull(),
  state: text({ enum: ['active', 'stopped'] })
    .notNull()
    .default('active'),
  batch: jsonb().$type<DeliveryBatch>(),
  eventsDelivered: bigint('events_delivered', { mode: 'number' }).notNull().default(0),
  deliveredAt: timestamp('delivered_at', { withTimezone: true }),
  /** Of the failures since the last success. */
  attempts: integer().notNull().default(0),
  failingSince: timestamp('failing_since', { withTimezone: true }),
  failure: text(),
  nextAttemptAt: timestamp('next_attempt_at', { withTimezone: true }).notNull().defaultNow(),
  lease: uuid(),
  leaseUntil: timestamp('lease_until', { withTimezone: true }),
});
export type AuditDeliveryRow = typeof auditDeliveries.$inferSelect;

/** The last line of each chain that was taken. */
export const auditDeliveryCursors = pgTable(
  'audit_delivery_cursors',
  {
    webhookId: uuid('webhook_id').notNull(),
    nodeId: text('node_id').notNull(),
    epoch: text().notNull(),
    sequence: bigint({ mode: 'number' }).notNull(),
    movedAt: timestamp('moved_at', { withTimezone: true }).notNull().defaultNow(),
  },
  (table) => [primaryKey({ columns: [table.webhookId, table.nodeId, table.epoch] })],
);
