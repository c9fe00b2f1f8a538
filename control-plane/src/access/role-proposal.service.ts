import { AppError, type Role } from '@sallyport/schema';
import { uuidv7 } from '@sallyport/schema/platform';
import { and, asc, eq, gt, lte, type SQL } from 'drizzle-orm';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import type { Database, Transaction } from '../database/client.ts';
import { assertRevision, isUuid, mutate, type MutationOptions } from '../database/mutation.ts';
import { descriptionLengthMax, Violations } from '../database/violations.ts';
import { type RoleBindingRow, type RoleProposalRow, roleProposals } from './access.tables.ts';
import type { OwnerLookup } from './owner.service.ts';
import { isPermitted, noRights, type Rights } from './rights.ts';
import { type Binding, isGuarded, type PrincipalLookup, type RoleService } from './role.service.ts';

export const proposalLifetimeMsDefault = 7 * 86_400_000;
export const proposalLifetimeMsMax = 30 * 86_400_000;

export const proposalStates = ['open', 'confirmed', 'cancelled', 'expired'] as const;
export type ProposalState = (typeof proposalStates)[number];

export type ProposedChange = RoleProposalRow['change'];

/** One of role and roleId. */
export interface ProposeRole extends MutationOptions {
  readonly principalId: string;
  readonly change?: ProposedChange | null | undefined;
  readonly role?: Role | null | undefined;
  readonly roleId?: string | null | undefined;
  readonly reason?: string | null | undefined;
  readonly expiresAt?: Date | null | undefined;
}
export interface DecideProposal extends MutationOptions {
  readonly id: string;
  readonly expectedRevision?: number | null | undefined;
}

/** Where a proposal stands at `nowMs`; one that nobody decided in time has expired. */
export function stateOf(row: RoleProposalRow, nowMs: number): ProposalState {
  return row.state === 'open' && row.expiresAt.getTime() <= nowMs ? 'expired' : row.state;
}

type ProposalLookup = Pick<PrincipalLookup, 'principalKind'> & Pick<OwnerLookup, 'usablePrincipals'>;

/**
 * How guarded roles are given, and owner is taken away, where there is more than one owner: one person proposes, another
 * confirms, and neither is the one who gets the role. A user, his service accounts, and all keys that he may know are one
 * person.
 */
export class RoleProposalService {
  private readonly database: Database;
  private readonly roles: RoleService;
  private readonly lookup: ProposalLookup;

  constructor(database: Database, roles: RoleService, lookup: ProposalLookup) {
    this.database = database;
    this.roles = roles;
    this.lookup = lookup;
  }

  async list(
    ctx: Context,
    filter: { readonly state?: ProposalState | null | undefined },
    page: { readonly limit: number; readonly after: readonly string[] | undefined },
  ): Promise<RoleProposalRow[]> {
    ctx.authorize('role:read');
    const [after] = page.after ?? [];
    return this.database.db
      .select()
      .from(roleProposals)
      .where(and(inState(filter.state, ctx.clock.now()), after === undefined ? undefined : gt(roleProposals.id, after)))
      .orderBy(asc(roleProposals.id))
      .limit(page.limit + 1);
  }

