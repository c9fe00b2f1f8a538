import { principalShard } from '@sallyport/schema';
import { and, asc, eq, gt, isNotNull, isNull, lte, or, type SQL, sql } from 'drizzle-orm';
import type { AnyPgColumn } from 'drizzle-orm/pg-core';
import { type GrantRow, grants } from '../access/access.tables.ts';
import { definitionBodies, definitions, servers } from '../catalog/catalog.tables.ts';
import type { Reader } from '../database/client.ts';
import { configChanges, configGeneration, settings } from '../database/settings.tables.ts';
import {
  accountOwners,
  apiKeys,
  groupMembers,
  groups,
  type PrincipalRow,
  principals,
} from '../identity/identity.tables.ts';
import { payloadKeys } from '../capture/capture.tables.ts';
import { policies, webhooks } from '../inspection/inspection.tables.ts';
import { readOAuthSettings } from '../oauth/settings.service.ts';
import { oauthRevokedFamilies } from '../oauth/oauth.tables.ts';
import {
  accessUnit,
  type ConfigurationRows,
  type FleetRows,
  type PublicUrls,
  serverUnit,
  shardUnit,
} from './compile-snapshot.ts';
import { oauthSigningKeys, sealingKeys } from './fleet.tables.ts';

/** The settings row that holds the fleet-wide limits. */
export const limitsSetting = 'limits';

export async function readGeneration(reader: Reader): Promise<number> {
  const rows = await reader.select().from(configGeneration).where(eq(configGeneration.id, 1));
  return rows[0]?.generation ?? 0;
}

/** Changed in more places than this, everything is looked through: it costs no more. */
const serversChangedMax = 200;
const shardsChangedMax = 32;

/**
 * The units that the generations after `from` up to `to` changed, or undefined where only looking through everything
 * can tell. What ends by time alone is not among them: nodes see to it, and a compile of everything follows.
 */
export async function readChanged(reader: Reader, from: number, to: number): Promise<Wanted | undefined> {
  const rows = await reader
    .select()
    .from(configChanges)
    .where(and(gt(configChanges.generation, from), lte(configChanges.generation, to)))
    .orderBy(asc(configChanges.generation))
    .limit(serversChangedMax);
  // A generation without a row was raised by somebody who said nothing of what was changed.
  if (rows.length !== to - from || rows.some((row) => row.everything)) return undefined;
  const serverIds = [...new Set(rows.flatMap((row) => row.serverIds))];
  const shards = [...new Set(rows.flatMap((row) => row.principalIds).map(principalShard))];
  return serverIds.length > serversChangedMax || shards.length > shardsChangedMax ? undefined : { serverIds, shards };
}

/** What of the configuration to read in full. */
export interface Wanted {
  readonly serverIds: readonly string[];
  readonly shards: readonly number[];
  /** The grants on labels and the names of groups. They are few, and looked at each time. */
  readonly access?: boolean;
}

/** A unit of the configuration as it stands, and what must be read to compile it. */
export interface UnitState {
  readonly fingerprint: string;
  readonly wanted: Wanted;
}

/** The first byte of the SHA-256 of the principal's id, as `principalShard` computes it; there is an index over it. */
const shardOf = (id: SQL): SQL => sql`get_byte(sha256(decode(${id}::text, 'escape')), 0)`;

/**
 * A fingerprint of every unit, computed where the rows are: a change costs the reading of what it touched, not of
 * 100,000 definitions. It is over the content itself, so it does not rest on anybody raising a revision. Sums of two
 * 64-bit hashes that do not depend on order; each row's part holds its random id, so nobody outside can aim at one.
 * @param only servers and shards of principals to look at; all others are left out. Undefined: all
 */
export async function readUnits(
  tx: Reader,
  nowMs: number,
  only: Wanted | undefined,
): Promise<ReadonlyMap<string, UnitState>> {
  const units = new Map<string, UnitState>();
  const serverRows = await tx.execute<{ id: string; fingerprint: string }>(serverFingerprints(nowMs, only?.serverIds));
  for (const { id, fingerprint } of serverRows) {
    units.set(serverUnit(id), { fingerprint, wanted: { serverIds: [id], shards: [] } });
  }
  const shardRows = await tx.execute<{ shard: number; fingerprint: string }>(shardFingerprints(nowMs, only?.shards));
  for (const { shard, fingerprint } of shardRows) {
    units.set(shardUnit(shard), { fingerprint, wanted: { serverIds: [], shards: [shard] } });
  }
  const [access] = await tx.execute<{ fingerprint: string }>(accessFingerprint(nowMs));
  const wanted = { serverIds: [], shards: [], access: true };
  units.set(accessUnit, { fingerprint: access?.fingerprint ?? '', wanted });
  return units;
}

