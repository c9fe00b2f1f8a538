-- Which definitions speak of headers for their parameters: they are few, and compiling looks at those alone.
alter table definition_bodies
  add column names_headers boolean not null generated always as (raw like '%x-mcp-header%') stored;
create index definition_bodies_with_headers on definition_bodies (server_id) where names_headers;