  async propose(ctx: Context, input: ProposeRole): Promise<RoleProposalRow> {
    ctx.authorize('role:assign');
    const change = input.change ?? 'give';
    if (change === 'give') this.roles.refuseSelf(ctx, input.principalId);
    const now = ctx.clock.now();
    return mutate(this.database, input, async (tx) => {
      await this.roles.owners.lock(tx);
      const binding = await this.roles.checked(tx, input);
      const rights = await this.roles.rightsGiven(tx, binding);
      await this.checkProposal(tx, ctx, input, binding, rights);
      this.roles.assertMayGive(ctx, rights);
      const proposingPeople = await this.assertDifferent(tx, ctx, change === 'give' ? [input.principalId] : []);
      await this.forgetExpired(tx, ctx, binding, change);
      const [row] = await tx
        .insert(roleProposals)
        .values({
          id: uuidv7(now),
          principalId: binding.principalId ?? input.principalId,
          change,
          role: binding.role,
          roleId: binding.roleId,
          reason: input.reason ?? '',
          proposedBy: ctx.actor.principalId,
          proposingPeople,
          expiresAt: input.expiresAt ?? new Date(now + proposalLifetimeMsDefault),
          createdAt: new Date(now),
        })
        .returning();
      if (row === undefined) throw new AppError('INTERNAL', { internal: 'proposal was not inserted' });
      const object = { kind: 'roleProposal', id: row.id };
      await recordMutation(tx, ctx, { action: 'role.propose', object, after: row });
      return row;
    });
  }

  private async checkProposal(
    tx: Transaction,
    ctx: Context,
    input: ProposeRole,
    binding: Binding,
    rights: Rights,
  ): Promise<void> {
    const found = new Violations();
    const isHeld = await this.roles.isBound(tx, binding);
    if (input.change === 'take') {
      if (binding.role !== 'owner') found.add('input.role', 'is taken away by one person: use removeRole');
      else if (!isHeld) found.add('input.role', 'is not held');
    } else {
      const path = binding.role === null ? 'input.roleId' : 'input.role';
      if (!isGuarded(binding, rights)) found.add(path, 'needs no second person: use assignRole');
      else if (isHeld) found.add(path, 'is held already');
    }
    found.text('input.reason', input.reason, 0, descriptionLengthMax);
    found.expiry('input.expiresAt', input.expiresAt, ctx.clock.now(), proposalLifetimeMsMax);
    found.assertNone();
  }

  /** Gives or takes the role. Whoever proposed it must still be able to, so that what he lost meanwhile does not count. */
  async confirm(ctx: Context, input: DecideProposal): Promise<RoleBindingRow> {
    ctx.authorize('role:assign');
    const now = ctx.clock.now();
    return mutate(this.database, input, async (tx) => {
      await this.roles.owners.lock(tx);
      const before = await this.findOpen(tx, input, now);
      const { principalId, role, roleId, change } = before;
      const binding = await this.roles.checked(tx, { principalId, role, roleId });
      if (await this.roles.hasChangedSince(tx, roleId, before.createdAt)) {
        const message = 'the role was changed since it was proposed: propose it anew';
        throw new AppError('INVALID_INPUT', { violations: [{ path: 'input.id', message }] });
      }
      if (before.proposingPeople.length === 0) {
        // Made by an older release: whoever knew the key that was used may be the one who confirms.
        const message = 'it is not known who may have proposed it: propose it anew';
        throw new AppError('INVALID_INPUT', { violations: [{ path: 'input.id', message }] });
      }
      this.roles.assertMayGive(ctx, await this.roles.rightsGiven(tx, binding));
      const concerned = change === 'give' ? [principalId] : [];
      await this.assertDifferent(tx, ctx, [...concerned, before.proposedBy, ...before.proposingPeople]);
      const [proposer] = await this.lookup.usablePrincipals(tx, [before.proposedBy], now);
      const theirs = proposer === undefined ? noRights : await this.roles.rightsOf(tx, before.proposedBy);
      if (!isPermitted(theirs, 'role:assign')) {
        const message = 'whoever proposed it may not give roles any more: propose it anew';
        throw new AppError('INVALID_INPUT', { violations: [{ path: 'input.id', message }] });
      }
      await this.decide(tx, ctx, before, 'confirmed');
      if (change === 'give') return this.roles.bind(tx, ctx, binding);
      return this.roles.unbind(tx, ctx, binding, await this.roles.endedBy(tx, ctx, binding));
    });
  }

