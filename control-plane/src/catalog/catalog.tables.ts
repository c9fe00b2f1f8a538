import {
  bigint,
  boolean,
  doublePrecision,
  integer,
  jsonb,
  pgTable,
  primaryKey,
  text,
  timestamp,
  uuid,
} from 'drizzle-orm/pg-core';
import { sql } from 'drizzle-orm';
import {
  credentialModes,
  type DefinitionFinding,
  definitionKinds,
  definitionStates,
  toolRisks,
  type UpstreamAsks,
  upstreamTransports,
} from '@sallyport/schema';

export const lifecycles = ['draft', 'pending', 'approved', 'deprecated', 'disabled'] as const;
export type Lifecycle = (typeof lifecycles)[number];
export const auditModes = ['buffered', 'strict'] as const;
export type AuditMode = (typeof auditModes)[number];
export const discoverers = ['controlPlane', 'node'] as const;
export type Discoverer = (typeof discoverers)[number];

/** How far a definition may drift and be approved by itself; `review` takes in new ones of low risk too. */
export const autoApprovals = ['none', 'minor', 'review'] as const;
export type AutoApproval = (typeof autoApprovals)[number];
/** How far what a server sends is from what was approved, in ascending order. */
export const driftClasses = ['same', 'minor', 'review', 'quarantine'] as const;
export type DriftClass = (typeof driftClasses)[number];

const instant = (name: string) => timestamp(name, { withTimezone: true });

export const servers = pgTable('servers', {
  id: uuid().primaryKey(),
  slug: text().notNull(),
  slugKey: text('slug_key').notNull(),
  title: text().notNull(),
  description: text().notNull(),
  url: text().notNull(),
  lifecycle: text({ enum: lifecycles }).notNull(),
  labels: jsonb().$type<Record<string, string>>().notNull(),
  /** Its members may write it, where their roles let them write their own servers. */
  ownerGroupId: uuid('owner_group_id'),
  auditMode: text('audit_mode', { enum: auditModes }).notNull(),
  autoApproval: text('auto_approval', { enum: autoApprovals }).notNull().default('none'),
  configStalenessMaxMs: bigint('config_staleness_max_ms', { mode: 'number' }),
  discoveredBy: text('discovered_by', { enum: discoverers }).notNull(),
  protocolRevisions: text('protocol_revisions').array().notNull().default([]),
  transport: text({ enum: upstreamTransports }).notNull().default('streamableHttp'),
  extensions: text().array().notNull(),
  /** What is published of how the gateway proves itself; the rest is of the slice credentials. */
  credentialMode: text('credential_mode', { enum: credentialModes }).notNull().default('none'),
  /** With whose account it is looked at, where it wants one: who set its credential. */
  discoveredAs: uuid('discovered_as'),
  credentialRevision: integer('credential_revision').notNull().default(0),
  /** The revision since which nothing but secrets changed: nodes that are not further than that are lent the newest one. */
  credentialSteadySince: integer('credential_steady_since').notNull().default(0),
  /** What it may ask of clients; null for nothing. */
  asks: jsonb().$type<UpstreamAsks>(),
  capabilities: jsonb().$type<Record<string, unknown>>().notNull().default({}),
  serverInfo: jsonb('server_info').$type<Record<string, unknown>>(),
  instructions: text(),
  discoveredAt: instant('discovered_at'),
  discoveryAttemptedAt: instant('discovery_attempted_at'),
  discoveryDoubtedAt: instant('discovery_doubted_at'),
  discoveryProblem: text('discovery_problem'),
  discoveryProblemMessage: text('discovery_problem_message'),
  discoveryNotes: jsonb('discovery_notes').$type<string[]>().notNull().default([]),
  discoveryLease: uuid('discovery_lease'),
  discoveryLeaseUntil: instant('discovery_lease_until'),
  revision: integer().notNull().default(1),
  createdAt: instant('created_at').notNull().defaultNow(),
  updatedAt: instant('updated_at').notNull().defaultNow(),
  deletedAt: instant('deleted_at'),
});
export type ServerRow = typeof servers.$inferSelect;
/** What servers are searched by; the index servers_by_text. */
export const serverText = sql`lower(${servers.slug} || ' ' || ${servers.title} || ' ' || ${servers.description})`;

export const definitions = pgTable('definitions', {
  id: uuid().primaryKey(),
  serverId: uuid('server_id')
    .notNull()
    .references(() => servers.id),
  kind: text({ enum: definitionKinds }).notNull(),
  name: text().notNull(),
  /** `toolKey` of a tool's name; empty for all else. */
  nameKey: text('name_key').notNull().default(''),
  digests: text().array().notNull(),
  state: text({ enum: definitionStates }).notNull(),
  approvedDigests: text('approved_digests').array().notNull().default([]),
  /** Seen by nodes besides `digests`, and not decided on. */
  reportedDigests: text('reported_digests').array().notNull().default([]),
  /** Refused by somebody who looked at them. */
  rejectedDigests: text('rejected_digests').array().notNull().default([]),
  /** Of what is seen against what is approved; null where nothing is, or nothing differs. */
  driftClass: text('drift_class', { enum: driftClasses }),
  /** False where only nodes ever saw it. */
  discovered: boolean().notNull().default(true),
  /** What an administrator says of a tool. */
  risk: text({ enum: toolRisks }),
  readOnly: boolean('read_only'),
  destructive: boolean(),
  idempotent: boolean(),
  openWorld: boolean('open_world'),
  firstSeenAt: instant('first_seen_at').notNull(),
  lastSeenAt: instant('last_seen_at').notNull(),
  removedAt: instant('removed_at'),
  revision: integer().notNull().default(1),
  createdAt: instant('created_at').notNull().defaultNow(),
  updatedAt: instant('updated_at').notNull().defaultNow(),
});
export type DefinitionRow = typeof definitions.$inferSelect;

/** Canonical JSON of what the upstream sent, by digest, with what the scan saw in it. */
export const definitionBodies = pgTable(
  'definition_bodies',
  {
    serverId: uuid('server_id')
      .notNull()
      .references(() => servers.id),
    digest: text().notNull(),
    raw: text().notNull(),
    findings: jsonb().$type<readonly DefinitionFinding[]>(),
    scanVersion: integer('scan_version'),
    /** Whether it speaks of `x-mcp-header` at all; few do. */
    namesHeaders: boolean('names_headers').generatedAlwaysAs(sql`raw like '%x-mcp-header%'`),
    createdAt: instant('created_at').notNull().defaultNow(),
  },
  (table) => [primaryKey({ columns: [table.serverId, table.digest] })],
);

export const serverHealth = pgTable(
  'server_health',
  {
    serverId: uuid('server_id')
      .notNull()
      .references(() => servers.id),
    /** `controlPlane` or the id of a node. */
    observer: text().notNull(),
    state: text({ enum: ['healthy', 'unhealthy'] }).notNull(),
    observedAt: instant('observed_at').notNull(),
    latencyMs: doublePrecision('latency_ms'),
    problem: text(),
  },
  (table) => [primaryKey({ columns: [table.serverId, table.observer] })],
);
export type HealthRow = typeof serverHealth.$inferSelect;
