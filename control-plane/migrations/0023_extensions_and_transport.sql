-- Extensions of the protocol that may be offered to clients and server alike; every other is taken out of what they
-- declare. Those named here are the ones whose methods and ids the gateway knows.
alter table servers add column extensions text[] not null
  default '{io.modelcontextprotocol/tasks,io.modelcontextprotocol/ui}';
-- Observed at the last successful discovery: how the endpoint is spoken to.
alter table servers add column transport text not null default 'streamableHttp'
  check (transport in ('streamableHttp', 'httpSse'));
