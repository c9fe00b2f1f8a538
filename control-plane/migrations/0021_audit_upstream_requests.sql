-- Of an exchange that was translated between protocol eras: the requests that it caused upstream, by method, in order.
alter table audit_events add column upstream_requests text[];
