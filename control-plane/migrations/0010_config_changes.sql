-- What each generation of the configuration changed, so that a compile need not look through everything. A generation
-- without a row, or with `everything`, has it looked through all the same. Old rows are removed.
create table config_changes (
  generation bigint primary key,
  everything boolean not null,
  server_ids uuid[] not null,
  principal_ids uuid[] not null
);

-- One shard of principals is read without looking at the others (schema/src/snapshot.ts, principalShard).
create index principals_by_shard on principals (get_byte(sha256(decode(id::text, 'escape')), 0));
create index api_keys_by_shard on api_keys (get_byte(sha256(decode(principal_id::text, 'escape')), 0));
create index group_members_by_shard on group_members (get_byte(sha256(decode(principal_id::text, 'escape')), 0));
