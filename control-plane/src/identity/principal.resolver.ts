import type { Role } from '@sallyport/schema';
import { Arg, Args, Ctx, FieldResolver, ID, Mutation, Query, Resolver, Root } from 'type-graphql';
import { RoleEnum } from '../access/access.graphql.ts';
import { labelsFrom } from '../catalog/catalog.graphql.ts';
import type { Context } from '../context.ts';
import type { Reader } from '../database/client.ts';
import { type ConnectionOf, connectionFrom, PageArguments, pageOf } from '../graphql-connection.ts';
import { type DescribedChange, described, type PreviewService } from '../policy/preview.service.ts';
import type { GroupService } from './group.service.ts';
import {
  CreateServiceAccountInput,
  CreateUserInput,
  DeleteServiceAccountInput,
  DeleteUserInput,
  GroupConnection,
  Me,
  ServiceAccount,
  ServiceAccountConnection,
  ServiceAccountsArguments,
  UpdateServiceAccountInput,
  UpdateUserInput,
  User,
  UserConnection,
  UsersArguments,
} from './identity.graphql.ts';
import type { GroupRow, PrincipalRow } from './identity.tables.ts';
import type { PrincipalService, UpdatePrincipal } from './principal.service.ts';

interface Services {
  readonly principals: PrincipalService;
  readonly groups: GroupService;
  readonly preview: PreviewService;
}

type PrincipalAnswer = PrincipalRow & { readonly accessChanges: readonly DescribedChange[] | null };

async function groupsOf(
  services: Services,
  ctx: Context,
  row: PrincipalRow,
  args: PageArguments,
): Promise<ConnectionOf<GroupRow>> {
  const page = pageOf(args);
  return connectionFrom(await services.groups.groupsOf(ctx, row.id, page), page, (group) => [group.id]);
}

/** Changes a principal; a dry run tells what becomes of its access. */
async function previewed<Input extends UpdatePrincipal>(
  { preview }: Services,
  ctx: Context,
  kind: PrincipalRow['kind'],
  input: Input,
  change: (input: Input) => Promise<PrincipalRow>,
): Promise<PrincipalAnswer> {
  const concerns = (reader: Reader) => preview.principalConcerns(reader, { kind, id: input.id });
  const { row, comparison } = await preview.run(ctx, input, concerns, change, true);
  return { ...row, accessChanges: comparison && described(comparison.all()) };
}

@Resolver(() => User)
export class UserResolver {
  private readonly services: Services;

  constructor(services: Services) {
    this.services = services;
  }

  @Query(() => Me, { description: 'Who is asking, and what it may do.' })
  me(@Ctx() ctx: Context): Me {
    const { actor } = ctx;
    return {
      id: actor.principalId,
      name: actor.name,
      kind: actor.kind === 'user' ? 'user' : 'serviceAccount',
      apiKeyId: actor.keyId,
      permissions: [...actor.permissions].sort(),
      limitedPermissions: actor.limited.map(({ selector, permissions }) => ({
        serverLabels: labelsFrom(selector),
        permissions: [...permissions].sort(),
      })),
    };
  }

  @Query(() => User, { description: 'A user by its id.' })
  user(
    @Ctx() ctx: Context,
    @Arg('id', () => ID, { description: 'Id of the user.' }) id: string,
  ): Promise<PrincipalRow> {
    return this.services.principals.get(ctx, id, 'user');
  }

  @Query(() => UserConnection, { description: 'Users, oldest first.' })
  async users(
    @Ctx() ctx: Context,
    @Args(() => UsersArguments) args: UsersArguments,
  ): Promise<ConnectionOf<PrincipalRow>> {
    const page = pageOf(args);
    return connectionFrom(await this.services.principals.list(ctx, 'user', args, page), page, (row) => [row.id]);
  }

  @Mutation(() => User, { description: 'Makes a local user.' })
  createUser(
    @Ctx() ctx: Context,
    @Arg('input', () => CreateUserInput, { description: 'The user.' }) input: CreateUserInput,
  ): Promise<PrincipalRow> {
    return this.services.principals.createUser(ctx, input);
  }

  @Mutation(() => User, { description: 'Changes, disables or enables a user.' })
  updateUser(
    @Ctx() ctx: Context,
    @Arg('input', () => UpdateUserInput, { description: 'The changes.' }) input: UpdateUserInput,
  ): Promise<PrincipalAnswer> {
    return previewed(this.services, ctx, 'user', input, (tried) => this.services.principals.update(ctx, 'user', tried));
  }

