-- Who is asked about messages outside of the gateway.
create table webhooks (
  id uuid primary key,
  name text not null,
  description text not null default '',
  url text not null,
  mode text not null check (mode in ('enforce', 'shadow', 'off')),
  events text[] not null check (cardinality(events) > 0),
  fail_mode text not null check (fail_mode in ('closed', 'open')),
  content text not null check (content in ('full', 'redacted', 'digest')),
  deadline_ms integer not null check (deadline_ms > 0),
  payload_bytes_max integer not null check (payload_bytes_max > 0),
  -- JSON pointers at or below which it may change messages.
  mutable_paths text[] not null default '{}',
  algorithm text not null check (algorithm in ('hmac', 'ed25519')),
  -- The newest first: id, the sealed key, the public key where there is one, when it was made, and when it ends.
  signing_keys jsonb not null,
  revision integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz
);
create index webhooks_by_text on webhooks using gin ((lower(name || ' ' || description)) gin_trgm_ops)
  where deleted_at is null;

-- Webhooks asked about what the rules let through, in order, and for how long all of them together.
alter table policies
  add column webhook_ids uuid[] not null default '{}',
  add column webhook_budget_ms integer check (webhook_budget_ms > 0);
