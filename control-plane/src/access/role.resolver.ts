import { type Role, rolePermissions, roles } from '@sallyport/schema';
import { Arg, Args, Ctx, FieldResolver, ID, Mutation, Query, Resolver, Root } from 'type-graphql';
import { Label, labelsFrom } from '../catalog/catalog.graphql.ts';
import type { Context } from '../context.ts';
import { type ConnectionOf, connectionFrom, pageOf } from '../graphql-connection.ts';
import {
  CreateRoleInput,
  DeleteRoleInput,
  ProposalStateEnum,
  ProposeRoleInput,
  RoleBinding,
  RoleBindingConnection,
  RoleBindingsArguments,
  RoleDescription,
  RoleInput,
  RoleProposal,
  RoleProposalConnection,
  RoleProposalInput,
  RoleProposalsArguments,
  UpdateRoleInput,
} from './access.graphql.ts';
import type { CustomRoleRow, RoleBindingRow, RoleProposalRow } from './access.tables.ts';
import type { CustomRoleService } from './custom-role.service.ts';
import { type ProposalState, type RoleProposalService, stateOf } from './role-proposal.service.ts';
import type { RoleService } from './role.service.ts';

interface RoleServices {
  readonly roles: RoleService;
  readonly customRoles: CustomRoleService;
  readonly roleProposals: RoleProposalService;
}

const purposes: Readonly<Record<Role, string>> = {
  owner: 'Everything, also giving and taking roles.',
  admin: 'Everything but giving and taking roles.',
  editor: 'Registers and edits servers of its groups; reads the rest of the configuration.',
  auditor: 'Reads the configuration, keys and the audit trail.',
  viewer: 'Reads the configuration and traffic.',
  member: 'Nothing in the control plane.',
};

function builtIn(role: Role): RoleDescription {
  const description = purposes[role];
  return { id: role, role, name: role, description, permissions: [...rolePermissions[role]], revision: null };
}

function custom({ id, name, description, permissions, revision }: CustomRoleRow): RoleDescription {
  return { id, role: null, name, description, permissions, revision };
}

@Resolver(() => RoleBinding)
export class RoleResolver {
  private readonly services: RoleServices;

  constructor(services: RoleServices) {
    this.services = services;
  }

  @Query(() => [RoleDescription], {
    name: 'roles',
    description: 'All roles: the built-in ones from the most to the least powerful, then custom ones, at most 200.',
  })
  async list(@Ctx() ctx: Context): Promise<RoleDescription[]> {
    return [...roles.map(builtIn), ...(await this.services.customRoles.list(ctx)).map(custom)];
  }

  @Query(() => RoleDescription, { description: 'A role by its id.' })
  async role(
    @Ctx() ctx: Context,
    @Arg('id', () => ID, { description: 'Id of a custom role, or name of a built-in one.' }) id: string,
  ): Promise<RoleDescription> {
    const role = roles.find((one) => one === id);
    return role === undefined ? custom(await this.services.customRoles.get(ctx, id)) : builtIn(role);
  }

  @Query(() => RoleBindingConnection, { description: 'Who holds which role, oldest first.' })
  async roleBindings(
    @Ctx() ctx: Context,
    @Args(() => RoleBindingsArguments) args: RoleBindingsArguments,
  ): Promise<ConnectionOf<RoleBindingRow>> {
    const page = pageOf(args);
    return connectionFrom(await this.services.roles.list(ctx, args, page), page, (row) => [row.id]);
  }

  @Query(() => RoleProposalConnection, { description: 'Roles that were proposed, oldest first.' })
  async roleProposals(
    @Ctx() ctx: Context,
    @Args(() => RoleProposalsArguments) args: RoleProposalsArguments,
  ): Promise<ConnectionOf<RoleProposalRow>> {
    const page = pageOf(args);
    return connectionFrom(await this.services.roleProposals.list(ctx, args, page), page, (row) => [row.id]);
  }

  @Mutation(() => RoleBinding, {
    description:
      'Gives a role to a principal other than oneself, or to a group one does not belong to. Nobody gives permissions ' +
      'that he lacks. OWNER, AUDITOR and custom roles with permissions of theirs need proposeRole once there is more than ' +
      'one owner.',
  })
  assignRole(
    @Ctx() ctx: Context,
    @Arg('input', () => RoleInput, { description: 'The role and who gets it.' }) input: RoleInput,
  ): Promise<RoleBindingRow> {
    return this.services.roles.assign(ctx, input);
  }

