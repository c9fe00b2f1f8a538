-- Which servers have a tool by a name: definitions that speak of tools of others are looked for.
create index definitions_tool_names on definitions (md5(lower(name))) where kind = 'tool' and removed_at is null;
