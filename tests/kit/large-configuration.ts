import type postgres from 'postgres';

export interface LargeConfiguration {
  readonly servers: number;
  /** On each server. */
  readonly definitions: number;
  /** On each server. */
  readonly grants: number;
  /** Each with a key that is `sp_` and its id. */
  readonly principals: number;
  readonly groups: number;
  /** Groups that each principal is in; default one. */
  readonly memberships?: number;
  /** Where every server is, and what it speaks; default a place that nobody calls. */
  readonly upstream?: { readonly url: string; readonly protocolRevision: string };
}

/**
 * The size that the budgets are for: 2,000 servers, 100,000 tools, 10,000 grants, 20,000 principals with a key each, in
 * 500 groups.
 */
export const designSize: LargeConfiguration = {
  servers: 2_000,
  definitions: 50,
  grants: 5,
  principals: 20_000,
  groups: 500,
};

/** Fills a migrated database as years of use would; the rows are as valid as those the API writes. */
export async function seedLargeConfiguration(sql: postgres.Sql, size: LargeConfiguration): Promise<void> {
  const { memberships = 1, upstream = { url: 'https://mcp.example.com/mcp', protocolRevision: '2025-11-25' } } = size;
  await sql.begin(async (tx) => {
    await tx`
      insert into principals (id, kind, name, email, issuer, subject)
      select gen_random_uuid(), 'user', 'Person ' || n, 'person-' || n || '@example.com', 'seed', 'person-' || n
      from generate_series(1, ${size.principals}::int) n`;
    await tx`
      insert into api_keys (id, principal_id, name, hash, hint, scopes, expires_at)
      select gen_random_uuid(), id, 'key', encode(sha256(convert_to('sp_' || id::text, 'UTF8')), 'hex'), 'sp_', '{mcp}',
        now() + interval '1 day'
      from principals where issuer = 'seed'`;
    await tx`
      insert into groups (id, name)
      select gen_random_uuid(), 'group ' || n from generate_series(1, ${size.groups}::int) n`;
    await tx`
      insert into group_members (group_id, principal_id)
      select g.id, p.id
      from (select id, row_number() over () as n from principals where issuer = 'seed') p
        cross join generate_series(0, ${memberships - 1}::int) i
        join (select id, row_number() over () as n from groups) g on g.n = 1 + (p.n + 97 * i) % ${size.groups}::int
      on conflict do nothing`;
    await tx`
      insert into servers
        (id, slug, slug_key, title, description, labels, url, lifecycle, protocol_revisions, discovered_at,
          discovery_attempted_at)
      select gen_random_uuid(), 'server-' || n, 'server-' || n, 'Server ' || n,
        (array['Payments', 'Issues', 'Documents', 'Calendars', 'Builds'])[1 + n % 5] || ' of team ' || n % 50,
        jsonb_build_object('team', 'team-' || n % 50), ${upstream.url}, 'approved', array[${upstream.protocolRevision}], now(),
        now()
      from generate_series(1, ${size.servers}::int) n`;
    await tx`
      insert into definitions
        (id, server_id, kind, name, digests, state, approved_digests, first_seen_at, last_seen_at)
      select gen_random_uuid(), s.id, 'tool', 'tool_' || n, array[d.digest], 'approved', array[d.digest], now(), now()
      from servers s, generate_series(1, ${size.definitions}::int) n,
        lateral (select encode(sha256(convert_to(s.id::text || n, 'UTF8')), 'hex') as digest) d`;
    await tx`
      insert into grants (id, name, reason, subject_kind, subject_group_id, server_id, effect, tools)
      select gen_random_uuid(), g.name || ' on ' || s.slug, 'Ticket OPS-' || s.n * ${size.grants}::int + i, 'group', g.id,
        s.id, case when (s.n + i) % 100 = 0 then 'deny' else 'allow' end, '{tool_*}'
      from (select id, slug, row_number() over () as n from servers) s
        cross join generate_series(1, ${size.grants}::int) i
        join (select id, name, row_number() over () as n from groups) g on g.n = 1 + (s.n + i) % ${size.groups}::int`;
    await tx`update config_generation set generation = generation + 1`;
    await tx`select pg_notify('sallyport_config', '')`;
  });
  await sql`vacuum analyze`;
}

/** Calls of the last two days, one in a hundred of them refused, as nodes report them. */
export async function seedAuditEvents(sql: postgres.Sql, count: number): Promise<void> {
  await sql`
    insert into audit_events (time, id, kind, node_id, principal_id, server_id, server_slug, method, target_kind,
      target_name, decision_effect, outcome, status, duration_ms)
    select now() - n * interval '2 days' / ${count}::int, gen_random_uuid()::text, 'exchange', 'node',
      (n % 1000)::text, (n % 2000)::text, 'server-' || n % 2000, 'tools/call', 'tool', 'tool_' || n % 50,
      case when n % 100 = 0 then 'deny' else 'allow' end, case when n % 100 = 0 then 'refused' else 'success' end, 200, 5
    from generate_series(1, ${count}::int) n`;
  await sql`analyze audit_events`;
}
