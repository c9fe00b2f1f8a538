-- What was seen in a definition when it was scanned, and by which version of the scan; null: not scanned yet.
alter table definition_bodies
  add column findings jsonb,
  add column scan_version integer;
