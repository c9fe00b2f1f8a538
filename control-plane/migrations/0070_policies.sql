-- What is inspected, and what is done about what is found.
create table policies (
  id uuid primary key,
  name text not null,
  description text not null default '',
  -- Lower decides first; of equal ones the older.
  position integer not null,
  mode text not null check (mode in ('enforce', 'shadow', 'off')),
  match jsonb not null,
  rules jsonb not null,
  inspected_length_max integer not null check (inspected_length_max > 0),
  on_too_large text not null check (on_too_large in ('block', 'allow')),
  revision integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  deleted_at timestamptz
);
create index policies_in_order on policies (position, id) where deleted_at is null;
create index policies_by_text on policies using gin ((lower(name || ' ' || description)) gin_trgm_ops)
  where deleted_at is null;

-- What a server may ask of clients; null for nothing.
alter table servers add column asks jsonb;

-- What policies and detectors said of an exchange's messages; never what they found.
alter table audit_events add column verdicts jsonb;
