-- A month by server is some thousand sums of days; among all the others of hours and targets each of them lay on a page of
-- its own, and PostgreSQL thought so many of them that it read the table whole. So each kind has a table of its own.
-- And it is one row whatever the outcome (outcome '') where it was one for each: all that is told of outcomes are two
-- counts. Its duration and sketch are those of forwarded calls. Rows by outcome, which were written before, have no such
-- counts. Copying takes some minutes for ten million sums; what nodes count meanwhile waits in the queue, for a quarter of
-- an hour.
alter table traffic_rollups rename to traffic_rollups_before;
alter table traffic_rollups_before rename constraint traffic_rollups_pkey to traffic_rollups_before_pkey;
drop index traffic_rollups_by_server;
drop index traffic_rollups_by_target;
create table traffic_rollups (
  -- Of a server as a whole; else of one target of it.
  whole boolean not null,
  unit text not null,
  start timestamptz not null,
  server_id text not null,
  server_slug text not null,
  target_kind text not null default '',
  target_name text not null default '',
  outcome text not null,
  calls bigint not null,
  refused bigint,
  succeeded bigint,
  duration_ms_sum double precision not null,
  sketch text not null,
  primary key (unit, whole, start, server_id, target_kind, target_name, outcome)
) partition by list (whole);
create table traffic_of_servers partition of traffic_rollups for values in (true) partition by list (unit);
create table traffic_of_servers_by_hour partition of traffic_of_servers for values in ('hour');
create table traffic_of_servers_by_day partition of traffic_of_servers for values in ('day');
create table traffic_of_targets partition of traffic_rollups for values in (false) partition by list (unit);
create table traffic_of_targets_by_hour partition of traffic_of_targets for values in ('hour');
create table traffic_of_targets_by_day partition of traffic_of_targets for values in ('day');
insert into traffic_rollups (unit, whole, start, server_id, server_slug, target_kind, target_name, outcome, calls,
  duration_ms_sum, sketch)
select unit, whole, start, server_id, server_slug, target_kind, target_name, outcome, calls, duration_ms_sum, sketch
from traffic_rollups_before order by start;
drop table traffic_rollups_before;
create index traffic_rollups_by_server on traffic_rollups (server_id, start);
create index traffic_of_targets_by_target on traffic_of_targets (target_name, start);
-- Nothing else would look at the whole, and at the parts not before they are written to.
analyze traffic_rollups;
