-- Lists that thousands of rows are found in: by words anywhere in their text, by labels, by state. A query uses an
-- index over an expression only where it repeats it letter for letter (`containsWords` is given it by the tables).
create extension if not exists pg_trgm;

create index servers_by_text on servers using gin ((lower(slug || ' ' || title || ' ' || description)) gin_trgm_ops)
  where deleted_at is null;
create index servers_by_label on servers using gin (labels jsonb_path_ops) where deleted_at is null;
create index servers_by_slug on servers (slug) where deleted_at is null;
create index servers_by_lifecycle on servers (lifecycle, id) where deleted_at is null;

create index grants_by_text on grants using gin ((lower(name || ' ' || reason)) gin_trgm_ops) where deleted_at is null;
create index grants_by_effect on grants (effect, id) where deleted_at is null;

create index groups_by_text on groups using gin ((lower(name || ' ' || description)) gin_trgm_ops)
  where deleted_at is null;

create index principals_by_text on principals
  using gin ((lower(name || ' ' || coalesce(email, '') || ' ' || description)) gin_trgm_ops) where deleted_at is null;

-- Of the audit trail, what is rare among the calls that went well; those are found by time, and pay for no index here.
create index audit_events_by_action on audit_events (action, time, id) where action is not null;
create index audit_events_besides_exchanges on audit_events (kind, time, id) where kind <> 'exchange';
create index audit_events_not_allowed on audit_events (decision_effect, time, id) where decision_effect <> 'allow';
create index audit_events_not_successful on audit_events (outcome, time, id) where outcome <> 'success';
-- Names by their beginning too.
drop index audit_events_by_target;
create index audit_events_by_target on audit_events (target_name text_pattern_ops, time, id);
