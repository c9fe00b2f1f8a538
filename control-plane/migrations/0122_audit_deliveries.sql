-- Audit events that are sent to webhooks: how far each has got, and what is under way.
create table audit_deliveries (
  webhook_id uuid primary key references webhooks,
  -- Who had it told of audit events last: it is told nothing that this one may not read.
  reader_id uuid not null references principals,
  state text not null default 'active' check (state in ('active', 'stopped')),
  -- What is sent until it is taken: {"id", "at", "parts": [{"nodeId", "epoch", "after", "upTo"}]}.
  batch jsonb,
  events_delivered bigint not null default 0,
  delivered_at timestamptz,
  -- Of the failures since the last success.
  attempts integer not null default 0,
  failing_since timestamptz,
  failure text,
  next_attempt_at timestamptz not null default now(),
  -- One process at a time.
  lease uuid,
  lease_until timestamptz
);

-- The last line of each chain that was taken; a chain without a row begins at its first.
create table audit_delivery_cursors (
  webhook_id uuid not null references audit_deliveries on delete cascade,
  node_id text not null,
  epoch text not null,
  sequence bigint not null,
  moved_at timestamptz not null default now(),
  primary key (webhook_id, node_id, epoch)
);
