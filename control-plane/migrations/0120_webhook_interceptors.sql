-- Of an MCP server of interceptors, the one that a webhook invokes; null where its URL takes our own events.
alter table webhooks add column interceptor text check (length(interceptor) between 1 and 128);
