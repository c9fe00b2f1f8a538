import { AppError, guardedRoles, type Role, rolePermissions } from '@sallyport/schema';
import { uuidv7 } from '@sallyport/schema/platform';
import { and, asc, eq, gt, lte, type SQL } from 'drizzle-orm';
import { recordMutation } from '../audit/audit.service.ts';
import type { Context } from '../context.ts';
import type { Database, Reader, Transaction } from '../database/client.ts';
import { assertRevision, isUuid, mutate, type MutationOptions } from '../database/mutation.ts';
import { descriptionLengthMax, Violations } from '../database/violations.ts';
import { type RoleBindingRow, type RoleProposalRow, roleProposals } from './access.tables.ts';
import { isPermitted, noRights } from './rights.ts';
import type { PrincipalLookup, RoleService } from './role.service.ts';

export const proposalLifetimeMsDefault = 7 * 86_400_000;
export const proposalLifetimeMsMax = 30 * 86_400_000;

export const proposalStates = ['open', 'confirmed', 'cancelled', 'expired'] as const;
export type ProposalState = (typeof proposalStates)[number];

export interface ProposeRole extends MutationOptions {
  readonly principalId: string;
  readonly role: Role;
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

interface ProposalLookup extends Pick<PrincipalLookup, 'principalKind' | 'usablePrincipals'> {
  /** The user behind whoever made an API key; undefined where nobody is known to have. */
  readonly keyIssuer: (reader: Reader, keyId: string) => Promise<string | undefined>;
}

/**
 * How owner and auditor are given where there is more than one owner: one person proposes, another confirms, and
 * neither is the one who gets the role. A user, his service accounts, and the keys made by him are one person.
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
    this.roles.refuseSelf(ctx, input.principalId);
    const now = ctx.clock.now();
    return mutate(this.database, input, async (tx) => {
      await this.roles.lockOwners(tx);
      const { principalId, role } = input;
      if (!isUuid(principalId) || !(await this.lookup.principalKind(tx, principalId))) throw new AppError('NOT_FOUND');
      const found = new Violations();
      if (!guardedRoles.includes(role)) found.add('input.role', `needs no second person: use assignRole`);
      found.text('input.reason', input.reason, 0, descriptionLengthMax);
      found.expiry('input.expiresAt', input.expiresAt, now, proposalLifetimeMsMax);
      const held = (await this.roles.rolesOf(tx, [principalId.toLowerCase()])).get(principalId.toLowerCase()) ?? [];
      if (held.includes(role)) found.add('input.role', 'is held already');
      found.assertNone();
      this.assertHas(ctx, role);
      const proposingPeople = await this.assertDifferent(tx, ctx, [principalId]);
      await this.forgetExpired(tx, ctx, principalId, role);
      const [row] = await tx
        .insert(roleProposals)
        .values({
          id: uuidv7(now),
          principalId,
          role,
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

  /** Gives the role. The one who proposed must still be able to, so that what he lost meanwhile does not count. */
  async confirm(ctx: Context, input: DecideProposal): Promise<RoleBindingRow> {
    ctx.authorize('role:assign');
    const now = ctx.clock.now();
    return mutate(this.database, input, async (tx) => {
      await this.roles.lockOwners(tx);
      const before = await this.findOpen(tx, input, now);
      this.assertHas(ctx, before.role);
      await this.assertDifferent(tx, ctx, [before.principalId, before.proposedBy, ...before.proposingPeople]);
      const [proposer] = await this.lookup.usablePrincipals(tx, [before.proposedBy], now);
      const theirs = proposer === undefined ? noRights : await this.roles.rightsOf(tx, before.proposedBy);
      if (!isPermitted(theirs, 'role:assign')) {
        const message = 'whoever proposed it may not give roles any more: propose it anew';
        throw new AppError('INVALID_INPUT', { violations: [{ path: 'input.id', message }] });
      }
      if (!(await this.lookup.principalKind(tx, before.principalId))) throw new AppError('NOT_FOUND');
      await this.decide(tx, ctx, before, 'confirmed');
      return this.roles.bind(tx, ctx, { principalId: before.principalId, role: before.role });
    });
  }

  async cancel(ctx: Context, input: DecideProposal): Promise<RoleProposalRow> {
    ctx.authorize('role:assign');
    return mutate(this.database, input, async (tx) => {
      const before = await this.findOpen(tx, input, ctx.clock.now());
      return this.decide(tx, ctx, before, 'cancelled');
    });
  }

  /** Nobody hands out more than the key in use has. */
  private assertHas(ctx: Context, role: Role): void {
    this.roles.assertCovers(ctx, { ...noRights, permissions: new Set(rolePermissions[role]) });
  }

  /**
   * Refuses where the actor, or whoever made the key in use, is one person with any of the others.
   * @returns the people who may be acting
   */
  private async assertDifferent(tx: Transaction, ctx: Context, others: readonly string[]): Promise<string[]> {
    const { principalId, keyId } = ctx.actor;
    const people = await this.lookup.usablePrincipals(tx, [principalId, ...others], ctx.clock.now());
    const personOf = (id: string): string =>
      people.find((person) => person.principalId === id.toLowerCase())?.personId ?? id.toLowerCase();
    const acting = new Set([personOf(principalId)]);
    const issuer = keyId === null ? undefined : await this.lookup.keyIssuer(tx, keyId);
    if (issuer !== undefined) acting.add(issuer);
    if (!others.some((id) => acting.has(personOf(id)))) return [...acting];
    throw new AppError('FORBIDDEN', {
      internal: `${principalId} is one person with another of those concerned`,
      publicMessage:
        'Two people are needed who both do not get the role. A user, his service accounts, and the keys that he made ' +
        'for others count as one person: use a key that you made yourself.',
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
  private async forgetExpired(tx: Transaction, ctx: Context, principalId: string, role: Role): Promise<void> {
    const rows = await tx
      .select()
      .from(roleProposals)
      .where(
        and(
          inState('expired', ctx.clock.now()),
          eq(roleProposals.principalId, principalId),
          eq(roleProposals.role, role),
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
