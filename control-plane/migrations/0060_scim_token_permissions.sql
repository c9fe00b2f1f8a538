-- What whoever made the token might do: a directory rules nobody and no group with more. Tokens made before this say
-- nothing of it, and rule those without roles until they are rotated.
alter table scim_tokens add column permissions text[] not null default '{}';
