-- The audit trail. Rows of audit_events are for reading; audit_lines holds what nodes wrote, byte for byte, with its chain.

create table audit_events (
  -- When the exchange was received, or the change was made. Part of the key because partitions go by it.
  time timestamptz not null,
  -- Made by the node; text, so that no id a node can write is refused.
  id text collate "C" not null,
  kind text not null check (kind in ('exchange', 'configuration', 'access')),
  -- Null for what the control plane did itself.
  node_id text,
  epoch text,
  -- The principal that called, or the actor that changed.
  principal_id text,
  principal_kind text,
  principal_name text,
  key_id text,
  client_address text,
  client_user_agent text,
  client_info text,
  server_id text,
  server_slug text,
  http_method text,
  method text,
  target_kind text,
  target_name text,
  protocol_revision text,
  decision_effect text,
  decision_reason text,
  grant_ids text[] not null default '{}',
  history_id text,
  config_revision bigint,
  params_digest text,
  request_bytes bigint,
  trace_id text,
  -- Null while the exchange is open.
  outcome text check (
    outcome in ('success', 'error', 'refused', 'malformed', 'upstreamFailure', 'aborted', 'unknown')
  ),
  status integer,
  rpc_error_code bigint,
  error_code text,
  response_bytes bigint,
  duration_ms double precision,
  first_byte_ms double precision,
  upstream_ms double precision,
  -- Of configuration and access events: 'grant.create', what it was done to, and the object before and after as JSON
  -- text (not jsonb, which refuses NUL).
  action text,
  object_kind text,
  object_id text,
  before_json text,
  after_json text,
  -- For the live tail, which follows arrival and not time.
  stored_at timestamptz not null default clock_timestamp(),
  primary key (time, id)
) partition by range (time);
create table audit_events_default partition of audit_events default;
create index audit_events_by_principal on audit_events (principal_id, time, id);
create index audit_events_by_server on audit_events (server_id, time, id);
create index audit_events_by_target on audit_events (target_name, time, id);
create index audit_events_by_object on audit_events (object_id, time, id) where object_id is not null;
create index audit_events_by_arrival on audit_events using brin (stored_at);
-- What becomes `unknown` when its epoch ends.
create index audit_events_open on audit_events (node_id, epoch) where outcome is null;

-- One per start of a node's process, and one for the control plane itself.
create table audit_epochs (
  node_id text not null,
  epoch text not null,
  -- The node that ships it; another where a node lost its identity and joined anew over its old spool.
  shipped_by text not null,
  -- Highest sequence stored, without a gap below it but those in `gaps`; a node trims its spool up to here.
  watermark bigint not null default 0,
  -- Hash of the line at the watermark; the seed of the epoch at 0.
  head char(64) not null,
  -- Every line up to here comes before the end of the process; null while it runs.
  ended_at timestamptz,
  -- 'stopped': the node said so; 'lost': its spool was gone.
  ended_reason text check (ended_reason in ('stopped', 'lost')),
  -- Stretches that were confirmed by a database that is no longer this one: [{"first":n,"last":m}].
  gaps jsonb not null default '[]',
  opened_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (node_id, epoch)
);
create index audit_epochs_by_shipper on audit_epochs (shipped_by, opened_at);
create index audit_epochs_running on audit_epochs (updated_at) where ended_at is null;

create table audit_lines (
  stored_at timestamptz not null default now(),
  node_id text not null,
  epoch text not null,
  sequence bigint not null,
  -- Time of the record; null for the second record of an exchange, which repeats the first's.
  time timestamptz,
  hash char(64) not null,
  line text not null
) partition by range (stored_at);
create table audit_lines_default partition of audit_lines default;
-- Not unique: partitions go by the time of storing. The row lock on audit_epochs keeps a line from being stored twice.
create index audit_lines_by_sequence on audit_lines (node_id, epoch, sequence);
create index audit_lines_by_time on audit_lines (time) where time is not null;

-- What could not be stored as an event or a line, or whose chain does not hold. Each row is an alarm.
create table audit_quarantine (
  id bigint generated always as identity primary key,
  stored_at timestamptz not null default now(),
  node_id text not null,
  epoch text not null,
  sequence bigint not null,
  reason text not null,
  line bytea not null
);
create index audit_quarantine_by_epoch on audit_quarantine (node_id, epoch, sequence);

-- Events of the control plane that are not chained yet: written with the change, taken by the checkpoint job.
create table audit_unchained (
  id bigint generated always as identity primary key,
  -- The record as JSON text, as it will stand in its line.
  record text not null
);

create table audit_checkpoints (
  number bigint primary key,
  time timestamptz not null,
  -- The signed text (schema/src/audit-export.ts) and its SHA-256, which the next checkpoint names.
  body text not null,
  hash char(64) not null,
  public_key text not null,
  signature text not null
);
create table audit_checkpoint_heads (
  checkpoint bigint not null references audit_checkpoints,
  node_id text not null,
  epoch text not null,
  sequence bigint not null,
  primary key (node_id, epoch, checkpoint)
);

-- Calls by minute; `sketch` is a compact DDSketch (schema/src/sketch.ts).
create table traffic_minutes (
  minute timestamptz not null,
  server_id text not null,
  server_slug text not null,
  target_kind text not null default '',
  target_name text not null default '',
  outcome text not null,
  calls bigint not null,
  duration_ms_sum double precision not null,
  sketch text not null,
  primary key (minute, server_id, target_kind, target_name, outcome)
);
-- Which windows of which node have been counted.
create table traffic_windows (
  node_id text not null,
  epoch text not null,
  window_start timestamptz not null,
  primary key (node_id, epoch, window_start)
);
create index traffic_windows_by_age on traffic_windows (window_start);
