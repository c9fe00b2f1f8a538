-- The key that signs histories and node keys. Its private half is sealed with SALLYPORT_SECRET_KEY.
create table fleet_keys (
  id uuid primary key,
  public_key text not null,
  sealed_private_key text not null,
  created_at timestamptz not null default now()
);

-- Lines of configurations; the youngest is the one in force. A new one begins after a restore from backup.
create table config_histories (
  id uuid primary key,
  started_at timestamptz not null,
  signature text not null,
  created_at timestamptz not null default now()
);

-- What each published configuration changed. The whole of the newest one stands in config_entries.
create table config_manifests (
  history_id uuid not null references config_histories,
  revision bigint not null check (revision > 0),
  hash char(64) not null,
  -- config_generation as the compile read it.
  generation bigint not null,
  changed jsonb not null,
  removed text[] not null,
  published_at timestamptz not null,
  primary key (history_id, revision)
);

create table config_documents (
  hash char(64) primary key,
  body text not null,
  -- Documents that hold secrets are sealed with SALLYPORT_SECRET_KEY.
  sealed boolean not null,
  created_at timestamptz not null default now()
);

create table config_entries (
  key text primary key,
  hash char(64) not null references config_documents
);

-- Objects left out of the published configuration, and why.
create table config_problems (
  object_kind text not null,
  object_id text not null,
  path text not null,
  message text not null,
  since timestamptz not null,
  primary key (object_kind, object_id, path)
);

create table join_tokens (
  id uuid primary key,
  name text not null,
  -- SHA-256 of the whole token, hex.
  hash char(64) not null unique,
  hint text not null,
  -- A node that joins must carry all of these.
  labels jsonb not null default '{}' check (jsonb_typeof(labels) = 'object'),
  -- Null: as often as wanted until it expires.
  uses_max integer check (uses_max > 0),
  uses integer not null default 0,
  expires_at timestamptz not null,
  revoked_at timestamptz,
  revision integer not null default 1,
  created_at timestamptz not null default now(),
  check (uses_max is null or uses <= uses_max)
);

create table nodes (
  id uuid primary key,
  name text not null,
  build text not null,
  labels jsonb not null default '{}',
  peer_url text,
  join_token_id uuid references join_tokens,
  -- What it last said it runs; kept when it restarts with nothing.
  applied_history_id uuid,
  applied_revision bigint,
  -- Of the last refusal (NACK) or failed hello; empty when it acknowledged since.
  problems jsonb not null default '[]',
  problems_revision bigint,
  spool_epochs text[] not null default '{}',
  load jsonb,
  -- Names one connection of one process, so that an older one cannot overwrite what a newer one reported.
  connection_id uuid,
  last_contact_at timestamptz,
  -- It said goodbye.
  left_at timestamptz,
  removed_at timestamptz,
  created_at timestamptz not null default now()
);
create index nodes_by_contact on nodes (last_contact_at) where removed_at is null;

-- Every key a node ever had: what it signed before stays verifiable.
create table node_keys (
  public_key text primary key,
  node_id uuid not null references nodes,
  created_at timestamptz not null,
  expires_at timestamptz not null,
  -- First use after it was registered; from then on the keys before it are no longer accepted.
  confirmed_at timestamptz,
  superseded_at timestamptz
);
create index node_keys_by_node on node_keys (node_id);

create table node_alarms (
  node_id uuid not null references nodes,
  code text not null,
  message text not null,
  occurrences integer not null default 1,
  first_at timestamptz not null,
  last_at timestamptz not null,
  primary key (node_id, code)
);

-- Keys that seal what nodes hand to clients; the secret is sealed with SALLYPORT_SECRET_KEY.
create table sealing_keys (
  id text primary key check (id ~ '^[A-Za-z0-9]{1,16}$'),
  sealed_secret text not null,
  use text not null check (use in ('open', 'seal')),
  created_at timestamptz not null,
  -- First revision that had it: it may seal when every live node has that one.
  published_revision bigint,
  sealing_since timestamptz,
  -- Set when another key took over; it opens until this has passed.
  retires_at timestamptz
);
create unique index sealing_keys_one_seals on sealing_keys (use) where use = 'seal';