function fingerprintOf(content: SQL): SQL {
  return sql`concat_ws('.', count(*), sum(hashtextextended(${content}, 1)), sum(hashtextextended(${content}, 2)))`;
}

/** All of a grant `g` that is published, and of its subject `p` or `t` what decides whether it is. */
const grantContent = sql`row(g.id, g.subject_kind, g.subject_principal_id, g.subject_group_id, g.server_labels, g.effect,
  g.mode, g.tools, g.prompts, g.resources, g.limits, g.when_condition, g.when_arguments, g.config_staleness_max_ms,
  g.not_before, g.not_after, p.kind, p.deleted_at, t.id, t.deleted_at)::text`;

function accessFingerprint(nowMs: number): SQL {
  return sql`
    select concat_ws('/',
      (select ${fingerprintOf(sql`row(id, name)::text`)} from groups where deleted_at is null),
      (select ${fingerprintOf(sql`row(id, position, mode, match, rules, inspected_length_max, on_too_large, webhook_ids, webhook_budget_ms, capture)::text`)}
        from policies where deleted_at is null),
      (select ${fingerprintOf(grantContent)}
        from grants g
          left join principals p on p.id = g.subject_principal_id
          left join groups t on t.id = g.subject_group_id
        where g.deleted_at is null and g.server_labels is not null
          and (g.not_after is null or g.not_after > ${new Date(nowMs).toISOString()}))) as fingerprint`;
}

/** Whether some webhook in force may change arguments of calls: nodes then need the schemas that these must fit. */
const argumentsMayChange = sql`exists (
  select 1 from webhooks w, unnest(w.mutable_paths) path
  where w.deleted_at is null and w.mode = 'enforce' and path like '/params/arguments%')`;

/** Whether some policy in force captures: nodes then need to know which members are secret. */
const captures = sql`exists (
  select 1 from policies p where p.deleted_at is null and p.mode = 'enforce' and p.capture is not null)`;

/** Whether all definitions are looked at, and not only those that name headers. */
const needsBodies = sql`(${argumentsMayChange} or ${captures})`;

function serverFingerprints(nowMs: number, only: readonly string[] | undefined): SQL {
  const isWanted = (id: SQL): SQL =>
    only === undefined ? sql`true` : sql`${id} = any (${`{${only.join(',')}}`}::uuid[])`;
  const definition = sql`row(d.id, d.kind, d.name, d.state, d.approved_digests,
    d.risk, d.read_only, d.destructive, d.idempotent, d.open_world)::text`;
  return sql`
    -- Materialized: right after an import the statistics know of few rows, and a plan that reckons a print anew for each
    -- server does not end.
    with definition_prints as materialized (
      select d.server_id, ${fingerprintOf(definition)} as print
      from definitions d where d.removed_at is null and ${isWanted(sql`d.server_id`)} group by d.server_id
    ), header_prints as materialized (
      select b.server_id, ${fingerprintOf(sql`row(b.server_id, b.digest, ${argumentsMayChange}, ${captures})::text`)} as print
      from definition_bodies b where (b.names_headers or ${needsBodies}) and ${isWanted(sql`b.server_id`)}
      group by b.server_id
    ), grant_prints as materialized (
      select g.server_id, ${fingerprintOf(grantContent)} as print
      from grants g
        left join principals p on p.id = g.subject_principal_id
        left join groups t on t.id = g.subject_group_id
      where g.deleted_at is null and ${isWanted(sql`g.server_id`)} and (g.not_after is null or g.not_after > ${new Date(nowMs).toISOString()})
      group by g.server_id
    )
    select s.id::text as id, concat_ws('/', coalesce(d.print, '-'), coalesce(h.print, '-'), coalesce(g.print, '-'), md5(row(s.slug, s.lifecycle, s.url,
      s.protocol_revisions, s.transport, s.extensions, s.labels, s.audit_mode, s.config_staleness_max_ms,
      s.credential_mode, s.credential_revision, s.asks)::text)) as fingerprint
    from servers s
      left join definition_prints d on d.server_id = s.id
      left join header_prints h on h.server_id = s.id
      left join grant_prints g on g.server_id = s.id
    where s.deleted_at is null and s.lifecycle in ('approved', 'deprecated') and ${isWanted(sql`s.id`)}`;
}

