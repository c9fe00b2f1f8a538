-- Pages of MCP Apps are pinned like what models read.
alter table definitions drop constraint definitions_kind_check;
alter table definitions add constraint definitions_kind_check
  check (kind in ('tool', 'prompt', 'resource', 'resourceTemplate', 'instructions', 'view'));
