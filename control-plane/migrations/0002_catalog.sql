-- The catalog: registered MCP servers, what they define, and how each observer finds them.

create table servers (
  id uuid primary key,
  slug text not null check (slug ~ '^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$'),
  -- The slug after folding of case, look-alikes and separators: what must differ between two servers.
  slug_key text not null,
  title text not null,
  description text not null default '',
  url text not null,
  lifecycle text not null default 'draft'
    check (lifecycle in ('draft', 'pending', 'approved', 'deprecated', 'disabled')),
  labels jsonb not null default '{}' check (jsonb_typeof(labels) = 'object'),
  audit_mode text not null default 'buffered' check (audit_mode in ('buffered', 'strict')),
  config_staleness_max_ms bigint check (config_staleness_max_ms > 0),
  discovered_by text not null default 'controlPlane' check (discovered_by in ('controlPlane', 'node')),
  -- Observed at the last successful discovery; newest first.
  protocol_revisions text[] not null default '{}',
  capabilities jsonb not null default '{}',
  server_info jsonb,
  instructions text,
  discovered_at timestamptz,
  -- The last attempt, successful or not: the timer goes by it.
  discovery_attempted_at timestamptz,
  -- A code of the error catalogue with its public text; null when the last attempt succeeded.
  discovery_problem text,
  discovery_problem_message text,
  -- Definitions the last discovery left out, each with its reason.
  discovery_notes jsonb not null default '[]' check (jsonb_typeof(discovery_notes) = 'array'),
  -- The process that is discovering it now; ends by itself, so that a killed one blocks nobody.
  discovery_lease uuid,
  discovery_lease_until timestamptz,
  revision integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz
);
create unique index servers_slug_key on servers (slug_key) where deleted_at is null;
create index servers_discovery_due on servers (discovery_attempted_at nulls first) where deleted_at is null;

create table definitions (
  id uuid primary key,
  server_id uuid not null references servers,
  kind text not null check (kind in ('tool', 'prompt', 'resource', 'resourceTemplate')),
  name text not null,
  -- Of the objects seen last, the one of the newest protocol revision first: an upstream of two eras may word one
  -- definition in two ways. `approved_digests` holds what may be served.
  digests text[] not null check (cardinality(digests) > 0),
  state text not null check (state in ('approved', 'pending', 'drifted', 'quarantined')),
  approved_digests text[] not null default '{}',
  first_seen_at timestamptz not null,
  last_seen_at timestamptz not null,
  removed_at timestamptz,
  revision integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint approved_is_what_was_seen check (state <> 'approved' or digests <@ approved_digests)
);
-- By hash: a resource's URI may be longer than an entry of an index can be.
create unique index definitions_name on definitions (server_id, kind, md5(name));
create index definitions_by_server on definitions (server_id, id);

-- The objects exactly as the upstream sent them, for as long as a definition shows or approves them: a drift is shown
-- against what was approved, also when the upstream has moved on. Canonical JSON as text, since jsonb refuses NUL.
create table definition_bodies (
  server_id uuid not null references servers,
  digest text not null,
  raw text not null,
  created_at timestamptz not null default now(),
  primary key (server_id, digest)
);

create table server_health (
  server_id uuid not null references servers,
  -- 'controlPlane' or the id of a node.
  observer text not null,
  state text not null check (state in ('healthy', 'unhealthy')),
  observed_at timestamptz not null,
  latency_ms double precision,
  -- A code of the error catalogue, never the upstream's text.
  problem text,
  primary key (server_id, observer)
);