  @Mutation(() => User, { description: 'Deletes a user, with its keys, memberships and grants.' })
  deleteUser(
    @Ctx() ctx: Context,
    @Arg('input', () => DeleteUserInput, { description: 'The user.' }) input: DeleteUserInput,
  ): Promise<PrincipalAnswer> {
    return previewed(this.services, ctx, 'user', input, (tried) => this.services.principals.delete(ctx, 'user', tried));
  }

  @FieldResolver(() => [RoleEnum], {
    description: 'The built-in roles that it holds by itself and everywhere; roleBindings tells of all others.',
  })
  roles(@Root() row: PrincipalRow): Promise<readonly Role[]> {
    return this.services.principals.rolesOf(row.id);
  }

  @FieldResolver(() => GroupConnection, { description: 'The groups it belongs to.' })
  groups(
    @Ctx() ctx: Context,
    @Root() row: PrincipalRow,
    @Args(() => PageArguments) args: PageArguments,
  ): Promise<ConnectionOf<GroupRow>> {
    return groupsOf(this.services, ctx, row, args);
  }
}

@Resolver(() => ServiceAccount)
export class ServiceAccountResolver {
  private readonly services: Services;

  constructor(services: Services) {
    this.services = services;
  }

  @Query(() => ServiceAccount, { description: 'A service account by its id.' })
  serviceAccount(
    @Ctx() ctx: Context,
    @Arg('id', () => ID, { description: 'Id of the service account.' }) id: string,
  ): Promise<PrincipalRow> {
    return this.services.principals.get(ctx, id, 'serviceAccount');
  }

  @Query(() => ServiceAccountConnection, { description: 'Service accounts, oldest first.' })
  async serviceAccounts(
    @Ctx() ctx: Context,
    @Args(() => ServiceAccountsArguments) args: ServiceAccountsArguments,
  ): Promise<ConnectionOf<PrincipalRow>> {
    const page = pageOf(args);
    const rows = await this.services.principals.list(ctx, 'serviceAccount', args, page);
    return connectionFrom(rows, page, (row) => [row.id]);
  }

  @Mutation(() => ServiceAccount, { description: 'Makes a service account.' })
  createServiceAccount(
    @Ctx() ctx: Context,
    @Arg('input', () => CreateServiceAccountInput, { description: 'The account.' }) input: CreateServiceAccountInput,
  ): Promise<PrincipalRow> {
    return this.services.principals.createServiceAccount(ctx, input);
  }

  @Mutation(() => ServiceAccount, { description: 'Changes, prolongs, disables or enables a service account.' })
  updateServiceAccount(
    @Ctx() ctx: Context,
    @Arg('input', () => UpdateServiceAccountInput, { description: 'The changes.' }) input: UpdateServiceAccountInput,
  ): Promise<PrincipalAnswer> {
    return previewed(this.services, ctx, 'serviceAccount', input, (tried) =>
      this.services.principals.update(ctx, 'serviceAccount', tried),
    );
  }

  @Mutation(() => ServiceAccount, { description: 'Deletes a service account, with its keys, memberships and grants.' })
  deleteServiceAccount(
    @Ctx() ctx: Context,
    @Arg('input', () => DeleteServiceAccountInput, { description: 'The account.' }) input: DeleteServiceAccountInput,
  ): Promise<PrincipalAnswer> {
    return previewed(this.services, ctx, 'serviceAccount', input, (tried) =>
      this.services.principals.delete(ctx, 'serviceAccount', tried),
    );
  }

  @FieldResolver(() => User, { description: 'The user who answers for it.' })
  owner(@Root() row: PrincipalRow): Promise<PrincipalRow | undefined> {
    return this.services.principals.load(row.ownerId ?? '');
  }

  @FieldResolver(() => [RoleEnum], {
    description: 'The built-in roles that it holds by itself and everywhere; roleBindings tells of all others.',
  })
  roles(@Root() row: PrincipalRow): Promise<readonly Role[]> {
    return this.services.principals.rolesOf(row.id);
  }

  @FieldResolver(() => GroupConnection, { description: 'The groups it belongs to.' })
  groups(
    @Ctx() ctx: Context,
    @Root() row: PrincipalRow,
    @Args(() => PageArguments) args: PageArguments,
  ): Promise<ConnectionOf<GroupRow>> {
    return groupsOf(this.services, ctx, row, args);
  }
}
