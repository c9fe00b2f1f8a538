import { Arg, Args, Ctx, FieldResolver, ID, Mutation, Query, Resolver, Root } from 'type-graphql';
import type { Context } from '../context.ts';
import { type ConnectionOf, connectionFrom, pageOf } from '../graphql-connection.ts';
import type { Reader } from '../database/client.ts';
import type { Concern } from '../policy/access-changes.ts';
import { described, type DescribedChange, type PreviewService } from '../policy/preview.service.ts';
import type { ChangeMembers, GroupService } from './group.service.ts';
import {
  ChangeGroupMembersInput,
  CreateGroupInput,
  DeleteGroupInput,
  Group,
  GroupConnection,
  GroupMembersInput,
  GroupsArguments,
  MembersArguments,
  PrincipalConnection,
  UpdateGroupInput,
} from './identity.graphql.ts';
import type { GroupRow, PrincipalRow } from './identity.tables.ts';

type GroupAnswer = GroupRow & { readonly accessChanges: readonly DescribedChange[] | null };

@Resolver(() => Group)
export class GroupResolver {
  private readonly service: GroupService;
  private readonly preview: PreviewService;

  constructor({ groups, preview }: { readonly groups: GroupService; readonly preview: PreviewService }) {
    this.service = groups;
    this.preview = preview;
  }

  @Query(() => Group, { description: 'A group by its id.' })
  group(@Ctx() ctx: Context, @Arg('id', () => ID, { description: 'Id of the group.' }) id: string): Promise<GroupRow> {
    return this.service.get(ctx, id);
  }

  @Query(() => GroupConnection, { description: 'Groups, oldest first.' })
  async groups(
    @Ctx() ctx: Context,
    @Args(() => GroupsArguments) args: GroupsArguments,
  ): Promise<ConnectionOf<GroupRow>> {
    const page = pageOf(args);
    return connectionFrom(await this.service.list(ctx, args, page), page, (row) => [row.id]);
  }

  @Mutation(() => Group, { description: 'Makes a group.' })
  createGroup(
    @Ctx() ctx: Context,
    @Arg('input', () => CreateGroupInput, { description: 'The group.' }) input: CreateGroupInput,
  ): Promise<GroupRow> {
    return this.service.create(ctx, input);
  }

  @Mutation(() => Group, { description: 'Changes the name or description of a group.' })
  updateGroup(
    @Ctx() ctx: Context,
    @Arg('input', () => UpdateGroupInput, { description: 'The changes.' }) input: UpdateGroupInput,
  ): Promise<GroupRow> {
    return this.service.update(ctx, input);
  }

  @Mutation(() => Group, { description: 'Deletes a group, with the grants that name it.' })
  async deleteGroup(
    @Ctx() ctx: Context,
    @Arg('input', () => DeleteGroupInput, { description: 'The group.' }) input: DeleteGroupInput,
  ): Promise<GroupAnswer> {
    const concerns = (tx: Reader) => this.preview.groupConcerns(tx, input.id);
    const { row, comparison } = await this.preview.run(ctx, input, concerns, (tried) =>
      this.service.delete(ctx, tried),
    );
    return { ...row, accessChanges: comparison && described(comparison.all()) };
  }

  @Mutation(() => Group, { description: 'Adds principals to a group; those that belong already stay.' })
  async addGroupMembers(
    @Ctx() ctx: Context,
    @Arg('input', () => GroupMembersInput, { description: 'The group and the principals.' }) input: GroupMembersInput,
  ): Promise<GroupAnswer> {
    return this.previewed(ctx, input, (tried) => this.service.addMembers(ctx, tried));
  }

  @Mutation(() => Group, { description: 'Removes principals from a group; others are passed over.' })
  async removeGroupMembers(
    @Ctx() ctx: Context,
    @Arg('input', () => GroupMembersInput, { description: 'The group and the principals.' }) input: GroupMembersInput,
  ): Promise<GroupAnswer> {
    return this.previewed(ctx, input, (tried) => this.service.removeMembers(ctx, tried));
  }

  @Mutation(() => [Group], { description: 'Changes the members of several groups: of all of them or of none.' })
  async changeGroupMembers(
    @Ctx() ctx: Context,
    @Arg('input', () => ChangeGroupMembersInput, { description: 'The groups and the principals.' })
    input: ChangeGroupMembersInput,
  ): Promise<GroupAnswer[]> {
    const named = input.items.map(({ id, add, remove }) => ({ id, principalIds: [...(add ?? []), ...(remove ?? [])] }));
    const concerns = async (tx: Reader): Promise<Concern[]> => {
      const found: Concern[] = [];
      for (const { id, principalIds } of named) {
        found.push(...(await this.preview.membershipConcerns(tx, id, principalIds)));
      }
      return found;
    };
    const { row: rows, comparison } = await this.preview.run(ctx, input, concerns, (tried) =>
      this.service.changeMembers(ctx, tried),
    );
    const accessChanges = comparison && described(comparison.all());
    // Of groups changed together each tells the differences for those it gains or loses.
    return rows.map((row) => {
      const ids = new Set(named.find(({ id }) => id.toLowerCase() === row.id)?.principalIds);
      const own = accessChanges?.filter(({ subject }) => subject.kind !== 'everyone' && ids.has(subject.id));
      return { ...row, accessChanges: own ?? null };
    });
  }

  private async previewed(
    ctx: Context,
    input: GroupMembersInput,
    change: (input: ChangeMembers) => Promise<GroupRow>,
  ): Promise<GroupAnswer> {
    const { id, principalIds } = input;
    const concerns = (tx: Reader) => this.preview.membershipConcerns(tx, id, principalIds);
    const { row, comparison } = await this.preview.run(ctx, input, concerns, change);
    return { ...row, accessChanges: comparison && described(comparison.all()) };
  }

  @FieldResolver(() => PrincipalConnection, { description: 'The principals that belong to it.' })
  async members(
    @Ctx() ctx: Context,
    @Root() row: GroupRow,
    @Args(() => MembersArguments) args: MembersArguments,
  ): Promise<ConnectionOf<PrincipalRow>> {
    const page = pageOf(args);
    const members = await this.service.members(ctx, row.id, args, page);
    return connectionFrom(members, page, (principal) => [principal.id]);
  }
}
