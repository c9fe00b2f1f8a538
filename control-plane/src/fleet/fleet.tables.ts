import type { ConfigProblem, NodeLoad } from '@sallyport/schema';
import { bigint, boolean, char, integer, jsonb, pgTable, primaryKey, text, timestamp, uuid } from 'drizzle-orm/pg-core';

const instant = (name: string) => timestamp(name, { withTimezone: true });
const hash = (name: string) => char(name, { length: 64 });

export const fleetKeys = pgTable('fleet_keys', {
  id: uuid().primaryKey(),
  publicKey: text('public_key').notNull(),
  sealedPrivateKey: text('sealed_private_key').notNull(),
  createdAt: instant('created_at').notNull().defaultNow(),
});

export const configHistories = pgTable('config_histories', {
  id: uuid().primaryKey(),
  startedAt: instant('started_at').notNull(),
  signature: text().notNull(),
  createdAt: instant('created_at').notNull().defaultNow(),
});

export const configManifests = pgTable(
  'config_manifests',
  {
    historyId: uuid('history_id').notNull(),
    revision: bigint({ mode: 'number' }).notNull(),
    hash: hash('hash').notNull(),
    generation: bigint({ mode: 'number' }).notNull(),
    changed: jsonb().$type<Record<string, string>>().notNull(),
    removed: text().array().notNull(),
    publishedAt: instant('published_at').notNull(),
  },
  (table) => [primaryKey({ columns: [table.historyId, table.revision] })],
);
export type ManifestRow = typeof configManifests.$inferSelect;

export const configDocuments = pgTable('config_documents', {
  hash: hash('hash').primaryKey(),
  body: text().notNull(),
  sealed: boolean().notNull(),
  createdAt: instant('created_at').notNull().defaultNow(),
});

export const configEntries = pgTable('config_entries', {
  key: text().primaryKey(),
  hash: hash('hash').notNull(),
});

export const configProblems = pgTable(
  'config_problems',
  {
    objectKind: text('object_kind').notNull(),
    objectId: text('object_id').notNull(),
    path: text().notNull(),
    message: text().notNull(),
    since: instant('since').notNull(),
  },
  (table) => [primaryKey({ columns: [table.objectKind, table.objectId, table.path] })],
);
export type ConfigProblemRow = typeof configProblems.$inferSelect;

export const joinTokens = pgTable('join_tokens', {
  id: uuid().primaryKey(),
  name: text().notNull(),
  hash: hash('hash').notNull(),
  hint: text().notNull(),
  labels: jsonb().$type<Record<string, string>>().notNull(),
  usesMax: integer('uses_max'),
  uses: integer().notNull().default(0),
  expiresAt: instant('expires_at').notNull(),
  revokedAt: instant('revoked_at'),
  revision: integer().notNull().default(1),
  createdAt: instant('created_at').notNull().defaultNow(),
});
export type JoinTokenRow = typeof joinTokens.$inferSelect;

export const nodes = pgTable('nodes', {
  id: uuid().primaryKey(),
  name: text().notNull(),
  build: text().notNull(),
  labels: jsonb().$type<Record<string, string>>().notNull(),
  peerUrl: text('peer_url'),
  peerCertificate: text('peer_certificate'),
  joinTokenId: uuid('join_token_id'),
  appliedHistoryId: uuid('applied_history_id'),
  appliedRevision: bigint('applied_revision', { mode: 'number' }),
  problems: jsonb().$type<ConfigProblem[]>().notNull().default([]),
  problemsRevision: bigint('problems_revision', { mode: 'number' }),
  spoolEpochs: text('spool_epochs').array().notNull().default([]),
  load: jsonb().$type<NodeLoad>(),
  connectionId: uuid('connection_id'),
  lastContactAt: instant('last_contact_at'),
  leftAt: instant('left_at'),
  removedAt: instant('removed_at'),
  createdAt: instant('created_at').notNull().defaultNow(),
});
export type NodeRow = typeof nodes.$inferSelect;

export const nodeKeys = pgTable('node_keys', {
  publicKey: text('public_key').primaryKey(),
  nodeId: uuid('node_id').notNull(),
  createdAt: instant('created_at').notNull(),
  expiresAt: instant('expires_at').notNull(),
  confirmedAt: instant('confirmed_at'),
  supersededAt: instant('superseded_at'),
});

export const nodeAlarms = pgTable(
  'node_alarms',
  {
    nodeId: uuid('node_id').notNull(),
    code: text().notNull(),
    message: text().notNull(),
    occurrences: integer().notNull().default(1),
    firstAt: instant('first_at').notNull(),
    lastAt: instant('last_at').notNull(),
  },
  (table) => [primaryKey({ columns: [table.nodeId, table.code] })],
);
export type NodeAlarmRow = typeof nodeAlarms.$inferSelect;

export const sealingKeys = pgTable('sealing_keys', {
  id: text().primaryKey(),
  sealedSecret: text('sealed_secret').notNull(),
  use: text({ enum: ['open', 'seal'] }).notNull(),
  createdAt: instant('created_at').notNull(),
  publishedRevision: bigint('published_revision', { mode: 'number' }),
  sealingSince: instant('sealing_since'),
  retiresAt: instant('retires_at'),
});
export type SealingKeyRow = typeof sealingKeys.$inferSelect;

export const oauthSigningKeys = pgTable('oauth_signing_keys', {
  id: text().primaryKey(),
  x: text().notNull(),
  y: text().notNull(),
  sealedPrivateKey: text('sealed_private_key').notNull(),
  use: text({ enum: ['verify', 'sign'] }).notNull(),
  createdAt: instant('created_at').notNull(),
  publishedRevision: bigint('published_revision', { mode: 'number' }),
  signingSince: instant('signing_since'),
  retiresAt: instant('retires_at'),
});
export type OAuthSigningKeyRow = typeof oauthSigningKeys.$inferSelect;
