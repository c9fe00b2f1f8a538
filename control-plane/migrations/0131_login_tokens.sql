-- What an identity provider gave at a login, kept sealed where some server is called with it. It ends with the login.
create table login_tokens (
  id uuid primary key,
  login_id uuid not null unique references identity_provider_logins on delete cascade,
  principal_id uuid not null references principals,
  identity_provider_id uuid not null,
  -- Of the principal when he logged in: once it is another, this is void.
  epoch integer not null,
  -- Our client at the provider, to whom the tokens were given, and the user there.
  client_id text not null,
  subject text not null,
  id_token_expires_at timestamptz not null,
  can_refresh boolean not null,
  sealed text not null,
  wrapped_key text not null,
  key_id text not null,
  -- Raised by each refresh. One under way: since when the request may have left.
  revision integer not null default 1,
  refresh_sent_at timestamptz,
  created_at timestamptz not null,
  -- Whatever happens.
  ends_at timestamptz not null
);
create index login_tokens_by_principal on login_tokens (principal_id, created_at desc);
create index login_tokens_by_end on login_tokens (ends_at);
create index login_tokens_by_key on login_tokens (key_id, id);
