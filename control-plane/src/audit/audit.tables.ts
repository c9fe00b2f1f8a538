import { sql } from 'drizzle-orm';
import type { AuditOutcome, ShadowDecision } from '@sallyport/schema';
import { bigint, doublePrecision, integer, jsonb, pgTable, primaryKey, text, timestamp } from 'drizzle-orm/pg-core';

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
    outcome: text().$type<AuditOutcome>(),
    status: integer(),
    rpcErrorCode: bigint('rpc_error_code', { mode: 'number' }),
    errorCode: text('error_code'),
    responseBytes: bigint('response_bytes', { mode: 'number' }),
    durationMs: doublePrecision('duration_ms'),
    firstByteMs: doublePrecision('first_byte_ms'),
    upstreamMs: doublePrecision('upstream_ms'),
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
