-- What a server says that it is, where that is more than a name and a version, is pinned like its instructions.
alter table definitions drop constraint definitions_kind_check;
alter table definitions add constraint definitions_kind_check
  check (kind in ('tool', 'prompt', 'resource', 'resourceTemplate', 'instructions', 'view', 'serverInfo'));
