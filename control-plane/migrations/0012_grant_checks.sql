-- A selector whose values are not text could not be published, and a deny on it would have no servers to hold on.
alter table grants add constraint labels_are_text
  check (server_labels is null or not jsonb_path_exists(server_labels, '$.* ? (@.type() != "string")'));
alter table grants add constraint limits_are_an_object check (limits is null or jsonb_typeof(limits) = 'object');
