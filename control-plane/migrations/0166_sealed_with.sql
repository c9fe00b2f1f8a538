-- What a secret is bound to: 1 is table, row, server, mode and origin; 2 has the issuer and the client, too. What an older
-- version stores is 1; a job seals that anew.
alter table server_credentials add column sealed_with smallint not null default 1 check (sealed_with in (1, 2));
alter table retired_credentials add column sealed_with smallint not null default 1 check (sealed_with in (1, 2));