function shardFingerprints(nowMs: number, only: readonly number[] | undefined): SQL {
  const isWanted = (id: SQL): SQL =>
    only === undefined ? sql`true` : sql`${shardOf(id)} = any (${`{${only.join(',')}}`}::int[])`;
  const part = sql`part.content`;
  return sql`
    select ${shardOf(sql`part.principal_id`)} as shard, ${fingerprintOf(part)} as fingerprint
    from (
      select p.id as principal_id, row(p.id, p.kind, p.name, p.status, p.epoch, p.expires_at, o.status, o.expires_at,
        o.deleted_at)::text as content
      from principals p left join principals o on o.id = p.owner_id
      where p.deleted_at is null and ${isWanted(sql`p.id`)}
      union all
      select k.principal_id, row(k.id, k.principal_id, k.hash, k.scopes, k.expires_at, k.server_ids,
        k.server_labels, k.networks)::text
      from api_keys k join principals p on p.id = k.principal_id and p.deleted_at is null
      where k.revoked_at is null and k.expires_at > ${new Date(nowMs).toISOString()} and ${isWanted(sql`k.principal_id`)}
      union all
      select m.principal_id, row(m.principal_id, m.group_id)::text
      from group_members m join groups g on g.id = m.group_id and g.deleted_at is null
        join principals p on p.id = m.principal_id and p.deleted_at is null
      where ${isWanted(sql`m.principal_id`)}
      union all
      select f.principal_id, row(f.principal_id, f.family)::text
      from oauth_revoked_families f join principals p on p.id = f.principal_id and p.deleted_at is null
      where f.expires_at > ${new Date(nowMs).toISOString()} and ${isWanted(sql`f.principal_id`)}
    ) part
    group by 1`;
}

/**
 * The rows of what is wanted. Must run in one repeatable-read transaction with `readUnits`: rows of different moments
 * would compile into a configuration that never was.
 * @param nowMs what has ended by then is not read
 */
export async function readConfiguration(tx: Reader, wanted: Wanted, nowMs: number): Promise<ConfigurationRows> {
  return {
    ...(wanted.access === true ? await readAccess(tx, nowMs) : await readServers(tx, wanted.serverIds, nowMs)),
    ...(await readPrincipals(tx, wanted.shards, nowMs)),
  };
}

/** What is about the fleet as a whole, in the same transaction. */
export async function readFleet(tx: Reader, publicUrls: PublicUrls | undefined): Promise<FleetRows> {
  const limits = await tx.select().from(settings).where(eq(settings.key, limitsSetting));
  return {
    publicUrls,
    limits: limits[0]?.value ?? null,
    sealingKeys: await tx.select().from(sealingKeys),
    signingKeys: await tx.select().from(oauthSigningKeys),
    stepUp: (await readOAuthSettings(tx)).stepUp,
    webhooks: await tx.select().from(webhooks).where(isNull(webhooks.deletedAt)),
    payloadKey: (
      await tx
        .select()
        .from(payloadKeys)
        .where(and(isNull(payloadKeys.retiredAt), captures))
    )[0],
  };
}

type ServerRows = Pick<
  ConfigurationRows,
  | 'servers'
  | 'definitions'
  | 'headerBodies'
  | 'argumentsMayChange'
  | 'captures'
  | 'grants'
  | 'access'
  | 'subjects'
  | 'groups'
>;

async function readServers(tx: Reader, ids: readonly string[], nowMs: number): Promise<ServerRows> {
  if (ids.length === 0) return noServers;
  const granted = await tx
    .select()
    .from(grants)
    .where(and(inList(grants.serverId, ids), isLasting(nowMs)));
  const [needs] = await tx.execute<{ mayChange: boolean; captures: boolean }>(
    sql`select ${argumentsMayChange} as "mayChange", ${captures} as captures`,
  );
  return {
    ...noServers,
    servers: await tx.select().from(servers).where(inList(servers.id, ids)),
    definitions: await tx
      .select({
        serverId: definitions.serverId,
        kind: definitions.kind,
        name: definitions.name,
        state: definitions.state,
        approvedDigests: definitions.approvedDigests,
        risk: definitions.risk,
        readOnly: definitions.readOnly,
        destructive: definitions.destructive,
        idempotent: definitions.idempotent,
        openWorld: definitions.openWorld,
      })
      .from(definitions)
      .where(and(inList(definitions.serverId, ids), isNull(definitions.removedAt))),
    headerBodies: await tx
      .select({ serverId: definitionBodies.serverId, digest: definitionBodies.digest, raw: definitionBodies.raw })
      .from(definitionBodies)
      .where(and(inList(definitionBodies.serverId, ids), or(eq(definitionBodies.namesHeaders, true), needsBodies))),
    argumentsMayChange: needs?.mayChange === true,
    captures: needs?.captures === true,
    grants: granted,
    ...(await readSubjects(tx, granted)),
  };
}

