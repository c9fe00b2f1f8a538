-- What an API key opens may be less than what its holder may do. Null: no limit of that kind.
alter table api_keys drop constraint api_keys_scopes_check;
alter table api_keys add constraint api_keys_scopes_check
  check (cardinality(scopes) > 0 and scopes <@ array['mcp', 'api', 'apiRead']);
alter table api_keys add column permissions text[] check (cardinality(permissions) > 0);
alter table api_keys add column server_ids uuid[] check (cardinality(server_ids) > 0);
alter table api_keys add column server_labels jsonb check (server_labels is null or
  (jsonb_typeof(server_labels) = 'object' and server_labels <> '{}'
    and not jsonb_path_exists(server_labels, '$.* ? (@.type() != "string")')));
alter table api_keys add constraint limited_to_servers_one_way check (server_ids is null or server_labels is null);
-- CIDRs from which it may be used.
alter table api_keys add column networks text[] check (cardinality(networks) > 0);
-- The principal that made it: it may know the key. Null for the first key, which the bootstrap made.
alter table api_keys add column issued_by uuid references principals;
