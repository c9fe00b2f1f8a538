-- Everybody who may have proposed it: whoever acted, and whoever made the key that was used. Empty: not known.
alter table role_proposals add column proposing_people uuid[] not null default '{}';
