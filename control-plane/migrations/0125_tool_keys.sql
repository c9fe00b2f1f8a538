-- Names of tools as they may be mistaken for each other: one key for all ways to write one. Of other letters than those of
-- ASCII the program knows more than SQL does: they get theirs with the next change that a discovery sees.
alter table definitions add column name_key text not null default '';
update definitions
  set name_key = left(translate(regexp_replace(regexp_replace(lower(name),
    '(?<=[0-9])[^a-z0-9]+(?=[0-9])', '_', 'g'), '[^a-z0-9_]+|(?<![0-9])_+|_+(?![0-9])', '', 'g'), '01', 'ol'), 128)
  where kind = 'tool' and name ~ '^[ -~]+$';
drop index definitions_tool_names;
create index definitions_tool_keys on definitions (name_key) where kind = 'tool' and removed_at is null;
