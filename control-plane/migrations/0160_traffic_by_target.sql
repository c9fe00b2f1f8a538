-- The calls of one tool over a range, whichever server has it.
create index traffic_rollups_by_target on traffic_rollups (unit, target_name, start) where not whole;
