-- What an upstream was called with: the stored secret or the connected account, never the secret itself.
alter table audit_events add column credential_id text;
alter table audit_events add column credential_mode text;
alter table audit_events add column credential_issuer text;
