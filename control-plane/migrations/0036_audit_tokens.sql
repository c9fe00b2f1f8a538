-- By which access token a principal called, and which OAuth client used it.
alter table audit_events add column client_id text;
alter table audit_events add column token_id text;
