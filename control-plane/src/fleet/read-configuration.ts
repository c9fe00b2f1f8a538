import { and, eq, gt, inArray, isNull, sql } from 'drizzle-orm';
import { grants } from '../access/access.tables.ts';
import { definitions, servers } from '../catalog/catalog.tables.ts';
import type { Reader } from '../database/client.ts';
import { configGeneration, settings } from '../database/settings.tables.ts';
import { apiKeys, groupMembers, groups, principals } from '../identity/identity.tables.ts';
import type { ConfigurationRows } from './compile-snapshot.ts';
import { sealingKeys } from './fleet.tables.ts';

/** The settings row that holds the fleet-wide limits. */
export const limitsSetting = 'limits';

/**
 * Every row nodes' configuration is made of. Must run in one repeatable-read transaction: rows of different moments
 * would compile into a configuration that never was.
 * @param nowMs what has ended by then is not read
 */
export async function readConfiguration(tx: Reader, nowMs: number): Promise<ConfigurationRows> {
  const now = new Date(nowMs);
  const generation = await tx.select().from(configGeneration).where(eq(configGeneration.id, 1));
  const served = and(isNull(servers.deletedAt), inArray(servers.lifecycle, ['approved', 'deprecated']));
  return {
    generation: generation[0]?.generation ?? 0,
    servers: await tx.select().from(servers).where(served),
    definitions: await tx
      .select({
        serverId: definitions.serverId,
        kind: definitions.kind,
        name: definitions.name,
        state: definitions.state,
        approvedDigests: definitions.approvedDigests,
      })
      .from(definitions)
      .innerJoin(servers, eq(servers.id, definitions.serverId))
      .where(and(served, isNull(definitions.removedAt))),
    grants: await tx
      .select()
      .from(grants)
      .where(
        and(isNull(grants.deletedAt), sql`(${grants.notAfter} is null or ${grants.notAfter} > ${now.toISOString()})`),
      ),
    principals: await tx.select().from(principals).where(isNull(principals.deletedAt)),
    groups: await tx.select({ id: groups.id }).from(groups).where(isNull(groups.deletedAt)),
    groupMembers: await tx
      .select({ groupId: groupMembers.groupId, principalId: groupMembers.principalId })
      .from(groupMembers)
      .innerJoin(groups, eq(groups.id, groupMembers.groupId))
      .where(isNull(groups.deletedAt)),
    apiKeys: await tx
      .select()
      .from(apiKeys)
      .where(and(isNull(apiKeys.revokedAt), gt(apiKeys.expiresAt, now))),
    limits: (await tx.select().from(settings).where(eq(settings.key, limitsSetting)))[0]?.value ?? null,
    sealingKeys: await tx.select().from(sealingKeys),
  };
}
