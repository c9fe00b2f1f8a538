-- Where an identity provider pushes users and groups to by SCIM 2.0 (RFC 7643, RFC 7644).
create table scim_directories (
  id uuid primary key,
  name text not null,
  -- Of the identity provider, as in `iss` of its tokens: who is provisioned here logs in there.
  issuer text not null,
  revision integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz
);
create unique index scim_directories_name on scim_directories (name) where deleted_at is null;
create unique index scim_directories_issuer on scim_directories (issuer) where deleted_at is null;

create table scim_tokens (
  id uuid primary key,
  directory_id uuid not null references scim_directories,
  name text not null,
  -- SHA-256 of the whole token, hex. The token itself is never stored.
  hash char(64) not null unique,
  hint text not null,
  expires_at timestamptz not null,
  revoked_at timestamptz,
  last_used_at timestamptz,
  successor_of uuid references scim_tokens,
  revision integer not null default 1,
  created_at timestamptz not null default now()
);
create index scim_tokens_by_directory on scim_tokens (directory_id);

-- Set: the directory says who it is and what it is called; locally it can only be disabled.
alter table principals add column directory_id uuid references scim_directories;
alter table groups add column directory_id uuid references scim_directories;

-- A directory may delete a person and make the same one anew: a deleted user gives its identity free.
alter table principals drop constraint principals_issuer_subject_key;
create unique index principals_issuer_subject on principals (issuer, subject) where deleted_at is null;

create table scim_users (
  principal_id uuid primary key references principals,
  directory_id uuid not null references scim_directories,
  user_name text not null,
  external_id text,
  -- What the directory says; the principal may be disabled locally all the same.
  active boolean not null,
  -- All other attributes, as the directory wrote them.
  attributes jsonb not null
);
create unique index scim_users_user_name on scim_users (directory_id, lower(user_name));
create unique index scim_users_external_id on scim_users (directory_id, external_id) where external_id is not null;

create table scim_groups (
  group_id uuid primary key references groups,
  directory_id uuid not null references scim_directories,
  external_id text
);
create unique index scim_groups_external_id on scim_groups (directory_id, external_id) where external_id is not null;
