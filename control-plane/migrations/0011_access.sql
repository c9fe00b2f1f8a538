-- A grant is about one server, or about all servers that carry some labels.
alter table grants alter column server_id drop not null;
alter table grants add column server_labels jsonb;
alter table grants add constraint aims_at_one_thing check ((server_id is null) <> (server_labels is null));
-- An empty selector would be read as every server by somebody, one day.
alter table grants add constraint labels_select_something
  check (server_labels is null or (jsonb_typeof(server_labels) = 'object' and server_labels <> '{}'));

alter table grants drop constraint grants_effect_check;
alter table grants add constraint grants_effect_check check (effect in ('allow', 'deny', 'requireApproval'));
alter table grants add column mode text not null default 'enforce' check (mode in ('enforce', 'shadow'));
alter table grants add column limits jsonb;
alter table grants add column when_condition text;
alter table grants add column when_arguments text;
alter table grants add column config_staleness_max_ms bigint check (config_staleness_max_ms > 0);
create index grants_by_labels on grants (id) where server_labels is not null and deleted_at is null;

-- What an administrator says of a tool; null where nobody has judged it.
alter table definitions add column risk text check (risk in ('low', 'medium', 'high', 'critical'));
alter table definitions add column read_only boolean;
alter table definitions add column destructive boolean;
alter table definitions add column idempotent boolean;
alter table definitions add column open_world boolean;

-- What the decision would have been with matching shadow grants in force: {"effect": …, "grantIds": […]}.
alter table audit_events add column shadow jsonb;
