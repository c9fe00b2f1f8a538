-- Filters of auditEvents by what only few events have, or none, would look through the whole trail for them.
create index audit_events_by_node on audit_events (node_id, time, id);
create index audit_events_by_slug on audit_events (server_slug, time, id);
