-- Which messages of exchanges a policy keeps, for how long, and how much; null for none.
alter table policies add column capture jsonb;

-- Which policies keep the messages of an exchange: {"request": id or null, "response": id or null}; null where none does.
alter table audit_events add column capture jsonb;

-- What nodes seal payloads to. The private half is sealed like a credential: its data key is wrapped by the
-- key-encryption key. A key is kept until nothing that is sealed to it can come any more.
create table payload_keys (
  id uuid primary key,
  -- X25519, SPKI DER in base64.
  public_key text not null,
  sealed text not null,
  wrapped_key text not null,
  key_id text not null,
  created_at timestamptz not null,
  -- Another one took over.
  retired_at timestamptz
);
create unique index payload_keys_in_use on payload_keys ((true)) where retired_at is null;
create index payload_keys_by_key on payload_keys (key_id);

-- How far the payload spools of nodes are stored; see audit_epochs.
create table payload_epochs (
  node_id text not null,
  epoch text not null,
  shipped_by text not null,
  watermark bigint not null default 0,
  opened_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  ended_at timestamptz,
  primary key (node_id, epoch)
);
create index payload_epochs_by_shipper on payload_epochs (shipped_by, opened_at);

-- Captured messages, one row for each direction of an exchange, apart from its audit event.
create table payloads (
  event_id text not null,
  direction text not null check (direction in ('request', 'response')),
  -- Of the spool it came from; with the epoch it is that of the event.
  node_id text not null,
  -- Of the event.
  time timestamptz not null,
  policy_id text not null,
  server_id text not null,
  principal_id text not null,
  method text,
  target_kind text,
  target_name text,
  state text not null check (state in ('stored', 'omitted', 'erased')),
  omission text,
  messages integer not null,
  messages_omitted integer not null,
  bytes bigint not null,
  redactions integer not null,
  payload_key_id text,
  -- The data key, sealed to the payload key; and the messages, sealed with the data key.
  wrapped_key text,
  content text,
  stored_at timestamptz not null default now(),
  expires_at timestamptz not null,
  primary key (event_id, direction, node_id),
  check ((state = 'stored') = (content is not null)),
  check ((content is null) = (wrapped_key is null) and (content is null) = (payload_key_id is null))
);
create index payloads_by_time on payloads (time desc, event_id desc, direction desc);
create index payloads_by_policy on payloads (policy_id, time desc);
create index payloads_by_principal on payloads (principal_id, time desc);
create index payloads_by_server on payloads (server_id, time desc);
create index payloads_by_expiry on payloads (expires_at);
create index payloads_by_key on payloads (payload_key_id) where payload_key_id is not null;

-- What was asked to be erased: of it nothing is stored that comes later and is older. All that is said must fit.
create table payload_erasures (
  id uuid primary key,
  event_ids text[],
  principal_id text,
  policy_id text,
  server_id text,
  time_from timestamptz,
  -- Exclusive.
  time_to timestamptz not null,
  created_at timestamptz not null
);
