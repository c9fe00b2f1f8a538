-- Keys that sign access tokens. They are published to nodes first, and sign after every live node acknowledged that.
create table oauth_signing_keys (
  id text primary key,
  -- Coordinates of the public key on P-256, base64url.
  x text not null,
  y text not null,
  -- PKCS #8, sealed with SALLYPORT_SECRET_KEY.
  sealed_private_key text not null,
  use text not null check (use in ('verify', 'sign')),
  created_at timestamptz not null,
  published_revision bigint,
  signing_since timestamptz,
  retires_at timestamptz
);
create unique index oauth_signing_keys_one_signs on oauth_signing_keys (use) where use = 'sign';

-- Tokens of one authorization that were revoked. Nodes are told for as long as an access token of it may live.
create table oauth_revoked_families (
  family text primary key,
  principal_id uuid not null references principals,
  revoked_at timestamptz not null,
  expires_at timestamptz not null
);
create index oauth_revoked_families_by_shard
  on oauth_revoked_families (get_byte(sha256(decode(principal_id::text, 'escape')), 0));
