-- Exchanges of which something was captured are few among all: trials of policies look for the newest of them.
create index audit_events_captured on audit_events (time desc, id desc) where capture is not null;