const noServers: ServerRows = {
  servers: [],
  definitions: [],
  headerBodies: [],
  grants: [],
  access: undefined,
  subjects: [],
  groups: [],
};

/** Neither deleted nor ended. */
function isLasting(nowMs: number): SQL | undefined {
  return and(isNull(grants.deletedAt), or(isNull(grants.notAfter), gt(grants.notAfter, new Date(nowMs))));
}

async function readAccess(tx: Reader, nowMs: number): Promise<ServerRows> {
  const labelGrants = await tx
    .select()
    .from(grants)
    .where(and(isNotNull(grants.serverLabels), isLasting(nowMs)));
  const named = await tx.select({ id: groups.id, name: groups.name }).from(groups).where(isNull(groups.deletedAt));
  const inspected = await tx
    .select()
    .from(policies)
    .where(isNull(policies.deletedAt))
    .orderBy(asc(policies.position), asc(policies.id));
  const access = { labelGrants, groups: named, policies: inspected };
  return { ...noServers, access, ...(await readSubjects(tx, labelGrants)) };
}

/** The principals and groups that grants name, where they exist. */
async function readSubjects(
  tx: Reader,
  granted: readonly GrantRow[],
): Promise<Pick<ConfigurationRows, 'subjects' | 'groups'>> {
  const principalIds = [...new Set(granted.flatMap((grant) => grant.subjectPrincipalId ?? []))];
  const groupIds = [...new Set(granted.flatMap((grant) => grant.subjectGroupId ?? []))];
  return {
    subjects: await tx
      .select({ id: principals.id, kind: principals.kind })
      .from(principals)
      .where(and(inList(principals.id, principalIds), isNull(principals.deletedAt))),
    groups: await tx
      .select({ id: groups.id })
      .from(groups)
      .where(and(inList(groups.id, groupIds), isNull(groups.deletedAt))),
  };
}

type PrincipalRows = Pick<ConfigurationRows, 'principals' | 'groupMembers' | 'apiKeys' | 'revokedFamilies'>;

async function readPrincipals(tx: Reader, shards: readonly number[], nowMs: number): Promise<PrincipalRows> {
  if (shards.length === 0) return { principals: [], groupMembers: [], apiKeys: [], revokedFamilies: [] };
  const list = `{${shards.join(',')}}`;
  const inShards = (id: SQL): SQL => sql`${shardOf(id)} = any (${list}::int[])`;
  const people = await tx
    .select({ principal: principals, owner: accountOwners })
    .from(principals)
    .leftJoin(accountOwners, eq(accountOwners.id, principals.ownerId))
    .where(and(isNull(principals.deletedAt), inShards(sql`${principals.id}`)));
  return {
    principals: people.map(({ principal, owner }) => withOwner(principal, owner)),
    groupMembers: await tx
      .select({ groupId: groupMembers.groupId, principalId: groupMembers.principalId })
      .from(groupMembers)
      .innerJoin(groups, eq(groups.id, groupMembers.groupId))
      .where(and(isNull(groups.deletedAt), inShards(sql`${groupMembers.principalId}`))),
    apiKeys: await tx
      .select()
      .from(apiKeys)
      .where(
        and(isNull(apiKeys.revokedAt), gt(apiKeys.expiresAt, new Date(nowMs)), inShards(sql`${apiKeys.principalId}`)),
      ),
    revokedFamilies: await tx
      .select({ family: oauthRevokedFamilies.family, principalId: oauthRevokedFamilies.principalId })
      .from(oauthRevokedFamilies)
      .where(
        and(gt(oauthRevokedFamilies.expiresAt, new Date(nowMs)), inShards(sql`${oauthRevokedFamilies.principalId}`)),
      ),
  };
}

/** A service account acts only as long as the user who answers for it may act. */
function withOwner(principal: PrincipalRow, owner: PrincipalRow | null): PrincipalRow {
  if (owner === null) return principal;
  const mayAct = owner.status === 'active' && owner.deletedAt === null;
  const ends = [principal.expiresAt, owner.expiresAt].filter((end) => end !== null);
  const expiresAt = ends.length === 0 ? null : new Date(Math.min(...ends.map((end) => end.getTime())));
  return { ...principal, expiresAt, status: mayAct ? principal.status : 'disabled' };
}

/** One parameter however long the list: PostgreSQL takes at most 65,535 of them. */
function inList(column: AnyPgColumn, ids: readonly string[]): SQL {
  return sql`${column} = any (${`{${ids.join(',')}}`}::uuid[])`;
}
