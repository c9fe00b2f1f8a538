-- With whose account a server is looked at that wants one.
alter table servers add column discovered_as uuid references principals;

-- How the gateway is known to an authorization server of upstreams that it registered itself at.
create table upstream_clients (
  id uuid primary key,
  issuer text not null unique,
  client_id text not null,
  authentication text not null,
  sealed text,
  wrapped_key text,
  key_id text,
  created_at timestamptz not null
);

-- A user's account at an upstream: what the gateway may do there in his name.
create table connections (
  id uuid primary key,
  principal_id uuid not null references principals,
  server_id uuid not null references servers,
  issuer text not null,
  resource text not null,
  client_id text not null,
  -- Where its tokens may be sent.
  origin text not null,
  scopes text[] not null,
  -- Scopes that a server asked for beyond those.
  wanted_scopes text[] not null default '{}',
  -- `ended` waits to be revoked at the authorization server, and is destroyed then.
  status text not null check (status in ('active', 'reauthRequired', 'ended')),
  reason text,
  -- Raised by each refresh.
  token_revision integer not null default 1,
  access_expires_at timestamptz,
  access_issued_at timestamptz not null,
  can_refresh boolean not null,
  sealed text,
  wrapped_key text,
  key_id text,
  -- A refresh under way: who does it until when, and since when the request may have left.
  refresh_id uuid,
  refresh_lease_until timestamptz,
  refresh_sent_at timestamptz,
  -- After a refresh that did not come about: not before.
  refresh_not_before timestamptz,
  revoke_attempts integer not null default 0,
  revoke_not_before timestamptz,
  created_at timestamptz not null,
  updated_at timestamptz not null
);
create unique index connections_live on connections (principal_id, server_id) where status <> 'ended';
create index connections_by_server on connections (server_id);
create index connections_ended on connections (revoke_not_before) where status = 'ended';
create index connections_by_key on connections (key_id, id);

-- Users who are at an authorization server just now. The state by its SHA-256, the verifier sealed.
create table connect_attempts (
  state_hash char(64) primary key,
  principal_id uuid not null references principals,
  server_id uuid not null references servers,
  browser_hash char(64) not null,
  issuer text not null,
  resource text not null,
  client_id text not null,
  scopes text[] not null,
  sealed text not null,
  expires_at timestamptz not null
);
create index connect_attempts_by_expiry on connect_attempts (expires_at);
