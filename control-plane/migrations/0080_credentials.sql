-- How the gateway proves itself to a server. What is published to nodes is the mode and the revision alone.
alter table servers
  add column credential_mode text not null default 'none' check (credential_mode in
    ('none', 'staticHeaders', 'clientCredentials', 'userOAuth', 'tokenExchange', 'identityAssertion', 'identityToken')),
  add column credential_revision integer not null default 0;

-- What a server is called with on behalf of everybody. Destroyed, never soft-deleted.
create table server_credentials (
  id uuid primary key,
  server_id uuid not null unique references servers,
  mode text not null check (mode <> 'none'),
  -- What may be shown: names of headers, ids of clients, addresses.
  settings jsonb not null,
  -- Where it may be sent: of the server's URL when it was set.
  origin text not null,
  -- The secret, by a data key of its own, and that key as the key-encryption key wrapped it. Null: the mode needs none.
  sealed text,
  wrapped_key text,
  key_id text,
  created_at timestamptz not null,
  rotated_at timestamptz not null,
  check ((sealed is null) = (wrapped_key is null) and (sealed is null) = (key_id is null))
);
create index server_credentials_by_key on server_credentials (key_id, id);
