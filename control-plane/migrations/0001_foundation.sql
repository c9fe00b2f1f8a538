-- The row that every transaction updates whose outcome nodes must know. Not a sequence: commit order is not number order.
create table config_generation (
  id integer primary key default 1 check (id = 1),
  generation bigint not null default 0
);
insert into config_generation default values;

create table settings (
  key text primary key,
  value jsonb not null,
  updated_at timestamptz not null default now()
);

create table principals (
  id uuid primary key,
  kind text not null check (kind in ('user', 'serviceAccount')),
  name text not null,
  description text not null default '',
  status text not null default 'active' check (status in ('active', 'disabled')),
  epoch integer not null default 0,
  expires_at timestamptz,
  issuer text,
  subject text,
  email text,
  owner_id uuid references principals,
  revision integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz,
  unique (issuer, subject),
  constraint user_has_issuer_and_subject check (kind <> 'user' or (issuer is not null and subject is not null)),
  constraint service_account_has_owner_and_expiry
    check (kind <> 'serviceAccount' or (owner_id is not null and expires_at is not null))
);
create index principals_by_kind on principals (kind, id) where deleted_at is null;
create index principals_by_owner on principals (owner_id) where owner_id is not null;

create table groups (
  id uuid primary key,
  name text not null,
  description text not null default '',
  revision integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz
);
-- A deleted group stays for the audit trail and gives its name free.
create unique index groups_name on groups (name) where deleted_at is null;

create table group_members (
  group_id uuid not null references groups,
  principal_id uuid not null references principals,
  created_at timestamptz not null default now(),
  primary key (group_id, principal_id)
);
create index group_members_by_principal on group_members (principal_id);

create table api_keys (
  id uuid primary key,
  principal_id uuid not null references principals,
  name text not null,
  -- SHA-256 of the whole key, hex. The key itself is never stored.
  hash char(64) not null unique,
  -- First characters of the key, to recognize it by.
  hint text not null,
  scopes text[] not null check (cardinality(scopes) > 0 and scopes <@ array['mcp', 'api']),
  expires_at timestamptz not null,
  revoked_at timestamptz,
  last_used_at timestamptz,
  successor_of uuid references api_keys,
  revision integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index api_keys_by_principal on api_keys (principal_id);

create table role_bindings (
  id uuid primary key,
  principal_id uuid not null references principals,
  role text not null check (role in ('owner', 'admin', 'editor', 'auditor', 'viewer', 'member')),
  created_at timestamptz not null default now(),
  unique (principal_id, role)
);

-- Answers a repeated create with the object it made the first time.
create table idempotency_keys (
  actor_id uuid not null,
  operation text not null,
  key text not null,
  input_digest char(64) not null,
  object_id uuid not null,
  created_at timestamptz not null default now(),
  primary key (actor_id, operation, key)
);
create index idempotency_keys_by_age on idempotency_keys (created_at);
