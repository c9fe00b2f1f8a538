-- What the authorization server keeps: browser sessions, logins and consents under way, codes, refresh tokens. The name
-- is the SHA-256 of the token, code or cookie and the content is sealed: a copy of the database opens nothing.
create table oauth_objects (
  model text not null,
  hash char(64) not null,
  sealed text not null,
  uid text,
  -- All that came from one authorization.
  family text,
  principal_id uuid references principals,
  -- Of the principal when it was made: void where the principal has another by now.
  epoch integer,
  client_id text,
  -- The login at an identity provider behind it.
  login_id uuid,
  consumed_at timestamptz,
  expires_at timestamptz not null,
  created_at timestamptz not null,
  primary key (model, hash)
);
create index oauth_objects_by_family on oauth_objects (family) where family is not null;
create index oauth_objects_by_principal on oauth_objects (principal_id, client_id) where principal_id is not null;
create index oauth_objects_by_login on oauth_objects (login_id) where login_id is not null;
create index oauth_objects_by_uid on oauth_objects (model, uid) where uid is not null;
create index oauth_objects_by_expiry on oauth_objects (expires_at);

-- Clients that an administrator registered, and those that registered themselves. Clients that are named by the URL of
-- their metadata document have no row.
create table oauth_clients (
  id text primary key,
  source text not null check (source in ('administrator', 'dynamic')),
  name text not null,
  -- The service account it acts as by itself.
  service_account_id uuid references principals,
  redirect_uris text[] not null default '{}',
  authentication text not null check (authentication in ('none', 'secret', 'secretPost', 'privateKeyJwt')),
  secret_hash char(64),
  jwks jsonb,
  -- Raised to void the access tokens it got by itself.
  generation integer not null default 0,
  revision integer not null default 1,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  last_used_at timestamptz,
  deleted_at timestamptz,
  constraint authenticates_with_what_it_has check (
    (authentication in ('secret', 'secretPost')) = (secret_hash is not null)
    and (authentication = 'privateKeyJwt') = (jwks is not null))
);
create index oauth_clients_by_service_account on oauth_clients (service_account_id) where deleted_at is null;
create index oauth_clients_unused on oauth_clients (created_at) where source = 'dynamic' and deleted_at is null;

create table oauth_consents (
  id uuid primary key,
  principal_id uuid not null references principals,
  client_id text not null,
  client_name text not null,
  redirect_uri text not null,
  resource text not null,
  scopes text[] not null,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  unique (principal_id, client_id, redirect_uri, resource)
);

-- A code that an administrator gives to a user, who logs in with it once.
create table login_codes (
  id uuid primary key,
  principal_id uuid not null references principals,
  hash char(64) not null unique,
  expires_at timestamptz not null,
  used_at timestamptz,
  created_at timestamptz not null
);
