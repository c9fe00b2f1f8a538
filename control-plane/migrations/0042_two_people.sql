-- Who may know a key beside its holder: the people who acted when it was made, with all who may have known the key they
-- used. Keys that were made before are known to whoever could have made them, as far as that was kept.
alter table api_keys add column known_to uuid[] not null default '{}';
with recursive lineage(key_id, person_id) as (
  select k.id, coalesce(p.owner_id, p.id) from api_keys k join principals p on p.id = k.issued_by
  union
  select k.id, l.person_id from api_keys k
    join api_keys used on used.principal_id = k.issued_by and used.id <> k.id and used.created_at <= k.created_at
    join lineage l on l.key_id = used.id
)
update api_keys k set known_to = (select array_agg(distinct l.person_id) from lineage l where l.key_id = k.id)
  where exists (select 1 from lineage l where l.key_id = k.id);

-- Who answered for an owner until a role, or an account, was taken from him: he counts for some time more.
create table former_owners (
  person_id uuid not null references principals,
  ended_at timestamptz not null,
  primary key (person_id)
);

-- Custom roles are proposed too, and to take the role owner away.
alter table role_proposals add column change text not null default 'give' check (change in ('give', 'take'));
alter table role_proposals add column role_id uuid references roles;
alter table role_proposals alter column role drop not null;
alter table role_proposals add constraint proposed_role check ((role is null) <> (role_id is null));
drop index role_proposals_open;
create unique index role_proposals_open
  on role_proposals (principal_id, coalesce(role, role_id::text), change) where state = 'open';
