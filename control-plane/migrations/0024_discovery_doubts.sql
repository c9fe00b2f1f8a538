-- When a node last met the upstream speaking another protocol era than was observed; after the last attempt: due now.
alter table servers add column discovery_doubted_at timestamptz;
