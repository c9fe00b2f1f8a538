create table grants (
  id uuid primary key,
  name text not null,
  subject_kind text not null check (subject_kind in ('user', 'group', 'serviceAccount', 'everyone')),
  subject_principal_id uuid references principals,
  subject_group_id uuid references groups,
  server_id uuid not null references servers,
  effect text not null check (effect in ('allow', 'deny')),
  tools text[] not null default '{}',
  prompts text[] not null default '{}',
  resources text[] not null default '{}',
  not_before timestamptz,
  -- Exclusive.
  not_after timestamptz,
  source text not null default 'static',
  reason text not null default '',
  revision integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz,
  constraint subject_fits_its_kind check (
    case subject_kind
      when 'everyone' then subject_principal_id is null and subject_group_id is null
      when 'group' then subject_principal_id is null and subject_group_id is not null
      else subject_principal_id is not null and subject_group_id is null
    end
  ),
  constraint selects_something check (cardinality(tools) + cardinality(prompts) + cardinality(resources) > 0),
  constraint window_in_order check (not_before < not_after)
);
create index grants_by_server on grants (server_id) where deleted_at is null;
create index grants_by_principal on grants (subject_principal_id) where deleted_at is null;
create index grants_by_group on grants (subject_group_id) where deleted_at is null;
