-- For which server something was allowed, by id: a slug can be given to another one. Null: there was none.
alter table oauth_consents add column server_id uuid references servers;
update oauth_consents c set server_id = s.id from servers s
  where s.deleted_at is null and s.slug = regexp_replace(c.resource, '^.*/mcp/', '');
create index oauth_consents_by_server on oauth_consents (server_id) where server_id is not null;

-- Of grants alone; the resource is null until the grant is bound.
alter table oauth_objects add column resource text;
alter table oauth_objects add column server_id uuid references servers;
create index oauth_objects_by_server on oauth_objects (server_id) where server_id is not null;
-- Which server they were for is in no row: whoever holds one logs in again.
delete from oauth_objects where model in ('Grant', 'RefreshToken', 'AuthorizationCode');