  async cancel(ctx: Context, input: DecideProposal): Promise<RoleProposalRow> {
    ctx.authorize('role:assign');
    return mutate(this.database, input, async (tx) => {
      const before = await this.findOpen(tx, input, ctx.clock.now());
      return this.decide(tx, ctx, before, 'cancelled');
    });
  }

  /**
   * Refuses where one of the people who may be acting is one of the others, or no user is behind the actor.
   * @returns the people who may be acting
   */
  private async assertDifferent(tx: Transaction, ctx: Context, others: readonly string[]): Promise<string[]> {
    const acting = await this.roles.owners.actingPeople(tx, ctx);
    const people = await this.lookup.usablePrincipals(tx, others, ctx.clock.now());
    const personOf = (id: string): string =>
      people.find((person) => person.principalId === id.toLowerCase())?.personId ?? id.toLowerCase();
    const [own = ctx.actor.principalId] = acting;
    const isHuman = (await this.lookup.principalKind(tx, own)) === 'user';
    if (isHuman && !others.some((id) => acting.has(personOf(id)))) return [...acting];
    throw new AppError('FORBIDDEN', {
      internal: `${ctx.actor.principalId} is one person with another of those concerned`,
      publicMessage:
        'Two people are needed who both do not get the role. A user, his service accounts, and all keys that he made, or ' +
        'that were made by means of them, count as one person. For a key that nobody else knows, ask an operator: ' +
        '"sallyport admin issue-key".',
    });
  }

  private async decide(
    tx: Transaction,
    ctx: Context,
    before: RoleProposalRow,
    state: 'confirmed' | 'cancelled',
  ): Promise<RoleProposalRow> {
    const decidedAt = new Date(ctx.clock.now());
    const [row] = await tx
      .update(roleProposals)
      .set({ state, decidedBy: ctx.actor.principalId, decidedAt, revision: before.revision + 1 })
      .where(eq(roleProposals.id, before.id))
      .returning();
    if (row === undefined) throw new AppError('INTERNAL', { internal: 'proposal vanished under its lock' });
    const action = state === 'confirmed' ? 'role.confirm' : 'role.cancelProposal';
    await recordMutation(tx, ctx, { action, object: { kind: 'roleProposal', id: row.id }, before, after: row });
    return row;
  }

  /** One that expired makes room for another of the same kind. */
  private async forgetExpired(tx: Transaction, ctx: Context, binding: Binding, change: ProposedChange): Promise<void> {
    const rows = await tx
      .select()
      .from(roleProposals)
      .where(
        and(
          inState('expired', ctx.clock.now()),
          eq(roleProposals.principalId, binding.principalId ?? ''),
          eq(roleProposals.change, change),
          binding.role === null ? eq(roleProposals.roleId, binding.roleId ?? '') : eq(roleProposals.role, binding.role),
        ),
      )
      .for('update');
    for (const row of rows) await this.decide(tx, ctx, row, 'cancelled');
  }

  private async findOpen(tx: Transaction, input: DecideProposal, nowMs: number): Promise<RoleProposalRow> {
    const [row] = isUuid(input.id)
      ? await tx.select().from(roleProposals).where(eq(roleProposals.id, input.id)).for('update')
      : [];
    if (row === undefined) throw new AppError('NOT_FOUND');
    assertRevision(row, input.expectedRevision);
    const state = stateOf(row, nowMs);
    if (state !== 'open') {
      throw new AppError('INVALID_INPUT', { violations: [{ path: 'input.id', message: `the proposal is ${state}` }] });
    }
    return row;
  }
}

function inState(state: ProposalState | null | undefined, nowMs: number): SQL | undefined {
  const now = new Date(nowMs);
  switch (state) {
    case undefined:
    case null:
      return undefined;
    case 'open':
      return and(eq(roleProposals.state, 'open'), gt(roleProposals.expiresAt, now));
    case 'expired':
      return and(eq(roleProposals.state, 'open'), lte(roleProposals.expiresAt, now));
    default:
      return eq(roleProposals.state, state);
  }
}
