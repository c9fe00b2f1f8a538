import { rolePermissions, roles } from '@sallyport/schema';
import { Arg, Args, Ctx, Mutation, Query, Resolver } from 'type-graphql';
import type { Context } from '../context.ts';
import { type ConnectionOf, connectionFrom, PageArguments, pageOf } from '../graphql-connection.ts';
import { RoleBinding, RoleBindingConnection, RoleDescription, RoleInput } from './access.graphql.ts';
import type { RoleBindingRow } from './access.tables.ts';
import type { RoleService } from './role.service.ts';

@Resolver()
export class RoleResolver {
  private readonly service: RoleService;

  constructor(service: RoleService) {
    this.service = service;
  }

  @Query(() => [RoleDescription], { name: 'roles', description: 'All roles, from the most to the least powerful.' })
  list(): RoleDescription[] {
    return roles.map((role) => ({ role, permissions: [...rolePermissions[role]] }));
  }

  @Query(() => RoleBindingConnection, { description: 'Who holds which role, oldest first.' })
  async roleBindings(
    @Ctx() ctx: Context,
    @Args(() => PageArguments) args: PageArguments,
  ): Promise<ConnectionOf<RoleBindingRow>> {
    const page = pageOf(args);
    return connectionFrom(await this.service.list(ctx, page), page, (row) => [row.id]);
  }

  @Mutation(() => RoleBinding, { description: 'Gives a role to a principal other than oneself.' })
  assignRole(
    @Ctx() ctx: Context,
    @Arg('input', () => RoleInput, { description: 'The role and who gets it.' }) input: RoleInput,
  ): Promise<RoleBindingRow> {
    return this.service.assign(ctx, input);
  }

  @Mutation(() => RoleBinding, { description: 'Takes a role away. The last owner keeps his.' })
  removeRole(
    @Ctx() ctx: Context,
    @Arg('input', () => RoleInput, { description: 'The role and who loses it.' }) input: RoleInput,
  ): Promise<RoleBindingRow> {
    return this.service.remove(ctx, input);
  }
}
