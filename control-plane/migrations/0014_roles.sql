-- Custom roles beside the built-in ones.
create table roles (
  id uuid primary key,
  name text not null,
  description text not null default '',
  permissions text[] not null check (cardinality(permissions) > 0),
  revision integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz
);
create unique index roles_name on roles (lower(name)) where deleted_at is null;

-- A binding gives a built-in or a custom role to a principal or a group, everywhere or on servers with some labels.
alter table role_bindings alter column principal_id drop not null;
alter table role_bindings alter column role drop not null;
alter table role_bindings add column group_id uuid references groups;
alter table role_bindings add column role_id uuid references roles;
alter table role_bindings add column server_labels jsonb;
alter table role_bindings drop constraint role_bindings_principal_id_role_key;
alter table role_bindings add constraint binds_one_subject check ((principal_id is null) <> (group_id is null));
alter table role_bindings add constraint binds_one_role check ((role is null) <> (role_id is null));
-- An empty selector would be read as every server by somebody, one day.
alter table role_bindings add constraint labels_limit_something check (server_labels is null or
  (jsonb_typeof(server_labels) = 'object' and server_labels <> '{}'
    and not jsonb_path_exists(server_labels, '$.* ? (@.type() != "string")')));
-- Two people assign these; whoever may edit a group or a label must not be able to.
alter table role_bindings add constraint guarded_roles_are_bound_directly
  check (role is null or role not in ('owner', 'auditor') or (principal_id is not null and server_labels is null));
create unique index role_bindings_once on role_bindings (principal_id, group_id, role, role_id, server_labels)
  nulls not distinct;
create index role_bindings_by_group on role_bindings (group_id) where group_id is not null;
create index role_bindings_by_role on role_bindings (role_id) where role_id is not null;

-- What one person proposed and another has to confirm.
create table role_proposals (
  id uuid primary key,
  principal_id uuid not null references principals,
  role text not null check (role in ('owner', 'auditor')),
  reason text not null default '',
  state text not null default 'open' check (state in ('open', 'confirmed', 'cancelled')),
  proposed_by uuid not null references principals,
  decided_by uuid references principals,
  expires_at timestamptz not null,
  decided_at timestamptz,
  revision integer not null default 1,
  created_at timestamptz not null default now(),
  constraint decided_by_somebody check ((state = 'open') = (decided_at is null))
);
create unique index role_proposals_open on role_proposals (principal_id, role) where state = 'open';

-- Members of this group may have the permission to write their own servers.
alter table servers add column owner_group_id uuid references groups;
create index servers_by_owner_group on servers (owner_group_id) where owner_group_id is not null;
