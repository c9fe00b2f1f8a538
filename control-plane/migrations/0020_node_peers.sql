-- What a node shows other nodes in TLS (X.509, DER in base64); null where it takes no part in it.
alter table nodes add column peer_certificate text;
