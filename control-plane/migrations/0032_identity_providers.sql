-- Identity providers that users log in with, by OpenID Connect.
create table identity_providers (
  id uuid primary key,
  name text not null,
  issuer text not null,
  client_id text not null,
  -- With SALLYPORT_SECRET_KEY; null for a public client.
  sealed_client_secret text,
  scopes text[] not null,
  -- The claim that identifies a user for good: `sub`, or `oid` at Entra.
  subject_claim text not null,
  groups_claim text,
  -- Where groups are read when a token does not hold them all; `{subject}` stands for the user.
  groups_url text,
  groups_url_scope text,
  group_rules jsonb not null default '[]',
  -- Claims that a token must have, such as `tid` at Entra.
  required_claims jsonb not null default '{}',
  -- A login must be of one of these; none: of any.
  acr_values text[] not null default '{}',
  creates_users boolean not null default true,
  accepts_assertions boolean not null default false,
  enabled boolean not null default true,
  revision integer not null default 1,
  created_at timestamptz not null,
  updated_at timestamptz not null,
  deleted_at timestamptz
);
create unique index identity_providers_name on identity_providers (name) where deleted_at is null;
create unique index identity_providers_issuer on identity_providers (issuer) where deleted_at is null;

-- Set: who belongs to the group is what the claims of the provider say.
alter table groups add column identity_provider_id uuid references identity_providers;
create index groups_by_identity_provider on groups (identity_provider_id) where identity_provider_id is not null;

-- Logins at providers, so that a logout there ends what came of them here.
create table identity_provider_logins (
  id uuid primary key,
  identity_provider_id uuid not null references identity_providers,
  principal_id uuid not null references principals,
  -- `sub` and `sid` of the ID token.
  subject text not null,
  session_id text,
  created_at timestamptz not null,
  ended_at timestamptz
);
create index identity_provider_logins_live on identity_provider_logins (identity_provider_id, subject) where ended_at is null;

-- Logins under way: state, cookie and ticket by their SHA-256, verifier and nonce sealed.
create table login_attempts (
  state_hash char(64) primary key,
  identity_provider_id uuid not null references identity_providers,
  interaction text not null,
  browser_hash char(64) not null,
  sealed text not null,
  returned_at timestamptz,
  ticket_hash char(64) unique,
  principal_id uuid references principals,
  login_id uuid references identity_provider_logins,
  acr text,
  expires_at timestamptz not null
);
create index login_attempts_by_expiry on login_attempts (expires_at);

-- Tokens of providers that may be used once: logout tokens and identity assertions.
create table used_provider_tokens (
  identity_provider_id uuid not null references identity_providers,
  token_hash char(64) not null,
  expires_at timestamptz not null,
  primary key (identity_provider_id, token_hash)
);
