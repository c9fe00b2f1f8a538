import { Arg, Args, Ctx, FieldResolver, ID, Mutation, Query, Resolver, Root } from 'type-graphql';
import type { Context } from '../context.ts';
import { type ConnectionOf, connectionFrom, pageOf } from '../graphql-connection.ts';
import { Label } from '../catalog/catalog.graphql.ts';
import {
  CreateGrantInput,
  CreateGrantsInput,
  DeleteGrantInput,
  DeleteGrantsInput,
  EndGrantInput,
  Grant,
  GrantConnection,
  GrantsArguments,
  GrantSubject,
  UpdateGrantInput,
  UpdateGrantsInput,
} from './access.graphql.ts';
import type { GrantRow } from './access.tables.ts';
import type { GrantService } from './grant.service.ts';

@Resolver(() => Grant)
export class GrantResolver {
  private readonly grants: GrantService;

  constructor(grants: GrantService) {
    this.grants = grants;
  }

  @Query(() => Grant, { description: 'A grant by its id.' })
  grant(@Ctx() ctx: Context, @Arg('id', () => ID, { description: 'Id of the grant.' }) id: string): Promise<GrantRow> {
    return this.grants.get(ctx, id);
  }

  @Query(() => GrantConnection, { name: 'grants', description: 'Grants, oldest first.' })
  async list(@Ctx() ctx: Context, @Args(() => GrantsArguments) args: GrantsArguments): Promise<ConnectionOf<GrantRow>> {
    const page = pageOf(args);
    return connectionFrom(await this.grants.list(ctx, args, page), page, (row) => [row.id]);
  }

  @Mutation(() => Grant, { description: 'Makes a grant.' })
  createGrant(
    @Ctx() ctx: Context,
    @Arg('input', () => CreateGrantInput, { description: 'The grant.' }) input: CreateGrantInput,
  ): Promise<GrantRow> {
    return this.grants.create(ctx, input);
  }

  @Mutation(() => Grant, { description: 'Changes a grant: all but subject, target and effect.' })
  updateGrant(
    @Ctx() ctx: Context,
    @Arg('input', () => UpdateGrantInput, { description: 'The changes.' }) input: UpdateGrantInput,
  ): Promise<GrantRow> {
    return this.grants.update(ctx, input);
  }

  @Mutation(() => Grant, { description: 'Ends a grant now. It stays listed, with its window closed.' })
  endGrant(
    @Ctx() ctx: Context,
    @Arg('input', () => EndGrantInput, { description: 'The grant.' }) input: EndGrantInput,
  ): Promise<GrantRow> {
    return this.grants.end(ctx, input);
  }

  @Mutation(() => Grant, { description: 'Deletes a grant; the audit trail keeps it.' })
  deleteGrant(
    @Ctx() ctx: Context,
    @Arg('input', () => DeleteGrantInput, { description: 'The grant.' }) input: DeleteGrantInput,
  ): Promise<GrantRow> {
    return this.grants.delete(ctx, input);
  }

  @Mutation(() => [Grant], { description: 'Makes several grants: all of them or none.' })
  createGrants(
    @Ctx() ctx: Context,
    @Arg('input', () => CreateGrantsInput, { description: 'The grants.' }) input: CreateGrantsInput,
  ): Promise<GrantRow[]> {
    return this.grants.createMany(ctx, input);
  }

  @Mutation(() => [Grant], { description: 'Changes several grants: all of them or none.' })
  updateGrants(
    @Ctx() ctx: Context,
    @Arg('input', () => UpdateGrantsInput, { description: 'The changes.' }) input: UpdateGrantsInput,
  ): Promise<GrantRow[]> {
    return this.grants.updateMany(ctx, input);
  }

  @Mutation(() => [Grant], { description: 'Deletes several grants: all of them or none.' })
  deleteGrants(
    @Ctx() ctx: Context,
    @Arg('input', () => DeleteGrantsInput, { description: 'The grants.' }) input: DeleteGrantsInput,
  ): Promise<GrantRow[]> {
    return this.grants.deleteMany(ctx, input);
  }

  @FieldResolver(() => [Label], {
    nullable: true,
    description: 'It is about every server that carries all of these labels; null where it names one server.',
  })
  serverLabels(@Root() row: GrantRow): Label[] | null {
    if (row.serverLabels === null) return null;
    return Object.entries(row.serverLabels).map(([key, value]) => ({ key, value }));
  }

  @FieldResolver(() => GrantSubject, { description: 'Whom it is for.' })
  subject(@Root() row: GrantRow): GrantSubject {
    return { kind: row.subjectKind, id: row.subjectPrincipalId ?? row.subjectGroupId };
  }
}
