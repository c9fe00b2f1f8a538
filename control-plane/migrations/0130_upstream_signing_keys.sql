-- Keys that sign what the gateway says toward upstreams: who it is, and who calls. Nodes know none of them, so that nothing
-- signed with one is ever a token for a node.
create table upstream_signing_keys (
  -- The `kid`.
  id uuid primary key,
  -- The public part, P-256.
  x text not null,
  y text not null,
  use text not null check (use in ('publish', 'sign')),
  sealed text not null,
  wrapped_key text not null,
  key_id text not null,
  created_at timestamptz not null,
  signing_since timestamptz,
  -- When it is forgotten; null while it may still sign.
  retires_at timestamptz
);
create unique index upstream_signing_keys_one_signs on upstream_signing_keys (use) where use = 'sign';
create unique index upstream_signing_keys_one_waits on upstream_signing_keys (use)
  where use = 'publish' and retires_at is null;
