-- What webhooks said of wordings of definitions: of each webhook the latest.
create table definition_verdicts (
  server_id uuid not null,
  digest text not null,
  -- One object may stand in lists of two kinds.
  kind text not null,
  webhook_id uuid not null references webhooks,
  -- Of the webhook when it was asked: what it was told before it was changed says nothing.
  webhook_revision integer not null,
  decision text not null check (decision in ('allow', 'deny', 'failure')),
  reason text not null,
  duration_ms double precision not null,
  asked_at timestamptz not null,
  primary key (server_id, digest, kind, webhook_id),
  foreign key (server_id, digest) references definition_bodies on delete cascade
);
create index definition_verdicts_by_webhook on definition_verdicts (webhook_id);
