import { and, eq, inArray, isNull } from 'drizzle-orm';
import { recordMutation } from '../../audit/audit.service.ts';
import type { Context } from '../../context.ts';
import type { Transaction } from '../../database/client.ts';
import { bumpConfigGeneration } from '../../database/config-generation.ts';
import type { GroupService } from '../group.service.ts';
import { groupMembers, groups } from '../identity.tables.ts';

/** Groups whose members are what an identity provider says at each login. Nobody else may change those. */
export class ProvidedGroupService {
  private readonly groups: Pick<GroupService, 'assertMayManage'>;

  constructor(service: Pick<GroupService, 'assertMayManage'>) {
    this.groups = service;
  }

  /** Of the ids, those of groups that a rule of the provider may name: local ones, and its own. */
  async assignable(tx: Transaction, ids: readonly string[], providerId: string): Promise<ReadonlySet<string>> {
    if (ids.length === 0) return new Set();
    const rows = await tx
      .select({ id: groups.id, directoryId: groups.directoryId, providerId: groups.identityProviderId })
      .from(groups)
      .where(and(inArray(groups.id, [...new Set(ids)]), isNull(groups.deletedAt)))
      .for('share');
    const free = rows.filter((row) => row.directoryId === null && (row.providerId ?? providerId) === providerId);
    return new Set(free.map(({ id }) => id));
  }

  /** Whoever says who comes into groups could come in himself: he must have their rights, and may grant. */
  async assertMayFill(tx: Transaction, ctx: Context, groupIds: readonly string[]): Promise<void> {
    if (groupIds.length === 0) return;
    ctx.authorize('grant:write');
    for (const groupId of groupIds) await this.groups.assertMayManage(tx, ctx, groupId);
  }

  /**
   * Gives a group to a provider, or back (null). Either way it is empty then: who belonged did so by another's word.
   * The caller has asserted that the actor may (`assertMayFill`).
   */
  async assign(tx: Transaction, ctx: Context, groupId: string, providerId: string | null): Promise<void> {
    await tx.delete(groupMembers).where(eq(groupMembers.groupId, groupId));
    const values = { identityProviderId: providerId, updatedAt: new Date(ctx.clock.now()) };
    await tx.update(groups).set(values).where(eq(groups.id, groupId));
    const object = { kind: 'group', id: groupId };
    await recordMutation(tx, ctx, { action: 'group.assignProvider', object, after: values });
    await bumpConfigGeneration(tx);
  }

  /** Makes the user belong to exactly these of the provider's groups. */
  async setMemberships(
    tx: Transaction,
    ctx: Context,
    providerId: string,
    principalId: string,
    groupIds: readonly string[],
  ): Promise<void> {
    const provided = await tx
      .select({ id: groups.id })
      .from(groups)
      .where(and(eq(groups.identityProviderId, providerId), isNull(groups.deletedAt)));
    const ids = provided.map(({ id }) => id);
    if (ids.length === 0) return;
    const held = await tx
      .select({ groupId: groupMembers.groupId })
      .from(groupMembers)
      .where(and(eq(groupMembers.principalId, principalId), inArray(groupMembers.groupId, ids)));
    const before = held.map(({ groupId }) => groupId);
    const wanted = groupIds.filter((id) => ids.includes(id));
    const added = wanted.filter((id) => !before.includes(id));
    const removed = before.filter((id) => !wanted.includes(id));
    if (added.length === 0 && removed.length === 0) return;
    const createdAt = new Date(ctx.clock.now());
    if (removed.length > 0) {
      const theirs = and(eq(groupMembers.principalId, principalId), inArray(groupMembers.groupId, removed));
      await tx.delete(groupMembers).where(theirs);
    }
    if (added.length > 0) {
      await tx.insert(groupMembers).values(added.map((groupId) => ({ groupId, principalId, createdAt })));
    }
    const object = { kind: 'user', id: principalId };
    await recordMutation(tx, ctx, { action: 'user.groups', object, before, after: wanted });
    await bumpConfigGeneration(tx, { principalIds: [principalId] });
  }
}
