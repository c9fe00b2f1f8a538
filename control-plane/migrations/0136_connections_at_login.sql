-- Where a user goes on to who connects an account while he logs in: the interaction of that login.
alter table connect_attempts add column interaction_id text;

-- Clients of servers that went, moved or got another one, by which tokens of theirs are still to be revoked. A row is
-- moved here as it was, which its secret is bound to, and destroyed with the last connection that needs it.
create table retired_credentials (
  id uuid primary key,
  server_id uuid not null references servers,
  mode text not null check (mode <> 'none'),
  settings jsonb not null,
  origin text not null,
  sealed text,
  wrapped_key text,
  key_id text,
  created_at timestamptz not null,
  rotated_at timestamptz not null
);
create index retired_credentials_by_server on retired_credentials (server_id);
