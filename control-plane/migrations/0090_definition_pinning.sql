-- Instructions are pinned like tools: a definition of their own kind.
alter table definitions drop constraint definitions_kind_check;
alter table definitions add constraint definitions_kind_check
  check (kind in ('tool', 'prompt', 'resource', 'resourceTemplate', 'instructions'));

alter table definitions
  -- What nodes saw besides what discovery sees, since lists may vary by who asks, until somebody decides on it.
  add column reported_digests text[] not null default '{}',
  -- False: only nodes ever saw it, so that a discovery which does not is no news.
  add column discovered boolean not null default true;

alter table definitions drop constraint approved_is_what_was_seen;
alter table definitions add constraint approved_is_what_was_seen
  check (state <> 'approved' or (digests || reported_digests) <@ approved_digests);
