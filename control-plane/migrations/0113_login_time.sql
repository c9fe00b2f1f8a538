-- When the user logged in at the identity provider, by its word, in seconds since the epoch. A login there that is older
-- than the browser's coming here is no fresher for that (RFC 9470).
alter table login_attempts add column authenticated_at bigint;
