-- Where users come back to from an authorization server, as the gateway registered itself there: under another public URL it is
-- another client. Null in rows of before, which are taken for registered under the one that is set.
alter table upstream_clients add column redirect_uri text;
alter table upstream_clients drop constraint upstream_clients_issuer_key;
create unique index upstream_clients_by_redirect on upstream_clients (issuer, redirect_uri) nulls not distinct;
