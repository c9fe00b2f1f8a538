-- Raised by each change, so that two administrators do not overwrite one another unseen.
alter table settings add column revision integer not null default 1;
