-- Since which revision of a server's credential nothing but its secrets changed. A node that still runs one of those may be
-- lent what is stored now.
alter table servers add column credential_steady_since integer not null default 0;
update servers set credential_steady_since = credential_revision;
