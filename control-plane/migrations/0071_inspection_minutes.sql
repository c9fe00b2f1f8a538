-- What detectors and policies did, by the minute. `decision` and `mode` are empty for the looks of a detector themselves.
create table inspection_minutes (
  minute timestamptz not null,
  server_id text not null,
  server_slug text not null,
  detector text not null,
  decision text not null,
  mode text not null,
  count bigint not null,
  duration_ms_sum double precision not null,
  primary key (minute, server_id, detector, decision, mode)
);