  @Mutation(() => RoleBinding, {
    description:
      'Takes a role away. The last owner keeps his; where there is more than one, OWNER is taken from another by proposeRole.',
  })
  removeRole(
    @Ctx() ctx: Context,
    @Arg('input', () => RoleInput, { description: 'The role and who loses it.' }) input: RoleInput,
  ): Promise<RoleBindingRow> {
    return this.services.roles.remove(ctx, input);
  }

  @Mutation(() => RoleDescription, { description: 'Makes a custom role of permissions that one holds.' })
  async createRole(
    @Ctx() ctx: Context,
    @Arg('input', () => CreateRoleInput, { description: 'The role.' }) input: CreateRoleInput,
  ): Promise<RoleDescription> {
    return custom(await this.services.customRoles.create(ctx, input));
  }

  @Mutation(() => RoleDescription, { description: 'Changes a custom role, for all who hold it at once.' })
  async updateRole(
    @Ctx() ctx: Context,
    @Arg('input', () => UpdateRoleInput, { description: 'The changes.' }) input: UpdateRoleInput,
  ): Promise<RoleDescription> {
    return custom(await this.services.customRoles.update(ctx, input));
  }

  @Mutation(() => RoleDescription, { description: 'Deletes a custom role that nobody holds.' })
  async deleteRole(
    @Ctx() ctx: Context,
    @Arg('input', () => DeleteRoleInput, { description: 'The role.' }) input: DeleteRoleInput,
  ): Promise<RoleDescription> {
    return custom(await this.services.customRoles.delete(ctx, input));
  }

  @Mutation(() => RoleProposal, {
    description:
      'Proposes to give OWNER, AUDITOR or a custom role with permissions of theirs, or to take OWNER away, for another person ' +
      'to confirm.',
  })
  proposeRole(
    @Ctx() ctx: Context,
    @Arg('input', () => ProposeRoleInput, { description: 'The role and whom it is about.' }) input: ProposeRoleInput,
  ): Promise<RoleProposalRow> {
    return this.services.roleProposals.propose(ctx, input);
  }

  @Mutation(() => RoleBinding, {
    description: 'Gives a role that another person proposed, or takes it; answers with what was bound.',
  })
  confirmRole(
    @Ctx() ctx: Context,
    @Arg('input', () => RoleProposalInput, { description: 'The proposal.' }) input: RoleProposalInput,
  ): Promise<RoleBindingRow> {
    return this.services.roleProposals.confirm(ctx, input);
  }

  @Mutation(() => RoleProposal, { description: 'Withdraws a proposed role, whoever proposed it.' })
  cancelRoleProposal(
    @Ctx() ctx: Context,
    @Arg('input', () => RoleProposalInput, { description: 'The proposal.' }) input: RoleProposalInput,
  ): Promise<RoleProposalRow> {
    return this.services.roleProposals.cancel(ctx, input);
  }

  @FieldResolver(() => ID, { description: 'Id of the role; of a built-in one its name.' })
  roleId(@Root() row: RoleBindingRow): string {
    return row.roleId ?? row.role ?? '';
  }

  @FieldResolver(() => [Label], {
    nullable: true,
    description: 'The role holds on servers that carry all of these labels; null where it holds everywhere.',
  })
  serverLabels(@Root() row: RoleBindingRow): Label[] | null {
    return row.serverLabels === null ? null : labelsFrom(row.serverLabels);
  }
}

@Resolver(() => RoleProposal)
export class RoleProposalResolver {
  @FieldResolver(() => ProposalStateEnum, { description: 'Where it stands.' })
  state(@Ctx() ctx: Context, @Root() row: RoleProposalRow): ProposalState {
    return stateOf(row, ctx.clock.now());
  }

  @FieldResolver(() => ID, { description: 'Id of the role; of a built-in one its name.' })
  roleId(@Root() row: RoleProposalRow): string {
    return row.roleId ?? row.role ?? '';
  }
}
