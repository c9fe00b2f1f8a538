-- Sums of traffic_minutes by the hour and the day (UTC), for each target and for each server as a whole, so that a range
-- of days is not read by the minute.
create table traffic_rollups (
  unit text not null check (unit in ('hour', 'day')),
  -- Of a server as a whole; else of one target of it.
  whole boolean not null,
  start timestamptz not null,
  server_id text not null,
  server_slug text not null,
  target_kind text not null default '',
  target_name text not null default '',
  outcome text not null,
  calls bigint not null,
  duration_ms_sum double precision not null,
  sketch text not null,
  primary key (unit, whole, start, server_id, target_kind, target_name, outcome)
);
create index traffic_rollups_by_server on traffic_rollups (unit, whole, server_id, start);
create index traffic_minutes_by_server on traffic_minutes (server_id, minute);
-- From when on the sums are whole. What was counted before is in the minutes alone, and processes of the version before
-- may go on for a while; so it is the day after tomorrow where anything was counted.
create table traffic_rollups_since (
  one boolean primary key default true check (one),
  start timestamptz not null
);
insert into traffic_rollups_since (start)
select case
  when exists (select 1 from traffic_minutes) then date_trunc('day', now(), 'UTC') + interval '2 days'
  else '-infinity'::timestamptz
end;
